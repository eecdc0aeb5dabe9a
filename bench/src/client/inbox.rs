//! What arrives: frames taken apart, messages audited and timed, everything else counted by its kind.
//!
//! No sockets: bytes and the time come in.

use std::collections::BTreeMap;

use corecast_protocol::envelope::Format;
use corecast_protocol::ws::frame::{self, Reserved};
use hdrhistogram::Histogram;
use memchr::memmem;

use super::dialect::Dialect;
use super::frames::{self, Came};
use super::message::{self, Composer};
use super::unpack::{Shared, unpacked};
use super::wire;
use crate::audit::{Audit, Seen};

/// A histogram of nanoseconds up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}

/// What one connection expects, has seen, and has to answer.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) seen: Seen,
    /// `"channel":"NAME"` of the channel it subscribed to, as it stands in a message.
    channel: Box<[u8]>,
    /// Where the server may compress.
    unpacker: Option<Shared>,
    /// Bytes to be sent to the server.
    pub(crate) out: Vec<u8>,
    /// How many messages are acknowledged at once, if any are.
    acks_every: Option<u64>,
    /// The channel's name, for them.
    name: Box<str>,
}

impl Inbox {
    pub(crate) fn new(
        channel: &str,
        dialect: Dialect,
        unpacker: Option<Shared>,
        acks_every: Option<u64>,
    ) -> Self {
        // Only who acknowledges has to name it.
        let name = if acks_every.is_some() { channel.into() } else { "".into() };
        let channel = wire::member(dialect.format(), "channel", channel).into_boxed_slice();
        Self { seen: Seen::default(), channel, unpacker, out: Vec::new(), acks_every, name }
    }

    /// Acknowledges this message and those before it, where it is its turn.
    fn acknowledge(&mut self, format: Format, text: &[u8], sequence: u64) {
        if self.acks_every.is_none_or(|every| !(sequence + 1).is_multiple_of(every)) {
            return;
        }
        let Some((epoch, offset)) = wire::position(format, text) else { return };
        let json = format!(
            "{{\"type\":\"ack\",\"channel\":\"{}\",\"epoch\":\"{epoch}\",\"offset\":{offset}}}",
            self.name
        );
        let ack = wire::value(format, &json);
        frame::encode_masked(wire::opcode(format), &ack, (sequence as u32).to_ne_bytes(), &mut self.out);
    }
}

/// What came in, over all connections of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Of messages that were due in or after the window, whenever they came.
    pub(crate) latency_ns: Histogram<u64>,
    /// When each message was due and its latency, where that is asked for.
    pub(crate) each: Option<Vec<(u64, u64)>>,
    pub(crate) audit: Audit,
    /// Messages that came in the window.
    pub(crate) measured: u64,
    /// Bytes of the frames of all messages, as they came.
    pub(crate) bytes: u64,
    /// Messages that came compressed.
    pub(crate) compressed: u64,
    /// `error` messages, and the first of them.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Close frames by their code; 1005 where there is none.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Frames that no server of these scenarios should send: broken, fragmented or of the other encoding.
    pub(crate) unreadable: u64,
    format: Format,
    /// What stands before a payload's sequence number, and what an error holds.
    payload: Vec<u8>,
    error: Vec<u8>,
    /// The window that is measured, in nanoseconds since the start.
    from: u64,
    to: u64,
    /// Where the channel and the payload were in the message before.
    channel_at: usize,
    payload_at: usize,
}

impl Tally {
    pub(crate) fn new(from: u64, to: u64, dialect: Dialect) -> Self {
        let format = dialect.format();
        Self {
            format,
            payload: Composer::mark(dialect),
            error: wire::member(format, "type", "error"),
            compressed: 0,
            latency_ns: histogram(),
            each: None,
            audit: Audit::default(),
            measured: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            closes: BTreeMap::new(),
            unreadable: 0,
            from,
            to,
            channel_at: 0,
            payload_at: 0,
        }
    }

    /// Adds another worker's findings.
    pub(crate) fn add(&mut self, other: &Self) {
        self.latency_ns.add(&other.latency_ns).expect("the same bounds");
        self.audit.add(other.audit);
        self.measured += other.measured;
        self.bytes += other.bytes;
        self.compressed += other.compressed;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        for (code, count) in &other.closes {
            *self.closes.entry(*code).or_default() += count;
        }
        self.unreadable += other.unreadable;
    }

    /// Acts on the whole frames; returns how many bytes they were.
    pub(crate) fn frames(&mut self, bytes: &[u8], inbox: &mut Inbox, now: u64) -> usize {
        let reserved = if inbox.unpacker.is_some() { Reserved::Deflate } else { Reserved::Unused };
        frames::take(bytes, reserved, |came| match came {
            Came::Data(header, frame, payload)
                if header.opcode == wire::opcode(self.format) && header.is_final =>
            {
                let is_audited = if header.is_compressed {
                    let unpacker = inbox.unpacker.clone();
                    let message = unpacked(unpacker.as_deref(), frame, |it| self.message(it, inbox, now));
                    self.compressed += u64::from(message == Some(true));
                    self.unreadable += u64::from(message.is_none());
                    message.unwrap_or(false)
                } else {
                    self.message(payload, inbox, now)
                };
                if is_audited {
                    self.bytes += frame.len() as u64;
                }
            }
            Came::Ping(payload) => frames::pong(payload, now, &mut inbox.out),
            Came::Close(code) => *self.closes.entry(code).or_default() += 1,
            Came::Data(..) | Came::Unreadable => self.unreadable += 1,
        })
    }

    /// Whether it is one of the messages that are audited.
    fn message(&mut self, text: &[u8], inbox: &mut Inbox, now: u64) -> bool {
        let found = find_from(text, &inbox.channel, self.channel_at).and_then(|channel| {
            let rest = channel + inbox.channel.len();
            let payload = find_from(&text[rest..], &self.payload, self.payload_at)?;
            (self.channel_at, self.payload_at) = (channel, payload);
            Some(rest + payload + self.payload.len())
        });
        let Some(at) = found else {
            self.other(text);
            return false;
        };
        let (sequence, rest) = wire::number(self.format, &text[at..]);
        let behind = message::between(self.format).len();
        let (due, _) = wire::number(self.format, rest.get(behind..).unwrap_or_default());
        self.audit.message(&mut inbox.seen, sequence);
        self.measured += u64::from((self.from..self.to).contains(&now));
        if due >= self.from {
            self.latency_ns.saturating_record(now.saturating_sub(due).max(1));
        }
        if let Some(each) = &mut self.each {
            each.push((due, now.saturating_sub(due)));
        }
        inbox.acknowledge(self.format, text, sequence);
        true
    }

    #[cold]
    fn other(&mut self, text: &[u8]) {
        if memmem::find(text, &self.payload).is_some() {
            self.audit.misdelivered += 1;
        } else if memmem::find(text, &self.error).is_some() {
            self.errors += 1;
            self.first_error.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
        }
    }
}

/// Where `needle` is, looked for first where it was in the message before.
pub(super) fn find_from(text: &[u8], needle: &[u8], likely: usize) -> Option<usize> {
    if text.get(likely..).is_some_and(|rest| rest.starts_with(needle)) {
        return Some(likely);
    }
    memmem::find(text, needle)
}

#[cfg(test)]
mod tests {
    use corecast_protocol::ws::frame::{Header, Opcode};

    use super::*;
    use crate::client::dialect::Encoding;

    fn both(from: u64, to: u64, channel: &str) -> (Tally, Inbox) {
        let plain = Dialect::default();
        (Tally::new(from, to, plain), Inbox::new(channel, plain, None, None))
    }

    fn message(channel: &str, sequence: u64, due: u64) -> Vec<u8> {
        let text = format!(
            "{{\"type\":\"message\",\"channel\":\"{channel}\",\"payload\":{{\"s\":{sequence},\"t\":{due},\"x\":\"xx\"}}}}"
        );
        let mut bytes = Vec::new();
        frame::encode(Opcode::Text, text.as_bytes(), &mut bytes);
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::encode(Opcode::Text, text.as_bytes(), &mut bytes);
        bytes
    }

    #[test]
    fn what_arrives_in_the_window_is_measured_whenever_it_was_due() {
        let (mut tally, mut inbox) = both(100, 200, "a");
        for (sequence, due, now) in [(0, 10, 50), (1, 50, 150), (2, 120, 160), (3, 190, 900)] {
            let bytes = message("a", sequence, due);
            assert_eq!(tally.frames(&bytes, &mut inbox, now), bytes.len());
        }
        assert_eq!(tally.measured, 2, "the first came too early, the last too late");
        assert_eq!(tally.latency_ns.len(), 2, "those that were due from 100 on");
        assert_eq!(
            tally.latency_ns.max(),
            tally.latency_ns.highest_equivalent(710),
            "late ones have a latency"
        );
        assert!(tally.audit.is_clean());
    }

    #[test]
    fn every_nth_message_is_acknowledged() {
        let plain = Dialect::default();
        let (mut tally, mut inbox) = (Tally::new(0, 1, plain), Inbox::new("a", plain, None, Some(2)));
        for number in 0..5 {
            let json = format!(
                "{{\"type\":\"message\",\"channel\":\"a\",\"payload\":{{\"s\":{number},\"t\":0}},\"epoch\":\"e\",\"offset\":{}}}",
                number + 41
            );
            let mut bytes = Vec::new();
            frame::encode(Opcode::Text, json.as_bytes(), &mut bytes);
            tally.frames(&bytes, &mut inbox, 0);
        }
        let mut expected = Vec::new();
        let ack =
            |offset| format!("{{\"type\":\"ack\",\"channel\":\"a\",\"epoch\":\"e\",\"offset\":{offset}}}");
        frame::encode_masked(Opcode::Text, ack(42).as_bytes(), 1u32.to_ne_bytes(), &mut expected);
        frame::encode_masked(Opcode::Text, ack(44).as_bytes(), 3u32.to_ne_bytes(), &mut expected);
        assert_eq!(inbox.out, expected, "the second and the fourth");
    }

    #[test]
    fn a_frame_in_pieces_waits_for_its_end() {
        let bytes = [message("a", 0, 0), message("a", 1, 0)].concat();
        let whole = bytes.len() / 2;
        for cut in 0..bytes.len() {
            let (mut tally, mut inbox) = both(0, 1, "a");
            let used = tally.frames(&bytes[..cut], &mut inbox, 0);
            assert_eq!(used, cut / whole * whole, "at {cut}");
            assert_eq!(tally.frames(&bytes[used..], &mut inbox, 0), bytes.len() - used, "at {cut}");
            assert_eq!((tally.audit.delivered, tally.bytes), (2, bytes.len() as u64), "at {cut}");
        }
    }

    #[test]
    fn another_rooms_message_is_no_delivery() {
        let (mut tally, mut inbox) = both(0, 1, "room-1");
        tally.frames(&message("room-1", 0, 0), &mut inbox, 0);
        tally.frames(&message("room-11", 1, 0), &mut inbox, 0);
        assert_eq!((tally.audit.delivered, tally.audit.misdelivered), (1, 1));
        assert!(!tally.audit.is_clean());
    }

    #[test]
    fn fields_may_be_in_any_place() {
        let (mut tally, mut inbox) = both(0, 1, "a");
        tally.frames(&message("a", 0, 0), &mut inbox, 0);
        let other = r#"{"channel":"a","offset":0,"payload":{"s":1,"t":0,"x":""},"type":"message"}"#;
        tally.frames(&text(other), &mut inbox, 0);
        tally.frames(&message("a", 2, 0), &mut inbox, 0);
        assert_eq!(tally.audit, Audit { delivered: 3, ..Audit::default() });
    }

    #[test]
    fn pings_are_answered_with_their_payload() {
        let (mut tally, mut inbox) = both(0, 1, "a");
        let mut bytes = Vec::new();
        frame::encode(Opcode::Ping, b"beat", &mut bytes);
        tally.frames(&bytes, &mut inbox, 7);
        let (header, length) = Header::parse(&inbox.out).expect("a frame").expect("a whole one");
        assert_eq!((header.opcode, header.length), (Opcode::Pong, 4));
        let mask = header.mask.expect("clients mask");
        let payload: Vec<u8> = inbox.out[length..].iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(payload, b"beat");
    }

    #[test]
    fn closes_errors_and_nonsense_are_counted() {
        let (mut tally, mut inbox) = both(0, 1, "a");
        let mut bytes = text(r#"{"type":"error","code":"FORBIDDEN"}"#);
        bytes.extend(text(r#"{"type":"connection_established"}"#));
        frame::encode(Opcode::Binary, b"?", &mut bytes);
        frame::encode(Opcode::Close, &4000u16.to_be_bytes(), &mut bytes);
        frame::encode(Opcode::Close, b"", &mut bytes);
        tally.frames(&bytes, &mut inbox, 0);
        assert_eq!((tally.errors, tally.unreadable), (1, 1));
        assert_eq!(tally.closes, BTreeMap::from([(1005, 1), (4000, 1)]));
        assert!(tally.first_error.is_some_and(|it| it.contains("FORBIDDEN")));
        let (mut tally, mut inbox) = both(0, 1, "a");
        assert_eq!(
            tally.frames(&[0xff, 0xff, 1, 2], &mut inbox, 0),
            4,
            "reserved bits: all of it is skipped"
        );
        assert_eq!(tally.unreadable, 1);
    }

    #[test]
    fn messages_in_msgpack_are_audited_too() {
        let dialect = Dialect { format: Encoding::Msgpack, ..Dialect::default() };
        let (mut tally, mut inbox) = (Tally::new(0, 1000, dialect), Inbox::new("a", dialect, None, None));
        let mut bytes = Vec::new();
        for json in [
            r#"{"type":"message","channel":"a","payload":{"s":0,"t":70,"x":""},"offset":3}"#,
            r#"{"type":"message","channel":"a","payload":{"s":2,"t":70000,"x":""},"offset":3}"#,
            r#"{"type":"message","channel":"b","payload":{"s":3,"t":70,"x":""},"offset":3}"#,
            r#"{"type":"error","code":"FORBIDDEN"}"#,
        ] {
            frame::encode(Opcode::Binary, &wire::value(Format::MessagePack, json), &mut bytes);
        }
        assert_eq!(tally.frames(&bytes, &mut inbox, 100), bytes.len());
        let audit = Audit { delivered: 2, lost: 1, misdelivered: 1, ..Audit::default() };
        assert_eq!((tally.audit, tally.errors, tally.unreadable), (audit, 1, 0));
        let mut text = Vec::new();
        frame::encode(Opcode::Text, b"{}", &mut text);
        tally.frames(&text, &mut inbox, 100);
        assert_eq!(tally.unreadable, 1, "the other encoding");
    }
}
