//! Outgoing bytes: encoded frames shared by their recipients, and the batches that carry them to a socket.
//!
//! Frames and batches come from pools of one shard and return to them by themselves; the counts are plain, for
//! nothing here leaves its thread. This module knows neither sockets nor WebSocket.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

/// Frames up to this size are copied into the batch, larger ones gathered: below it the copy costs less than one
/// more entry in the kernel's vector.
pub const COPY_BYTES_MAX: usize = 1024;

/// Bytes that one batch carries at most, but for a single larger frame.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Pieces of one batch at most; the kernel takes up to 1,024 (`UIO_MAXIOV`).
pub const BATCH_PIECES_MAX: usize = 64;

/// A frame's buffer above this size is freed after use instead of kept.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Encoded bytes, immutable and shared within one shard: cloning costs one plain increment.
#[derive(Clone, Debug)]
pub struct Frame(Rc<FrameBytes>);

#[derive(Debug)]
struct FrameBytes {
    bytes: Vec<u8>,
    start: usize,
    pool: Rc<FramePoolShared>,
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 {
            self.0.pool.take_back(&self.0);
        }
    }
}

/// A shard's store of frame buffers: allocates until the steady state, then reuses.
#[derive(Debug)]
pub struct FramePool(Rc<FramePoolShared>);

#[derive(Debug)]
struct FramePoolShared {
    free: RefCell<Vec<Rc<FrameBytes>>>,
    /// 0 once the pool is gone: frames that outlive it are freed.
    free_max: Cell<usize>,
    in_use: Cell<usize>,
}

impl FramePoolShared {
    fn take_back(&self, frame: &Rc<FrameBytes>) {
        self.in_use.set(self.in_use.get() - 1);
        let mut free = self.free.borrow_mut();
        if free.len() < self.free_max.get() && frame.bytes.capacity() <= KEPT_BYTES_MAX {
            free.push(Rc::clone(frame));
        }
    }
}

impl FramePool {
    /// A pool that keeps up to `free_max` unused buffers of at most 64 KiB each.
    pub fn new(free_max: usize) -> Self {
        Self(Rc::new(FramePoolShared {
            free: RefCell::new(Vec::with_capacity(free_max)),
            free_max: Cell::new(free_max),
            in_use: Cell::new(0),
        }))
    }

    /// An empty buffer to encode a frame into.
    pub fn build(&self) -> FrameBuilder {
        self.0.in_use.set(self.0.in_use.get() + 1);
        let mut frame =
            self.0.free.borrow_mut().pop().unwrap_or_else(|| {
                Rc::new(FrameBytes { bytes: Vec::new(), start: 0, pool: Rc::clone(&self.0) })
            });
        let inner = Rc::get_mut(&mut frame).expect("a free buffer has no other owner");
        inner.bytes.clear();
        inner.start = 0;
        FrameBuilder(Frame(frame))
    }

    /// Frames that somebody still holds.
    pub fn in_use(&self) -> usize {
        self.0.in_use.get()
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        // Buffers and pool own each other; without this neither would be freed.
        self.0.free_max.set(0);
        let free = std::mem::take(&mut *self.0.free.borrow_mut());
        drop(free);
    }
}

/// A frame before it is shared.
#[derive(Debug)]
pub struct FrameBuilder(Frame);

impl FrameBuilder {
    /// The bytes so far.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut Rc::get_mut(&mut self.0.0).expect("a frame in the making has one owner").bytes
    }

    /// The frame: all bytes from `start` on. What precedes `start` was room for a header.
    ///
    /// # Panics
    /// If `start` is beyond the end.
    pub fn finish(mut self, start: usize) -> Frame {
        let inner = Rc::get_mut(&mut self.0.0).expect("a frame in the making has one owner");
        assert!(start <= inner.bytes.len(), "a frame starts within its bytes");
        inner.start = start;
        self.0
    }
}

/// What one send carries: one frame as it is, or several, small ones copied together and large ones by reference.
#[derive(Debug)]
pub struct Batch(Carried);

#[derive(Debug)]
enum Carried {
    One(Frame),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    cork: Vec<u8>,
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    Copied { start: usize, end: usize },
    Shared(Frame),
}

impl Batch {
    /// A batch of one frame, uncopied.
    pub fn one(frame: Frame) -> Self {
        Self(Carried::One(frame))
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        match &self.0 {
            Carried::One(frame) => frame.len(),
            Carried::Many(many) => many.len,
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slices [`Batch::slice`] knows.
    pub fn pieces(&self) -> usize {
        match &self.0 {
            Carried::One(_) => 1,
            Carried::Many(many) => many.pieces.len(),
        }
    }

    /// One slice, in the order of the stream. It stays where it is in memory until the batch is dropped or
    /// recycled, also when the batch itself is moved.
    ///
    /// # Panics
    /// If `index` is not below [`Batch::pieces`].
    pub fn slice(&self, index: usize) -> &[u8] {
        match &self.0 {
            Carried::One(frame) => {
                assert_eq!(index, 0, "a batch of one frame has one piece");
                frame
            }
            Carried::Many(many) => match &many.pieces[index] {
                Piece::Copied { start, end } => &many.cork[*start..*end],
                Piece::Shared(frame) => frame,
            },
        }
    }
}

/// Makes batches and reuses their memory.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes themselves are reused; they travel inside batches")]
pub struct BatchPool {
    free: Vec<Box<Many>>,
    free_max: usize,
}

impl BatchPool {
    /// A pool that keeps up to `free_max` unused batches, of at most [`BATCH_BYTES_MAX`] copied bytes each.
    pub fn new(free_max: usize) -> Self {
        Self { free: Vec::with_capacity(free_max), free_max }
    }

    /// A batch from the front of `queue`: as many frames as fit the limits, at least one where there is any.
    pub fn fill(&mut self, mut next: impl FnMut(usize) -> Option<Frame>) -> Option<Batch> {
        let first = next(usize::MAX)?;
        let mut room = BATCH_BYTES_MAX.saturating_sub(first.len());
        let Some(second) = next(room) else { return Some(Batch::one(first)) };
        let mut many = self.free.pop().unwrap_or_default();
        room = room.saturating_sub(second.len());
        many.push(first);
        many.push(second);
        while many.pieces.len() < BATCH_PIECES_MAX - 1 {
            let Some(frame) = next(room) else { break };
            room = room.saturating_sub(frame.len());
            many.push(frame);
        }
        Some(Batch(Carried::Many(many)))
    }

    /// Takes back what [`Event::Sent`](crate::Event::Sent) handed back.
    pub fn recycle(&mut self, batch: Batch) {
        if let Carried::Many(mut many) = batch.0 {
            many.pieces.clear();
            many.cork.clear();
            many.len = 0;
            if self.free.len() < self.free_max && many.cork.capacity() <= 2 * BATCH_BYTES_MAX {
                self.free.push(many);
            }
        }
    }
}

impl Many {
    fn push(&mut self, frame: Frame) {
        self.len += frame.len();
        if frame.len() > COPY_BYTES_MAX {
            self.pieces.push(Piece::Shared(frame));
            return;
        }
        let start = self.cork.len();
        self.cork.extend_from_slice(&frame);
        let end = self.cork.len();
        match self.pieces.last_mut() {
            Some(Piece::Copied { end: last, .. }) => *last = end,
            _ => self.pieces.push(Piece::Copied { start, end }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pool: &FramePool, bytes: &[u8]) -> Frame {
        let mut builder = pool.build();
        builder.bytes().extend_from_slice(bytes);
        builder.finish(0)
    }

    #[test]
    fn a_frame_returns_to_its_pool_with_its_last_holder() {
        let pool = FramePool::new(4);
        let first = frame(&pool, b"one");
        let second = first.clone();
        assert_eq!(pool.in_use(), 1);
        drop(first);
        assert_eq!((pool.in_use(), &second[..]), (1, &b"one"[..]));
        drop(second);
        assert_eq!((pool.in_use(), pool.0.free.borrow().len()), (0, 1));
        let again = frame(&pool, b"again");
        assert_eq!((pool.0.free.borrow().len(), &again[..]), (0, &b"again"[..]));
    }

    #[test]
    fn a_batch_copies_small_frames_together_and_shares_large_ones() {
        let pool = FramePool::new(4);
        let large = vec![7; COPY_BYTES_MAX + 1];
        let mut queue =
            vec![frame(&pool, b"ab"), frame(&pool, b"cd"), frame(&pool, &large), frame(&pool, b"ef")];
        queue.reverse();
        let mut batches = BatchPool::new(1);
        let batch = batches
            .fill(|room| if queue.last().is_some_and(|f| f.len() <= room) { queue.pop() } else { None })
            .expect("four frames were queued");
        let all: Vec<u8> = (0..batch.pieces()).flat_map(|i| batch.slice(i).to_vec()).collect();
        assert_eq!(all, [b"abcd", &large[..], b"ef"].concat());
        assert_eq!((batch.pieces(), batch.len()), (3, all.len()));
        batches.recycle(batch);
        assert_eq!(pool.in_use(), 0);
    }
}
