//! The latest messages of one channel, as they are kept at its home: bounded by count, bytes and age, written anew for
//! whoever reads them.
//!
//! Offsets have no gaps, so a message is found by counting. Buffers of messages that go are used again for those
//! that come: a full history takes no memory per message.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::event::{self, Message, Seams};

use crate::format::Format;
use crate::reading::Transcoder;
use crate::remote::Epoch;

/// How much of a channel is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes of memory. The latest message is kept whatever it takes.
    pub(crate) bytes: usize,
    /// How long.
    pub(crate) age: Duration,
}

/// A message as it is to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) event: Option<&'a str>,
    pub(crate) publisher: &'a str,
    pub(crate) format: Format,
    pub(crate) payload: &'a [u8],
    pub(crate) priority: Option<Priority>,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp: u64,
}

/// One kept message: event, publisher and payload one behind the other.
#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    /// When it came.
    since: Instant,
    timestamp: u64,
    event_len: Option<u16>,
    publisher_len: u16,
    format: Format,
    priority: Option<Priority>,
}

/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// A buffer may be this many times as large as its message before it is given back.
const SPARE_MAX: usize = 4;

/// The latest messages of a channel.
#[derive(Debug)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    /// The offset behind the last entry.
    next: u64,
    /// What all entries take.
    bytes: usize,
    /// How long a message is kept.
    age: Duration,
}

impl History {
    /// Nothing is kept yet of a channel whose last message had this offset.
    pub(crate) fn new(offset: u64) -> Self {
        Self { entries: VecDeque::new(), next: offset + 1, bytes: 0, age: Duration::MAX }
    }

    /// What it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The offset of the oldest message that is kept, or of the next one to come.
    pub(crate) fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// When the latest message came.
    pub(crate) fn latest(&self) -> Option<Instant> {
        self.entries.back().map(|it| it.since)
    }

    /// Keeps a message, which gets the next offset.
    pub(crate) fn push(&mut self, it: &Kept<'_>, now: Instant, bounds: Bounds) {
        self.age = bounds.age;
        self.expire(now);
        let event = it.event.unwrap_or_default();
        let len = event.len() + it.publisher.len() + it.payload.len();
        let takes = len + ENTRY_BYTES;
        let mut spare = Vec::new();
        while self.entries.len() >= bounds.messages.max(1)
            || !self.entries.is_empty() && self.bytes + takes > bounds.bytes
        {
            spare = self.pop().unwrap_or_default();
        }
        self.next += 1;
        if bounds.messages == 0 {
            return;
        }
        if spare.capacity() > SPARE_MAX * len.max(64) {
            spare = Vec::new();
        }
        if self.bytes + spare.capacity() + ENTRY_BYTES > bounds.bytes {
            // It fits, but not with what is spare.
            spare = Vec::new();
        }
        spare.clear();
        spare.reserve_exact(len);
        for part in [event.as_bytes(), it.publisher.as_bytes(), it.payload] {
            spare.extend_from_slice(part);
        }
        self.bytes += spare.capacity() + ENTRY_BYTES;
        self.entries.push_back(Entry {
            bytes: spare,
            since: now,
            timestamp: it.timestamp,
            event_len: it.event.map(|event| event.len() as u16),
            publisher_len: it.publisher.len() as u16,
            format: it.format,
            priority: it.priority,
        });
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes.capacity() + ENTRY_BYTES;
        Some(entry.bytes)
    }

    /// All messages, and when they came: for moving a history elsewhere.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Kept<'_>, Instant)> {
        self.entries.iter().map(|entry| (entry.record().0, entry.since))
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.entries.front().is_some_and(|it| now.saturating_duration_since(it.since) > self.age) {
            self.pop();
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
    }

    /// The messages behind an offset, with theirs; none if some of them are gone, or it has not come yet.
    pub(crate) fn since(&self, offset: u64) -> Option<impl DoubleEndedIterator<Item = (u64, Record<'_>)>> {
        let first = self.first();
        if offset.checked_add(1)? < first || offset >= self.next {
            return None;
        }
        let skipped = (offset + 1 - first) as usize;
        let wanted = self.entries.range(skipped..).enumerate();
        Some(wanted.map(move |(index, entry)| (offset + 1 + index as u64, entry.record())))
    }

    /// The messages before an offset, with theirs, the latest first.
    pub(crate) fn before(&self, offset: u64) -> impl Iterator<Item = (u64, Record<'_>)> {
        let first = self.first();
        let wanted = (offset.saturating_sub(first) as usize).min(self.entries.len());
        let wanted = self.entries.range(..wanted).enumerate().rev();
        wanted.map(move |(index, entry)| (first + index as u64, entry.record()))
    }
}

impl Entry {
    fn record(&self) -> Record<'_> {
        let (event, rest) = self.bytes.split_at(usize::from(self.event_len.unwrap_or(0)));
        let (publisher, payload) = rest.split_at(usize::from(self.publisher_len));
        let text = |bytes| std::str::from_utf8(bytes).expect("it was text when it was kept");
        Record(Kept {
            event: self.event_len.map(|_| text(event)),
            publisher: text(publisher),
            format: self.format,
            payload,
            priority: self.priority,
            timestamp: self.timestamp,
        })
    }
}

/// Whose message it is, as it is written for readers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address<'a> {
    pub(crate) channel: &'a str,
    /// Whom it was sent to, in an inbox.
    pub(crate) to: Option<&'a str>,
    /// Of the channel, or of the participant.
    pub(crate) hash: u64,
    pub(crate) epoch: Epoch,
}

/// A kept message, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a>(pub(crate) Kept<'a>);

impl Record<'_> {
    /// About what it takes when it is written in the encoding in which it came.
    pub(crate) fn len(&self) -> usize {
        self.0.payload.len() + self.0.publisher.len() + self.0.event.map_or(0, str::len)
    }

    /// About what it takes in this encoding.
    pub(crate) fn len_in(
        &self,
        format: Format,
        to: &Address<'_>,
        offset: u64,
        transcoder: &mut Transcoder,
    ) -> usize {
        let Kept { format: own, payload, .. } = self.0;
        if own == format {
            return self.len();
        }
        self.len() - payload.len() + transcoder.len((to.hash, to.epoch, offset), (own, payload))
    }

    /// Appends the message as it was delivered, in this encoding.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        format: Format,
        to: &Address<'_>,
        offset: u64,
        transcoder: &mut Transcoder,
    ) -> Seams {
        let Kept { event, publisher, format: own, payload, priority, timestamp } = self.0;
        let payload = if own == format {
            payload
        } else {
            transcoder.payload((to.hash, to.epoch, offset), (own, payload))
        };
        let message = Message {
            channel: to.channel,
            event,
            payload,
            publisher: Some(publisher),
            epoch: to.epoch.text(),
            offset,
            timestamp,
            priority,
            to: to.to,
        };
        event::message(out, format, &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Hasher;

    const BOUNDS: Bounds = Bounds { messages: 3, bytes: usize::MAX, age: Duration::from_secs(10) };

    fn kept(payload: &[u8]) -> Kept<'_> {
        Kept { event: None, publisher: "ann", format: Format::Json, payload, priority: None, timestamp: 7 }
    }

    fn offsets(history: &History, since: u64) -> Option<Vec<u64>> {
        history.since(since).map(|messages| messages.map(|(offset, _)| offset).collect())
    }

    #[test]
    fn only_what_is_complete_is_handed_out() {
        let (start, mut history) = (Instant::now(), History::new(4));
        assert_eq!(offsets(&history, 4), Some(vec![]), "nothing came since");
        assert_eq!((offsets(&history, 3), offsets(&history, 5)), (None, None));
        for _ in 5..=9 {
            history.push(&kept(b"1"), start, BOUNDS);
        }
        assert_eq!((history.first(), offsets(&history, 6)), (7, Some(vec![7, 8, 9])));
        assert_eq!((offsets(&history, 8), offsets(&history, 9)), (Some(vec![9]), Some(vec![])));
        assert_eq!(
            (offsets(&history, 5), offsets(&history, 10), offsets(&history, u64::MAX)),
            (None, None, None)
        );
    }

    #[test]
    fn what_came_before_an_offset_is_what_a_walk_from_the_end_finds() {
        let (start, mut history) = (Instant::now(), History::new(4));
        for number in 0..6 {
            for offset in 0..15 {
                let all = history.since(history.first() - 1).into_iter().flatten();
                let walked = all.rev().skip_while(|it| it.0 >= offset).map(|it| (it.0, it.1.0.timestamp));
                let found = history.before(offset).map(|it| (it.0, it.1.0.timestamp));
                assert!(found.eq(walked), "{number} messages, before {offset}");
            }
            history.push(&kept(b"1"), start, BOUNDS);
        }
    }

    #[test]
    fn what_is_too_old_goes() {
        let (start, mut history) = (Instant::now(), History::new(0));
        history.push(&kept(b"1"), start, BOUNDS);
        history.push(&kept(b"2"), start + Duration::from_secs(6), BOUNDS);
        history.expire(start + Duration::from_secs(10));
        assert_eq!(history.first(), 1);
        history.expire(start + Duration::from_secs(11));
        assert_eq!(history.first(), 2);
        history.push(&kept(b"3"), start + Duration::from_secs(17), BOUNDS);
        assert_eq!((history.first(), offsets(&history, 2)), (3, Some(vec![3])));
        history.expire(start + Duration::from_secs(60));
        assert_eq!((history.first(), history.bytes(), history.is_empty()), (4, 0, true));
    }

    #[test]
    fn a_full_history_takes_no_more_memory() {
        let (start, mut history) = (Instant::now(), History::new(0));
        for round in 0..1_000usize {
            history.push(&kept(&vec![b'1'; 100 + round % 50]), start, BOUNDS);
            let sum: usize = history.entries.iter().map(|it| it.bytes.capacity() + ENTRY_BYTES).sum();
            assert_eq!(history.bytes(), sum);
        }
        assert!(history.bytes() <= 3 * (ENTRY_BYTES + 200), "{}", history.bytes());
        history.push(&kept(&vec![b'1'; 100_000]), start, BOUNDS);
        for _ in 0..3 {
            history.push(&kept(b"1"), start, BOUNDS);
        }
        assert!(history.bytes() <= 3 * (ENTRY_BYTES + 4 * 64), "what a large one took is given back");
    }

    #[test]
    fn bytes_are_bounded_and_the_latest_is_kept_whatever_it_takes() {
        let (start, mut history) = (Instant::now(), History::new(0));
        let bounds = Bounds { messages: 100, bytes: 3 * (ENTRY_BYTES + 103), ..BOUNDS };
        for offset in 1..=20 {
            history.push(&kept(&[b'1'; 100]), start, bounds);
            assert_eq!(history.first(), offset.max(3) - 2, "three fit");
        }
        history.push(&kept(&[b'1'; 90]), start, bounds);
        assert_eq!(
            (history.first(), history.bytes() <= bounds.bytes),
            (19, true),
            "what is spare is not kept with it"
        );
        history.push(&kept(&[b'1'; 1_000]), start, bounds);
        assert_eq!((history.first(), offsets(&history, 21)), (22, Some(vec![22])), "more than all may take");
        history.push(&kept(b"1"), start, bounds);
        assert_eq!((history.first(), offsets(&history, 22)), (23, Some(vec![23])));
        assert!(history.bytes() <= bounds.bytes, "{}", history.bytes());
    }

    #[test]
    fn it_is_written_in_either_encoding() {
        let (start, mut history) = (Instant::now(), History::new(0));
        history.push(&Kept { event: Some("e"), ..kept(br#"{"a":1}"#) }, start, BOUNDS);
        let to = Address { channel: "agent:1", to: None, hash: 1, epoch: Epoch::new(5) };
        let (offset, record) = history.since(0).and_then(|mut it| it.next()).expect("there is one");
        let (mut out, mut transcoder) = (Vec::new(), Transcoder::new(&Hasher::new(5), 1 << 20));
        record.write(&mut out, Format::Json, &to, offset, &mut transcoder);
        let text = String::from_utf8(out).expect("JSON is text");
        assert!(text.contains(r#""event":"e","payload":{"a":1},"publisher":"ann""#), "{text}");
        assert!(text.contains(r#""offset":1,"timestamp":7"#), "{text}");
        let mut out = Vec::new();
        record.write(&mut out, Format::MessagePack, &to, offset, &mut transcoder);
        assert!(out.windows(9).any(|it| it == [b"\xa7payload\x81".as_slice()].concat()), "{out:?}");
    }
}
