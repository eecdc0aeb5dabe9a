//! Receive buffers: counted out, and counted back when their lease is dropped.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// The receive buffers of one shard.
#[derive(Debug)]
pub struct Pool {
    out: Cell<usize>,
    count: usize,
    shortages: Cell<u64>,
    is_short: Cell<bool>,
    /// Memory for the next leases.
    spare: RefCell<Vec<Vec<u8>>>,
}

/// Received bytes; dropping them gives the buffer back.
#[derive(Debug)]
pub struct SimLease {
    bytes: Vec<u8>,
    pool: Rc<Pool>,
}

impl Pool {
    pub(super) fn new(count: usize) -> Rc<Self> {
        Rc::new(Self {
            out: Cell::new(0),
            count,
            shortages: Cell::new(0),
            is_short: Cell::new(false),
            spare: RefCell::default(),
        })
    }

    /// Buffers that are lent.
    pub(super) fn out(&self) -> usize {
        self.out.get()
    }

    /// How often they ran out.
    pub(super) fn shortages(&self) -> u64 {
        self.shortages.get()
    }

    /// An empty buffer, if one is left.
    pub(super) fn lend(self: &Rc<Self>) -> Option<SimLease> {
        if self.out.get() == self.count {
            let again = u64::from(!self.is_short.replace(true));
            self.shortages.set(self.shortages.get() + again);
            return None;
        }
        self.is_short.set(false);
        self.out.set(self.out.get() + 1);
        let bytes = self.spare.borrow_mut().pop().unwrap_or_default();
        Some(SimLease { bytes, pool: Rc::clone(self) })
    }
}

impl SimLease {
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for SimLease {
    fn drop(&mut self) {
        self.pool.out.set(self.pool.out.get() - 1);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool.spare.borrow_mut().push(bytes);
    }
}

impl Deref for SimLease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for SimLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
