//! What answers requests about channels that remember: subscribing, resuming, looking back, asking who is there.

use crate::envelope::Format;
use crate::envelope::command::RequestId;
use crate::envelope::event::object::Object;

/// What a new subscriber is told beside the channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subscribed<'a> {
    /// The channel's epoch and offset; a pattern has none.
    pub position: Option<(&'a [u8], u64)>,
    /// Whether everything after the position that the client named follows.
    pub recovered: bool,
    /// Complete messages in the encoding that is written; not written where none were asked for.
    pub messages: Option<&'a [&'a [u8]]>,
    /// Whether more of them follow; written where true.
    pub more: bool,
}

/// `subscribed`.
pub fn subscribed(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    channel: &str,
    it: &Subscribed<'_>,
) {
    let mut object = Object::of_type(out, format, "subscribed");
    object.id(id);
    object.text("channel", channel);
    if let Some((epoch, offset)) = it.position {
        object.plain("epoch", epoch);
        object.number("offset", offset);
    }
    object.flag("recovered", it.recovered);
    if let Some(messages) = it.messages {
        object.values("messages", messages);
    }
    if it.more {
        object.flag("more", true);
    }
    object.end();
}

/// Where one channel of a resumed session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumedChannel<'a> {
    /// The channel, a pattern, or `@me`.
    pub channel: &'a str,
    /// With `offset` its position; as the hub makes it, without anything to escape. Empty for a pattern, which has
    /// none.
    pub epoch: &'a [u8],
    /// See `epoch`.
    pub offset: u64,
    /// Whether everything after the position of the client follows.
    pub recovered: bool,
}

/// `resumed`, with the token that is good for the next time.
pub fn resumed<'a>(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    token: &str,
    subscriptions: impl ExactSizeIterator<Item = ResumedChannel<'a>>,
) {
    let mut object = Object::of_type(out, format, "resumed");
    object.id(id);
    object.text("resume_token", token);
    object.list("subscriptions", subscriptions, |item, it| {
        let mut object = item.object();
        object.text("channel", it.channel);
        if !it.epoch.is_empty() {
            object.plain("epoch", it.epoch);
            object.number("offset", it.offset);
        }
        object.flag("recovered", it.recovered);
        object.end();
    });
    object.end();
}

/// A part of what a channel keeps.
#[derive(Clone, Copy, Debug)]
pub struct HistoryAnswer<'a> {
    /// The channel.
    pub channel: &'a str,
    /// With `offset` the channel's position.
    pub epoch: &'a [u8],
    /// See `epoch`.
    pub offset: u64,
    /// Complete messages in the encoding that is written.
    pub messages: &'a [&'a [u8]],
    /// Whether there are more in this direction.
    pub more: bool,
}

/// `response` to a `history` query.
pub fn history(out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>, it: &HistoryAnswer<'_>) {
    respond(out, format, id, |result| {
        result.text("channel", it.channel);
        result.plain("epoch", it.epoch);
        result.number("offset", it.offset);
        result.values("messages", it.messages);
        result.flag("more", it.more);
    });
}

/// Who is there, or the part of them that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct PresenceAnswer<'a, P, T> {
    /// The channel.
    pub channel: &'a str,
    /// How many there are in all.
    pub count: u64,
    /// Their names, or the part of them that was asked for.
    pub participants: P,
    /// Who of them is typing; not written where nobody is.
    pub typing: T,
    /// Whether there are more names behind these.
    pub more: bool,
}

/// `response` to a `presence` query.
pub fn presence<'a>(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    it: PresenceAnswer<'_, impl ExactSizeIterator<Item = &'a str>, impl ExactSizeIterator<Item = &'a str>>,
) {
    respond(out, format, id, |result| {
        result.text("channel", it.channel);
        result.number("count", it.count);
        result.texts("participants", it.participants);
        if it.typing.len() > 0 {
            result.texts("typing", it.typing);
        }
        result.flag("more", it.more);
    });
}

/// `response` to a `presence` query that asks only how many there are.
pub fn presence_count(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    channel: &str,
    count: u64,
) {
    respond(out, format, id, |result| {
        result.text("channel", channel);
        result.number("count", count);
    });
}

/// `response` to a `presence_stats` query.
pub fn presence_stats(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    channel: &str,
    participants: u64,
    connections: u64,
) {
    respond(out, format, id, |result| {
        result.text("channel", channel);
        result.number("participants", participants);
        result.number("connections", connections);
    });
}

fn respond(
    out: &mut Vec<u8>,
    format: Format,
    id: Option<RequestId<'_>>,
    write: impl FnOnce(&mut Object<'_>),
) {
    let mut object = Object::of_type(out, format, "response");
    object.id(id);
    let mut result = object.object("result");
    write(&mut result);
    result.end();
    object.end();
}
