//! What is written for every publish, in JSON, and the variants of it.

use std::borrow::Cow;

use crate::envelope::command::RequestId;
use crate::envelope::event::{Changes, Message, Seams, priority_name};
use crate::envelope::name::SYSTEM;
use crate::envelope::special::are_plain;
use crate::envelope::{number, text, time};

/// Constants reach from value to value.
#[inline(always)]
pub(super) fn message(out: &mut Vec<u8>, message: &Message<'_>) -> Seams {
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
    number::write(message.offset, out);
    out.extend_from_slice(br#","timestamp":"#);
    let time_start = (out.len() - start) as u32;
    number::write(message.timestamp, out);
    let time = (time_start, (out.len() - start) as u32);
    if let Some(priority) = message.priority {
        out.extend_from_slice(br#","priority":""#);
        out.extend_from_slice(priority_name(priority).as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    Seams { pattern, time }
}

#[inline(always)]
pub(super) fn published(out: &mut Vec<u8>, id: RequestId<'_>, epoch: &[u8], offset: u64, is_duplicate: bool) {
    debug_assert!(are_plain(epoch), "the hub makes it of letters and digits");
    match id {
        RequestId::Text(contents) => {
            out.extend_from_slice(br#"{"type":"response","id":""#);
            out.extend_from_slice(contents.as_bytes());
            out.extend_from_slice(br#"","result":{"epoch":""#);
        }
        RequestId::Plain(text) => {
            out.extend_from_slice(br#"{"type":"response","id":""#);
            text::escape(text, out);
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
    number::write(offset, out);
    if is_duplicate {
        out.extend_from_slice(br#","duplicate":true"#);
    }
    out.extend_from_slice(br#","durability":"memory"}}"#);
}

pub(super) fn variant(out: &mut Vec<u8>, message: &[u8], seams: Seams, changes: &Changes<'_>) {
    let (before, rest) = message.split_at(seams.pattern as usize);
    out.extend_from_slice(before);
    if let Some(pattern) = changes.pattern {
        out.extend_from_slice(br#","pattern":""#);
        text::escape(pattern, out);
        out.push(b'"');
    }
    if changes.skipped > 0 {
        out.extend_from_slice(br#","skipped":"#);
        number::write(changes.skipped, out);
    }
    if changes.attempt > 0 {
        out.extend_from_slice(br#","attempt":"#);
        number::write(u64::from(changes.attempt), out);
    }
    let Some(unix_ms) = changes.iso_timestamp else {
        out.extend_from_slice(rest);
        return;
    };
    out.extend_from_slice(&message[seams.pattern as usize..seams.time.0 as usize]);
    out.push(b'"');
    time::write_iso(unix_ms, out);
    out.push(b'"');
    out.extend_from_slice(&message[seams.time.1 as usize..]);
}

/// The members behind a channel are `to`, where it is there, and the event's name, where it has one.
pub(super) fn name_of(mut rest: &[u8]) -> Option<Cow<'_, str>> {
    if let Some(to) = rest.strip_prefix(br#","to":""#) {
        rest = &to[contents_len(to)? + 1..];
    }
    let contents = rest.strip_prefix(br#","event":""#)?;
    let contents = std::str::from_utf8(&contents[..contents_len(contents)?]).ok()?;
    Some(text::unescape(contents))
}

/// How long a string's contents are, of which the quote that ends it is somewhere.
fn contents_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
