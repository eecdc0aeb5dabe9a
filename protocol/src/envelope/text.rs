//! JSON strings: unescaped when they are names, escaped when they are written.

use std::borrow::Cow;

use crate::envelope::sink::Sink;
use crate::envelope::special::{are_plain, is_special};

/// The text of a validated string's contents. Lone surrogates become U+FFFD: a name is compared by its bytes and
/// those have none.
pub(crate) fn unescape(contents: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', contents.as_bytes()).is_none() {
        return Cow::Borrowed(contents);
    }
    let mut out = String::with_capacity(contents.len());
    pieces(contents, |piece| out.push_str(piece));
    Cow::Owned(out)
}

/// The same, piece by piece.
pub(crate) fn pieces(contents: &str, mut take: impl FnMut(&str)) {
    let mut rest = contents;
    while let Some(next) = memchr::memchr(b'\\', rest.as_bytes()) {
        take(&rest[..next]);
        let char;
        (char, rest) = unescape_one(&rest[next..]);
        take(char.encode_utf8(&mut [0; 4]));
    }
    take(rest);
}

/// Takes one escape, or two that form a surrogate pair, from the front of `rest`.
fn unescape_one(rest: &str) -> (char, &str) {
    let plain = match rest.as_bytes().get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let high = unit(rest);
            let rest = rest.get(6..).unwrap_or_default();
            if (0xd800..0xdc00).contains(&high) && rest.starts_with("\\u") {
                let low = unit(rest);
                if (0xdc00..0xe000).contains(&low) {
                    let point = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    return (char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER), &rest[6..]);
                }
            }
            return (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), rest);
        }
        Some(other) => char::from(*other),
        None => char::REPLACEMENT_CHARACTER,
    };
    (plain, rest.get(2..).unwrap_or_default())
}

/// The code unit of an escape `\uXXXX` at the front.
fn unit(escape: &str) -> u32 {
    escape.get(2..6).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0xfffd)
}

/// Appends `text` as the contents of a JSON string.
#[inline(always)]
pub(crate) fn escape(text: &str, out: &mut impl Sink) {
    if are_plain(text.as_bytes()) {
        out.put(text.as_bytes());
    } else {
        escape_each(text.as_bytes(), out);
    }
}

#[cold]
fn escape_each(bytes: &[u8], out: &mut impl Sink) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| is_special(*byte)) {
        out.put(&rest[..at]);
        match rest[at] {
            b'"' => out.put(b"\\\""),
            b'\\' => out.put(b"\\\\"),
            b'\n' => out.put(b"\\n"),
            b'\r' => out.put(b"\\r"),
            b'\t' => out.put(b"\\t"),
            8 => out.put(b"\\b"),
            12 => out.put(b"\\f"),
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]);
                out.put(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.put(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lone_surrogates_become_replacements() {
        for (text, expected) in [
            ("\\ud83d\\ude00", "\u{1f600}"),
            ("\\ud83dx", "\u{fffd}x"),
            ("\\ude00\\ud83d", "\u{fffd}\u{fffd}"),
            ("\\ud83d\\u0041", "\u{fffd}A"),
            ("a\\\"\\\\\\/\\b\\f\\n\\r\\t", "a\"\\/\u{8}\u{c}\n\r\t"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_no_longer(
            contents in "(\\PC|\\\\[bfnrt/]|\\\\u00[01][0-9a-f]|\\\\ud[89a-f][0-9a-f]{2}){0,20}"
        ) {
            let contents = contents.replace('"', "'");
            prop_assume!(serde_json::from_str::<&serde_json::value::RawValue>(&format!("\"{contents}\"")).is_ok());
            let mut out = Vec::new();
            escape(&unescape(&contents), &mut out);
            prop_assert!(out.len() <= contents.len(), "{} bytes became {}", contents.len(), out.len());
        }

        #[test]
        fn writing_and_reading_agree_with_the_twin(text in any::<String>()) {
            let mut out = Vec::new();
            escape(&text, &mut out);
            let contents = String::from_utf8(out).expect("escaping keeps UTF-8");
            prop_assert_eq!(unescape(&contents), text.as_str());
            let twin: String = serde_json::from_str(&format!("\"{contents}\"")).expect("it is JSON");
            prop_assert_eq!(twin, text);
        }
    }
}
