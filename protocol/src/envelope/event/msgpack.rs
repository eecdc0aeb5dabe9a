//! What is written for every publish, in MessagePack, and the variants of it.

use crate::envelope::command::RequestId;
use crate::envelope::event::object::Object;
use crate::envelope::event::{Changes, Message, Seams, priority_name};
use crate::envelope::name::SYSTEM;
use crate::envelope::unpack::{Cursor, Head};
use crate::envelope::{Format, pack};

pub(super) fn message(out: &mut Vec<u8>, message: &Message<'_>) -> Seams {
    let kind = if message.channel == SYSTEM { "broadcast" } else { "message" };
    let mut object = Object::of_type(out, Format::MessagePack, kind);
    object.text("channel", message.channel);
    let pattern = object.len();
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
    object.plain("epoch", message.epoch);
    object.number("offset", message.offset);
    object.key("timestamp");
    let time_start = object.len();
    object.number_value(message.timestamp);
    let time = (time_start, object.len());
    if let Some(priority) = message.priority {
        object.plain("priority", priority_name(priority).as_bytes());
    }
    object.end();
    Seams { pattern, time }
}

pub(super) fn published(out: &mut Vec<u8>, id: RequestId<'_>, epoch: &[u8], offset: u64, is_duplicate: bool) {
    let mut object = Object::of_type(out, Format::MessagePack, "response");
    object.id(Some(id));
    let mut result = object.object("result");
    result.plain("epoch", epoch);
    result.number("offset", offset);
    if is_duplicate {
        result.flag("duplicate", true);
    }
    result.plain("durability", b"memory");
    result.end();
    object.end();
}

/// What is added are more members: the count in the first byte says so.
pub(super) fn variant(out: &mut Vec<u8>, message: &[u8], seams: Seams, changes: &Changes<'_>) {
    let start = out.len();
    let (before, rest) = message.split_at(seams.pattern as usize);
    out.extend_from_slice(before);
    let mut added = 0;
    let mut key = |out: &mut Vec<u8>, key: &str| {
        added += 1;
        pack::text(key.as_bytes(), out);
    };
    if let Some(pattern) = changes.pattern {
        key(out, "pattern");
        pack::text(pattern.as_bytes(), out);
    }
    if changes.skipped > 0 {
        key(out, "skipped");
        pack::unsigned(changes.skipped, out);
    }
    if changes.attempt > 0 {
        key(out, "attempt");
        pack::unsigned(u64::from(changes.attempt), out);
    }
    out[start] += added;
    debug_assert!(out[start] <= pack::FIXMAP_LAST, "a message has at most 13 members");
    let Some(unix_ms) = changes.iso_timestamp else {
        out.extend_from_slice(rest);
        return;
    };
    out.extend_from_slice(&message[seams.pattern as usize..seams.time.0 as usize]);
    pack::iso_time(unix_ms, out);
    out.extend_from_slice(&message[seams.time.1 as usize..]);
}

/// As in JSON: `to`, where it is there, then the event's name, where it has one.
pub(super) fn name_of(behind_channel: &[u8]) -> Option<&str> {
    let mut cursor = Cursor::new(behind_channel);
    loop {
        let (Head::Text(key), Head::Text(value)) = (cursor.head().ok()?, cursor.head().ok()?) else {
            return None;
        };
        match key {
            b"to" => {}
            b"event" => return std::str::from_utf8(value).ok(),
            _ => return None,
        }
    }
}
