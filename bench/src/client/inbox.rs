//! What arrives: frames taken apart, messages audited and timed, everything else counted by its kind.
//!
//! No sockets: bytes and the time come in.

use std::collections::BTreeMap;

use corecast_protocol::ws::frame::{self, Header, Opcode};
use hdrhistogram::Histogram;
use memchr::memmem;

use crate::audit::{Audit, Seen};

/// A histogram of nanoseconds up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}

/// What one connection expects, has seen, and has to answer.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) seen: Seen,
    /// `"channel":"NAME"` of the channel it subscribed to.
    channel: Box<[u8]>,
    /// Bytes to be sent to the server.
    pub(crate) out: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new(channel: &str) -> Self {
        let channel = format!("\"channel\":\"{channel}\"").into_bytes().into_boxed_slice();
        Self { seen: Seen::default(), channel, out: Vec::new() }
    }
}

/// What came in, over all connections of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Of messages that were due in or after the window, whenever they came.
    pub(crate) latency_ns: Histogram<u64>,
    pub(crate) audit: Audit,
    /// Messages that came in the window.
    pub(crate) measured: u64,
    /// Bytes of the frames of all messages.
    pub(crate) bytes: u64,
    /// `error` messages, and the first of them.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Close frames by their code; 1005 where there is none.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Frames that no server of these scenarios should send: broken, fragmented or binary.
    pub(crate) unreadable: u64,
    /// The window that is measured, in nanoseconds since the start.
    from: u64,
    to: u64,
    /// Where the channel and the payload were in the message before.
    channel_at: usize,
    payload_at: usize,
}

const PAYLOAD: &[u8] = b"\"payload\":{\"s\":";
const NO_CODE: u16 = 1005;

impl Tally {
    pub(crate) fn new(from: u64, to: u64) -> Self {
        Self {
            latency_ns: histogram(),
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
        self.errors += other.errors;
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        for (code, count) in &other.closes {
            *self.closes.entry(*code).or_default() += count;
        }
        self.unreadable += other.unreadable;
    }

    /// Acts on the whole frames; returns how many bytes they were.
    pub(crate) fn frames(&mut self, bytes: &[u8], inbox: &mut Inbox, now: u64) -> usize {
        let mut at = 0;
        loop {
            let (header, length) = match Header::parse(&bytes[at..]) {
                Ok(Some(it)) => it,
                Ok(None) => return at,
                Err(_) => {
                    // Where the next frame begins nobody knows.
                    self.unreadable += 1;
                    return bytes.len();
                }
            };
            let (start, end) = (at + length, at + length + header.length as usize);
            let Some(payload) = bytes.get(start..end) else { return at };
            match header.opcode {
                Opcode::Text if header.is_final => {
                    if self.message(payload, inbox, now) {
                        self.bytes += (end - at) as u64;
                    }
                }
                Opcode::Ping => {
                    frame::encode_masked(Opcode::Pong, payload, (now as u32).to_ne_bytes(), &mut inbox.out);
                }
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = payload.first_chunk().map_or(NO_CODE, |it| u16::from_be_bytes(*it));
                    *self.closes.entry(code).or_default() += 1;
                }
                _ => self.unreadable += 1,
            }
            at = end;
        }
    }

    /// Whether it is one of the messages that are audited.
    fn message(&mut self, text: &[u8], inbox: &mut Inbox, now: u64) -> bool {
        let found = find_from(text, &inbox.channel, self.channel_at).and_then(|channel| {
            let rest = channel + inbox.channel.len();
            let payload = find_from(&text[rest..], PAYLOAD, self.payload_at)?;
            (self.channel_at, self.payload_at) = (channel, payload);
            Some(rest + payload + PAYLOAD.len())
        });
        let Some(at) = found else {
            self.other(text);
            return false;
        };
        let (sequence, rest) = number(&text[at..]);
        // Behind the number: ,"t":
        let (due, _) = number(rest.get(5..).unwrap_or_default());
        self.audit.message(&mut inbox.seen, sequence);
        self.measured += u64::from((self.from..self.to).contains(&now));
        if due >= self.from {
            self.latency_ns.saturating_record(now.saturating_sub(due).max(1));
        }
        true
    }

    #[cold]
    fn other(&mut self, text: &[u8]) {
        if memmem::find(text, PAYLOAD).is_some() {
            self.audit.misdelivered += 1;
        } else if memmem::find(text, b"\"type\":\"error\"").is_some() {
            self.errors += 1;
            self.first_error.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
        }
    }
}

/// Where `needle` is, looked for first where it was in the message before.
fn find_from(text: &[u8], needle: &[u8], likely: usize) -> Option<usize> {
    if text.get(likely..).is_some_and(|rest| rest.starts_with(needle)) {
        return Some(likely);
    }
    memmem::find(text, needle)
}

fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii_digit() {
            return (value, &bytes[index..]);
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
    }
    (value, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (mut tally, mut inbox) = (Tally::new(100, 200), Inbox::new("a"));
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
    fn a_frame_in_pieces_waits_for_its_end() {
        let bytes = [message("a", 0, 0), message("a", 1, 0)].concat();
        let whole = bytes.len() / 2;
        for cut in 0..bytes.len() {
            let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("a"));
            let used = tally.frames(&bytes[..cut], &mut inbox, 0);
            assert_eq!(used, cut / whole * whole, "at {cut}");
            assert_eq!(tally.frames(&bytes[used..], &mut inbox, 0), bytes.len() - used, "at {cut}");
            assert_eq!((tally.audit.delivered, tally.bytes), (2, bytes.len() as u64), "at {cut}");
        }
    }

    #[test]
    fn another_rooms_message_is_no_delivery() {
        let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("room-1"));
        tally.frames(&message("room-1", 0, 0), &mut inbox, 0);
        tally.frames(&message("room-11", 1, 0), &mut inbox, 0);
        assert_eq!((tally.audit.delivered, tally.audit.misdelivered), (1, 1));
        assert!(!tally.audit.is_clean());
    }

    #[test]
    fn fields_may_be_in_any_place() {
        let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("a"));
        tally.frames(&message("a", 0, 0), &mut inbox, 0);
        let other = r#"{"channel":"a","offset":0,"payload":{"s":1,"t":0,"x":""},"type":"message"}"#;
        tally.frames(&text(other), &mut inbox, 0);
        tally.frames(&message("a", 2, 0), &mut inbox, 0);
        assert_eq!(tally.audit, Audit { delivered: 3, ..Audit::default() });
    }

    #[test]
    fn pings_are_answered_with_their_payload() {
        let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("a"));
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
        let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("a"));
        let mut bytes = text(r#"{"type":"error","code":"FORBIDDEN"}"#);
        bytes.extend(text(r#"{"type":"connection_established"}"#));
        frame::encode(Opcode::Binary, b"?", &mut bytes);
        frame::encode(Opcode::Close, &4000u16.to_be_bytes(), &mut bytes);
        frame::encode(Opcode::Close, b"", &mut bytes);
        tally.frames(&bytes, &mut inbox, 0);
        assert_eq!((tally.errors, tally.unreadable), (1, 1));
        assert_eq!(tally.closes, BTreeMap::from([(1005, 1), (4000, 1)]));
        assert!(tally.first_error.is_some_and(|it| it.contains("FORBIDDEN")));
        let (mut tally, mut inbox) = (Tally::new(0, 1), Inbox::new("a"));
        assert_eq!(
            tally.frames(&[0xff, 0xff, 1, 2], &mut inbox, 0),
            4,
            "reserved bits: all of it is skipped"
        );
        assert_eq!(tally.unreadable, 1);
    }
}
