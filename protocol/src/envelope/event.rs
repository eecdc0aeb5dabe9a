//! What the hub sends, written as JSON: appended to a buffer, without allocating.

use crate::ErrorCode;
use crate::envelope::command::{Priority, RequestId};
use crate::envelope::name::SYSTEM;
use crate::envelope::special::are_plain;
use crate::envelope::{text, time};

/// A message on a channel or to a participant.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The channel; `@me` for a direct message.
    pub channel: &'a str,
    /// The event's name.
    pub event: Option<&'a str>,
    /// A validated JSON value.
    pub payload: &'a [u8],
    /// Who published it.
    pub publisher: Option<&'a str>,
    /// With `offset` the message's identity, or the channel's current position if it is ephemeral. ASCII in which
    /// nothing needs escaping, as the hub makes it: written as it is.
    pub epoch: &'a [u8],
    /// See `epoch`.
    pub offset: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// Named only where the publisher named it.
    pub priority: Option<Priority>,
    /// Whom a direct message was sent to.
    pub to: Option<&'a str>,
}

/// What a new connection is told.
#[derive(Clone, Copy, Debug)]
pub struct Established<'a> {
    /// The connection's own id.
    pub client_id: &'a str,
    /// Who the connection speaks for.
    pub participant: &'a str,
    /// The node's name.
    pub node: &'a str,
    /// The shard's number.
    pub shard: u16,
    /// How long a lost connection may be resumed; 0 for never.
    pub resume_window_ms: u64,
    /// Between pings.
    pub heartbeat_interval_ms: u64,
    /// Bytes of one message at most.
    pub max_message_bytes: u64,
    /// The server's version.
    pub version: &'a str,
}

/// A member's key as it is written: one constant, so that it costs one copy.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// An object's first member.
macro_rules! of_type {
    ($name:literal) => {
        concat!("{\"type\":\"", $name, "\"")
    };
}

/// An object being written.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    #[inline]
    fn new(out: &'a mut Vec<u8>, start: &'static str) -> Self {
        out.extend_from_slice(start.as_bytes());
        Self(out)
    }

    #[inline]
    fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(key.as_bytes());
    }

    #[inline]
    fn raw(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        self.0.extend_from_slice(value);
    }

    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.0.push(b'"');
        text::escape(value, self.0);
        self.0.push(b'"');
    }

    /// A text in which nothing needs escaping.
    #[inline]
    fn plain(&mut self, key: &'static str, value: &[u8]) {
        debug_assert!(are_plain(value), "it was said to be plain");
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(value);
        self.0.push(b'"');
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.raw(key, itoa::Buffer::new().format(value).as_bytes());
    }

    fn id(&mut self, id: Option<RequestId<'_>>) {
        match id {
            None => {}
            Some(RequestId::Number(number)) => self.number(key!("id"), number),
            Some(RequestId::Text(contents)) => {
                self.key(key!("id"));
                self.0.push(b'"');
                self.0.extend_from_slice(contents.as_bytes());
                self.0.push(b'"');
            }
        }
    }

    fn time(&mut self, key: &'static str, unix_ms: u64, is_iso: bool) {
        if !is_iso {
            return self.number(key, unix_ms);
        }
        self.key(key);
        self.0.push(b'"');
        time::write_iso(unix_ms, self.0);
        self.0.push(b'"');
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

/// Where in a written message its variants differ; positions count from the message's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seams {
    /// Behind the channel: where a pattern belongs.
    pub pattern: u32,
    /// First and behind-last byte of the time.
    pub time: (u32, u32),
}

/// Appends a variant of a written message: for a pattern's subscriber, or with its time as ISO 8601.
pub fn variant(
    out: &mut Vec<u8>,
    message: &[u8],
    seams: Seams,
    pattern: Option<&str>,
    iso_timestamp: Option<u64>,
) {
    let (before, rest) = message.split_at(seams.pattern as usize);
    out.extend_from_slice(before);
    if let Some(pattern) = pattern {
        Object(out).text(key!("pattern"), pattern);
    }
    let Some(unix_ms) = iso_timestamp else {
        out.extend_from_slice(rest);
        return;
    };
    out.extend_from_slice(&message[seams.pattern as usize..seams.time.0 as usize]);
    out.push(b'"');
    time::write_iso(unix_ms, out);
    out.push(b'"');
    out.extend_from_slice(&message[seams.time.1 as usize..]);
}

/// `message`, or `broadcast` on `system`. Written for every publish: constants reach from value to value.
#[inline(always)]
pub fn message(out: &mut Vec<u8>, message: &Message<'_>) -> Seams {
    debug_assert!(are_plain(message.epoch), "the hub makes it of letters and digits");
    let start = out.len();
    if message.channel == SYSTEM {
        out.extend_from_slice(br#"{"type":"broadcast","channel":""#);
    } else {
        out.extend_from_slice(br#"{"type":"message","channel":""#);
    }
    text::escape(message.channel, out);
    // Behind the quote that is still to come.
    let pattern = (out.len() + 1 - start) as u32;
    if let Some(to) = message.to {
        out.extend_from_slice(br#"","to":""#);
        text::escape(to, out);
    }
    if let Some(event) = message.event {
        out.extend_from_slice(br#"","event":""#);
        text::escape(event, out);
    }
    out.extend_from_slice(br#"","payload":"#);
    out.extend_from_slice(message.payload);
    if let Some(publisher) = message.publisher {
        out.extend_from_slice(br#","publisher":""#);
        text::escape(publisher, out);
        out.extend_from_slice(br#"","epoch":""#);
    } else {
        out.extend_from_slice(br#","epoch":""#);
    }
    out.extend_from_slice(message.epoch);
    out.extend_from_slice(br#"","offset":"#);
    out.extend_from_slice(itoa::Buffer::new().format(message.offset).as_bytes());
    out.extend_from_slice(br#","timestamp":"#);
    let time_start = (out.len() - start) as u32;
    out.extend_from_slice(itoa::Buffer::new().format(message.timestamp).as_bytes());
    let time = (time_start, (out.len() - start) as u32);
    if let Some(priority) = message.priority {
        Object(out).plain(key!("priority"), priority_name(priority).as_bytes());
    }
    out.push(b'}');
    Seams { pattern, time }
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical => "critical",
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

/// `connection_established`.
pub fn connection_established(out: &mut Vec<u8>, it: &Established<'_>) {
    let mut object = Object::new(out, of_type!("connection_established"));
    object.text(key!("client_id"), it.client_id);
    object.text(key!("participant"), it.participant);
    object.text(key!("node"), it.node);
    object.number(key!("shard"), u64::from(it.shard));
    object.number(key!("resume_window_ms"), it.resume_window_ms);
    object.number(key!("heartbeat_interval_ms"), it.heartbeat_interval_ms);
    object.number(key!("max_message_bytes"), it.max_message_bytes);
    object.text(key!("version"), it.version);
    object.end();
}

/// `subscribed`; a pattern has no position.
pub fn subscribed(
    out: &mut Vec<u8>,
    id: Option<RequestId<'_>>,
    channel: &str,
    position: Option<(&[u8], u64)>,
) {
    let mut object = Object::new(out, of_type!("subscribed"));
    object.id(id);
    object.text(key!("channel"), channel);
    if let Some((epoch, offset)) = position {
        object.plain(key!("epoch"), epoch);
        object.number(key!("offset"), offset);
    }
    object.raw(key!("recovered"), b"false");
    object.end();
}

/// `unsubscribed`; with a code and a reason where the client did not ask for it.
pub fn unsubscribed(
    out: &mut Vec<u8>,
    id: Option<RequestId<'_>>,
    channel: &str,
    why: Option<(ErrorCode, &str)>,
) {
    let mut object = Object::new(out, of_type!("unsubscribed"));
    object.id(id);
    object.text(key!("channel"), channel);
    if let Some((code, reason)) = why {
        object.plain(key!("code"), code.as_str().as_bytes());
        object.text(key!("reason"), reason);
    }
    object.end();
}

/// `error`; `id` and `details` are JSON values.
pub fn error(
    out: &mut Vec<u8>,
    id: Option<&str>,
    channel: Option<&str>,
    code: ErrorCode,
    reason: &str,
    details: Option<&str>,
) {
    let mut object = Object::new(out, of_type!("error"));
    if let Some(id) = id {
        object.raw(key!("id"), id.as_bytes());
    }
    if let Some(channel) = channel {
        object.text(key!("channel"), channel);
    }
    object.plain(key!("code"), code.as_str().as_bytes());
    object.text(key!("message"), reason);
    if let Some(details) = details {
        object.raw(key!("details"), details.as_bytes());
    }
    object.end();
}

/// `error` that answers a request which was understood.
pub fn request_error(
    out: &mut Vec<u8>,
    id: Option<RequestId<'_>>,
    channel: Option<&str>,
    code: ErrorCode,
    reason: &str,
) {
    let mut object = Object::new(out, of_type!("error"));
    object.id(id);
    if let Some(channel) = channel {
        object.text(key!("channel"), channel);
    }
    object.plain(key!("code"), code.as_str().as_bytes());
    object.text(key!("message"), reason);
    object.end();
}

/// `response` to a publish.
#[inline(always)]
pub fn published(out: &mut Vec<u8>, id: RequestId<'_>, epoch: &[u8], offset: u64) {
    debug_assert!(are_plain(epoch), "the hub makes it of letters and digits");
    match id {
        RequestId::Text(contents) => {
            out.extend_from_slice(br#"{"type":"response","id":""#);
            out.extend_from_slice(contents.as_bytes());
            out.extend_from_slice(br#"","result":{"epoch":""#);
        }
        RequestId::Number(number) => {
            out.extend_from_slice(br#"{"type":"response","id":"#);
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.extend_from_slice(br#","result":{"epoch":""#);
        }
    }
    out.extend_from_slice(epoch);
    out.extend_from_slice(br#"","offset":"#);
    out.extend_from_slice(itoa::Buffer::new().format(offset).as_bytes());
    out.extend_from_slice(br#","durability":"memory"}}"#);
}

/// `response` with a result that is JSON already.
pub fn response(out: &mut Vec<u8>, id: Option<RequestId<'_>>, result: &str) {
    let mut object = Object::new(out, of_type!("response"));
    object.id(id);
    object.raw(key!("result"), result.as_bytes());
    object.end();
}

/// `response` with an error.
pub fn response_error(out: &mut Vec<u8>, id: Option<RequestId<'_>>, code: ErrorCode, reason: &str) {
    let mut object = Object::new(out, of_type!("response"));
    object.id(id);
    object.key(key!("error"));
    object.0.extend_from_slice(b"{\"code\":\"");
    object.0.extend_from_slice(code.as_str().as_bytes());
    object.0.push(b'"');
    object.text(key!("message"), reason);
    object.0.push(b'}');
    object.end();
}

/// `ping`, for clients that can't see ping frames.
pub fn ping(out: &mut Vec<u8>, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::new(out, of_type!("ping"));
    object.time(key!("timestamp"), unix_ms, is_time_iso);
    object.end();
}

/// `pong`.
pub fn pong(out: &mut Vec<u8>, id: Option<RequestId<'_>>, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::new(out, of_type!("pong"));
    object.id(id);
    object.time(key!("timestamp"), unix_ms, is_time_iso);
    object.end();
}

/// `reconnect`: this node goes away; come back after `after_ms`.
pub fn reconnect(out: &mut Vec<u8>, reason: &str, after_ms: u64) {
    let mut object = Object::new(out, of_type!("reconnect"));
    object.text(key!("reason"), reason);
    object.number(key!("after_ms"), after_ms);
    object.end();
}
