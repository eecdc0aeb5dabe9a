//! One ring from one shard to another: whole records in order, small ones inline, large ones by reference.

use std::collections::VecDeque;
use std::sync::Arc;

use corecast_hub::canary::{self, Canary};
use crossbeam_utils::CachePadded;

use super::RingConfig;
use super::inbox::{Inbox, LARGE, LENGTH_BYTES};
use super::sync::{AtomicBool, Consumer, Ordering, Producer, fence, read, ring, write};

/// Large records under way in one ring at most.
const LARGE_MAX: usize = 64;

/// Staged memory above this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Bytes taken from a ring at once.
const TAKE_BYTES_MAX: usize = 64 << 10;

/// The producer's end, and what waits before it.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) inline_bytes: usize,
    spill_bytes: usize,
    ring: Producer<u8>,
    large: Producer<Arc<[u8]>>,
    /// Records that are not in the ring yet, from `at` on: staged in this tick, or spilled in earlier ones.
    staged: Vec<u8>,
    at: usize,
    staged_large: VecDeque<Arc<[u8]>>,
    staged_large_bytes: usize,
    blocked: Arc<CachePadded<AtomicBool>>,
}

/// The consumer's end.
#[derive(Debug)]
pub(super) struct Receiver {
    ring: Consumer<u8>,
    large: Consumer<Arc<[u8]>>,
    blocked: Arc<CachePadded<AtomicBool>>,
}

pub(super) fn path(ring_bytes: usize, config: RingConfig) -> (Sender, Receiver) {
    let (producer, consumer) = ring(ring_bytes);
    let (large_in, large_out) = ring(LARGE_MAX);
    let blocked = Arc::new(CachePadded::new(AtomicBool::new(false)));
    let sender = Sender {
        inline_bytes: config.inline_bytes,
        spill_bytes: config.spill_bytes,
        ring: producer,
        large: large_in,
        staged: Vec::new(),
        at: 0,
        staged_large: VecDeque::new(),
        staged_large_bytes: 0,
        blocked: Arc::clone(&blocked),
    };
    (sender, Receiver { ring: consumer, large: large_out, blocked })
}

impl Sender {
    pub(super) fn push(&mut self, record: &[u8]) {
        debug_assert!(record.len() <= self.inline_bytes, "larger records are shared");
        let passes = !self.is_empty() && canary::strikes(Canary::RecordsSwapped);
        self.staged.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.staged.extend_from_slice(record);
        if passes {
            self.overtake();
        }
    }

    pub(super) fn push_shared(&mut self, record: &Arc<[u8]>) {
        self.staged.extend_from_slice(&LARGE.to_le_bytes());
        self.staged_large_bytes += record.len();
        self.staged_large.push_back(Arc::clone(record));
    }

    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes() >= self.spill_bytes
    }

    /// Bytes of the records that are not in the ring yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.staged.len() - self.at + self.staged_large_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.staged.len()
    }

    /// Whether the first record that waits would fit now.
    pub(super) fn can_move(&self) -> bool {
        let (bytes, _) = self.fitting(1);
        bytes > 0
    }

    /// Moves what fits into the ring; whether anything moved. What is left announces itself as blocked.
    pub(super) fn publish(&mut self) -> bool {
        let mut moved = self.move_fitting();
        if !self.is_empty() {
            if canary::strikes(Canary::SpillOvertaken) {
                self.overtake();
            }
            self.blocked.store(true, Ordering::Relaxed);
            // Pairs with the fence in `take_blocked`: either we see the room, or the consumer sees that we wait.
            fence(Ordering::SeqCst);
            moved |= self.move_fitting();
        }
        moved
    }

    /// Moves the last record that waits before all others: only a planted bug does.
    fn overtake(&mut self) {
        let waiting = &mut self.staged[self.at..];
        let (mut last, mut at) = (0, 0);
        while let Some(length) = waiting[at..].first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length);
            if length == LARGE {
                return;
            }
            last = at;
            at += LENGTH_BYTES + length as usize;
        }
        waiting.rotate_right(at - last);
    }

    fn move_fitting(&mut self) -> bool {
        let (bytes, large) = self.fitting(usize::MAX);
        if bytes == 0 {
            return false;
        }
        // The large ones first: whoever sees their marks finds them.
        for _ in 0..large {
            let Some(record) = self.staged_large.pop_front() else { break };
            self.staged_large_bytes -= record.len();
            let pushed = self.large.push(record);
            assert!(pushed.is_ok(), "the room was checked");
        }
        write(&mut self.ring, &self.staged[self.at..self.at + bytes]);
        self.at += bytes;
        if self.is_empty() {
            self.at = 0;
            self.staged.clear();
            if self.staged.capacity() > KEPT_BYTES_MAX {
                self.staged = Vec::new();
            }
        } else if self.at > KEPT_BYTES_MAX {
            self.staged.drain(..self.at);
            self.at = 0;
        }
        true
    }

    /// Bytes of the first records, at most `count`, that fit together, and how many of them are large.
    fn fitting(&self, count: usize) -> (usize, usize) {
        let (room, large_room) = (self.ring.slots(), self.large.slots());
        let (mut bytes, mut large) = (0, 0);
        let waiting = &self.staged[self.at..];
        for _ in 0..count {
            let Some(length) = waiting[bytes..].first_chunk::<LENGTH_BYTES>() else { break };
            let length = u32::from_le_bytes(*length);
            let is_large = length == LARGE;
            let size = LENGTH_BYTES + if is_large { 0 } else { length as usize };
            if bytes + size > room || (is_large && large == large_room) {
                break;
            }
            bytes += size;
            large += usize::from(is_large);
        }
        (bytes, large)
    }
}

impl Receiver {
    pub(super) fn is_empty(&self) -> bool {
        self.ring.slots() == 0
    }

    /// Moves records into an empty inbox; whether there were any. Only whole records are ever published, so all
    /// that is there may be taken; a bound keeps one shard from holding up the others.
    pub(super) fn take(&mut self, inbox: &mut Inbox) -> bool {
        let there = self.ring.slots();
        if there == 0 {
            return false;
        }
        inbox.begin();
        let mut left = there;
        while left > 0 && inbox.bytes.len() < TAKE_BYTES_MAX {
            let start = inbox.bytes.len();
            let piece = left.min(TAKE_BYTES_MAX - start);
            read(&mut self.ring, piece, &mut inbox.bytes);
            left -= piece;
        }
        // The last record may have been cut: its rest is there.
        loop {
            let missing = inbox.missing();
            if missing == 0 {
                break;
            }
            debug_assert!(missing <= left, "records are published whole");
            read(&mut self.ring, missing, &mut inbox.bytes);
            left -= missing;
        }
        for _ in 0..inbox.large_marks() {
            if let Ok(record) = self.large.pop() {
                inbox.large.push_back(record);
            }
        }
        true
    }

    /// Whether the producer waits for the room that has just been made.
    pub(super) fn take_blocked(&mut self) -> bool {
        fence(Ordering::SeqCst);
        self.blocked.load(Ordering::Relaxed) && self.blocked.swap(false, Ordering::AcqRel)
    }
}
