//! What the hub sends, in either encoding: appended to a buffer, without allocating.

mod answer;
mod json;
mod msgpack;
mod notice;
mod object;
mod session;

use std::borrow::Cow;

use crate::ErrorCode;
use crate::envelope::Format;
use crate::envelope::command::{Priority, RequestId};
use crate::envelope::name::NAME_BYTES_MAX;

use object::Object;

pub use answer::{
    HistoryAnswer, PresenceAnswer, ResumedChannel, Subscribed, history, presence, presence_count,
    presence_stats, resumed, subscribed,
};
pub use notice::{ReceiptEvent, members, presence_changed, presence_counted, receipt};
pub use session::{Session, session};

/// A message on a channel or to a participant.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The channel; `@me` for a direct message.
    pub channel: &'a str,
    /// The event's name.
    pub event: Option<&'a str>,
    /// A validated value in the encoding that the message is written in.
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
    /// What resumes this session; empty where there is none to be resumed.
    pub resume_token: &'a str,
    /// How long a lost connection may be resumed; 0 for never.
    pub resume_window_ms: u64,
    /// Between pings.
    pub heartbeat_interval_ms: u64,
    /// Bytes of one message at most.
    pub max_message_bytes: u64,
    /// The server's version.
    pub version: &'a str,
}

/// Where in a written message its variants differ; positions count from the message's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seams {
    /// Behind the channel: where a pattern belongs.
    pub pattern: u32,
    /// First and behind-last byte of the time.
    pub time: (u32, u32),
}

/// How a message differs for some of its recipients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes<'a> {
    /// The pattern that they subscribed to.
    pub pattern: Option<&'a str>,
    /// Their time is ISO 8601: this one, in milliseconds since the Unix epoch.
    pub iso_timestamp: Option<u64>,
    /// How many messages were left out for them since the last one; 0 is not written.
    pub skipped: u64,
    /// Which attempt to deliver it this is; 0 is not written.
    pub attempt: u32,
}

/// Appends a variant of a written message: what is added stands behind the channel.
pub fn variant(out: &mut Vec<u8>, format: Format, message: &[u8], seams: Seams, changes: &Changes<'_>) {
    match format {
        Format::Json => json::variant(out, message, seams, changes),
        Format::MessagePack => msgpack::variant(out, message, seams, changes),
    }
}

/// The event's name of a written message, read where it was written.
pub fn name_of(format: Format, message: &[u8], seams: Seams) -> Option<Cow<'_, str>> {
    let behind_channel = message.get(seams.pattern as usize..)?;
    match format {
        Format::Json => json::name_of(behind_channel),
        Format::MessagePack => msgpack::name_of(behind_channel).map(Cow::Borrowed),
    }
}

/// `message`, or `broadcast` on `system`. Written for every publish.
#[inline(always)]
pub fn message(out: &mut Vec<u8>, format: Format, message: &Message<'_>) -> Seams {
    match format {
        Format::Json => json::message(out, message),
        Format::MessagePack => msgpack::message(out, message),
    }
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
pub fn connection_established(out: &mut Vec<u8>, format: Format, it: &Established<'_>) {
    let mut object = Object::of_type(out, format, "connection_established");
    object.text("client_id", it.client_id);
    object.text("participant", it.participant);
    object.text("node", it.node);
    object.number("shard", u64::from(it.shard));
    if !it.resume_token.is_empty() {
        object.text("resume_token", it.resume_token);
    }
    object.number("resume_window_ms", it.resume_window_ms);
    object.number("heartbeat_interval_ms", it.heartbeat_interval_ms);
    object.number("max_message_bytes", it.max_message_bytes);
    object.text("version", it.version);
    object.end();
}

/// `unsubscribed`; with a code and a reason where the client did not ask for it.
pub fn unsubscribed(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    channel: &str,
    why: Option<(ErrorCode, &str)>,
) {
    let mut object = Object::of_type(out, format, "unsubscribed");
    object.id(id);
    object.text("channel", channel);
    if let Some((code, reason)) = why {
        object.plain("code", code.as_str().as_bytes());
        object.text("reason", reason);
    }
    object.end();
}

/// `error`; `details` is a value in the encoding that is written. A channel that is too long for any name is left out:
/// it may be as long as the message that it came in, and six times that where JSON escapes it.
pub fn error(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    channel: Option<&str>,
    code: ErrorCode,
    reason: &str,
    details: Option<&[u8]>,
) {
    let mut object = Object::of_type(out, format, "error");
    object.id(id);
    if let Some(channel) = channel.filter(|it| may_be_name(it)) {
        object.text("channel", channel);
    }
    object.plain("code", code.as_str().as_bytes());
    object.text("message", reason);
    if let Some(details) = details {
        object.raw("details", details);
    }
    object.end();
}

/// Whether it is no longer than a name, or than the prefix of a pattern.
fn may_be_name(text: &str) -> bool {
    text.strip_suffix('*').unwrap_or(text).len() <= NAME_BYTES_MAX
}

/// `response` to a publish; the position of a duplicate is that of the first.
#[inline(always)]
pub fn published(
    out: &mut Vec<u8>,
    format: Format,
    id: RequestId<'_>,
    epoch: &[u8],
    offset: u64,
    is_duplicate: bool,
) {
    match format {
        Format::Json => json::published(out, id, epoch, offset, is_duplicate),
        Format::MessagePack => msgpack::published(out, id, epoch, offset, is_duplicate),
    }
}

/// `response` with a result that is a value in the encoding that is written.
pub fn response(out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>, result: &[u8]) {
    let mut object = Object::of_type(out, format, "response");
    object.id(id);
    object.raw("result", result);
    object.end();
}

/// `response` with an error.
pub fn response_error(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    code: ErrorCode,
    reason: &str,
) {
    let mut object = Object::of_type(out, format, "response");
    object.id(id);
    let mut error = object.object("error");
    error.plain("code", code.as_str().as_bytes());
    error.text("message", reason);
    error.end();
    object.end();
}

/// `ping`, for clients that can't see ping frames.
pub fn ping(out: &mut Vec<u8>, format: Format, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::of_type(out, format, "ping");
    object.time("timestamp", unix_ms, is_time_iso);
    object.end();
}

/// `pong`.
pub fn pong(out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>, unix_ms: u64, is_time_iso: bool) {
    let mut object = Object::of_type(out, format, "pong");
    object.id(id);
    object.time("timestamp", unix_ms, is_time_iso);
    object.end();
}

/// `reconnect`: this node goes away; come back after `after_ms`.
pub fn reconnect(out: &mut Vec<u8>, format: Format, reason: &str, after_ms: u64) {
    let mut object = Object::of_type(out, format, "reconnect");
    object.text("reason", reason);
    object.number("after_ms", after_ms);
    object.end();
}
