//! Messages from clients to commands: one validating pass over the whole message, then the few members that matter.
//!
//! Names are unescaped only where they hold escapes. A publish allocates nothing.

use std::borrow::Cow;

use crate::ErrorCode;
use crate::envelope::Format;
use crate::envelope::command::{Command, OwnedRequestId, Request, RequestId};
use crate::envelope::fields::{Fields, Seen, Source};
use crate::envelope::key::Key;
use crate::envelope::scan::DEPTH_MAX;
use crate::envelope::value::{Fault, Kind, Problem, Value};

/// Messages of one `batch` at most.
pub const BATCH_MESSAGES_MAX: usize = 256;

/// Channels, participants or positions in one message at most: each may cause an answer.
pub const NAMES_MAX: usize = 256;

/// Where a scanner's memory was larger than this for one message, it is given back before the next.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Bytes of a request id that is a string, at most.
pub(super) const ID_BYTES_MAX: usize = 64;

/// The largest integer of the wire: 2^53-1.
pub(super) const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Why a message was not understood: the `error` that answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The request id, where it could be found.
    pub id: Option<OwnedRequestId>,
    /// The error code.
    pub code: ErrorCode,
    /// What was wrong and what would be right.
    pub message: Cow<'static, str>,
}

/// Memory that parsing reuses: one per shard.
#[derive(Debug)]
pub struct Scanner {
    depth_max: usize,
    /// The members of the envelope, by key; only those that the message in hand has are of it.
    values: [Value; Key::ALL.len() + 1],
    /// The spans of members that would be payload if there were none.
    members: Vec<(usize, usize)>,
    payload: Vec<u8>,
}

impl Scanner {
    /// A scanner that allows `depth_max` levels of nesting, the message itself counted; at most 128.
    pub fn new(depth_max: usize) -> Self {
        let nothing = Value { start: 0, end: 0, kind: Kind::Null };
        Self {
            depth_max: depth_max.clamp(1, DEPTH_MAX),
            values: [nothing; Key::ALL.len() + 1],
            members: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Gives back what an unusual message took: one of a million members would be remembered for ever.
    #[inline(always)]
    fn give_back(&mut self) {
        if self.members.capacity() > KEPT_BYTES_MAX / size_of::<(usize, usize)>() {
            self.members = Vec::new();
        }
        if self.payload.capacity() > KEPT_BYTES_MAX {
            self.payload = Vec::new();
        }
    }
}

/// Understands one message from a client, in JSON.
///
/// # Errors
/// `INVALID_JSON`, `INVALID_MESSAGE` or `UNKNOWN_TYPE`.
pub fn parse<'a>(text: &'a str, scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
    understand(text, scanner)
}

/// Understands one message from a client, in MessagePack.
///
/// # Errors
/// `INVALID_MESSAGE` or `UNKNOWN_TYPE`.
pub fn parse_msgpack<'a>(bytes: &'a [u8], scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
    understand(bytes, scanner)
}

#[inline(always)]
fn understand<'a, S: Source<'a>>(source: S, scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
    scanner.give_back();
    let Scanner { depth_max, values, members, payload } = scanner;
    members.clear();
    let mut fields = Fields { source, seen: Seen { values, found: 0, repeated: 0, members } };
    let scanned = source.scan(*depth_max, &mut fields.seen);
    let id = match (scanned, fields.id()) {
        (Ok(()), Ok(id)) => id,
        // An id that can't be read must not hide what else is wrong.
        (Err(fault), id) => return Err(Refused::of(fault, S::FORMAT).with_id(id.unwrap_or(None))),
        (Ok(()), Err(refused)) => return Err(refused.with_id(None)),
    };
    if let Err(refused) = fields.check_repeated() {
        return Err(refused.with_id(id));
    }
    let kind = match fields.needed_text(Key::Type) {
        Ok(kind) => kind,
        Err(refused) => return Err(refused.with_id(id)),
    };
    if kind == "publish" {
        // Apart from the others: what there is most of is built where it is returned.
        return match fields.publish(None, payload) {
            Ok(publish) => Ok(Request { id, command: Command::Publish(publish) }),
            Err(refused) => Err(refused.with_id(id)),
        };
    }
    match fields.other_command(&kind, payload) {
        Ok(command) => Ok(Request { id, command }),
        Err(refused) => Err(refused.with_id(id)),
    }
}

/// The messages of a validated batch in JSON, in order.
pub fn batch_messages(array: &str) -> impl Iterator<Item = &str> {
    array.items().filter_map(|value| array.get(value.start..value.end))
}

/// The messages of a validated batch in MessagePack, in order.
pub fn batch_messages_msgpack(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    array.items().filter_map(|value| array.get(value.start..value.end))
}

/// A rejection before it knows the request's id. Boxed: it is rare, and what is returned instead of it stays small.
#[derive(Debug)]
pub(super) struct Refused(Box<(ErrorCode, Cow<'static, str>)>);

impl Refused {
    #[cold]
    pub(super) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new((code, message.into())))
    }

    #[cold]
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidMessage, message)
    }

    #[cold]
    pub(super) fn field(key: Key, right: &str) -> Self {
        Self::invalid(format!("`{}` must be {right}", key.name()))
    }

    #[cold]
    fn with_id(self, id: Option<RequestId<'_>>) -> Rejection {
        let id = id.map(RequestId::to_owned);
        let (code, message) = *self.0;
        Rejection { id, code, message }
    }

    #[cold]
    fn of(fault: Fault, format: Format) -> Self {
        let Fault { at, what } = fault;
        match (what, format) {
            (Problem::Expected(right), Format::Json) => {
                Self::new(ErrorCode::InvalidJson, format!("not JSON at byte {at}: expected {right}"))
            }
            (Problem::Expected(right), Format::MessagePack) => {
                Self::invalid(format!("not MessagePack at byte {at}: expected {right}"))
            }
            (Problem::NoObject, _) => Self::invalid("a message is an object with a `type`"),
            (Problem::Key, _) => {
                Self::invalid(format!("a map's keys are strings: the one at byte {at} is not"))
            }
            (Problem::TooDeep, _) => {
                Self::invalid(format!("nested too deep at byte {at} (limits.json_depth)"))
            }
        }
    }
}
