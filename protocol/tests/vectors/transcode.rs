//! `transcode.json`: values of one encoding in the other.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::{
    DEPTH_MAX, Format, Scanner, parse, parse_msgpack, transcode, transcoded_len,
};
use serde::Deserialize;

use crate::runner::{Bytes, Case, hex, same, section_tests};

/// Each is what becomes of the other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Both {
    json: Bytes,
    msgpack: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToJson {
    json: Bytes,
    msgpack: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToMsgpack {
    json: Bytes,
    msgpack: Bytes,
}

/// Written behind other bytes, and as long as it was foretold.
fn transcoded(from: Format, value: &[u8]) -> Result<Vec<u8>, String> {
    if !is_valid(from, value) {
        return Err(format!("only what is valid is transcoded: {}", hex(value)));
    }
    let mut out = b"before".to_vec();
    transcode(from, value, &mut out);
    let out = out.strip_prefix(b"before").ok_or("what was there before")?.to_vec();
    same("the length", transcoded_len(from, value), out.len())?;
    Ok(out)
}

fn is_valid(from: Format, value: &[u8]) -> bool {
    let mut scanner = Scanner::new(DEPTH_MAX);
    match (from, std::str::from_utf8(value)) {
        (Format::Json, Err(_)) => false,
        (Format::Json, Ok(text)) => {
            parse(text, &mut scanner).err().is_none_or(|it| it.code != ErrorCode::InvalidJson)
        }
        (Format::MessagePack, _) => {
            let rejection = parse_msgpack(value, &mut scanner).err();
            rejection.is_none_or(|it| !it.message.starts_with("not MessagePack"))
        }
    }
}

fn check_json(json: &Bytes, msgpack: &Bytes) -> Result<(), String> {
    let got = String::from_utf8(transcoded(Format::MessagePack, &msgpack.read()?)?);
    same("json", got.map_err(|error| error.to_string())?, json.read_text()?)
}

fn check_msgpack(json: &Bytes, msgpack: &Bytes) -> Result<(), String> {
    same("msgpack", hex(&transcoded(Format::Json, &json.read()?)?), hex(&msgpack.read()?))
}

impl Case for Both {
    const FILE: &'static str = "transcode";
    const SECTION: &'static str = "both";
    const EXPECTATIONS: &'static [&'static str] = &["json", "msgpack"];

    fn check(&self) -> Result<(), String> {
        check_json(&self.json, &self.msgpack)?;
        check_msgpack(&self.json, &self.msgpack)
    }
}

impl Case for ToJson {
    const FILE: &'static str = "transcode";
    const SECTION: &'static str = "to_json";
    const EXPECTATIONS: &'static [&'static str] = &["json"];

    fn check(&self) -> Result<(), String> {
        check_json(&self.json, &self.msgpack)
    }
}

impl Case for ToMsgpack {
    const FILE: &'static str = "transcode";
    const SECTION: &'static str = "to_msgpack";
    const EXPECTATIONS: &'static [&'static str] = &["msgpack"];

    fn check(&self) -> Result<(), String> {
        check_msgpack(&self.json, &self.msgpack)
    }
}

section_tests!(both, Both);
section_tests!(to_json, ToJson);
section_tests!(to_msgpack, ToMsgpack);
