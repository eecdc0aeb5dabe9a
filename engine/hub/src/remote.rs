//! Records between the hubs of a node: what a home is asked and what it answers, as bytes.
//!
//! Records come from this program alone, so a malformed one is our defect: [`Malformed`], which the hub asserts in
//! debug builds and counts in others, because one bad record is no reason to end everybody's connections.

use std::net::IpAddr;

use corecast_protocol::envelope::command::{Priority, RequestId};
use corecast_protocol::envelope::event::Seams;

use crate::effect::{ConnKey, Tracking};
use crate::format::{Format, Formats, PerFormat};
use crate::session::{Token, Tokens};

mod inbox;
mod presence;
mod read;
mod write;

pub use inbox::{InboxAnswer, InboxAsk, Reader};
pub use presence::{Changed, MembersPage, Missed, Names, PresenceAsk};

/// Stands for no priority in a record.
const PRIORITY_NONE: u8 = 9;

/// A publish on its way to the channel's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published<'a> {
    /// The publishing connection.
    pub conn: ConnKey,
    /// Whom the answer is for; without one nothing is answered.
    pub id: Option<RequestId<'a>>,
    /// The channel, or the participant of a direct message.
    pub target: &'a str,
    /// Of `target`, so that no shard on the way computes it again.
    pub hash: u64,
    /// Where the publisher's shard has the channel, if it has: of no use to others, and so not in the record.
    pub slot: Option<u32>,
    /// Number of the channel's namespace; 0 for a direct message, which has none.
    pub rule: u16,
    /// The event's name.
    pub event: Option<&'a str>,
    /// Of `payload`.
    pub format: Format,
    /// A validated value.
    pub payload: &'a [u8],
    /// Who publishes.
    pub publisher: &'a str,
    /// As the publisher named it.
    pub priority: Option<Priority>,
    /// Whether it gets no offset of its own.
    pub is_ephemeral: bool,
    /// Whether it is to be kept for a participant who is away.
    pub is_stored: bool,
    /// Whether the publishing connection gets it too.
    pub echoes: bool,
    /// Whether the publisher wants to know what becomes of it.
    pub wants_receipt: bool,
    /// Makes a repetition known as one.
    pub idempotency_key: Option<&'a str>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
}

/// To a home.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToHome<'a> {
    /// A connection wants a channel, and perhaps some of its past.
    Subscribe {
        conn: ConnKey,
        serial: u32,
        channel: &'a str,
        id: Option<RequestId<'a>>,
        format: Format,
        past: Past,
    },
    /// A connection wants all channels with a prefix; every home is asked.
    SubscribePattern {
        conn: ConnKey,
        serial: u32,
        prefix: &'a str,
        id: Option<RequestId<'a>>,
        format: Format,
    },
    /// The shard has no subscriber of the channel left who is sent these.
    Leave { channel: &'a str, formats: Formats },
    /// The shard has no subscriber of the pattern left who is sent these.
    LeavePattern { prefix: &'a str, formats: Formats },
    /// A publish to a channel.
    Publish(Published<'a>),
    /// A publish to a participant.
    Direct(Published<'a>),
    /// May one more connection come from this address?
    AdmitIp { conn: ConnKey, ip: IpAddr },
    /// One connection of this address less.
    ReleaseIp { ip: IpAddr },
    /// May this participant have one more connection?
    AdmitParticipant {
        conn: ConnKey,
        participant: &'a str,
        format: Format,
        /// What the handshake presents.
        presented: Option<Token>,
    },
    /// One connection of this participant less.
    ReleaseParticipant { participant: &'a str, format: Format },
    /// A subscription that is catching up wants what follows this position.
    Fetch {
        conn: ConnKey,
        serial: u32,
        channel: &'a str,
        format: Format,
        epoch: Epoch,
        after: u64,
        /// Messages at most.
        limit: u32,
    },
    /// A connection asks what is kept of a channel.
    History { conn: ConnKey, id: Option<RequestId<'a>>, channel: &'a str, format: Format, extent: Extent },
    /// What became of the copies of a message on this shard, told once.
    Report { serial: u64, count: Count },
    /// A participant has so many subscriptions to the channel on the shard, and had so many when this was told last.
    Present { channel: &'a str, participant: &'a str, before: u32, connections: u32 },
    /// Nobody on the shard wants to hear of the channel's members any more.
    Unwatch { channel: &'a str },
    /// A connection in which a session goes on, so long after it was lost, asks what it missed of the channel's members.
    Missed { conn: ConnKey, channel: &'a str, away_ms: Option<u32> },
    /// A connection asks who is in the channel.
    Presence { conn: ConnKey, id: Option<RequestId<'a>>, channel: &'a str, ask: PresenceAsk<'a> },
    /// A connection asks for the session of a token, in place of its own.
    Resume { conn: ConnKey, participant: &'a str, token: Token, own: Token },
    /// The shard has let go of the session that this connection had, or does not have it any more.
    Released { participant: &'a str, session: ConnKey, handed: Option<Moved<'a>> },
    /// To be answered behind all that came before it.
    Fence { number: u32 },
    /// A session is over.
    SessionEnded { participant: &'a str, tokens: Tokens },
    /// The client of a session has a later token.
    TokenUsedUp { token: Token },
    /// A participant's inbox is asked for something.
    Inbox(InboxAsk<'a>),
}

/// What a subscriber wants of a channel's past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Past {
    /// Everything behind a position; `Some(None)` if what the client named can't be one of ours.
    pub position: Option<Option<(Epoch, u64)>>,
    /// Otherwise so many of the latest messages.
    pub latest: u32,
    /// Whether messages come with the answer; without, they are all fetched later.
    pub is_carried: bool,
    /// Whether nothing may come before the subscriber asks for it: it stays behind, whatever there is.
    pub is_held: bool,
    /// Whether the subscriber also wants to hear who comes and goes: asked for with the same request.
    pub is_watching: bool,
    /// Whether the subscriber acknowledges: of no use to the home, and so not in the record.
    pub wants_ack: bool,
}

impl Past {
    /// Whether there is anything that is wanted of it.
    pub fn is_wanted(&self) -> bool {
        self.position.is_some() || self.latest > 0
    }
}

/// Which part of a history is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Messages at most.
    pub limit: u32,
    /// From where on; `Some(None)` if what the client named can't be a position of ours.
    pub since: Option<Option<(Epoch, u64)>>,
    /// From the newest to the oldest.
    pub is_backward: bool,
}

/// A part of a channel's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page<'a> {
    /// Of the channel, now.
    pub epoch: Epoch,
    /// Where a subscriber is who has read the page.
    pub offset: u64,
    /// Whether the epoch begins here, and who was subscribed before was not told so yet.
    pub is_reborn: bool,
    /// Whether a part of the past was asked for.
    pub is_past: bool,
    /// Whether nothing is missing between the position that was named and this page.
    pub is_recovered: bool,
    /// Whether everything behind the page will come as it is published.
    pub is_live: bool,
    /// Whether the rest is not fetched before the subscriber says so.
    pub is_held: bool,
    /// Whether more was asked for than the page holds.
    pub has_more: bool,
    /// The messages; none if none were asked for.
    pub messages: Option<Messages<'a>>,
}

impl Page<'_> {
    /// A page of nothing, at a channel's position.
    pub fn at(epoch: Epoch, offset: u64) -> Self {
        Self {
            epoch,
            offset,
            is_reborn: false,
            is_past: false,
            is_recovered: false,
            is_live: false,
            is_held: false,
            has_more: false,
            messages: None,
        }
    }
}

/// Messages with their events, as the home wrote them for one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Messages<'a> {
    /// How many.
    pub count: u32,
    /// As [`Messages::push`] wrote them.
    pub bytes: &'a [u8],
}

/// A publish was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt<'a> {
    /// The publisher.
    pub conn: ConnKey,
    /// Its request.
    pub id: RequestId<'a>,
    /// With `offset` the message's identity.
    pub epoch: Epoch,
    /// See `epoch`.
    pub offset: u64,
}

/// What became of a message's copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Recipients when it was published.
    pub of: u64,
    /// Copies that were acknowledged where that was agreed on, elsewhere written to their sockets.
    pub delivered: u64,
    /// The others.
    pub failed: u64,
}

/// A message as the home wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written<'a> {
    /// The channel, or the participant of a direct message.
    pub target: &'a str,
    /// Of `target`.
    pub hash: u64,
    /// Where this shard has the channel, if that is known: not in the record.
    pub slot: Option<u32>,
    /// Equal for messages of which the later replaces the earlier.
    pub conflate: u64,
    /// As published, or the namespace's.
    pub priority: Priority,
    /// This connection of the receiving shard does not get it.
    pub exclude: Option<ConnKey>,
    /// Tells the publisher on the receiving shard that the message was accepted: with the message, because a
    /// request causes at most one record per shard.
    pub receipt: Option<Receipt<'a>>,
    /// The channel begins this epoch behind this offset, and some may know another one.
    pub reborn: Option<Reborn>,
    /// Its own offset; 0 if it has none.
    pub offset: u64,
    /// Its copies are to be counted, and told to the home under this number.
    pub serial: Option<u64>,
    /// What the copies are counted under on this shard: not in the record.
    pub tracking: Option<Tracking>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// The message in the encodings that the receiving shard wants.
    pub forms: PerFormat<Form<'a>>,
}

/// A new epoch of a channel that has subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reborn {
    /// The epoch.
    pub epoch: Epoch,
    /// Behind this offset.
    pub offset: u64,
    /// Whether who subscribed by name is to be told as well as those who did by a pattern.
    pub is_for_all: bool,
}

/// A complete message in one encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form<'a> {
    /// Its bytes; none where nobody wants it.
    pub bytes: &'a [u8],
    /// Where its variants differ.
    pub seams: Seams,
}

impl Form<'_> {
    /// Nobody wants it.
    pub const NONE: Self = Self { bytes: &[], seams: Seams { pattern: 0, time: (0, 0) } };

    /// Whether nobody wants it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// From a home.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromHome<'a> {
    /// The subscription is active from here on, if the page says so; otherwise it fetches what it missed.
    Subscribed { conn: ConnKey, serial: u32, channel: &'a str, id: Option<RequestId<'a>>, page: Page<'a> },
    /// The answer to `Fetch`.
    Replay { conn: ConnKey, serial: u32, channel: &'a str, page: Page<'a> },
    /// The answer to `History`.
    HistoryPage { conn: ConnKey, id: Option<RequestId<'a>>, channel: &'a str, page: Page<'a> },
    /// This home knows the pattern.
    PatternSubscribed { conn: ConnKey, serial: u32, prefix: &'a str, id: Option<RequestId<'a>> },
    /// A message on a channel.
    Message(Written<'a>),
    /// A message to a participant.
    Direct(Written<'a>),
    /// The publish was accepted, and no message goes to the publisher's shard.
    Accepted(Receipt<'a>),
    /// A publish of this key was accepted before, at this position: nothing was delivered this time.
    Repeated(Receipt<'a>),
    /// What became of a message that was published with a receipt; a direct one has no channel.
    Counted { receipt: Receipt<'a>, channel: Option<&'a str>, count: Count },
    /// The publish was refused, because no further receipt can be kept, of this publisher or of anybody: a channel's, or
    /// a direct one.
    NoReceipt { conn: ConnKey, id: Option<RequestId<'a>>, target: &'a str, is_direct: bool, is_own: bool },
    /// Nobody is connected as this participant.
    Nobody { conn: ConnKey, id: Option<RequestId<'a>>, participant: &'a str },
    /// The message was delivered to nobody: in the encoding that somebody is sent it has too many bytes.
    TooLarge {
        conn: ConnKey,
        id: Option<RequestId<'a>>,
        target: &'a str,
        is_direct: bool,
        format: Format,
        bytes: u64,
    },
    /// The answer to `AdmitIp`.
    IpAdmitted { conn: ConnKey, ip: IpAddr, is_admitted: bool },
    /// Watchers are told who came and went.
    Changed(Changed<'a>),
    /// A watcher is told what it missed.
    Missed(Missed<'a>),
    /// Watchers are told who has not gone on typing.
    TypingExpired { channel: &'a str, count: u64, participants: Names<'a> },
    /// The answer to `Presence` of `Members`.
    Members { conn: ConnKey, id: Option<RequestId<'a>>, channel: &'a str, page: MembersPage<'a> },
    /// The answer to `Presence` of `Count` or `Stats`.
    PresenceStats {
        conn: ConnKey,
        id: Option<RequestId<'a>>,
        channel: &'a str,
        participants: u64,
        connections: Option<u64>,
    },
    /// The answer to `AdmitParticipant`, and the token of the session that begins, where sessions are kept.
    ParticipantAdmitted {
        conn: ConnKey,
        participant: &'a str,
        format: Format,
        is_admitted: bool,
        token: Option<Token>,
        /// Behind this position its inbox has messages that nobody has got yet.
        unseen: Option<(Epoch, u64)>,
        /// It may be about to resume a session: its inbox begins when that is known.
        is_held: bool,
    },
    /// Somebody on shard `to` asks for the session that this connection has or had.
    Release { participant: &'a str, session: ConnKey, to: u16 },
    /// All that came before the fence was acted on.
    Fenced { number: u32 },
    /// The session that the connection asked for, and its subscriptions.
    Resumed { conn: ConnKey, participant: &'a str, session: Moved<'a> },
    /// There is no such session.
    NotResumed { conn: ConnKey },
    /// A participant's inbox answers.
    Inbox(InboxAnswer<'a>),
}

/// A session on its way to another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved<'a> {
    /// It is resumed by these.
    pub tokens: Tokens,
    /// Its subscriptions.
    pub kept: &'a [u8],
    /// So long ago its connection was lost, if that was on this node.
    pub away_ms: Option<u32>,
}

/// Which life of a channel or inbox an offset belongs to: digits and small letters, as they go over the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch([u8; 8]);

impl Epoch {
    /// The epoch for a random number, written in base 36. Two lives of one channel are alike once in 2.8 million
    /// million.
    pub fn new(random: u64) -> Self {
        let mut text = [0; 8];
        base36(random, &mut text);
        Self(text)
    }

    /// The text of the wire.
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// What a client named, if it can be an epoch of ours.
    pub fn read(text: &str) -> Option<Self> {
        let text: [u8; 8] = text.as_bytes().try_into().ok()?;
        let is_plain = text.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        is_plain.then_some(Self(text))
    }
}

/// The last digits of a number in base 36, as many as the buffer holds.
pub(crate) fn base36<const N: usize>(number: u64, buffer: &mut [u8; N]) -> &str {
    let mut rest = number;
    for digit in buffer.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
    }
    std::str::from_utf8(buffer).expect("digits and letters are UTF-8")
}

/// Bytes that are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

#[cfg(test)]
mod tests;
