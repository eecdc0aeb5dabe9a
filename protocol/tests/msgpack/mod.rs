//! MessagePack read slowly, beside what the envelope makes of it; shared with the fuzz targets.
//!
//! Nothing here looks into the scanner: the twin is written from the format's specification alone.

#![allow(dead_code, reason = "the tests and each fuzz target use their part")]

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::Command;
use corecast_protocol::envelope::{
    Format, Scanner, batch_messages_msgpack, parse, parse_msgpack, transcode, transcoded_len,
    transcoded_len_max,
};

pub(crate) const DEPTH: usize = 64;

/// What is made of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Good,
    Bad,
    TooDeep,
}

/// What lies behind a value that is allowed `depth` more levels.
fn skip(bytes: &[u8], depth: usize) -> Result<&[u8], Verdict> {
    let (first, rest) = bytes.split_first().ok_or(Verdict::Bad)?;
    let number = |width: usize| {
        let digits = rest.get(..width).ok_or(Verdict::Bad)?;
        Ok(digits.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let behind = |count: usize| rest.get(count..).ok_or(Verdict::Bad);
    let (header, length): (usize, usize) = match *first {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => return Ok(rest),
        0xc1 => return Err(Verdict::Bad),
        0xca => return behind(4),
        0xcb => return behind(8),
        byte @ 0xcc..=0xd3 => return behind(1 << ((byte - 0xcc) % 4)),
        byte @ 0xd4..=0xd8 => return behind(1 + (1 << (byte - 0xd4))),
        byte @ 0xc4..=0xc6 => return behind(number(1 << (byte - 0xc4))?.saturating_add(1 << (byte - 0xc4))),
        byte @ 0xc7..=0xc9 => {
            return behind(number(1 << (byte - 0xc7))?.saturating_add(1 + (1 << (byte - 0xc7))));
        }
        byte @ 0xa0..=0xbf => (0, usize::from(byte - 0xa0)),
        byte @ 0xd9..=0xdb => (1 << (byte - 0xd9), number(1 << (byte - 0xd9))?),
        byte @ 0x80..=0x8f => return skip_all(rest, usize::from(byte - 0x80), true, depth),
        byte @ 0x90..=0x9f => return skip_all(rest, usize::from(byte - 0x90), false, depth),
        byte @ 0xdc..=0xdf => {
            let width = if byte % 2 == 0 { 2 } else { 4 };
            return skip_all(behind(width)?, number(width)?, byte >= 0xde, depth);
        }
    };
    let text = rest.get(header..header.saturating_add(length)).ok_or(Verdict::Bad)?;
    std::str::from_utf8(text).map_err(|_| Verdict::Bad)?;
    behind(header + length)
}

fn skip_all(bytes: &[u8], count: usize, is_map: bool, depth: usize) -> Result<&[u8], Verdict> {
    let depth = depth.checked_sub(1).ok_or(Verdict::TooDeep)?;
    let mut rest = bytes;
    for _ in 0..count {
        if is_map {
            let is_text = matches!(rest.first(), Some(0xa0..=0xbf | 0xd9..=0xdb));
            rest = if is_text { skip(rest, depth)? } else { return Err(Verdict::Bad) };
        }
        rest = skip(rest, depth)?;
    }
    Ok(rest)
}

pub(crate) fn twin(bytes: &[u8]) -> Verdict {
    match skip(bytes, DEPTH) {
        Ok([]) => Verdict::Good,
        Ok(_) => Verdict::Bad,
        Err(verdict) => verdict,
    }
}

/// Everything that must hold for one message, whatever it is.
pub(crate) fn check(bytes: &[u8]) {
    let mut scanner = Scanner::new(DEPTH);
    let parsed = parse_msgpack(bytes, &mut scanner);
    let verdict = match &parsed {
        Err(rejection) if rejection.message.contains("json_depth") => Verdict::TooDeep,
        Err(rejection) if rejection.message.starts_with("not MessagePack at byte ") => Verdict::Bad,
        Err(rejection) if rejection.message.starts_with("a map's keys are strings") => Verdict::Bad,
        _ => Verdict::Good,
    };
    match (verdict, twin(bytes)) {
        // What can't be all there is refused before the depth of what is there was looked at.
        (Verdict::Bad, Verdict::TooDeep) => {}
        (ours, twin) => assert_eq!(ours, twin, "{bytes:02x?}: {parsed:?}"),
    }
    let request = match parsed {
        Ok(request) => request,
        Err(rejection) => {
            assert!(matches!(rejection.code, ErrorCode::InvalidMessage | ErrorCode::UnknownType));
            return;
        }
    };
    let spans: Vec<&[u8]> = match &request.command {
        Command::Publish(publish) => vec![publish.payload.bytes()],
        Command::Call(call) => call.params.into_iter().collect(),
        Command::Response { result, error, .. } => [*result, *error].into_iter().flatten().collect(),
        Command::Batch { messages } => batch_messages_msgpack(&bytes[messages.clone()]).collect(),
        _ => vec![],
    };
    for span in spans {
        assert_eq!(twin(span), Verdict::Good, "{span:02x?} of {bytes:02x?}");
        check_round_trip(Format::MessagePack, span);
    }
    check_in_json(bytes);
}

/// A message that is understood in MessagePack is understood in JSON too.
fn check_in_json(bytes: &[u8]) {
    let text = String::from_utf8(transcoded(Format::MessagePack, bytes)).expect("JSON is UTF-8");
    // Binary and extensions are nested deeper there.
    let (mut scanner, mut deeper) = (Scanner::new(DEPTH), Scanner::new(DEPTH + 2));
    let ours = parse_msgpack(bytes, &mut scanner).expect("it was understood before");
    match parse(&text, &mut deeper) {
        Ok(there) => assert_eq!(kind(&there.command), kind(&ours.command), "{text}"),
        Err(rejection) => panic!("{rejection:?}: {text}"),
    }
}

/// In the other encoding, with a length as it was foretold, and valid.
pub(crate) fn transcoded(from: Format, value: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    transcode(from, value, &mut out);
    let out = out.split_off("before".len());
    assert_eq!(transcoded_len(from, value), out.len(), "the length of {value:02x?}");
    let bytes_max = transcoded_len_max(from, value.len() as u64);
    assert!(out.len() as u64 <= bytes_max, "{} bytes became {}", value.len(), out.len());
    match from {
        Format::Json => assert_ne!(twin(&out), Verdict::Bad, "{out:02x?}"),
        Format::MessagePack => {
            let text = std::str::from_utf8(&out).expect("JSON is UTF-8");
            let raw = serde_json::from_str::<&serde_json::value::RawValue>(text);
            assert!(raw.is_ok(), "{raw:?}: {text}");
        }
    }
    out
}

/// There and back again is the same from the first time on.
pub(crate) fn check_round_trip(from: Format, value: &[u8]) {
    let to = match from {
        Format::Json => Format::MessagePack,
        Format::MessagePack => Format::Json,
    };
    let there = transcoded(from, value);
    let back = transcoded(to, &there);
    let again = transcoded(from, &back);
    assert_eq!(transcoded(to, &again), back, "{value:02x?}");
}

/// The name of a command's kind, whatever is in it.
fn kind(command: &Command<'_>) -> String {
    format!("{command:?}").chars().take_while(char::is_ascii_alphabetic).collect()
}
