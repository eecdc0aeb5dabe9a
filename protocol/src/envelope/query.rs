//! The parameters of the queries that the hub answers itself, read from the span that the call carries.
//!
//! Unknown members are ignored and null is as absent, as everywhere in the envelope. Whether a name is one is not
//! decided here.

use crate::envelope::Format;
use crate::envelope::command::{Name, Position};
use crate::envelope::fields::{Source, position_of};
use crate::envelope::scan::{self, DEPTH_MAX};
use crate::envelope::unpack;
use crate::envelope::value::{Kind, Value};

/// `history`: what a channel keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryQuery<'a> {
    /// Of which channel, or `@me`.
    pub channel: Name<'a>,
    /// Messages at most; `None` for the hub's default.
    pub limit: Option<u64>,
    /// Forward: what came after this. Backward: what came before it.
    pub since: Option<Position<'a>>,
    /// From the latest to the oldest.
    pub backward: bool,
}

/// `presence` and `presence_stats`: who is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceQuery<'a> {
    /// In which channel.
    pub channel: Name<'a>,
    /// Names at most; `None` for the hub's default.
    pub limit: Option<u64>,
    /// Only names behind this one, which need not be there.
    pub after: Option<Name<'a>>,
    /// Only how many.
    pub count_only: bool,
}

impl<'a> HistoryQuery<'a> {
    /// Reads the `params` of a call, in the encoding of its message.
    ///
    /// # Errors
    /// What is missing or wrong and what would be right.
    pub fn read(format: Format, params: Option<&'a [u8]>) -> Result<Self, &'static str> {
        match Params::of(format, params)? {
            Params::Json(text) => Self::from_members(text),
            Params::MessagePack(bytes) => Self::from_members(bytes),
        }
    }

    fn from_members<S: Source<'a>>(object: S) -> Result<Self, &'static str> {
        let (mut channel, mut limit, mut since, mut backward) = (None, None, None, false);
        for (key, value) in given(object) {
            match key.as_ref() {
                "channel" => channel = Some(text(object, value, CHANNEL_MUST)?),
                "limit" => limit = Some(object.integer(value).ok_or(LIMIT_MUST)?),
                "since" => {
                    let must = "`since` must be an object with `epoch` and `offset`";
                    since = Some(position_of(object, value).ok_or(must)?);
                }
                "direction" => {
                    let must = "`direction` must be forward or backward";
                    backward = match text(object, value, must)?.as_ref() {
                        "forward" => false,
                        "backward" => true,
                        _ => return Err(must),
                    };
                }
                _ => {}
            }
        }
        Ok(Self { channel: channel.ok_or(CHANNEL_MISSING)?, limit, since, backward })
    }
}

impl<'a> PresenceQuery<'a> {
    /// Reads the `params` of a call, in the encoding of its message.
    ///
    /// # Errors
    /// What is missing or wrong and what would be right.
    pub fn read(format: Format, params: Option<&'a [u8]>) -> Result<Self, &'static str> {
        match Params::of(format, params)? {
            Params::Json(text) => Self::from_members(text),
            Params::MessagePack(bytes) => Self::from_members(bytes),
        }
    }

    fn from_members<S: Source<'a>>(object: S) -> Result<Self, &'static str> {
        let (mut channel, mut limit, mut after, mut count_only) = (None, None, None, false);
        for (key, value) in given(object) {
            match key.as_ref() {
                "channel" => channel = Some(text(object, value, CHANNEL_MUST)?),
                "limit" => limit = Some(object.integer(value).ok_or(LIMIT_MUST)?),
                "after" => after = Some(text(object, value, "`after` must be a string")?),
                "count_only" => {
                    count_only = match value.kind {
                        Kind::True => true,
                        Kind::False => false,
                        _ => return Err("`count_only` must be true or false"),
                    };
                }
                _ => {}
            }
        }
        Ok(Self { channel: channel.ok_or(CHANNEL_MISSING)?, limit, after, count_only })
    }
}

const CHANNEL_MISSING: &str = "`channel` is missing in `params`";
const CHANNEL_MUST: &str = "`channel` must be a string";
const LIMIT_MUST: &str = "`limit` must be an integer from 0 to 2^53-1";

/// Whether these bytes are one value of this encoding and nothing else: for what did not come in a message.
pub fn is_value(format: Format, bytes: &[u8]) -> bool {
    let value = match format {
        Format::Json => simdutf8::basic::from_utf8(bytes)
            .is_ok_and(|text| scan::Cursor::new(text).value(DEPTH_MAX).is_ok_and(|it| it.end == bytes.len())),
        Format::MessagePack => {
            unpack::Cursor::new(bytes).value(DEPTH_MAX).is_ok_and(|it| it.end == bytes.len())
        }
    };
    value && !bytes.is_empty()
}

/// An object, in either encoding.
enum Params<'a> {
    Json(&'a str),
    MessagePack(&'a [u8]),
}

impl<'a> Params<'a> {
    /// Looked at once more although the message was validated: what this is given is up to its caller.
    fn of(format: Format, params: Option<&'a [u8]>) -> Result<Self, &'static str> {
        let bytes = params.ok_or("`params` is missing")?;
        let (found, kind) = match format {
            Format::Json => {
                let text = simdutf8::basic::from_utf8(bytes).map_err(|_| NO_OBJECT)?;
                (Self::Json(text), scan::Cursor::new(text).value(DEPTH_MAX))
            }
            Format::MessagePack => (Self::MessagePack(bytes), unpack::Cursor::new(bytes).value(DEPTH_MAX)),
        };
        let is_all = kind.is_ok_and(|it| it.kind == Kind::Object && it.end == bytes.len());
        if is_all { Ok(found) } else { Err(NO_OBJECT) }
    }
}

const NO_OBJECT: &str = "`params` must be an object";

/// The members that are not null.
fn given<'a, S: Source<'a>>(object: S) -> impl Iterator<Item = (Name<'a>, Value)> {
    object.members().filter(|(_, value)| value.kind != Kind::Null)
}

fn text<'a, S: Source<'a>>(object: S, value: Value, must: &'static str) -> Result<Name<'a>, &'static str> {
    object.string(value).ok_or(must)
}
