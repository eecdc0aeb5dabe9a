//! MessagePack to JSON.

use crate::envelope::scan::DEPTH_MAX;
use crate::envelope::sink::Sink;
use crate::envelope::text;
use crate::envelope::transcode::{Written, base64};
use crate::envelope::unpack::{Cursor, Head};
use crate::envelope::value::{Fault, Problem};

/// Writes one value. `left` says of each open level how many items or members are to come, the one in hand counted.
pub(super) fn write(value: &[u8], out: &mut impl Sink) -> Written {
    let mut cursor = Cursor::new(value);
    let mut left = [0usize; DEPTH_MAX];
    let (mut open, mut maps) = (0usize, 0u128);
    loop {
        let at = cursor.at();
        let opened = match cursor.head()? {
            Head::Array(count) => Some((count, false)),
            Head::Map(count) => Some((count, true)),
            scalar => {
                put_scalar(scalar, out);
                None
            }
        };
        if let Some((count, is_map)) = opened {
            out.put(if is_map { b"{" } else { b"[" });
            if count > 0 {
                let level = left.get_mut(open).ok_or(Fault { at, what: Problem::TooDeep })?;
                *level = count;
                open += 1;
                maps = maps << 1 | u128::from(is_map);
                if is_map {
                    put_key(&mut cursor, out)?;
                }
                continue;
            }
            out.put(end_of(is_map));
        }
        loop {
            let Some(level) = open.checked_sub(1) else { return cursor.finish() };
            let is_map = maps & 1 == 1;
            left[level] -= 1;
            if left[level] > 0 {
                out.put(b",");
                if is_map {
                    put_key(&mut cursor, out)?;
                }
                break;
            }
            out.put(end_of(is_map));
            open = level;
            maps >>= 1;
        }
    }
}

fn end_of(is_map: bool) -> &'static [u8] {
    if is_map { b"}" } else { b"]" }
}

fn put_key(cursor: &mut Cursor<'_>, out: &mut impl Sink) -> Written {
    put_text(cursor.key()?, out);
    out.put(b":");
    Ok(())
}

/// Strings were validated; if one was not, it is empty.
fn put_text(bytes: &[u8], out: &mut impl Sink) {
    out.put(b"\"");
    text::escape(simdutf8::basic::from_utf8(bytes).unwrap_or_default(), out);
    out.put(b"\"");
}

fn put_scalar(scalar: Head<'_>, out: &mut impl Sink) {
    match scalar {
        Head::Bool(true) => out.put(b"true"),
        Head::Bool(false) => out.put(b"false"),
        Head::Unsigned(number) => out.put(itoa::Buffer::new().format(number).as_bytes()),
        Head::Negative(number) => out.put(itoa::Buffer::new().format(number).as_bytes()),
        Head::Float(number) if number.is_finite() => put_float(number, out),
        Head::Text(bytes) => put_text(bytes, out),
        Head::Binary(bytes) => {
            out.put(b"{\"$bin\":\"");
            base64::encode(bytes, out);
            out.put(b"\"}");
        }
        Head::Extension(kind, bytes) => {
            out.put(b"{\"$ext\":[");
            out.put(itoa::Buffer::new().format(kind).as_bytes());
            out.put(b",\"");
            base64::encode(bytes, out);
            out.put(b"\"]}");
        }
        Head::Nil | Head::Float(_) | Head::Array(_) | Head::Map(_) => out.put(b"null"),
    }
}

/// The shortest digits that are this double, with a fraction or an exponent: so it stays a float when it comes back.
fn put_float(number: f64, out: &mut impl Sink) {
    // Any double takes about as long as any other: a peer chooses which.
    out.put(ryu::Buffer::new().format_finite(number).as_bytes());
}
