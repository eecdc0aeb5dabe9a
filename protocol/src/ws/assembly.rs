//! Buffers for messages that arrived in part: pooled, and bounded in bytes over all connections of a shard.

/// Refused: the shard holds as many unfinished bytes as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// Bytes of a new buffer; it doubles with what arrives.
const FIRST_BYTES: usize = 1024;

/// Buffers of one shard's unfinished messages.
///
/// A connection owns a buffer only while a message of it is unfinished. Buffers grow with what arrives, never with
/// what a header announces.
#[derive(Debug)]
pub struct AssemblyPool {
    free: Vec<Vec<u8>>,
    buffer_bytes: usize,
    buffers_max: usize,
    bytes_max: usize,
    in_use: usize,
}

impl AssemblyPool {
    /// A pool that keeps up to `buffers_max` unused buffers of up to twice `buffer_bytes`, and lends at most `bytes_max` bytes.
    pub fn new(buffer_bytes: usize, buffers_max: usize, bytes_max: usize) -> Self {
        Self { free: Vec::new(), buffer_bytes, buffers_max, bytes_max, in_use: 0 }
    }

    /// Bytes lent now, by capacity.
    pub fn bytes_in_use(&self) -> usize {
        self.in_use
    }

    /// Appends to a connection's buffer, which is taken from the pool where there is none yet.
    pub(crate) fn append(&mut self, buffer: &mut Option<Vec<u8>>, bytes: &[u8]) -> Result<(), Exhausted> {
        if bytes.is_empty() {
            return Ok(());
        }
        let lent = match buffer {
            Some(lent) => lent,
            None => {
                let room = self.bytes_max.saturating_sub(self.in_use);
                if bytes.len() > room {
                    return Err(Exhausted);
                }
                // Near the bound a buffer that grew is too much. A new one is small: whoever sends one byte of a
                // message holds little more than that.
                let free = self.free.pop().filter(|buffer| buffer.capacity() <= room);
                let first_bytes = bytes.len().max(FIRST_BYTES.min(self.buffer_bytes)).min(room);
                let lent = free.unwrap_or_else(|| Vec::with_capacity(first_bytes));
                self.in_use += lent.capacity();
                buffer.insert(lent)
            }
        };
        if lent.capacity() - lent.len() < bytes.len() {
            let needed = lent.len() + bytes.len();
            let room = self.bytes_max.saturating_sub(self.in_use - lent.capacity());
            if needed > room {
                return Err(Exhausted);
            }
            // Doubling keeps the copies few; near the bound only what is needed is taken.
            let wanted = needed.max(lent.capacity() * 2).min(room);
            self.in_use -= lent.capacity();
            lent.reserve_exact(wanted - lent.len());
            self.in_use += lent.capacity();
        }
        lent.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&mut self, buffer: &mut Option<Vec<u8>>) {
        let Some(mut lent) = buffer.take() else { return };
        self.in_use -= lent.capacity();
        // A buffer that grew far is freed: one large message must not cost its memory for ever.
        if self.free.len() < self.buffers_max && lent.capacity() <= 2 * self.buffer_bytes {
            lent.clear();
            self.free.push(lent);
        }
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
}
