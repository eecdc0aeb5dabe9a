//! `frames.json`: what a connection makes of bytes, however they are cut, and what it writes.

use corecast_protocol::ws::deflate::{ClientWindow, Offer};
use corecast_protocol::ws::frame::{self, Opcode};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role, Violation};
use corecast_protocol::{CloseCode, ErrorCode};
use serde::Deserialize;

use crate::deflate::answered;
use crate::runner::{Bytes, Case, cases, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reading {
    role: Option<Side>,
    limits: Option<Bounds>,
    /// The server's answer about compression.
    deflate: Option<String>,
    bytes: Bytes,
    events: Vec<Expected>,
    violation: Option<u16>,
    violation_after: Option<usize>,
    #[serde(default)]
    unfinished: bool,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Side {
    Server,
    Client,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct Bounds {
    message_bytes: usize,
    fragments: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Expected {
    Text(Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close(Option<Ending>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    code: u16,
    reason: String,
}

/// An event that owns its bytes.
#[derive(PartialEq, Debug)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl Expected {
    fn read(&self) -> Result<Seen, String> {
        Ok(match self {
            Self::Text(bytes) => Seen::Text(bytes.read()?),
            Self::Binary(bytes) => Seen::Binary(bytes.read()?),
            Self::Ping(bytes) => Seen::Ping(bytes.read()?),
            Self::Pong(bytes) => Seen::Pong(bytes.read()?),
            Self::Close(ending) => Seen::Close(ending.as_ref().map(|it| (it.code, it.reason.clone()))),
        })
    }
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.as_bytes().to_vec()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(ending) => {
                Self::Close(ending.map(|(code, reason)| (code.code(), reason.to_owned())))
            }
        }
    }
}

/// All that came of some bytes.
#[derive(PartialEq, Debug)]
struct Outcome {
    events: Vec<Seen>,
    violation: Option<u16>,
    /// So many bytes were presented when the violation was reported.
    after: Option<usize>,
    is_unfinished: bool,
}

impl Reading {
    fn connection(&self) -> Result<Connection, String> {
        let role = match self.role.unwrap_or(Side::Server) {
            Side::Server => Role::Server,
            Side::Client => Role::Client,
        };
        let bounds = self.limits.unwrap_or(Bounds { message_bytes: 1 << 20, fragments: 1024 });
        let limits = Limits { message_bytes: bounds.message_bytes, fragments: bounds.fragments };
        let Some(deflate) = &self.deflate else { return Ok(Connection::new(role, limits)) };
        // An offer that admits every answer.
        let offer = Offer { client_max_window_bits: ClientWindow::Any, ..Offer::default() };
        let negotiated = answered(Some(&offer), std::slice::from_ref(deflate));
        let negotiated = negotiated.map_err(|error| format!("{error:?}: {deflate}"))?;
        Ok(Connection::with_deflate(role, limits, negotiated.ok_or("nothing was agreed")?))
    }

    /// Presents the bytes, cut in front of each of `cuts`.
    fn receive(&self, bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Result<Outcome, String> {
        let mut connection = self.connection()?;
        let mut pool = AssemblyPool::new(512, 4, 4 << 20);
        let mut outcome = Outcome { events: Vec::new(), violation: None, after: None, is_unfinished: false };
        let mut start = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            let mut piece = bytes[start..end].to_vec();
            let mut reader = connection.receive(&mut piece, &mut pool);
            while let Some(event) = reader.next() {
                if outcome.violation.is_some() || matches!(outcome.events.last(), Some(Seen::Close(_))) {
                    return Err(format!("something follows the end: {event:?}"));
                }
                match event {
                    Ok(event) => outcome.events.push(event.into()),
                    Err(violation) => {
                        is_well_said(&violation)?;
                        outcome.violation = Some(violation.code.code());
                        outcome.after = Some(end);
                    }
                }
            }
            same("consumed bytes", reader.consumed(), end - start)?;
            start = end;
        }
        outcome.is_unfinished = pool.bytes_in_use() > 0;
        connection.release(&mut pool);
        same("bytes kept behind the connection", pool.bytes_in_use(), 0)?;
        Ok(outcome)
    }

    fn expected(&self) -> Result<Outcome, String> {
        Ok(Outcome {
            events: self.events.iter().map(Expected::read).collect::<Result<_, _>>()?,
            violation: self.violation,
            after: self.violation_after,
            is_unfinished: self.unfinished,
        })
    }
}

/// "Every close reason that the server sends begins with an error code", and fits a control frame.
fn is_well_said(violation: &Violation) -> Result<(), String> {
    let code = violation.reason.split(':').next().unwrap_or_default();
    let is_known = ErrorCode::ALL.iter().any(|it| it.as_str() == code);
    same("a reason that begins with an error code and fits", is_known && violation.reason.len() <= 123, true)
}

impl Case for Reading {
    const FILE: &'static str = "frames";
    const SECTION: &'static str = "reading";
    const EXPECTATIONS: &'static [&'static str] = &["events", "violation", "violation_after", "unfinished"];

    fn check(&self) -> Result<(), String> {
        let bytes = self.bytes.read()?;
        let expected = self.expected()?;
        // Byte by byte everything is seen as early as it can be.
        same("byte by byte", &self.receive(&bytes, 1..bytes.len().max(1))?, &expected)?;
        let at_once = self.receive(&bytes, [])?;
        same("at once", &at_once, &Outcome { after: at_once.after, ..expected })
    }
}

section_tests!(reading, Reading);

/// All positions of short inputs; of long ones the ends, where headers lie, and some between.
fn cut_positions(length: usize) -> impl Iterator<Item = usize> {
    (0..=length).filter(move |at| length <= 1000 || *at < 64 || length - *at < 64 || at % 9973 == 0)
}

#[test]
fn a_cut_anywhere_changes_nothing() {
    for (name, case) in cases::<Reading>() {
        let bytes = case.bytes.read().expect("the cases are well-formed");
        let expected = case.expected().expect("the cases are well-formed");
        for cut in cut_positions(bytes.len()) {
            let mut seen = case.receive(&bytes, [cut]).unwrap_or_else(|error| panic!("{name}: {error}"));
            let is_late = seen.after.is_some_and(|after| Some(after) < expected.after);
            assert!(!is_late, "{name}, cut at {cut}: reported before it could be known");
            seen.after = expected.after;
            assert_eq!(seen, expected, "{name}, cut at {cut}");
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Writing {
    opcode: String,
    payload: Bytes,
    mask: Option<Bytes>,
    bytes: Bytes,
}

impl Case for Writing {
    const FILE: &'static str = "frames";
    const SECTION: &'static str = "writing";
    const EXPECTATIONS: &'static [&'static str] = &["bytes"];

    fn check(&self) -> Result<(), String> {
        let opcode = match self.opcode.as_str() {
            "text" => Opcode::Text,
            "binary" => Opcode::Binary,
            "ping" => Opcode::Ping,
            "pong" => Opcode::Pong,
            other => return Err(format!("opcode {other}")),
        };
        let payload = self.payload.read()?;
        let mut out = Vec::new();
        match &self.mask {
            None => frame::encode(opcode, &payload, &mut out),
            Some(mask) => {
                let mask = mask.read()?.try_into().map_err(|_| "a mask has four bytes")?;
                frame::encode_masked(opcode, &payload, mask, &mut out);
            }
        }
        same("bytes", out, self.bytes.read()?)
    }
}

section_tests!(writing, Writing);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Closing {
    code: u16,
    reason: Bytes,
    bytes: Bytes,
}

impl Case for Closing {
    const FILE: &'static str = "frames";
    const SECTION: &'static str = "closes";
    const EXPECTATIONS: &'static [&'static str] = &["bytes"];

    fn check(&self) -> Result<(), String> {
        let code = CloseCode::from_wire(self.code).ok_or("not a close code")?;
        let mut out = Vec::new();
        frame::encode_close(code, &self.reason.read_text()?, &mut out);
        same("bytes", out, self.bytes.read()?)
    }
}

section_tests!(closing, Closing);
