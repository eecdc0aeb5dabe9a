//! JSON text to commands: one validating pass over the whole message, then the few members that matter.
//!
//! Members are kept as spans; names are unescaped only where they hold escapes. A publish allocates nothing.

use std::borrow::Cow;

use crate::ErrorCode;
use crate::envelope::command::{
    Call, Channels, Command, Name, OwnedRequestId, Payload, Position, Priority, Publish, Request, RequestId,
    Subscribe, Target,
};
use crate::envelope::key::Key;
use crate::envelope::name::NAME_BYTES_MAX;
use crate::envelope::scan::{Cursor, DEPTH_MAX, Fault, Kind, Problem, Value};
use crate::envelope::{Format, text, time};

/// Messages of one `batch` at most.
pub const BATCH_MESSAGES_MAX: usize = 256;

/// Bytes of a request id that is a string, at most.
const ID_BYTES_MAX: usize = 64;

/// The largest integer of the wire: 2^53-1.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Types that stand for a publish with the event of this name.
const SHORT_FORMS: [&str; 4] = ["chat_message", "chat_message_chunk", "agent_status_update", "user_typing"];

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
}

/// Understands one message from a client.
///
/// # Errors
/// `INVALID_JSON`, `INVALID_MESSAGE` or `UNKNOWN_TYPE`.
pub fn parse<'a>(text: &'a str, scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
    let Scanner { depth_max, values, members, payload } = scanner;
    members.clear();
    let mut fields = Fields { text, values, found: 0, repeated: 0, members };
    let scanned = fields.scan(*depth_max);
    let id = match (scanned, fields.id()) {
        (Ok(()), Ok(id)) => id,
        // An id that can't be read must not hide what else is wrong.
        (Err(fault), id) => return Err(Refused::from(fault).with_id(id.unwrap_or(None))),
        (Ok(()), Err(refused)) => return Err(refused.with_id(None)),
    };
    if fields.repeated & !Key::Unknown.bit() != 0 {
        return Err(fields.duplicate().with_id(id));
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

/// The messages of a validated batch, in order.
pub fn batch_messages(array: &str) -> impl Iterator<Item = &str> {
    let mut cursor = Cursor::new(array);
    cursor.eat(b'[');
    std::iter::from_fn(move || {
        cursor.token();
        cursor.eat(b',');
        let value = cursor.value(DEPTH_MAX).ok()?;
        array.get(value.start..value.end)
    })
}

/// A rejection before it knows the request's id. Boxed: it is rare, and what is returned instead of it stays small.
#[derive(Debug)]
struct Refused(Box<(ErrorCode, Cow<'static, str>)>);

impl Refused {
    #[cold]
    fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new((code, message.into())))
    }

    #[cold]
    fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidMessage, message)
    }

    #[cold]
    fn field(key: Key, right: &str) -> Self {
        Self::invalid(format!("`{}` must be {right}", key.name()))
    }

    #[cold]
    fn with_id(self, id: Option<RequestId<'_>>) -> Rejection {
        let id = id.map(RequestId::to_owned);
        let (code, message) = *self.0;
        Rejection { id, code, message }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        match fault.what {
            Problem::Expected(what) => {
                let message = format!("not JSON at byte {}: expected {what}", fault.at);
                Self::new(ErrorCode::InvalidJson, message)
            }
            Problem::NoObject => Self::invalid("a message is an object with a `type`"),
            Problem::TooDeep => {
                Self::invalid(format!("nested too deep at byte {} (limits.json_depth)", fault.at))
            }
        }
    }
}

/// What few publishes say.
struct Options {
    priority: Option<Priority>,
    store: Option<bool>,
    echo: bool,
    timestamp: Option<u64>,
}

impl Options {
    /// Where none of these is there, none needs to be looked for.
    const KEYS: u64 = Key::Priority.bit() | Key::Store.bit() | Key::Echo.bit() | Key::Timestamp.bit();
}

/// The members of one message, as spans.
struct Fields<'a> {
    text: &'a str,
    values: &'a mut [Value; Key::ALL.len() + 1],
    /// A bit for each key that the message has.
    found: u64,
    /// And for each that it has more than once.
    repeated: u64,
    members: &'a mut Vec<(usize, usize)>,
}

impl<'a> Fields<'a> {
    /// The one pass: validates everything and notes where the members lie.
    #[inline(always)]
    fn scan(&mut self, depth_max: usize) -> Result<(), Fault> {
        let mut cursor = Cursor::new(self.text);
        if cursor.token() != b'{' {
            cursor.value(depth_max)?;
            cursor.finish()?;
            return Err(Fault { at: 0, what: Problem::NoObject });
        }
        cursor.eat(b'{');
        if cursor.token() != b'}' {
            loop {
                let name = cursor.key()?;
                let key = match name.has_escapes {
                    false => Key::find(name.bytes),
                    true => Key::find_escaped(name.of(self.text)),
                };
                let value = cursor.value(depth_max - 1)?;
                if key.bit() & Key::OF_PUBLISH == 0 {
                    self.members.push((name.start, value.end));
                }
                self.repeated |= self.found & key.bit();
                self.found |= key.bit();
                self.values[key as usize] = value;
                if !cursor.take(b',') {
                    break;
                }
            }
        }
        if !cursor.eat(b'}') {
            return cursor.fault("a comma or the end of an object");
        }
        cursor.finish()
    }

    #[cold]
    fn duplicate(&self) -> Refused {
        let twice = Key::ALL.iter().find(|key| self.repeated & key.bit() != 0);
        Refused::invalid(format!("`{}` is there twice", twice.map_or("", |key| key.name())))
    }

    fn has(&self, key: Key) -> bool {
        self.found & key.bit() != 0
    }

    /// The member, unless it is absent or null.
    #[inline(always)]
    fn find(&self, key: Key) -> Option<Value> {
        let value = self.values[key as usize];
        (self.has(key) && value.kind != Kind::Null).then_some(value)
    }

    fn raw(&self, value: Value) -> &'a str {
        &self.text[value.start..value.end]
    }

    fn bytes(&self, key: Key) -> Option<&'a [u8]> {
        let value = self.values[key as usize];
        self.has(key).then(|| &self.text.as_bytes()[value.start..value.end])
    }

    #[inline(always)]
    fn id(&self) -> Result<Option<RequestId<'a>>, Refused> {
        let Some(value) = self.find(Key::Id) else { return Ok(None) };
        let right = || Refused::field(Key::Id, "a string of 1 to 64 bytes or an integer from 0 to 2^53-1");
        match value.kind {
            Kind::Text | Kind::EscapedText => {
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

    #[inline(always)]
    fn text(&self, key: Key) -> Result<Option<Name<'a>>, Refused> {
        match self.find(key) {
            None => Ok(None),
            Some(value) => string(self.text, value).map(Some).ok_or_else(|| Refused::field(key, "a string")),
        }
    }

    #[inline(always)]
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
            Kind::Text | Kind::EscapedText => {
                time::parse_iso(&text::unescape(&self.text[value.start + 1..value.end - 1]))
            }
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
        let array = self.raw(value);
        for item in items(array) {
            names.push(string(array, item).ok_or_else(right)?);
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
        self.channels()?.ok_or_else(|| Refused::invalid("`channel` or `channels` is missing"))
    }

    fn position(&self) -> Result<Position<'a>, Refused> {
        let offset = self.integer(Key::Offset)?.ok_or_else(|| Refused::invalid("`offset` is missing"))?;
        Ok(Position { epoch: self.needed_text(Key::Epoch)?, offset })
    }

    fn other_command(&self, kind: &str, payload: &'a mut Vec<u8>) -> Result<Command<'a>, Refused> {
        if let Some(event) = SHORT_FORMS.into_iter().find(|it| *it == kind) {
            return Ok(Command::Publish(self.publish(Some(event), payload)?));
        }
        Ok(match kind {
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
                format: Format::Json,
                params: self.bytes(Key::Params),
            }),
            "cancel" if self.find(Key::Id).is_some() => Command::Cancel,
            "cancel" => return Err(Refused::invalid("`id` is missing: it names the call to cancel")),
            "register" => {
                let missing = || Refused::invalid("`capabilities` is missing");
                Command::Register { capabilities: self.names(Key::Capabilities)?.ok_or_else(missing)? }
            }
            "response" => Command::Response {
                call: self.needed_text(Key::Call)?,
                format: Format::Json,
                result: self.bytes(Key::Result),
                error: self.bytes(Key::Error),
                partial: self.flag(Key::Partial)?.unwrap_or(false),
            },
            _ => {
                let message = "unknown `type`: see the list of client messages in the protocol's section 3";
                return Err(Refused::new(ErrorCode::UnknownType, message));
            }
        })
    }

    #[inline(always)]
    fn publish(&self, event: Option<&'static str>, payload: &'a mut Vec<u8>) -> Result<Publish<'a>, Refused> {
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
        let options = match self.found & Options::KEYS {
            0 => Options { priority: None, store: None, echo: true, timestamp: None },
            _ => self.options()?,
        };
        let event = match event {
            Some(event) => Some(Cow::Borrowed(event)),
            None => self.text(Key::Event)?,
        };
        if event.as_ref().is_some_and(|event| event.len() > NAME_BYTES_MAX) {
            return Err(Refused::field(Key::Event, "a string of at most 255 bytes"));
        }
        Ok(Publish {
            target,
            event,
            format: Format::Json,
            priority: options.priority,
            store: options.store,
            echo: options.echo,
            timestamp: options.timestamp,
            payload: match self.bytes(Key::Payload) {
                Some(payload) => Payload::Value(payload),
                None => Payload::Members(Cow::Borrowed(self.members(payload))),
            },
        })
    }

    fn options(&self) -> Result<Options, Refused> {
        let priority = match self.text(Key::Priority)?.as_deref() {
            None => None,
            Some("critical") => Some(Priority::Critical),
            Some("high") => Some(Priority::High),
            Some("normal") => Some(Priority::Normal),
            Some("low") => Some(Priority::Low),
            Some(_) => return Err(Refused::field(Key::Priority, "critical, high, normal or low")),
        };
        Ok(Options {
            priority,
            store: self.flag(Key::Store)?,
            echo: self.flag(Key::Echo)?.unwrap_or(true),
            timestamp: self.timestamp()?,
        })
    }

    /// The object of all members that are not of the envelope, each as it came.
    fn members(&self, out: &'a mut Vec<u8>) -> &'a [u8] {
        out.clear();
        out.push(b'{');
        for (index, (start, end)) in self.members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.text.as_bytes()[*start..*end]);
        }
        out.push(b'}');
        out
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
        let object = self.raw(value);
        for (key, item) in members(object) {
            match key.as_ref() {
                "epoch" => epoch = string(object, item),
                "offset" => offset = integer(&object[item.start..item.end]),
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
        let object = self.raw(value);
        for (channel, item) in members(object) {
            if item.kind != Kind::Array {
                return Err(right());
            }
            let array = &object[item.start..item.end];
            let mut parts = items(array);
            let epoch = parts.next().and_then(|part| string(array, part)).ok_or_else(right)?;
            let offset = parts.next().and_then(|it| integer(&array[it.start..it.end])).ok_or_else(right)?;
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

/// What a validated value of `text` says, if it is a string.
#[inline(always)]
fn string(text: &str, value: Value) -> Option<Name<'_>> {
    let has_escapes = match value.kind {
        Kind::Text => false,
        Kind::EscapedText => true,
        _ => return None,
    };
    Some(unescaped(&text[value.start + 1..value.end - 1], has_escapes))
}

fn unescaped(contents: &str, has_escapes: bool) -> Name<'_> {
    if has_escapes { text::unescape(contents) } else { Cow::Borrowed(contents) }
}

/// 0 to 2^53-1, written without fraction or exponent.
fn integer(raw: &str) -> Option<u64> {
    let is_plain = raw.len() <= 16 && raw.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| raw.parse().ok())?.filter(|number| *number <= INTEGER_MAX)
}

/// The items of a validated array.
fn items(array: &str) -> impl Iterator<Item = Value> {
    let mut cursor = Cursor::new(array);
    cursor.eat(b'[');
    std::iter::from_fn(move || {
        cursor.token();
        cursor.eat(b',');
        cursor.value(DEPTH_MAX).ok()
    })
}

/// The members of a validated object.
fn members(object: &str) -> impl Iterator<Item = (Name<'_>, Value)> {
    let mut cursor = Cursor::new(object);
    cursor.eat(b'{');
    std::iter::from_fn(move || {
        cursor.token();
        cursor.eat(b',');
        let key = cursor.key().ok()?;
        let name = unescaped(key.of(object), key.has_escapes);
        Some((name, cursor.value(DEPTH_MAX).ok()?))
    })
}
