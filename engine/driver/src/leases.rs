//! Receive buffers of drivers that read into their own memory: lent with bytes in them, given back by `Drop`.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A shard's receive buffers, all of one size and allocated at start.
#[derive(Clone, Debug)]
pub(crate) struct LeasePool(Rc<RefCell<Vec<Box<[u8]>>>>);

impl LeasePool {
    pub(crate) fn new(count: u16, bytes: u32) -> Self {
        let buffers = (0..count).map(|_| vec![0; bytes as usize].into()).collect();
        Self(Rc::new(RefCell::new(buffers)))
    }

    /// How many buffers nobody has.
    pub(crate) fn available(&self) -> usize {
        self.0.borrow().len()
    }

    /// A whole buffer to read into.
    pub(crate) fn lend(&self) -> Option<Lease> {
        let bytes = self.0.borrow_mut().pop()?;
        Some(Lease { pool: self.clone(), length: bytes.len(), bytes })
    }
}

/// Received bytes.
#[derive(Debug)]
pub struct Lease {
    pool: LeasePool,
    bytes: Box<[u8]>,
    length: usize,
}

impl Lease {
    /// Only the first `length` bytes.
    pub(crate) fn shortened(mut self, length: usize) -> Self {
        self.length = length;
        self
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.0.borrow_mut().push(std::mem::take(&mut self.bytes));
    }
}
