//! Receive buffers that the kernel chooses from: an idle connection owns none.
//!
//! A buffer is the kernel's while it is in the ring and the lease's while it is lent; never both.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;

/// The group that all receives of a ring choose from.
pub(super) const GROUP: u16 = 0;

const PAGE: usize = 4096;

/// All receive buffers of one ring.
#[derive(Debug)]
pub(super) struct RecvBuffers {
    entries: NonNull<BufRingEntry>,
    bytes: NonNull<u8>,
    count: u16,
    size: usize,
    /// How many were ever given to the kernel, modulo 2^16: the ring's tail.
    tail: Cell<u16>,
    available: Cell<usize>,
}

impl RecvBuffers {
    /// `count`, a power of two, buffers of `size` bytes, all of them the kernel's.
    pub(super) fn register(ring: &Ring, count: u16, size: u32) -> io::Result<Rc<Self>> {
        if !count.is_power_of_two() || count > 1 << 15 || size == 0 {
            let what = "recv_buffers must be a power of two up to 32768, recv_buffer_bytes above 0";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let buffers = Rc::new(Self {
            entries: allocate(Self::entries_layout(count)).cast(),
            bytes: allocate(Self::bytes_layout(count, size as usize)),
            count,
            size: size as usize,
            tail: Cell::new(0),
            available: Cell::new(0),
        });
        for id in 0..count {
            buffers.give(id);
        }
        // SAFETY: the memory is page-aligned, zeroed, large enough for `count` entries, and freed only after the
        // ring's operations have ended (the driver drops the ring first or leaks both).
        unsafe {
            ring.inner().submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                count,
                GROUP,
                0,
            )?
        };
        Ok(buffers)
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE)
            .expect("at most 32,768 entries of 16 bytes")
    }

    fn bytes_layout(count: u16, size: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * size, PAGE).expect("the configuration bounds it")
    }

    /// Buffers that the kernel has now.
    pub(super) fn available(&self) -> usize {
        self.available.get()
    }

    /// What the kernel put into a buffer, from here on the shard's.
    pub(super) fn lend(self: &Rc<Self>, id: u16, length: usize) -> Lease {
        debug_assert!(length <= self.size, "the kernel fills at most one buffer");
        self.available.set(self.available.get() - 1);
        Lease { buffers: Rc::clone(self), id, length }
    }

    /// A buffer is the kernel's again.
    fn give(&self, id: u16) {
        let tail = self.tail.get();
        let place = usize::from(tail & (self.count - 1));
        // SAFETY: `place` is below `count` and this entry is not the kernel's before the tail says so. The tail
        // lies in the ring's first entry, in a field that no entry uses, and is written with release so that the
        // entry is seen before it.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(self.bytes.as_ptr().add(usize::from(id) * self.size) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
            let shared = AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut());
            shared.store(tail.wrapping_add(1), Ordering::Release);
        }
        self.tail.set(tail.wrapping_add(1));
        self.available.set(self.available.get() + 1);
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "an empty buffer is refused by the configuration");
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Drop for RecvBuffers {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts; leases hold this value, so none is left, and the ring
        // that knew the buffers is gone (see `register`).
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.bytes.as_ptr(), Self::bytes_layout(self.count, self.size));
        }
    }
}

/// Received bytes in one of the ring's buffers; dropping it gives the buffer back to the kernel.
#[derive(Debug)]
pub struct Lease {
    buffers: Rc<RecvBuffers>,
    id: u16,
    length: usize,
}

impl Lease {
    fn start(&self) -> *mut u8 {
        // SAFETY: `id` is below `count`, so this is within the allocation.
        unsafe { self.buffers.bytes.as_ptr().add(usize::from(self.id) * self.buffers.size) }
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is this lease's alone until it is dropped, and zeroed or written by the kernel.
        unsafe { std::slice::from_raw_parts(self.start(), self.length) }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow of the lease is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.length) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.buffers.give(self.id);
    }
}
