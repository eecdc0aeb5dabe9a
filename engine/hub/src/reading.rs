//! What reading the past costs a shard: payloads in the other encoding, kept for whoever asks next, and a bound for each
//! turn.
//!
//! A page, a carried past and a query's answer take as long as their bytes. Sixty clients that ask at once would hold
//! everybody else's messages for a second: what is over the bound waits here for the next turn, in the order in which it
//! came. What a connection asks of the same channel does not pass an earlier request that waits.

use std::collections::VecDeque;

use corecast_protocol::envelope;
use corecast_protocol::envelope::name;
use hashbrown::HashMap;

use crate::canary::{self, Canary};
use crate::config::{Hasher, Now};
use crate::effect::{ConnKey, Effects};
use crate::format::Format;
use crate::hub::Hub;
use crate::remote::{Epoch, InboxAsk, Past, ToHome};

/// A byte that is only copied costs so much less than one that is transcoded.
const COPIED_PER_TRANSCODED: usize = 8;

/// Smaller payloads are transcoded each time: that costs hardly more than finding them.
const KEPT_FROM: usize = 512;

/// What is kept takes at most this part of what histories may take, and at most so many bytes.
const KEPT_SHARE: usize = 8;
const KEPT_BYTES_MAX: usize = 64 << 20;

/// Subscriptions of one connection to one channel that wait behind an earlier one. Who has more under way at once is told
/// positions in another order than it asked.
const BEHIND_MAX: u32 = 64;

/// What a kept payload takes beside its bytes, in the table and in the order.
const KEPT_BYTES_MORE: usize = 96;

/// A kept message, of whatever channel or inbox: the hash of that, and its identity there.
pub(crate) type Identity = (u64, Epoch, u64);

/// Transcodes kept messages, and remembers what took long.
#[derive(Debug)]
pub(crate) struct Transcoder {
    scratch: Vec<u8>,
    kept: HashMap<Identity, Box<[u8]>, foldhash::fast::FixedState>,
    /// In the order in which they came, which is the order in which they go.
    order: VecDeque<Identity>,
    bytes: usize,
    bytes_max: usize,
    /// In this turn.
    spent: usize,
}

impl Transcoder {
    /// Keeps its part of so many bytes of histories.
    pub(crate) fn new(hasher: &Hasher, history_bytes_max: usize) -> Self {
        Self {
            scratch: Vec::new(),
            kept: HashMap::with_hasher(hasher.0.clone()),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max: (history_bytes_max / KEPT_SHARE).min(KEPT_BYTES_MAX),
            spent: 0,
        }
    }

    /// A message's payload in the encoding that it did not come in.
    pub(crate) fn payload(&mut self, message: Identity, (own, payload): (Format, &[u8])) -> &[u8] {
        if payload.len() < KEPT_FROM {
            return self.transcode(own, payload);
        }
        if !self.kept.contains_key(&message) {
            let taken = self.transcode(own, payload).len() + KEPT_BYTES_MORE;
            if taken > self.bytes_max {
                return &self.scratch;
            }
            while self.bytes + taken > self.bytes_max {
                self.forget_oldest();
            }
            self.bytes += taken;
            self.kept.insert(message, std::mem::take(&mut self.scratch).into_boxed_slice());
            self.order.push_back(message);
        }
        self.kept.get(&message).map_or(&[], |it| it)
    }

    /// How many bytes that has.
    pub(crate) fn len(&mut self, message: Identity, (own, payload): (Format, &[u8])) -> usize {
        if payload.len() >= KEPT_FROM {
            return self.payload(message, (own, payload)).len();
        }
        let len = envelope::transcoded_len(own, payload);
        self.spent += len.max(payload.len());
        len
    }

    fn transcode(&mut self, own: Format, payload: &[u8]) -> &[u8] {
        self.scratch.clear();
        envelope::transcode(own, payload, &mut self.scratch);
        self.spent += self.scratch.len().max(payload.len());
        &self.scratch
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        if let Some(gone) = self.kept.remove(&oldest) {
            self.bytes -= gone.len() + KEPT_BYTES_MORE;
        }
    }

    /// Nothing is kept of which these could be.
    pub(crate) fn forget(&mut self) {
        self.kept = HashMap::with_hasher(self.kept.hasher().clone());
        (self.order, self.bytes) = (VecDeque::new(), 0);
    }

    /// What is kept, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A page of so many bytes was written.
    pub(crate) fn copied(&mut self, bytes: usize) {
        self.spent += bytes / COPIED_PER_TRANSCODED;
    }
}

/// Requests at a home that wait for a later turn.
#[derive(Debug)]
pub(crate) struct Readings {
    waiting: VecDeque<(u16, Box<[u8]>)>,
    /// How many of them are subscriptions of these connections to these channels, which are known by their hashes.
    subscribing: HashMap<(u16, ConnKey, u64), u32, foldhash::fast::FixedState>,
}

impl Readings {
    pub(crate) fn new(hasher: &Hasher) -> Self {
        Self { waiting: VecDeque::new(), subscribing: HashMap::with_hasher(hasher.0.clone()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Hub {
    /// Another turn of the shard: what waits for one may go on.
    pub fn begin_turn(&mut self) {
        self.transcoder.spent = 0;
    }

    /// Whether a request that reads so much has to wait, behind those that do already. It does then.
    pub(crate) fn reading_waits(&mut self, from: u16, record: &ToHome<'_>) -> bool {
        let is_spent =
            self.transcoder.spent >= self.config.replay.turn_bytes && !canary::strikes(Canary::TurnUnbounded);
        if !is_spent && self.readings.is_empty() {
            return false;
        }
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.readings.waiting.push_back((from, bytes.into()));
        true
    }

    /// The same for a subscription, which waits as well if an earlier one of its connection to the same channel does.
    pub(crate) fn subscription_waits(
        &mut self,
        (from, conn, hash): (u16, ConnKey, u64),
        past: &Past,
        record: &ToHome<'_>,
    ) -> bool {
        let subscribing = &self.readings.subscribing;
        let behind = if subscribing.is_empty() { None } else { subscribing.get(&(from, conn, hash)) };
        let is_behind = behind.is_some_and(|count| *count < BEHIND_MAX);
        if !(past.is_carried || is_behind) || !self.reading_waits(from, record) {
            return false;
        }
        *self.readings.subscribing.entry((from, conn, hash)).or_insert(0) += 1;
        true
    }

    /// The same for what an inbox is asked.
    pub(crate) fn inbox_waits(&mut self, from: u16, ask: &InboxAsk<'_>) -> bool {
        let record = ToHome::Inbox(*ask);
        match ask {
            InboxAsk::Seen { .. } => false,
            InboxAsk::Fetch { .. } | InboxAsk::History { .. } => self.reading_waits(from, &record),
            InboxAsk::Subscribe { reader, past, .. } => {
                let hash = self.hasher.of(name::INBOX);
                self.subscription_waits((from, reader.conn, hash), past, &record)
            }
        }
    }

    /// Answers the next request that has waited for its turn; whether there was one.
    pub(crate) fn read_on(&mut self, now: Now, fx: &mut Effects) -> bool {
        if self.transcoder.spent >= self.config.replay.turn_bytes {
            return false;
        }
        let Some((from, record)) = self.readings.waiting.pop_front() else { return false };
        let record = ToHome::decode(&record).expect("it was written here");
        match record {
            ToHome::Subscribe { conn, serial, channel, id, format, ref past } => {
                self.subscribed_at_last((from, conn, self.hasher.of(channel)));
                self.answer_subscription(now, from, (conn, serial, channel, id, format), past, fx);
            }
            ToHome::Fetch { conn, serial, channel, format, epoch, after, limit } => {
                self.fetch(now, from, (conn, serial, channel, format), (epoch, after, limit), fx);
            }
            ToHome::History { conn, id, channel, format, ref extent } => {
                self.history_page(now, from, (conn, id, channel, format), extent, fx);
            }
            ToHome::Inbox(ref ask) => {
                if let InboxAsk::Subscribe { reader, .. } = ask {
                    self.subscribed_at_last((from, reader.conn, self.hasher.of(name::INBOX)));
                }
                self.inbox_at_home(now, from, ask, fx);
            }
            _ => unreachable!("nothing else waits"),
        }
        true
    }

    fn subscribed_at_last(&mut self, whose: (u16, ConnKey, u64)) {
        if let Some(count) = self.readings.subscribing.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                self.readings.subscribing.remove(&whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcoder(bytes_max: usize) -> Transcoder {
        Transcoder::new(&Hasher::new(5), bytes_max * KEPT_SHARE)
    }

    /// A list of so many small numbers, in MessagePack.
    fn numbers(count: u16) -> Vec<u8> {
        let mut list = vec![0xdc];
        list.extend_from_slice(&count.to_be_bytes());
        list.resize(3 + usize::from(count), 7);
        list
    }

    #[test]
    fn what_took_long_is_transcoded_once() {
        let (mut it, list) = (transcoder(100_000), numbers(1_000));
        let message = (1, Epoch::new(1), 1);
        let json = it.payload(message, (Format::MessagePack, &list)).to_vec();
        assert_eq!((json.len(), it.spent), (2_001, 2_001));
        assert_eq!(it.payload(message, (Format::MessagePack, &list)), json);
        assert_eq!(it.len(message, (Format::MessagePack, &list)), json.len());
        assert_eq!((it.spent, it.bytes()), (2_001, 2_001 + KEPT_BYTES_MORE), "that cost nothing more");
        let (small, other) = (numbers(100), (1, Epoch::new(1), 2));
        for _ in 0..2 {
            it.payload(other, (Format::MessagePack, &small));
        }
        assert_eq!((it.spent, it.kept.len()), (2_001 + 2 * 201, 1));
        it.forget();
        assert_eq!((it.bytes(), it.kept.len(), it.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let (mut it, list) = (transcoder(10_000), numbers(1_000));
        for offset in 1..=100 {
            it.payload((1, Epoch::new(1), offset), (Format::MessagePack, &list));
            assert!(it.bytes() <= 10_000 && it.kept.len() == it.order.len());
        }
        assert_eq!(it.order.iter().map(|it| it.2).collect::<Vec<_>>(), [97, 98, 99, 100]);
        let large = numbers(20_000);
        assert_eq!(it.payload((1, Epoch::new(1), 7), (Format::MessagePack, &large)).len(), 40_001);
        assert_eq!(it.kept.len(), 4, "what is larger than all that may be kept displaces nothing");
    }
}
