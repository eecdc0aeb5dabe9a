//! Atomics and the ring itself: the real ones, or under `cfg(loom)` models with the same orderings.

#[cfg(loom)]
pub(super) use model::*;
#[cfg(not(loom))]
pub(super) use real::*;

#[cfg(not(loom))]
mod real {
    pub(crate) use rtrb::{Consumer, Producer};
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};

    pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        rtrb::RingBuffer::new(capacity)
    }

    /// Writes all of `bytes`, for which there must be room, with one publication of the tail.
    pub(crate) fn write(ring: &mut Producer<u8>, bytes: &[u8]) {
        ring.push_entire_slice(bytes).expect("the room was checked");
    }

    /// Moves `length` bytes, which must be there, to the end of `out`, with one publication of the head.
    pub(crate) fn read(ring: &mut Consumer<u8>, length: usize, out: &mut Vec<u8>) {
        let chunk = ring.read_chunk(length).expect("the length was checked");
        let (first, second) = chunk.as_slices();
        out.extend_from_slice(first);
        out.extend_from_slice(second);
        chunk.commit_all();
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::atomic::AtomicUsize;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// As rtrb: the producer publishes `tail` with release, the consumer `head`; each reads the other's with acquire.
    /// The contents lie behind a lock that loom does not see, so that only `head` and `tail` order anything.
    #[derive(Debug)]
    struct Shared<T> {
        head: AtomicUsize,
        tail: AtomicUsize,
        capacity: usize,
        items: Mutex<VecDeque<T>>,
    }

    #[derive(Debug)]
    pub(crate) struct Producer<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(crate) struct Consumer<T>(Arc<Shared<T>>);

    pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let (head, tail) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { head, tail, capacity, items: Mutex::new(VecDeque::new()) });
        (Producer(Arc::clone(&shared)), Consumer(shared))
    }

    impl<T> Producer<T> {
        pub(crate) fn slots(&self) -> usize {
            let used = self.0.tail.load(Ordering::Relaxed) - self.0.head.load(Ordering::Acquire);
            self.0.capacity - used
        }

        pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
            if self.slots() == 0 {
                return Err(item);
            }
            self.put([item]);
            Ok(())
        }

        fn put(&mut self, items: impl IntoIterator<Item = T>) {
            let mut count = 0;
            let mut queue = self.0.items.lock().expect("nobody panics with the lock");
            for item in items {
                queue.push_back(item);
                count += 1;
            }
            drop(queue);
            let tail = self.0.tail.load(Ordering::Relaxed);
            self.0.tail.store(tail + count, Ordering::Release);
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn slots(&self) -> usize {
            self.0.tail.load(Ordering::Acquire) - self.0.head.load(Ordering::Relaxed)
        }

        pub(crate) fn pop(&mut self) -> Result<T, ()> {
            if self.slots() == 0 {
                return Err(());
            }
            Ok(self.get(1).remove(0))
        }

        fn get(&mut self, count: usize) -> Vec<T> {
            let items: Vec<T> =
                self.0.items.lock().expect("nobody panics with the lock").drain(..count).collect();
            let head = self.0.head.load(Ordering::Relaxed);
            self.0.head.store(head + count, Ordering::Release);
            items
        }
    }

    pub(crate) fn write(ring: &mut Producer<u8>, bytes: &[u8]) {
        assert!(ring.slots() >= bytes.len(), "the room was checked");
        ring.put(bytes.iter().copied());
    }

    pub(crate) fn read(ring: &mut Consumer<u8>, length: usize, out: &mut Vec<u8>) {
        out.extend(ring.get(length));
    }
}
