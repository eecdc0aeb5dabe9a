//! The two encodings as far as the load generator needs them: commands written, and the few members that the audit
//! looks for found.

use corecast_protocol::envelope::{Format, transcode};
use corecast_protocol::ws::frame::Opcode;

/// The frames that a message of this encoding comes in.
pub(super) fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::MessagePack => Opcode::Binary,
    }
}

/// A command, or a part of one, that is written as JSON here.
pub(super) fn value(format: Format, json: &str) -> Vec<u8> {
    match format {
        Format::Json => json.as_bytes().to_vec(),
        Format::MessagePack => {
            let mut bytes = Vec::new();
            transcode(Format::Json, json.as_bytes(), &mut bytes);
            bytes
        }
    }
}

/// A member of a message, as it stands there.
pub(super) fn member(format: Format, name: &str, text: &str) -> Vec<u8> {
    match format {
        Format::Json => format!("\"{name}\":\"{text}\"").into_bytes(),
        Format::MessagePack => {
            let mut bytes = Vec::new();
            write_text(name, &mut bytes);
            write_text(text, &mut bytes);
            bytes
        }
    }
}

/// Appends a text in MessagePack.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    write_text_head(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Appends what stands before a text of so many bytes.
pub(super) fn write_text_head(length: usize, out: &mut Vec<u8>) {
    match length {
        0..32 => out.push(0xa0 | length as u8),
        32..256 => out.extend_from_slice(&[0xd9, length as u8]),
        256..65_536 => {
            out.push(0xda);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

/// Appends a number in its shortest form.
pub(super) fn write_number(format: Format, value: u64, out: &mut Vec<u8>) {
    match (format, value) {
        (Format::Json, _) => out.extend_from_slice(value.to_string().as_bytes()),
        (_, 0..128) => out.push(value as u8),
        (_, 128..256) => out.extend_from_slice(&[0xcc, value as u8]),
        (_, 256..65_536) => {
            out.push(0xcd);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        (_, 65_536..4_294_967_296) => {
            out.push(0xce);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// The number at the front, and what is behind it; 0 where there is none.
pub(super) fn number(format: Format, bytes: &[u8]) -> (u64, &[u8]) {
    match format {
        Format::Json => digits(bytes),
        Format::MessagePack => unsigned(bytes).unwrap_or((0, bytes)),
    }
}

/// The epoch and offset that a message names.
pub(super) fn position(format: Format, message: &[u8]) -> Option<(&str, u64)> {
    let (before, behind): (&[u8], &[u8]) = match format {
        Format::Json => (b"\"epoch\":\"", b"\"offset\":"),
        Format::MessagePack => (b"\xa5epoch", b"\xa6offset"),
    };
    let at = memchr::memmem::find(message, before)? + before.len();
    let epoch = match format {
        Format::Json => message[at..].split(|byte| *byte == b'"').next()?,
        Format::MessagePack => {
            let head = *message.get(at)?;
            message.get(at + 1..at + 1 + usize::from(head & 0x1f))?
        }
    };
    let rest = &message[at + epoch.len()..];
    let at = memchr::memmem::find(rest, behind)? + behind.len();
    Some((std::str::from_utf8(epoch).ok()?, number(format, &rest[at..]).0))
}

fn digits(bytes: &[u8]) -> (u64, &[u8]) {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii_digit() {
            return (value, &bytes[index..]);
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
    }
    (value, &[])
}

fn unsigned(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let length = match first {
        0..128 => return Some((u64::from(first), rest)),
        0xcc..=0xcf => 1 << (first - 0xcc),
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(length)?;
    Some((number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for format in [Format::Json, Format::MessagePack] {
            for value in [0, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX >> 1]
            {
                let mut bytes = Vec::new();
                write_number(format, value, &mut bytes);
                if format == Format::MessagePack {
                    assert_eq!(bytes, self::value(format, &value.to_string()), "the shortest form");
                }
                bytes.extend_from_slice(b",x");
                assert_eq!(number(format, &bytes), (value, b",x".as_slice()), "{format:?}");
            }
        }
        assert_eq!(number(Format::MessagePack, b"\xcf\x01").0, 0, "cut");
    }

    #[test]
    fn positions_are_found_in_both_encodings() {
        let text = r#"{"type":"message","payload":{"s":1},"epoch":"k3v9","offset":70000,"timestamp":5}"#;
        for format in [Format::Json, Format::MessagePack] {
            assert_eq!(position(format, &value(format, text)), Some(("k3v9", 70_000)), "{format:?}");
        }
        assert_eq!(position(Format::Json, b"{\"offset\":1}"), None);
    }

    #[test]
    fn texts_are_written_as_the_protocol_writes_them() {
        for length in [0, 31, 32, 255, 256, 65_535, 65_536] {
            let (text, mut bytes) = ("x".repeat(length), Vec::new());
            write_text(&text, &mut bytes);
            assert_eq!(bytes, value(Format::MessagePack, &format!("\"{text}\"")), "{length}");
        }
        assert_eq!(member(Format::MessagePack, "a", "b"), b"\xa1a\xa1b");
        assert_eq!(member(Format::Json, "a", "b"), b"\"a\":\"b\"");
    }
}
