//! What a client asks for, as borrowed from the message it came in.
//!
//! Pure data: the scanner fills it, the hub reads it. Nothing here knows an encoding, beyond that a payload is a
//! span of validated bytes in the encoding of its message.

use std::borrow::Cow;

use crate::envelope::Format;

/// A client's request id, echoed in the reply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestId<'a> {
    /// A string of 1 to 64 bytes, here as JSON string contents, still escaped as they came (384 bytes at most):
    /// echoed byte for byte in JSON.
    Text(&'a str),
    /// The same as it came in MessagePack, where nothing is escaped.
    Plain(&'a str),
    /// 0 to 2^53-1.
    Number(u64),
}

impl RequestId<'_> {
    /// A copy that outlives the message.
    pub fn to_owned(self) -> OwnedRequestId {
        match self {
            Self::Text(contents) => OwnedRequestId::Text(contents.into()),
            Self::Plain(text) => OwnedRequestId::Plain(text.into()),
            Self::Number(number) => OwnedRequestId::Number(number),
        }
    }
}

/// A [`RequestId`] that outlives its message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum OwnedRequestId {
    /// [`RequestId::Text`].
    Text(Box<str>),
    /// [`RequestId::Plain`].
    Plain(Box<str>),
    /// [`RequestId::Number`].
    Number(u64),
}

impl OwnedRequestId {
    /// As it is written.
    pub fn as_id(&self) -> RequestId<'_> {
        match self {
            Self::Text(contents) => RequestId::Text(contents),
            Self::Plain(text) => RequestId::Plain(text),
            Self::Number(number) => RequestId::Number(*number),
        }
    }
}

/// One command with its request id.
#[derive(Clone, PartialEq, Debug)]
pub struct Request<'a> {
    /// Echoed in the reply, if there is one.
    pub id: Option<RequestId<'a>>,
    /// What is asked.
    pub command: Command<'a>,
}

/// A name that rarely needs unescaping: borrowed unless it was a JSON string that held an escape.
pub type Name<'a> = Cow<'a, str>;

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Command<'a> {
    /// `authenticate`.
    Authenticate {
        /// The token.
        token: Name<'a>,
    },
    /// `refresh`.
    Refresh {
        /// The new token.
        token: Name<'a>,
    },
    /// `resume`.
    Resume {
        /// The resume token.
        token: Name<'a>,
        /// Per channel the epoch and the offset of the last message seen.
        positions: Vec<(Name<'a>, Position<'a>)>,
    },
    /// `subscribe`.
    Subscribe(Subscribe<'a>),
    /// `unsubscribe`.
    Unsubscribe {
        /// Channels and patterns.
        channels: Channels<'a>,
    },
    /// `publish` and its short forms.
    Publish(Publish<'a>),
    /// `ack`.
    Ack {
        /// The channel, or `@me`.
        channel: Name<'a>,
        /// Up to where.
        position: Position<'a>,
    },
    /// `ping`.
    Ping,
    /// `pong`.
    Pong,
    /// `batch`: the span of each message, to be parsed and applied one by one, in order.
    Batch {
        /// Where in the message a validated array of at most 256 values lies.
        messages: std::ops::Range<usize>,
    },
    /// `query`, `command`: a call to the hub or to an agent.
    Call(Call<'a>),
    /// `cancel`: the request `id` names the open call.
    Cancel,
    /// `register`.
    Register {
        /// What this agent can do.
        capabilities: Vec<Name<'a>>,
    },
    /// `response` to a call.
    Response {
        /// The call's id, as the hub named it.
        call: Name<'a>,
        /// The encoding of both spans.
        format: Format,
        /// The span of `result`, where there is one.
        result: Option<&'a [u8]>,
        /// The span of `error`, where there is one.
        error: Option<&'a [u8]>,
        /// Whether more follows.
        partial: bool,
    },
}

/// One or several names, without an allocation for one.
#[derive(Clone, PartialEq, Debug)]
pub enum Channels<'a> {
    /// `channel`.
    One(Name<'a>),
    /// `channels`.
    Many(Vec<Name<'a>>),
}

impl<'a> Channels<'a> {
    /// All of them, in order.
    pub fn as_slice(&self) -> &[Name<'a>] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// A place in a channel's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position<'a> {
    /// Opaque, at most 32 bytes.
    pub epoch: Name<'a>,
    /// 0 to 2^53-1.
    pub offset: u64,
}

/// `subscribe`.
#[derive(Clone, PartialEq, Debug)]
pub struct Subscribe<'a> {
    /// Channels; a `*` at the end is a prefix.
    pub channels: Channels<'a>,
    /// Only these event names; empty for all.
    pub events: Vec<Name<'a>>,
    /// Where to go on.
    pub recover: Option<Position<'a>>,
    /// How many of the latest messages to send first.
    pub history: Option<u64>,
    /// Whether joins and leaves are wanted.
    pub presence: bool,
    /// Whether this subscriber acknowledges.
    pub ack: bool,
    /// Messages per second at most, 1 to 1000; `None` for all.
    pub max_rate: Option<u32>,
    /// What else it asks for by a field that is understood and that nobody acts on yet: `filter`, `delta` or `group`.
    pub unsupported: Option<&'static str>,
}

/// `publish` and its short forms.
#[derive(Clone, PartialEq, Debug)]
pub struct Publish<'a> {
    /// Where to.
    pub target: Target<'a>,
    /// The event's name.
    pub event: Option<Name<'a>>,
    /// The encoding of the payload.
    pub format: Format,
    /// What is published.
    pub payload: Payload<'a>,
    /// How urgent it is; `None` for the namespace's default.
    pub priority: Option<Priority>,
    /// `store`: `None` for what the namespace does.
    pub store: Option<bool>,
    /// Whether the publisher wants his own message too.
    pub echo: bool,
    /// The publisher's time, in milliseconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// What makes a repetition known as one: 1 to 128 bytes.
    pub idempotency_key: Option<Name<'a>>,
    /// Whether the publisher wants to know how many got it.
    pub receipt: bool,
}

/// Where a publish goes.
#[derive(Clone, PartialEq, Debug)]
pub enum Target<'a> {
    /// A channel.
    Channel(Name<'a>),
    /// Participants, or groups as `group:NAME`.
    Participants(Channels<'a>),
}

/// What is published: a span of the message, or what was left of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Payload<'a> {
    /// The value of `payload`, byte for byte.
    Value(&'a [u8]),
    /// No `payload`: the object of all members that are not of the envelope, here as it is to be sent.
    Members(Cow<'a, [u8]>),
}

impl Payload<'_> {
    /// The payload as it is to be sent.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Value(bytes) => bytes,
            Self::Members(bytes) => bytes,
        }
    }
}

/// Orders channels and direct messages against each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    /// `low`.
    Low,
    /// `normal`.
    #[default]
    Normal,
    /// `high`.
    High,
    /// `critical`.
    Critical,
}

/// `query` or `command`.
#[derive(Clone, PartialEq, Debug)]
pub struct Call<'a> {
    /// Whether it was a `command`.
    pub is_command: bool,
    /// What is called.
    pub method: Name<'a>,
    /// The encoding of the span.
    pub format: Format,
    /// The span of `params`, where there is one.
    pub params: Option<&'a [u8]>,
}
