//! `event`: what the hub says of its own accord, about channels and about what was published.

use crate::envelope::Format;
use crate::envelope::command::RequestId;
use crate::envelope::event::object::Object;

/// What became of a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiptEvent<'a> {
    /// The channel; `None` for a direct message.
    pub channel: Option<&'a str>,
    /// With `offset` the message's identity.
    pub epoch: &'a [u8],
    /// See `epoch`.
    pub offset: u64,
    /// How many it was for.
    pub of: u64,
    /// How many have got it.
    pub delivered: u64,
    /// How many will not get it any more.
    pub failed: u64,
}

/// `event` about participants of a channel: `join`, `leave`, `typing_expired`. `count` is how many there are now.
pub fn members<'a>(
    out: &mut Vec<u8>,
    format: Format,
    name: &str,
    channel: &str,
    participants: impl ExactSizeIterator<Item = &'a str>,
    count: u64,
) {
    let mut object = of_name(out, format, name);
    object.text("channel", channel);
    object.texts("participants", participants);
    object.number("count", count);
    object.end();
}

/// `event` `presence`: so many came and went that only their numbers are told.
pub fn presence_changed(
    out: &mut Vec<u8>,
    format: Format,
    channel: &str,
    count: u64,
    joined: u64,
    left: u64,
) {
    let mut object = of_name(out, format, "presence");
    object.text("channel", channel);
    object.number("count", count);
    object.number("joined", joined);
    object.number("left", left);
    object.end();
}

/// `event` `presence` where it is not known how many came and went, only how many there are now.
pub fn presence_counted(out: &mut Vec<u8>, format: Format, channel: &str, count: u64) {
    let mut object = of_name(out, format, "presence");
    object.text("channel", channel);
    object.number("count", count);
    object.end();
}

/// `event` `receipt`, for whom the request `id` published.
pub fn receipt(out: &mut Vec<u8>, format: Format, id: Option<RequestId<'_>>, it: &ReceiptEvent<'_>) {
    let mut object = of_name(out, format, "receipt");
    object.id(id);
    if let Some(channel) = it.channel {
        object.text("channel", channel);
    }
    object.plain("epoch", it.epoch);
    object.number("offset", it.offset);
    object.number("of", it.of);
    object.number("delivered", it.delivered);
    object.number("failed", it.failed);
    object.end();
}

fn of_name<'a>(out: &'a mut Vec<u8>, format: Format, name: &str) -> Object<'a> {
    let mut object = Object::of_type(out, format, "event");
    object.text("name", name);
    object
}
