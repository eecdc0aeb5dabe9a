//! JSON text to commands: one validating pass over the whole message, then the few members that matter.
//!
//! Members are kept as spans; names are unescaped only where they hold escapes. A publish allocates nothing.

use std::borrow::Cow;

use crate::ErrorCode;
use crate::envelope::command::{
    Call, Channels, Command, Name, Payload, Position, Priority, Publish, Request, RequestId, Subscribe,
    Target,
};
use crate::envelope::scan::{Cursor, DEPTH_MAX, Fault, Kind, Problem, Value};
use crate::envelope::{text, time};

/// Messages of one `batch` at most.
pub const BATCH_MESSAGES_MAX: usize = 256;

/// Bytes of a request id that is a string, at most.
const ID_BYTES_MAX: usize = 64;

/// The largest integer of the wire: 2^53-1.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Why a message was not understood: the `error` that answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The request id as a JSON value, where it could be found.
    pub id: Option<String>,
    /// The error code.
    pub code: ErrorCode,
    /// What was wrong and what would be right.
    pub message: Cow<'static, str>,
}

macro_rules! keys {
    ($($variant:ident = $($text:literal)|+,)*) => {
        /// The members of the envelope.
        #[expect(clippy::enum_variant_names, reason = "the wire has a member `key_id`")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        enum Key { $($variant,)* }

        impl Key {
            const COUNT: usize = [$(Self::$variant),*].len();

            fn find(name: &[u8]) -> Option<Self> {
                match name {
                    $($($text)|+ => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                const TEXTS: &[&[&[u8]]] = &[$(&[$($text),+]),*];
                std::str::from_utf8(TEXTS[self as usize][0]).unwrap_or("")
            }
        }
    };
}

keys! {
    Type = b"type",
    Id = b"id",
    Channel = b"channel",
    Channels = b"channels",
    To = b"to",
    Event = b"event",
    Events = b"events",
    Payload = b"payload",
    Priority = b"priority",
    Store = b"store",
    IdempotencyKey = b"idempotency_key",
    Receipt = b"receipt",
    Echo = b"echo",
    Exclude = b"exclude",
    Tags = b"tags",
    Timestamp = b"timestamp",
    Traceparent = b"traceparent",
    Signature = b"signature",
    KeyId = b"key_id",
    Nonce = b"nonce",
    Token = b"token",
    SessionId = b"session_id" | b"sessionId",
    Positions = b"positions",
    Recover = b"recover",
    History = b"history",
    Presence = b"presence",
    Ack = b"ack",
    Epoch = b"epoch",
    Offset = b"offset",
    Messages = b"messages",
    Method = b"method",
    Params = b"params",
    Capabilities = b"capabilities",
    Call = b"call",
    Result = b"result",
    Error = b"error",
    Partial = b"partial",
}

impl Key {
    /// Whether it belongs to the envelope of a publish; everything else is payload where `payload` is absent.
    fn is_of_publish(self) -> bool {
        (self as usize) <= Self::Nonce as usize && !matches!(self, Self::Channels | Self::Events)
    }
}

/// Memory that parsing reuses: one per shard.
#[derive(Debug)]
pub struct Scanner {
    depth_max: usize,
    /// The spans of members that would be payload if there were none.
    members: Vec<(u32, u32)>,
    payload: Vec<u8>,
}

impl Scanner {
    /// A scanner that allows `depth_max` levels of nesting, the message itself counted; at most 128.
    pub fn new(depth_max: usize) -> Self {
        Self { depth_max: depth_max.clamp(1, DEPTH_MAX), members: Vec::new(), payload: Vec::new() }
    }
}

/// Understands one message from a client.
///
/// # Errors
/// `INVALID_JSON`, `INVALID_MESSAGE` or `UNKNOWN_TYPE`.
pub fn parse<'a>(text: &'a str, scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
    let mut fields = Fields { text, found: [None; Key::COUNT], duplicate: None };
    scanner.members.clear();
    let scanned = fields.scan(scanner);
    // An id that can't be read must not hide what else is wrong; where nothing is, it is the fault.
    let (id, id_fault) = match fields.id() {
        Ok(id) => (id, None),
        Err(fault) => (None, Some(fault)),
    };
    let fault = scanned.err().or(id_fault).or(fields.duplicate.map(Refused::duplicate));
    let command = match fault {
        Some(fault) => Err(fault),
        None => fields.command(scanner),
    };
    match command {
        Ok(command) => Ok(Request { id, command }),
        Err(refused) => Err(refused.with_id(id)),
    }
}

/// The messages of a validated batch, in order.
pub fn batch_messages(array: &str) -> impl Iterator<Item = &str> {
    let mut cursor = Cursor::new(array);
    cursor.at = 1;
    std::iter::from_fn(move || {
        cursor.skip_space();
        cursor.eat(b',');
        let value = cursor.value(DEPTH_MAX).ok()?;
        array.get(value.start..value.end)
    })
}

/// A rejection before it knows the request's id.
#[derive(Debug)]
struct Refused {
    code: ErrorCode,
    message: Cow<'static, str>,
}

impl Refused {
    fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: ErrorCode::InvalidMessage, message: message.into() }
    }

    fn duplicate(key: Key) -> Self {
        Self::invalid(format!("`{}` is there twice", key.name()))
    }

    fn field(key: Key, right: &str) -> Self {
        Self::invalid(format!("`{}` must be {right}", key.name()))
    }

    fn with_id(self, id: Option<RequestId<'_>>) -> Rejection {
        let id = id.map(|id| match id {
            RequestId::Text(contents) => format!("\"{contents}\""),
            RequestId::Number(number) => number.to_string(),
        });
        Rejection { id, code: self.code, message: self.message }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        match fault.what {
            Problem::Expected(what) => Self {
                code: ErrorCode::InvalidJson,
                message: format!("not JSON at byte {}: expected {what}", fault.at).into(),
            },
            Problem::TooDeep => {
                Self::invalid(format!("nested too deep at byte {} (limits.json_depth)", fault.at))
            }
        }
    }
}

/// The members of one message, as spans.
struct Fields<'a> {
    text: &'a str,
    found: [Option<Value>; Key::COUNT],
    duplicate: Option<Key>,
}

impl<'a> Fields<'a> {
    /// The one pass: validates everything and notes where the members lie.
    fn scan(&mut self, scanner: &mut Scanner) -> Result<(), Refused> {
        let mut cursor = Cursor::new(self.text);
        cursor.skip_space();
        if cursor.peek() != Some(b'{') {
            cursor.value(scanner.depth_max)?;
            cursor.finish()?;
            return Err(Refused::invalid("a message is an object with a `type`"));
        }
        cursor.at += 1;
        cursor.skip_space();
        if !cursor.eat(b'}') {
            loop {
                self.member(&mut cursor, scanner)?;
                cursor.skip_space();
                if cursor.eat(b'}') {
                    break;
                }
                cursor.expect(b',', "a comma or the end of an object")?;
                cursor.skip_space();
            }
        }
        Ok(cursor.finish()?)
    }

    fn member(&mut self, cursor: &mut Cursor<'a>, scanner: &mut Scanner) -> Result<(), Refused> {
        let start = cursor.at;
        let has_escapes = cursor.string()?;
        let contents = &self.text[start + 1..cursor.at - 1];
        let key = match has_escapes {
            false => Key::find(contents.as_bytes()),
            true => Key::find(text::unescape(contents).as_bytes()),
        };
        cursor.skip_space();
        cursor.expect(b':', "a colon behind a key")?;
        let value = cursor.value(scanner.depth_max - 1)?;
        if !key.is_some_and(Key::is_of_publish) {
            scanner.members.push((start as u32, value.end as u32));
        }
        if let Some(key) = key {
            let place = &mut self.found[key as usize];
            if place.replace(value).is_some() {
                self.duplicate = self.duplicate.or(Some(key));
            }
        }
        Ok(())
    }

    /// The member, unless it is absent or null.
    fn find(&self, key: Key) -> Option<Value> {
        self.found[key as usize].filter(|value| value.kind != Kind::Null)
    }

    fn raw(&self, value: Value) -> &'a str {
        &self.text[value.start..value.end]
    }

    fn bytes(&self, key: Key) -> Option<&'a [u8]> {
        self.found[key as usize].map(|value| self.raw(value).as_bytes())
    }

    fn id(&self) -> Result<Option<RequestId<'a>>, Refused> {
        let Some(value) = self.find(Key::Id) else { return Ok(None) };
        let right = || Refused::field(Key::Id, "a string of 1 to 64 bytes or an integer from 0 to 2^53-1");
        match value.kind {
            Kind::Text => {
                let contents = &self.text[value.start + 1..value.end - 1];
                // The string's bytes count, not those of its escapes, six at most for one.
                let fits = |length: usize| (1..=ID_BYTES_MAX).contains(&length);
                let is_right = fits(contents.len())
                    || contents.len() <= 6 * ID_BYTES_MAX && fits(text::unescape(contents).len());
                if is_right { Ok(Some(RequestId::Text(contents))) } else { Err(right()) }
            }
            Kind::Number => integer(self.raw(value)).map(|id| Some(RequestId::Number(id))).ok_or_else(right),
            _ => Err(right()),
        }
    }

    fn text(&self, key: Key) -> Result<Option<Name<'a>>, Refused> {
        match self.find(key) {
            None => Ok(None),
            Some(value) => {
                string(self.raw(value), value.kind).map(Some).ok_or_else(|| Refused::field(key, "a string"))
            }
        }
    }

    fn needed_text(&self, key: Key) -> Result<Name<'a>, Refused> {
        self.text(key)?.ok_or_else(|| Refused::invalid(format!("`{}` is missing", key.name())))
    }

    fn flag(&self, key: Key) -> Result<Option<bool>, Refused> {
        match self.find(key).map(|value| value.kind) {
            None => Ok(None),
            Some(Kind::True) => Ok(Some(true)),
            Some(Kind::False) => Ok(Some(false)),
            Some(_) => Err(Refused::field(key, "true or false")),
        }
    }

    fn integer(&self, key: Key) -> Result<Option<u64>, Refused> {
        match self.find(key) {
            None => Ok(None),
            Some(value) => integer(self.raw(value))
                .map(Some)
                .ok_or_else(|| Refused::field(key, "an integer from 0 to 2^53-1")),
        }
    }

    fn timestamp(&self) -> Result<Option<u64>, Refused> {
        let Some(value) = self.find(Key::Timestamp) else { return Ok(None) };
        let parsed = match value.kind {
            Kind::Text => time::parse_iso(&text::unescape(&self.text[value.start + 1..value.end - 1])),
            _ => integer(self.raw(value)),
        };
        let right = "milliseconds since the Unix epoch or an ISO 8601 time";
        parsed.map(Some).ok_or_else(|| Refused::field(Key::Timestamp, right))
    }

    fn names(&self, key: Key) -> Result<Option<Vec<Name<'a>>>, Refused> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let right = || Refused::field(key, "a list of strings");
        if value.kind != Kind::Array {
            return Err(right());
        }
        let mut names = Vec::new();
        for item in items(self.raw(value)) {
            names.push(string(item.0, item.1).ok_or_else(right)?);
        }
        Ok(Some(names))
    }

    /// `channel` or `channels`, one of them.
    fn channels(&self) -> Result<Option<Channels<'a>>, Refused> {
        match (self.text(Key::Channel)?, self.names(Key::Channels)?) {
            (Some(one), None) => Ok(Some(Channels::One(one))),
            (None, Some(many)) if !many.is_empty() => Ok(Some(Channels::Many(many))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Refused::invalid("`channels` is empty")),
            (Some(_), Some(_)) => Err(Refused::invalid("`channel` or `channels`, not both")),
        }
    }

    fn needed_channels(&self) -> Result<Channels<'a>, Refused> {
        self.channels()?.ok_or(Refused::invalid("`channel` or `channels` is missing"))
    }

    fn position(&self) -> Result<Position<'a>, Refused> {
        let offset = self.integer(Key::Offset)?.ok_or(Refused::invalid("`offset` is missing"))?;
        Ok(Position { epoch: self.needed_text(Key::Epoch)?, offset })
    }

    fn command(&self, scanner: &'a mut Scanner) -> Result<Command<'a>, Refused> {
        let kind = self.needed_text(Key::Type)?;
        Ok(match kind.as_ref() {
            "publish" => Command::Publish(self.publish(None, scanner)?),
            "chat_message" => Command::Publish(self.publish(Some("chat_message"), scanner)?),
            "chat_message_chunk" => Command::Publish(self.publish(Some("chat_message_chunk"), scanner)?),
            "agent_status_update" => Command::Publish(self.publish(Some("agent_status_update"), scanner)?),
            "user_typing" => Command::Publish(self.publish(Some("user_typing"), scanner)?),
            "subscribe" => Command::Subscribe(self.subscribe()?),
            "unsubscribe" => Command::Unsubscribe { channels: self.needed_channels()? },
            "ping" | "connection_heartbeat" => Command::Ping,
            "pong" => Command::Pong,
            "ack" => Command::Ack { channel: self.needed_text(Key::Channel)?, position: self.position()? },
            "batch" => self.batch()?,
            "authenticate" | "auth" => Command::Authenticate { token: self.needed_text(Key::Token)? },
            "refresh" => Command::Refresh { token: self.needed_text(Key::Token)? },
            "resume" => {
                Command::Resume { token: self.needed_text(Key::Token)?, positions: self.positions()? }
            }
            "query" | "command" => Command::Call(Call {
                is_command: kind == "command",
                method: self.needed_text(Key::Method)?,
                params: self.bytes(Key::Params),
            }),
            "cancel" if self.find(Key::Id).is_some() => Command::Cancel,
            "cancel" => return Err(Refused::invalid("`id` is missing: it names the call to cancel")),
            "register" => {
                let missing = Refused::invalid("`capabilities` is missing");
                Command::Register { capabilities: self.names(Key::Capabilities)?.ok_or(missing)? }
            }
            "response" => Command::Response {
                call: self.needed_text(Key::Call)?,
                result: self.bytes(Key::Result),
                error: self.bytes(Key::Error),
                partial: self.flag(Key::Partial)?.unwrap_or(false),
            },
            _ => {
                let message =
                    "unknown `type`: see the list of client messages in the protocol's section 3".into();
                return Err(Refused { code: ErrorCode::UnknownType, message });
            }
        })
    }

    fn publish(&self, event: Option<&'static str>, scanner: &'a mut Scanner) -> Result<Publish<'a>, Refused> {
        let channel = self.text(Key::Channel)?;
        let target = match (channel, self.find(Key::To)) {
            (Some(channel), None) => Target::Channel(channel),
            (None, Some(to)) if event.is_none() => Target::Participants(match to.kind {
                Kind::Array => Channels::Many(self.names(Key::To)?.unwrap_or_default()),
                _ => Channels::One(self.needed_text(Key::To)?),
            }),
            (Some(_), Some(_)) => return Err(Refused::invalid("`channel` or `to`, not both")),
            (None, _) if event.is_some() => return Err(Refused::invalid("`channel` is missing")),
            (None, _) => return Err(Refused::invalid("`channel` or `to` is missing")),
        };
        let priority = match self.text(Key::Priority)?.as_deref() {
            None => None,
            Some("critical") => Some(Priority::Critical),
            Some("high") => Some(Priority::High),
            Some("normal") => Some(Priority::Normal),
            Some("low") => Some(Priority::Low),
            Some(_) => return Err(Refused::field(Key::Priority, "critical, high, normal or low")),
        };
        Ok(Publish {
            target,
            event: match event {
                Some(event) => Some(Cow::Borrowed(event)),
                None => self.text(Key::Event)?,
            },
            priority,
            store: self.flag(Key::Store)?,
            echo: self.flag(Key::Echo)?.unwrap_or(true),
            timestamp: self.timestamp()?,
            payload: match self.bytes(Key::Payload) {
                Some(payload) => Payload::Value(payload),
                None => Payload::Members(Cow::Borrowed(self.members(scanner))),
            },
        })
    }

    /// The object of all members that are not of the envelope, each as it came.
    fn members(&self, scanner: &'a mut Scanner) -> &'a [u8] {
        let out = &mut scanner.payload;
        out.clear();
        out.push(b'{');
        for (index, (start, end)) in scanner.members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.text.as_bytes()[*start as usize..*end as usize]);
        }
        out.push(b'}');
        &scanner.payload
    }

    fn subscribe(&self) -> Result<Subscribe<'a>, Refused> {
        let events = self.names(Key::Events)?.unwrap_or_default();
        let (channels, events) = match self.channels()? {
            Some(channels) => (channels, events),
            // "without channel(s), a list of channels"
            None if !events.is_empty() => (Channels::Many(events), Vec::new()),
            None => return Err(Refused::invalid("`channel` or `channels` is missing")),
        };
        Ok(Subscribe {
            channels,
            events,
            recover: self.recover()?,
            history: self.integer(Key::History)?,
            presence: self.flag(Key::Presence)?.unwrap_or(false),
            ack: self.flag(Key::Ack)?.unwrap_or(false),
        })
    }

    fn recover(&self) -> Result<Option<Position<'a>>, Refused> {
        let Some(value) = self.find(Key::Recover) else { return Ok(None) };
        let right = || Refused::field(Key::Recover, "an object with `epoch` and `offset`");
        if value.kind != Kind::Object {
            return Err(right());
        }
        let (mut epoch, mut offset) = (None, None);
        for (key, item, kind) in members(self.raw(value)) {
            match key.as_ref() {
                "epoch" => epoch = string(item, kind),
                "offset" => offset = integer(item),
                _ => {}
            }
        }
        Ok(Some(Position { epoch: epoch.ok_or_else(right)?, offset: offset.ok_or_else(right)? }))
    }

    fn positions(&self) -> Result<Vec<(Name<'a>, Position<'a>)>, Refused> {
        let Some(value) = self.find(Key::Positions) else { return Ok(Vec::new()) };
        let right = || Refused::field(Key::Positions, "an object of channel: [epoch, offset]");
        if value.kind != Kind::Object {
            return Err(right());
        }
        let mut positions = Vec::new();
        for (channel, item, kind) in members(self.raw(value)) {
            if kind != Kind::Array {
                return Err(right());
            }
            let mut parts = items(item);
            let epoch = parts.next().and_then(|(item, kind)| string(item, kind)).ok_or_else(right)?;
            let offset = parts.next().and_then(|(item, _)| integer(item)).ok_or_else(right)?;
            positions.push((channel, Position { epoch, offset }));
        }
        Ok(positions)
    }

    fn batch(&self) -> Result<Command<'a>, Refused> {
        let right = || Refused::field(Key::Messages, "a list of at most 256 messages");
        let value = self.find(Key::Messages).filter(|value| value.kind == Kind::Array).ok_or_else(right)?;
        if items(self.raw(value)).take(BATCH_MESSAGES_MAX + 1).count() > BATCH_MESSAGES_MAX {
            return Err(right());
        }
        Ok(Command::Batch { messages: value.start..value.end })
    }
}

/// The text of a validated value, if it is a string.
fn string(raw: &str, kind: Kind) -> Option<Name<'_>> {
    (kind == Kind::Text).then(|| text::unescape(&raw[1..raw.len() - 1]))
}

/// 0 to 2^53-1, written without fraction or exponent.
fn integer(raw: &str) -> Option<u64> {
    let is_plain = raw.len() <= 16 && raw.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| raw.parse().ok())?.filter(|number| *number <= INTEGER_MAX)
}

/// The items of a validated array.
fn items(array: &str) -> impl Iterator<Item = (&str, Kind)> {
    let mut cursor = Cursor::new(array);
    cursor.at = 1;
    std::iter::from_fn(move || {
        cursor.skip_space();
        cursor.eat(b',');
        let value = cursor.value(DEPTH_MAX).ok()?;
        Some((array.get(value.start..value.end)?, value.kind))
    })
}

/// The members of a validated object.
fn members(object: &str) -> impl Iterator<Item = (Name<'_>, &str, Kind)> {
    let mut cursor = Cursor::new(object);
    cursor.at = 1;
    std::iter::from_fn(move || {
        cursor.skip_space();
        cursor.eat(b',');
        let key = cursor.value(DEPTH_MAX).ok()?;
        let name = string(object.get(key.start..key.end)?, key.kind)?;
        cursor.skip_space();
        cursor.eat(b':');
        let value = cursor.value(DEPTH_MAX).ok()?;
        Some((name, object.get(value.start..value.end)?, value.kind))
    })
}
