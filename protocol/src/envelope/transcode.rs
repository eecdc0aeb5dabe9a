//! A value of one encoding in the other, as the wire contract's section 2 says.
//!
//! What MessagePack has and JSON lacks is `{"$bin":"base64"}` and `{"$ext":[type,"base64"]}` there. An object that only
//! looks like these (other members, no base64, no type of -128 to 127) is an object in both.

mod base64;
mod to_json;
mod to_msgpack;

use crate::envelope::Format;
use crate::envelope::sink::{Count, Sink};
use crate::envelope::value::Fault;

/// Appends a validated value of the encoding `from` in the other encoding: at most eight times as many bytes.
///
/// Lists of more than 15 members cost an allocation on the way to MessagePack, nothing else does.
pub fn transcode(from: Format, value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let written = match from {
        Format::Json => to_msgpack::write(text(value), out),
        Format::MessagePack => to_json::write(value, out),
    };
    if written.is_err() {
        out.truncate(start);
        unwritable(from, out);
    }
}

/// How many bytes [`transcode`] appends: exactly, and without allocating.
pub fn transcoded_len(from: Format, value: &[u8]) -> usize {
    let mut count = Count::default();
    let written = match from {
        Format::Json => to_msgpack::measure(text(value), &mut count),
        Format::MessagePack => to_json::write(value, &mut count),
    };
    if written.is_err() {
        count = Count::default();
        unwritable(from, &mut count);
    }
    count.0
}

/// At least as many bytes as [`transcode`] appends for any value of so many bytes: what is known without looking at it.
///
/// In MessagePack a number takes at most 9 bytes for 2 and what separates it from the next; in JSON an extension takes
/// at most 23, with its comma, for 3.
pub const fn transcoded_len_max(from: Format, bytes: u64) -> u64 {
    match from {
        Format::Json => bytes.saturating_mul(3).saturating_add(3),
        Format::MessagePack => bytes.saturating_mul(8),
    }
}

/// Null stands for what was not validated: that is a defect of ours, and no reason to end the process.
#[cold]
fn unwritable(from: Format, out: &mut impl Sink) {
    debug_assert!(false, "only what was validated may be transcoded");
    match from {
        Format::Json => out.put(&[0xc0]),
        Format::MessagePack => out.put(b"null"),
    }
}

/// JSON is UTF-8; if it is not, it is cut off where it ceases to be.
fn text(value: &[u8]) -> &str {
    simdutf8::basic::from_utf8(value).unwrap_or_default()
}

type Written = Result<(), Fault>;
