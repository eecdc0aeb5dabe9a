//! Records taken from a ring, to be acted on one by one while rings and hub are in use.

use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of a record's length.
pub(super) const LENGTH_BYTES: usize = 4;

/// In place of a length: the record travels as a shared allocation.
pub(super) const LARGE: u32 = u32::MAX;

/// Records of one shard, in order.
#[derive(Debug, Default)]
pub struct Inbox {
    pub(super) from: u16,
    pub(super) bytes: Vec<u8>,
    at: usize,
    pub(super) large: VecDeque<Arc<[u8]>>,
    /// The large record that was handed out last.
    current: Option<Arc<[u8]>>,
}

impl Inbox {
    /// Whether all records were handed out.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next record and the shard that sent it.
    #[expect(
        clippy::should_implement_trait,
        reason = "records borrow from the inbox, which `Iterator` can't say"
    )]
    pub fn next(&mut self) -> Option<(u16, &[u8])> {
        self.current = None;
        let length = *self.bytes[self.at..].first_chunk::<LENGTH_BYTES>()?;
        self.at += LENGTH_BYTES;
        let length = u32::from_le_bytes(length);
        if length == LARGE {
            let record = self.large.pop_front().expect("a mark stands for a large record");
            return Some((self.from, self.current.insert(record)));
        }
        let start = self.at;
        self.at += length as usize;
        Some((self.from, &self.bytes[start..self.at]))
    }

    pub(super) fn begin(&mut self) {
        debug_assert!(
            self.is_empty() && self.large.is_empty(),
            "an inbox is emptied before it is filled again"
        );
        self.bytes.clear();
        self.at = 0;
    }

    /// Bytes that the last record lacks.
    pub(super) fn missing(&self) -> usize {
        let mut at = 0;
        loop {
            let rest = self.bytes.len() - at;
            if rest == 0 {
                return 0;
            }
            let Some(length) = self.bytes[at..].first_chunk::<LENGTH_BYTES>() else {
                return LENGTH_BYTES - rest;
            };
            let length = u32::from_le_bytes(*length);
            let size = LENGTH_BYTES + if length == LARGE { 0 } else { length as usize };
            if size > rest {
                return size - rest;
            }
            at += size;
        }
    }

    pub(super) fn large_marks(&self) -> usize {
        let (mut at, mut marks) = (0, 0);
        while let Some(length) = self.bytes[at..].first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length);
            let is_large = length == LARGE;
            marks += usize::from(is_large);
            at += LENGTH_BYTES + if is_large { 0 } else { length as usize };
        }
        marks
    }
}
