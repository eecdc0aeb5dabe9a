//! What the hub sends, written as JSON: appended to a buffer, without allocating.

use crate::ErrorCode;
use crate::envelope::command::{Priority, RequestId};
use crate::envelope::name::SYSTEM;
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
    /// With `offset` the message's identity, or the channel's current position if it is ephemeral.
    pub epoch: &'a str,
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

/// An object being written.
struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    fn of_type(out: &'a mut Vec<u8>, kind: &str) -> Self {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Self(out)
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn raw(&mut self, key: &str, value: &[u8]) {
        self.key(key);
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.push(b'"');
        text::escape(value, self.0);
        self.0.push(b'"');
    }

    fn number(&mut self, key: &str, value: u64) {
        self.raw(key, itoa::Buffer::new().format(value).as_bytes());
    }

    fn id(&mut self, id: Option<RequestId<'_>>) {
        match id {
            None => {}
            Some(RequestId::Number(number)) => self.number("id", number),
            Some(RequestId::Text(contents)) => {
                self.key("id");
                self.0.push(b'"');
                self.0.extend_from_slice(contents.as_bytes());
                self.0.push(b'"');
            }
        }
    }

    fn time(&mut self, key: &str, unix_ms: u64, is_iso: bool) {
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
        Object(out).text("pattern", pattern);
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

/// `message`, or `broadcast` on `system`.
pub fn message(out: &mut Vec<u8>, message: &Message<'_>) -> Seams {
    let start = out.len();
    let kind = if message.channel == SYSTEM { "broadcast" } else { "message" };
    let mut object = Object::of_type(out, kind);
    object.text("channel", message.channel);
    let pattern = (object.0.len() - start) as u32;
    if let Some(to) = message.to {
        object.text("to", to);
    }
    if let Some(event) = message.event {
        object.text("event", event);
    }
    object.raw("payload", message.payload);
    if let Some(publisher) = message.publisher {
        object.text("publisher", publisher);
    }
    object.text("epoch", message.epoch);
    object.number("offset", message.offset);
    object.key("timestamp");
    let time_start = (object.0.len() - start) as u32;
    object.0.extend_from_slice(itoa::Buffer::new().format(message.timestamp).as_bytes());
    let time = (time_start, (object.0.len() - start) as u32);
    if let Some(priority) = message.priority {
        object.text("priority", priority_name(priority));
    }
    object.end();
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
    let mut object = Object::of_type(out, "connection_established");
    object.text("client_id", it.client_id);
    object.text("participant", it.participant);
    object.text("node", it.node);
    object.number("shard", u64::from(it.shard));
    object.number("resume_window_ms", it.resume_window_ms);
    object.number("heartbeat_interval_ms", it.heartbeat_interval_ms);
    object.number("max_message_bytes", it.max_message_bytes);
    object.text("version", it.version);
    object.end();
}

/// `subscribed`; a pattern has no position.
pub fn subscribed(
    out: &mut Vec<u8>,
    id: Option<RequestId<'_>>,
    channel: &str,
    position: Option<(&str, u64)>,
) {
    let mut object = Object::of_type(out, "subscribed");
    object.id(id);
    object.text("channel", channel);
    if let Some((epoch, offset)) = position {
        object.text("epoch", epoch);
        object.number("offset", offset);
    }
    object.raw("recovered", b"false");
    object.end();
}

/// `unsubscribed`; with a code and a reason where the client did not ask for it.
pub fn unsubscribed(
    out: &mut Vec<u8>,
    id: Option<RequestId<'_>>,
    channel: &str,
    why: Option<(ErrorCode, &str)>,
) {
    let mut object = Object::of_type(out, "unsubscribed");
    object.id(id);
    object.text("channel", channel);
    if let Some((code, reason)) = why {
        object.text("code", code.as_str());
        object.text("reason", reason);
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
    let mut object = Object::of_type(out, "error");
    if let Some(id) = id {
        object.raw("id", id.as_bytes());
    }
    if let Some(channel) = channel {
        object.text("channel", channel);
    }
    object.text("code", code.as_str());
    object.text("message", reason);
    if let Some(details) = details {
        object.raw("details", details.as_bytes());
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
    let mut object = Object::of_type(out, "error");
    object.id(id);
    if let Some(channel) = channel {
        object.text("channel", channel);
    }
    object.text("code", code.as_str());
    object.text("message", reason);
    object.end();
}

/// `response` to a publish.
pub fn published(out: &mut Vec<u8>, id: RequestId<'_>, epoch: &str, offset: u64) {
    let mut object = Object::of_type(out, "response");
    object.id(Some(id));
    object.key("result");
    object.0.extend_from_slice(b"{\"epoch\":\"");
    text::escape(epoch, object.0);
    object.0.push(b'"');
    object.number("offset", offset);
    object.text("durability", "memory");
    object.0.push(b'}');
    object.end();
}

/// `response` with a result that is JSON already.
pub fn response(out: &mut Vec<u8>, id: Option<RequestId<'_>>, result: &str) {
    let mut object = Object::of_type(out, "response");
    object.id(id);
    object.raw("result", result.as_bytes());
    object.end();
}

/// `response` with an error.
pub fn response_error(out: &mut Vec<u8>, id: Option<RequestId<'_>>, code: ErrorCode, reason: &str) {
    let mut object = Object::of_type(out, "response");
    object.id(id);
    object.key("error");
    object.0.extend_from_slice(b"{\"code\":\"");
    object.0.extend_from_slice(code.as_str().as_bytes());
    object.0.push(b'"');
    object.text("message", reason);
    object.0.push(b'}');
    object.end();
}

/// `ping`, for clients that can't see ping frames.
pub fn ping(out: &mut Vec<u8>, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::of_type(out, "ping");
    object.time("timestamp", unix_ms, is_time_iso);
    object.end();
}

/// `pong`.
pub fn pong(out: &mut Vec<u8>, id: Option<RequestId<'_>>, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::of_type(out, "pong");
    object.id(id);
    object.time("timestamp", unix_ms, is_time_iso);
    object.end();
}

/// `reconnect`: this node goes away; come back after `after_ms`.
pub fn reconnect(out: &mut Vec<u8>, reason: &str, after_ms: u64) {
    let mut object = Object::of_type(out, "reconnect");
    object.text("reason", reason);
    object.number("after_ms", after_ms);
    object.end();
}
