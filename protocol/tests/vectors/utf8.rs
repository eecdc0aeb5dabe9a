//! `utf8.json`: text messages whose bytes may not be UTF-8, in one frame, in fragments and byte by byte.

use corecast_protocol::CloseCode;
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};
use serde::Deserialize;

use crate::runner::{Bytes, Case, cases, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Utf8 {
    bytes: Bytes,
    valid: bool,
    refused_after: Option<usize>,
    #[serde(default)]
    refused_at_end: bool,
}

impl Case for Utf8 {
    const FILE: &'static str = "utf8";
    const SECTION: &'static str = "cases";
    const EXPECTATIONS: &'static [&'static str] = &["valid", "refused_after", "refused_at_end"];

    fn check(&self) -> Result<(), String> {
        let bytes = self.bytes.read()?;
        same("the standard library's verdict", std::str::from_utf8(&bytes).is_ok(), self.valid)?;
        same("one frame", receive(&mut [frame(true, true, &bytes)]), self.valid)?;
        // One frame, one byte at a time.
        let mut stream = frame(true, true, &bytes);
        let header = stream.len() - bytes.len();
        let mut singles: Vec<Vec<u8>> = vec![stream.drain(..header).collect()];
        singles.extend(stream.into_iter().map(|byte| vec![byte]));
        let refused = refused_at(&mut singles);
        // The last byte also ends the message.
        let after = refused.filter(|after| *after < bytes.len() || !self.refused_at_end);
        same("refused after", after, self.refused_after)?;
        same("refused at the end", refused.is_some() && after.is_none(), self.refused_at_end)
    }
}

/// A masked frame with a mask of zeros.
fn frame(is_first: bool, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::from(is_first) | u8::from(is_final) << 7];
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// How many pieces behind the first were read when the text was refused.
fn refused_at(pieces: &mut [Vec<u8>]) -> Option<usize> {
    let mut connection = Connection::new(Role::Server, Limits { message_bytes: 1 << 20, fragments: 1024 });
    let mut pool = AssemblyPool::new(1024, 4, 1 << 20);
    for (index, piece) in pieces.iter_mut().enumerate() {
        let mut reader = connection.receive(piece, &mut pool);
        match reader.next() {
            Some(Err(violation)) => {
                assert_eq!(violation.code, CloseCode::InvalidPayload);
                return Some(index);
            }
            Some(Ok(event)) => assert!(matches!(event, Event::Text(_)), "{event:?}"),
            None => {}
        }
    }
    None
}

fn receive(pieces: &mut [Vec<u8>]) -> bool {
    refused_at(pieces).is_none()
}

section_tests!(texts, Utf8);

#[test]
fn two_fragments_cut_anywhere_get_the_verdict_of_the_whole() {
    for (name, case) in cases::<Utf8>() {
        let bytes = case.bytes.read().expect("the cases are well-formed");
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let mut fragments = [frame(true, false, head), frame(false, true, tail)];
            assert_eq!(receive(&mut fragments), case.valid, "{name}, cut at {cut}");
        }
    }
}
