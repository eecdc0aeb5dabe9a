//! Buffers for messages that arrived in part: pooled, and bounded in bytes over all connections of a shard.

use std::collections::VecDeque;

use crate::ws::deflate::{Inflater, Unusable};

/// Refused: the shard holds as many unfinished bytes as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// Capacity of a new buffer, at least; from there on it is a power of two.
const FIRST_BYTES: usize = 1024;

/// Buffers of one shard's unfinished messages.
///
/// A connection owns a buffer only while a message of it is unfinished. Buffers grow with what arrives, never with
/// what a header announces.
#[derive(Debug)]
pub struct AssemblyPool {
    /// Unused buffers, the one that was used last at the end.
    free: VecDeque<Vec<u8>>,
    buffer_bytes: usize,
    buffers_max: usize,
    bytes_max: usize,
    in_use: usize,
    /// Unpacks for all connections whose messages stand for themselves, from the first of them on.
    inflater: Option<Box<Inflater>>,
    /// Inflaters that connections own.
    contexts: usize,
    inflated_bytes: u64,
}

impl AssemblyPool {
    /// A pool that keeps up to `buffers_max` unused buffers of up to `buffer_bytes`, and lends at most `bytes_max`
    /// bytes.
    pub fn new(buffer_bytes: usize, buffers_max: usize, bytes_max: usize) -> Self {
        Self {
            free: VecDeque::new(),
            buffer_bytes,
            buffers_max,
            bytes_max,
            in_use: 0,
            inflater: None,
            contexts: 0,
            inflated_bytes: 0,
        }
    }

    /// Bytes lent now, by capacity.
    pub fn bytes_in_use(&self) -> usize {
        self.in_use
    }

    /// Connections that own what later compressed messages may refer to.
    pub fn contexts(&self) -> usize {
        self.contexts
    }

    /// Bytes that compressed messages became, so far.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated_bytes
    }

    /// Unpacks a message with the connection's inflater, or with the one for all.
    pub(crate) fn unpack(
        &mut self,
        own: &mut Option<Box<Inflater>>,
        payload: &[u8],
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, Unusable> {
        let mut out = None;
        let result = if let Some(own) = own {
            own.unpack(payload, bytes_max, self, &mut out)
        } else {
            let mut shared = self.inflater.take().unwrap_or_else(|| Box::new(Inflater::shared()));
            let result = shared.unpack(payload, bytes_max, self, &mut out);
            self.inflater = Some(shared);
            result
        };
        self.inflated_bytes += out.as_ref().map_or(0, Vec::len) as u64;
        if let Err(unusable) = result {
            self.give_back(&mut out);
            return Err(unusable);
        }
        Ok(out)
    }

    /// A connection's own inflater.
    pub(crate) fn begin_context(&mut self, window_bits: u8) -> Box<Inflater> {
        self.contexts += 1;
        Box::new(Inflater::taking_over(window_bits))
    }

    /// The end of one.
    pub(crate) fn end_context(&mut self, own: &mut Option<Box<Inflater>>) {
        if own.take().is_some() {
            self.contexts -= 1;
        }
    }

    /// Appends to a connection's buffer, which is taken from the pool where there is none yet.
    pub(crate) fn append(&mut self, buffer: &mut Option<Vec<u8>>, bytes: &[u8]) -> Result<(), Exhausted> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (length, capacity) = buffer.as_ref().map_or((0, 0), |lent| (lent.len(), lent.capacity()));
        let needed = length + bytes.len();
        if needed > capacity {
            let room = self.bytes_max.saturating_sub(self.in_use - capacity);
            if needed > room {
                return Err(Exhausted);
            }
            let wanted = self.capacity_for(needed, room);
            self.grow(buffer.get_or_insert_default(), wanted);
        }
        buffer.get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&mut self, buffer: &mut Option<Vec<u8>>) {
        let Some(lent) = buffer.take() else { return };
        self.in_use -= lent.capacity();
        self.keep(lent);
    }

    /// Powers of two keep the copies few, whatever the packets, and a message as long as one wastes nothing. Where
    /// the bound is too near for that, an eighth more than needed is taken at most.
    fn capacity_for(&self, needed: usize, room: usize) -> usize {
        let wanted = needed.max(FIRST_BYTES.min(self.buffer_bytes)).next_power_of_two();
        if wanted <= room { wanted } else { room.min(needed + needed / 8) }
    }

    /// An unused buffer is lent only where it is just as large as wanted: nobody holds more for a byte because
    /// another's message was long.
    fn grow(&mut self, lent: &mut Vec<u8>, wanted: usize) {
        self.in_use -= lent.capacity();
        let unused = self.free.iter().rposition(|unused| unused.capacity() == wanted);
        if let Some(mut larger) = unused.and_then(|index| self.free.remove(index)) {
            larger.extend_from_slice(lent);
            let smaller = std::mem::replace(lent, larger);
            self.keep(smaller);
        } else {
            lent.reserve_exact(wanted - lent.len());
        }
        self.in_use += lent.capacity();
    }

    /// Keeps a buffer for others, instead of the one that was not used for longest. What grew far is freed: one large
    /// message must not cost its memory for ever.
    fn keep(&mut self, mut unused: Vec<u8>) {
        if self.buffers_max == 0 || unused.capacity() == 0 || unused.capacity() > self.buffer_bytes {
            return;
        }
        if self.free.len() == self.buffers_max {
            self.free.pop_front();
        }
        unused.clear();
        self.free.push_back(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_bytes_are_bounded_and_come_back() {
        let mut pool = AssemblyPool::new(16, 1, 64);
        let (mut one, mut two) = (None, None);
        assert_eq!(pool.append(&mut one, &[1; 40]), Ok(()));
        assert_eq!(pool.append(&mut two, &[2; 40]), Err(Exhausted));
        pool.give_back(&mut two);
        assert_eq!(pool.append(&mut one, &[1; 24]), Ok(()));
        assert_eq!(one.as_ref().map(Vec::len), Some(64));
        pool.give_back(&mut one);
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn a_byte_of_a_message_holds_little_memory() {
        let mut pool = AssemblyPool::new(64 << 10, 64, 1 << 20);
        let mut buffers: Vec<Option<Vec<u8>>> = vec![None; 1_000];
        for buffer in &mut buffers {
            assert_eq!(pool.append(buffer, b"{"), Ok(()), "a thousand of them are far below the bound");
        }
        let (mut first, mut rest) = (buffers.swap_remove(0), buffers);
        for _ in 0..20_000 {
            assert_eq!(pool.append(&mut first, b"0"), Ok(()));
        }
        assert!(pool.bytes_in_use() <= 1 << 20);
        rest.iter_mut().chain([&mut first]).for_each(|buffer| pool.give_back(buffer));
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn messages_as_large_as_the_bound_is_for_fit_whatever_their_packets() {
        const MESSAGE_BYTES: usize = 1 << 20;
        let message = vec![7; MESSAGE_BYTES];
        for packet_bytes in [999, 1_447, 16_384, 65_535, 700_000, MESSAGE_BYTES] {
            let mut pool = AssemblyPool::new(64 << 10, 64, 4 * MESSAGE_BYTES);
            for round in 0..3 {
                let mut buffers: [Option<Vec<u8>>; 4] = Default::default();
                for packet in message.chunks(packet_bytes) {
                    for (number, buffer) in buffers.iter_mut().enumerate() {
                        let appended = pool.append(buffer, packet);
                        assert_eq!(
                            appended,
                            Ok(()),
                            "message {number} of {packet_bytes} a packet, round {round}"
                        );
                    }
                }
                assert_eq!(pool.append(&mut None, b"{"), Err(Exhausted));
                buffers.iter_mut().for_each(|buffer| pool.give_back(buffer));
                assert_eq!(pool.bytes_in_use(), 0);
            }
        }
    }

    #[test]
    fn what_others_gave_back_is_not_too_much_for_a_byte() {
        let mut pool = AssemblyPool::new(64 << 10, 64, 1 << 20);
        let (mut large, mut byte, mut again) = (None, None, None);
        assert_eq!(pool.append(&mut large, &[1; 60 << 10]), Ok(()));
        pool.give_back(&mut large);
        assert_eq!(pool.append(&mut byte, b"{"), Ok(()));
        assert_eq!(pool.bytes_in_use(), 1 << 10);
        // It waits for those that need it.
        assert_eq!(pool.free.len(), 1);
        assert_eq!(pool.append(&mut again, &[1; 60 << 10]), Ok(()));
        assert_eq!((pool.bytes_in_use(), pool.free.len()), (65 << 10, 0));
    }
    #[test]
    fn near_the_bound_little_more_than_needed_is_taken() {
        let mut pool = AssemblyPool::new(64 << 10, 4, 140 << 10);
        let (mut one, mut two, mut three) = (None, None, None);
        assert_eq!(pool.append(&mut one, &[1; 64 << 10]), Ok(()));
        assert_eq!(pool.append(&mut two, &[2; 16 << 10]), Ok(()));
        assert_eq!(pool.append(&mut one, &[1; 8 << 10]), Ok(()));
        assert_eq!(pool.bytes_in_use(), (72 + 72 / 8 + 16) << 10);
        assert_eq!(pool.append(&mut three, &[3; 40 << 10]), Ok(()), "others have what is left");
        assert_eq!(pool.append(&mut two, &[2; 4 << 10]), Err(Exhausted));
        for buffer in [&mut one, &mut two, &mut three] {
            pool.give_back(buffer);
        }
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn a_message_after_the_other_takes_no_new_memory() {
        let mut pool = AssemblyPool::new(16 << 10, 5, 1 << 20);
        let message = |pool: &mut AssemblyPool| {
            let mut buffer = None;
            for _ in 0..16 {
                assert_eq!(pool.append(&mut buffer, &[1; 1 << 10]), Ok(()));
            }
            pool.give_back(&mut buffer);
            let mut kept: Vec<_> = pool.free.iter().map(|it| (it.capacity(), it.as_ptr())).collect();
            kept.sort();
            kept
        };
        let warm = (0..6).map(|_| message(&mut pool)).last().expect("six messages");
        assert_eq!(warm.iter().map(|it| it.0 >> 10).collect::<Vec<_>>(), [1, 2, 4, 8, 16]);
        assert_eq!(message(&mut pool), warm);
    }
}
