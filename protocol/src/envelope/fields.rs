//! The members of one message and the command that they are, whatever the encoding.
//!
//! Members are kept as spans; what is in one is read where it is needed, by the encoding's own code.

use std::borrow::Cow;

use crate::ErrorCode;
use crate::envelope::command::{
    Call, Channels, Command, Name, Payload, Position, Priority, Publish, RequestId, Subscribe, Target,
};
use crate::envelope::key::Key;
use crate::envelope::name::NAME_BYTES_MAX;
use crate::envelope::parse::{BATCH_MESSAGES_MAX, NAMES_MAX, Refused};
use crate::envelope::value::{Fault, Kind, Value};
use crate::envelope::{Format, time};

/// Types that stand for a publish with the event of this name.
const SHORT_FORMS: [&str; 4] = ["chat_message", "chat_message_chunk", "agent_status_update", "user_typing"];

/// A message, or a validated value in one, in the encoding that its type stands for.
pub(super) trait Source<'a>: Copy {
    /// The encoding.
    const FORMAT: Format;

    /// The one pass: validates everything and notes where the members of the envelope lie.
    fn scan(self, depth_max: usize, seen: &mut Seen<'_>) -> Result<(), Fault>;

    /// All its bytes.
    fn bytes(self) -> &'a [u8];

    /// A value in it.
    fn part(self, value: Value) -> Self;

    /// What a value says, if it is a string.
    fn string(self, value: Value) -> Option<Name<'a>>;

    /// What a value says, if it is an integer from 0 to 2^53-1.
    fn integer(self, value: Value) -> Option<u64>;

    /// What a value says, if it is a request id.
    fn id(self, value: Value) -> Option<RequestId<'a>>;

    /// The items of an array.
    fn items(self) -> impl Iterator<Item = Value>;

    /// The members of an object.
    fn members(self) -> impl Iterator<Item = (Name<'a>, Value)>;

    /// Writes an object of members, each from the first byte of its key to behind its value.
    fn join(self, members: &[(usize, usize)], out: &mut Vec<u8>);
}

/// Bytes of an idempotency key at most.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Messages per second that `max_rate` may ask for at most.
const MAX_RATE_MAX: u64 = 1000;

/// What a `subscribe` may ask for by the wire contract, and nobody acts on yet.
const UNSUPPORTED: [&str; 3] = ["filter", "delta", "group"];

/// What few publishes say.
struct Options<'a> {
    priority: Option<Priority>,
    store: Option<bool>,
    echo: bool,
    timestamp: Option<u64>,
    idempotency_key: Option<Name<'a>>,
    receipt: bool,
}

impl Options<'_> {
    /// Where none of these is there, none needs to be looked for.
    const KEYS: u64 = Key::Priority.bit()
        | Key::Store.bit()
        | Key::Echo.bit()
        | Key::Timestamp.bit()
        | Key::IdempotencyKey.bit()
        | Key::Receipt.bit();

    const NONE: Self = Self {
        priority: None,
        store: None,
        echo: true,
        timestamp: None,
        idempotency_key: None,
        receipt: false,
    };
}

/// Where the members of one message lie.
pub(super) struct Seen<'a> {
    pub(super) values: &'a mut [Value; Key::ALL.len() + 1],
    /// A bit for each key that the message has.
    pub(super) found: u64,
    /// And for each that it has more than once.
    pub(super) repeated: u64,
    /// The spans of members that would be payload if there were none.
    pub(super) members: &'a mut Vec<(usize, usize)>,
}

impl Seen<'_> {
    /// A member whose key begins at `start`.
    #[inline(always)]
    pub(super) fn note(&mut self, key: Key, start: usize, value: Value) {
        if key.bit() & Key::OF_PUBLISH == 0 {
            self.members.push((start, value.end));
        }
        self.repeated |= self.found & key.bit();
        self.found |= key.bit();
        self.values[key as usize] = value;
    }
}

/// The members of one message.
pub(super) struct Fields<'a, S> {
    pub(super) source: S,
    pub(super) seen: Seen<'a>,
}

impl<'a, S: Source<'a>> Fields<'a, S> {
    /// Whether each key of the envelope is there once at most.
    #[inline(always)]
    pub(super) fn check_repeated(&self) -> Result<(), Refused> {
        if self.seen.repeated & !Key::Unknown.bit() != 0 { Err(self.duplicate()) } else { Ok(()) }
    }

    #[cold]
    fn duplicate(&self) -> Refused {
        let twice = Key::ALL.iter().find(|key| self.seen.repeated & key.bit() != 0);
        Refused::invalid(format!("`{}` is there twice", twice.map_or("", |key| key.name())))
    }

    fn has(&self, key: Key) -> bool {
        self.seen.found & key.bit() != 0
    }

    /// The member, unless it is absent or null.
    #[inline(always)]
    fn find(&self, key: Key) -> Option<Value> {
        let value = self.seen.values[key as usize];
        (self.has(key) && value.kind != Kind::Null).then_some(value)
    }

    fn bytes(&self, key: Key) -> Option<&'a [u8]> {
        let value = self.seen.values[key as usize];
        self.has(key).then(|| &self.source.bytes()[value.start..value.end])
    }

    #[inline(always)]
    pub(super) fn id(&self) -> Result<Option<RequestId<'a>>, Refused> {
        let Some(value) = self.find(Key::Id) else { return Ok(None) };
        let right = || Refused::field(Key::Id, "a string of 1 to 64 bytes or an integer from 0 to 2^53-1");
        self.source.id(value).map(Some).ok_or_else(right)
    }

    #[inline(always)]
    fn text(&self, key: Key) -> Result<Option<Name<'a>>, Refused> {
        match self.find(key) {
            None => Ok(None),
            Some(value) => self.source.string(value).map(Some).ok_or_else(|| Refused::field(key, "a string")),
        }
    }

    #[inline(always)]
    pub(super) fn needed_text(&self, key: Key) -> Result<Name<'a>, Refused> {
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
            Some(value) => self
                .source
                .integer(value)
                .map(Some)
                .ok_or_else(|| Refused::field(key, "an integer from 0 to 2^53-1")),
        }
    }

    fn timestamp(&self) -> Result<Option<u64>, Refused> {
        let Some(value) = self.find(Key::Timestamp) else { return Ok(None) };
        let parsed = match value.kind {
            Kind::Text | Kind::EscapedText => {
                self.source.string(value).and_then(|text| time::parse_iso(&text))
            }
            _ => self.source.integer(value),
        };
        let right = "milliseconds since the Unix epoch or an ISO 8601 time";
        parsed.map(Some).ok_or_else(|| Refused::field(Key::Timestamp, right))
    }

    /// One more than may be there at most: whoever acts on them refuses that many, and never sees the rest.
    fn names(&self, key: Key) -> Result<Option<Vec<Name<'a>>>, Refused> {
        let Some(value) = self.find(key) else { return Ok(None) };
        let right = || Refused::field(key, "a list of strings");
        if value.kind != Kind::Array {
            return Err(right());
        }
        let mut names = Vec::new();
        let array = self.source.part(value);
        for item in array.items().take(NAMES_MAX + 1) {
            names.push(array.string(item).ok_or_else(right)?);
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

    pub(super) fn other_command(&self, kind: &str, payload: &'a mut Vec<u8>) -> Result<Command<'a>, Refused> {
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
                format: S::FORMAT,
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
                format: S::FORMAT,
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
    pub(super) fn publish(
        &self,
        event: Option<&'static str>,
        payload: &'a mut Vec<u8>,
    ) -> Result<Publish<'a>, Refused> {
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
        let options = match self.seen.found & Options::KEYS {
            0 => Options::NONE,
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
            format: S::FORMAT,
            priority: options.priority,
            store: options.store,
            echo: options.echo,
            timestamp: options.timestamp,
            idempotency_key: options.idempotency_key,
            receipt: options.receipt,
            payload: match self.bytes(Key::Payload) {
                Some(payload) => Payload::Value(payload),
                None => Payload::Members(Cow::Borrowed(self.members(payload))),
            },
        })
    }

    fn options(&self) -> Result<Options<'a>, Refused> {
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
            idempotency_key: self.idempotency_key()?,
            receipt: self.flag(Key::Receipt)?.unwrap_or(false),
        })
    }

    fn idempotency_key(&self) -> Result<Option<Name<'a>>, Refused> {
        let Some(value) = self.find(Key::IdempotencyKey) else { return Ok(None) };
        match self.source.string(value) {
            Some(key) if (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key)),
            _ => Err(Refused::field(Key::IdempotencyKey, "a string of 1 to 128 bytes")),
        }
    }

    /// The object of all members that are not of the envelope, each as it came.
    fn members(&self, out: &'a mut Vec<u8>) -> &'a [u8] {
        out.clear();
        self.source.join(self.seen.members, out);
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
            max_rate: self.max_rate()?,
            unsupported: self.unsupported(),
        })
    }

    /// A member that asks for what nobody acts on: `null` and `false` don't. Looked for only here, so that no other message
    /// is compared with these names.
    fn unsupported(&self) -> Option<&'static str> {
        if !self.has(Key::Unknown) {
            return None;
        }
        let mut asked =
            self.source.members().filter(|(_, value)| !matches!(value.kind, Kind::Null | Kind::False));
        asked.find_map(|(name, _)| UNSUPPORTED.into_iter().find(|it| **it == *name))
    }

    fn max_rate(&self) -> Result<Option<u32>, Refused> {
        let Some(value) = self.find(Key::MaxRate) else { return Ok(None) };
        match self.source.integer(value) {
            Some(rate @ 1..=MAX_RATE_MAX) => Ok(Some(rate as u32)),
            _ => Err(Refused::field(Key::MaxRate, "an integer from 1 to 1000, in messages per second")),
        }
    }

    fn recover(&self) -> Result<Option<Position<'a>>, Refused> {
        let Some(value) = self.find(Key::Recover) else { return Ok(None) };
        let right = || Refused::field(Key::Recover, "an object with `epoch` and `offset`");
        position_of(self.source, value).map(Some).ok_or_else(right)
    }

    fn positions(&self) -> Result<Vec<(Name<'a>, Position<'a>)>, Refused> {
        let Some(value) = self.find(Key::Positions) else { return Ok(Vec::new()) };
        let right =
            || Refused::field(Key::Positions, "an object of channel: [epoch, offset], of 256 at most");
        if value.kind != Kind::Object {
            return Err(right());
        }
        let mut positions = Vec::new();
        let object = self.source.part(value);
        for (channel, item) in object.members() {
            if item.kind != Kind::Array || positions.len() == NAMES_MAX {
                return Err(right());
            }
            let array = object.part(item);
            let mut parts = array.items();
            let epoch = parts.next().and_then(|part| array.string(part)).ok_or_else(right)?;
            let offset = parts.next().and_then(|part| array.integer(part)).ok_or_else(right)?;
            positions.push((channel, Position { epoch, offset }));
        }
        Ok(positions)
    }

    fn batch(&self) -> Result<Command<'a>, Refused> {
        let right = || Refused::field(Key::Messages, "a list of at most 256 messages");
        let value = self.find(Key::Messages).filter(|value| value.kind == Kind::Array).ok_or_else(right)?;
        if self.source.part(value).items().take(BATCH_MESSAGES_MAX + 1).count() > BATCH_MESSAGES_MAX {
            return Err(right());
        }
        Ok(Command::Batch { messages: value.start..value.end })
    }
}

/// A place in a channel's history, written as an object with `epoch` and `offset`.
pub(super) fn position_of<'a, S: Source<'a>>(source: S, value: Value) -> Option<Position<'a>> {
    if value.kind != Kind::Object {
        return None;
    }
    let (mut epoch, mut offset) = (None, None);
    let object = source.part(value);
    for (key, item) in object.members() {
        match key.as_ref() {
            "epoch" => epoch = object.string(item),
            "offset" => offset = object.integer(item),
            _ => {}
        }
    }
    Some(Position { epoch: epoch?, offset: offset? })
}
