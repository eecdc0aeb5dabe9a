//! Reads files of cases, judges them, and proves that a wrong expectation would be reported.
//!
//! Knows nothing of what the cases are about.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One case of a section: what goes in, what must come out.
pub(crate) trait Case: DeserializeOwned {
    /// The file, without its ending.
    const FILE: &'static str;
    /// The list within the file.
    const SECTION: &'static str;
    /// The members that say what must come out: the canary makes each of them wrong.
    const EXPECTATIONS: &'static [&'static str];

    /// What came out otherwise than expected.
    fn check(&self) -> Result<(), String>;
}

/// Bytes: a string, `{"text" or "hex", "times"}`, or a list of these.
#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Text(String),
    Piece(Piece),
    All(Vec<Bytes>),
}

/// A text or bytes in hexadecimal digits, once or repeated.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Piece {
    text: Option<String>,
    hex: Option<String>,
    times: Option<usize>,
}

impl Bytes {
    pub(crate) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Text(text) => Ok(text.as_bytes().to_vec()),
            Self::Piece(piece) => {
                let once = match (&piece.text, &piece.hex) {
                    (Some(text), None) => text.as_bytes().to_vec(),
                    (None, Some(hex)) => from_hex(hex)?,
                    _ => return Err("either `text` or `hex`".to_owned()),
                };
                Ok(once.repeat(piece.times.unwrap_or(1)))
            }
            Self::All(parts) => parts.iter().try_fold(Vec::new(), |mut all, part| {
                all.extend(part.read()?);
                Ok(all)
            }),
        }
    }

    pub(crate) fn read_text(&self) -> Result<String, String> {
        String::from_utf8(self.read()?).map_err(|error| error.to_string())
    }
}

fn from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<char> = hex.chars().filter(|char| *char != ' ').collect();
    let byte = |pair: &[char]| {
        let value = match pair {
            [high, low] => high.to_digit(16).zip(low.to_digit(16)),
            _ => None,
        };
        value.map(|(high, low)| (high * 16 + low) as u8).ok_or(format!("not hexadecimal: {hex}"))
    };
    digits.chunks(2).map(byte).collect()
}

/// Bytes as the vectors write them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `Err` with both, unless they are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got:?}, expected {expected:?}")) }
}

fn read_file(file: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of a section as they stand in the file.
pub(crate) fn values<C: Case>() -> Vec<Value> {
    read_file(C::FILE)[C::SECTION].as_array().cloned().unwrap_or_default()
}

/// The cases of a section, each with its name.
pub(crate) fn cases<C: Case>() -> Vec<(String, C)> {
    let read = |value: &Value| {
        let name = name_of(value).expect("every case has a name").to_owned();
        (name, case_of(value).unwrap_or_else(|error| panic!("{}/{}: {error}", C::FILE, C::SECTION)))
    };
    let cases: Vec<_> = values::<C>().iter().map(read).collect();
    assert!(!cases.is_empty(), "{}/{}: no cases", C::FILE, C::SECTION);
    cases
}

/// Runs a whole section.
pub(crate) fn run<C: Case>() {
    if let Err(failures) = judge::<C>(&values::<C>()) {
        panic!("{}/{}: {} wrong\n{}", C::FILE, C::SECTION, failures.len(), failures.join("\n"));
    }
}

/// How many cases came out as expected, or which did not.
fn judge<C: Case>(values: &[Value]) -> Result<usize, Vec<String>> {
    if values.is_empty() {
        return Err(vec!["no cases".to_owned()]);
    }
    let mut names = HashSet::new();
    let mut failures = Vec::new();
    for value in values {
        let name = name_of(value).unwrap_or_default();
        if name.is_empty() || !names.insert(name) {
            failures.push(format!("{name:?}: every case has a name of its own"));
        }
        if let Err(failure) = case_of::<C>(value).and_then(|case| case.check()) {
            failures.push(format!("{name:?}: {failure}"));
        }
    }
    if failures.is_empty() { Ok(values.len()) } else { Err(failures) }
}

fn name_of(value: &Value) -> Option<&str> {
    value["name"].as_str()
}

fn case_of<C: Case>(value: &Value) -> Result<C, String> {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        members.remove("name");
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// Makes every single expectation of every case wrong, one at a time: each must be reported.
pub(crate) fn canary<C: Case>() {
    assert!(judge::<C>(&[]).is_err(), "a section without cases must be reported");
    let mut damaged_count = 0;
    for value in values::<C>() {
        for key in C::EXPECTATIONS {
            let Some(expected) = value.get(key) else { continue };
            for wrong in damaged(expected) {
                let mut case = value.clone();
                case[*key] = wrong.clone();
                damaged_count += 1;
                let verdict = judge::<C>(std::slice::from_ref(&case));
                assert!(verdict.is_err(), "{}/{}: not reported: {case}", C::FILE, C::SECTION);
            }
        }
    }
    assert!(damaged_count > 0, "{}/{}: no expectation to damage", C::FILE, C::SECTION);
}

/// All values that differ from this one in one place.
fn damaged(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![Value::from("~")],
        Value::Bool(it) => vec![Value::from(!it)],
        Value::Number(it) => vec![Value::from(it.as_u64().map_or(0, |it| it + 1))],
        Value::String(it) => vec![Value::from(format!("{it}~"))],
        Value::Array(items) => {
            let mut all: Vec<Value> = (0..items.len())
                .flat_map(|index| damaged(&items[index]).into_iter().map(move |wrong| (index, wrong)))
                .map(|(index, wrong)| {
                    let mut changed = items.clone();
                    changed[index] = wrong;
                    Value::from(changed)
                })
                .collect();
            let mut longer = items.clone();
            longer.push(Value::from("~"));
            all.push(Value::from(longer));
            if let Some((_, shorter)) = items.split_last() {
                all.push(Value::from(shorter.to_vec()));
            }
            all
        }
        Value::Object(members) => {
            let change = |(key, value): (&String, &Value)| {
                let wrong = damaged(value).into_iter();
                let put = |wrong| {
                    let mut changed = members.clone();
                    changed.insert(key.clone(), wrong);
                    Value::from(changed)
                };
                wrong.map(put).collect::<Vec<_>>()
            };
            members.iter().flat_map(change).collect()
        }
    }
}

/// Both tests of a section: it passes, and it could fail.
macro_rules! section_tests {
    ($module:ident, $case:ty) => {
        mod $module {
            use super::*;

            #[test]
            fn every_case() {
                crate::runner::run::<$case>();
            }

            #[test]
            fn canary() {
                crate::runner::canary::<$case>();
            }
        }
    };
}
pub(crate) use section_tests;

/// A section that nobody runs would look like one that passes.
#[test]
fn every_section_of_every_file_is_run() {
    use crate::{
        channels, close_codes, commands, deflate, events, frames, handshake, msgpack, queries, transcode,
        utf8,
    };
    fn of<C: Case>() -> (String, String) {
        (C::FILE.to_owned(), C::SECTION.to_owned())
    }
    let run = HashSet::from([
        of::<channels::Channel>(),
        of::<channels::Pattern>(),
        of::<channels::Participant>(),
        of::<close_codes::Code>(),
        of::<close_codes::Forbidden>(),
        of::<close_codes::Error>(),
        of::<commands::Message>(),
        of::<deflate::Negotiation>(),
        of::<deflate::Answer>(),
        of::<deflate::Inflating>(),
        of::<events::Event>(),
        of::<frames::Reading>(),
        of::<frames::Writing>(),
        of::<frames::Closing>(),
        of::<handshake::Request>(),
        of::<handshake::Refusing>(),
        of::<msgpack::Message>(),
        of::<queries::Query>(),
        of::<transcode::Both>(),
        of::<transcode::ToJson>(),
        of::<transcode::ToMsgpack>(),
        of::<utf8::Utf8>(),
    ]);
    let mut there = HashSet::new();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for entry in std::fs::read_dir(folder).expect("the folder of vectors") {
        let path = entry.expect("an entry of the folder").path();
        if path.extension().is_some_and(|it| it == "json") {
            let file = path.file_stem().and_then(|it| it.to_str()).expect("a plain file name").to_owned();
            let content = read_file(&file);
            let sections = content.as_object().expect("a file holds an object").keys();
            there.extend(sections.filter(|key| *key != "about").map(|key| (file.clone(), key.clone())));
        }
    }
    assert_eq!(there, run);
}
