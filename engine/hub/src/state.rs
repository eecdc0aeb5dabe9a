//! A node's memory as one versioned form: what an upgrade or another node goes on from.
//!
//! It knows channels, messages and participants by their names and nothing of shards, so that a node with another
//! number of them reads it as well. Connections are no part of it. On the wire it is MessagePack with named members:
//! what a later version adds is ignored by an earlier one of the same version number.

use std::collections::HashSet;
use std::io::Cursor;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::name;
use corecast_protocol::envelope::query::is_value;

use crate::config::Now;
use crate::format::Format;
use crate::history::{History, Kept};
use crate::hub::Hub;
use crate::remote::Epoch;

/// The version that is written, and the only one that is read.
pub const STATE_VERSION: u32 = 1;

/// The largest offset: the largest integer that all clients read exactly.
const OFFSET_MAX: u64 = (1 << 53) - 1;

/// What a node remembers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Of the form.
    pub version: u32,
    /// Numbered channels.
    pub channels: Vec<ChannelState>,
    /// Inboxes of participants with messages or sessions.
    #[serde(default)]
    pub inboxes: Vec<InboxState>,
    /// Sessions that wait for their client.
    #[serde(default)]
    pub sessions: Vec<SessionState>,
    /// What was published under which idempotency keys.
    #[serde(default)]
    pub publishes: PublishesState,
}

/// A session that waits. It holds tokens: whoever has them may resume it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionState {
    /// Whose it is.
    pub participant: String,
    /// 16 bytes.
    #[serde(with = "serde_bytes")]
    pub token: Vec<u8>,
    /// The one before, if the client may still have that alone.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Option::is_none")]
    pub former_token: Option<Vec<u8>>,
    /// What it is subscribed to.
    pub subscriptions: Vec<SubscriptionState>,
}

/// A subscription of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionState {
    /// A channel, or a prefix and `*`.
    pub channel: String,
    /// Whether joins and leaves are wanted.
    #[serde(default)]
    pub presence: bool,
    /// Whether it acknowledges.
    #[serde(default)]
    pub ack: bool,
    /// The last position that was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<PositionState>,
    /// The only events that are wanted; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Messages per second, if they are bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<u32>,
}

/// A place in a channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PositionState {
    /// Its epoch.
    pub epoch: String,
    /// Its offset.
    pub offset: u64,
}

/// Publishes that had an idempotency key, by the hashes of these.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PublishesState {
    /// What the hashes are made with.
    pub seed: u64,
    /// The oldest first.
    pub made: Vec<PublishState>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublishState {
    /// 16 bytes.
    #[serde(with = "serde_bytes")]
    pub key_hash: Vec<u8>,
    /// Where it was placed.
    pub position: PositionState,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
}

/// A channel with a position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelState {
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: String,
    /// Of its last message.
    pub offset: u64,
    /// The latest messages, without a gap up to the last one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageState>,
}

/// An inbox with a position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InboxState {
    /// Whose it is.
    pub participant: String,
    /// Its epoch.
    pub epoch: String,
    /// Of its last message.
    pub offset: u64,
    /// What came behind this offset nobody has got.
    pub unseen: u64,
    /// The latest messages, without a gap up to the last one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageState>,
}

/// A message that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MessageState {
    /// How long ago it came, in milliseconds.
    pub age_ms: u64,
    /// Its time, in milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// Its event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Who published it.
    pub publisher: String,
    /// Of its payload.
    pub encoding: Encoding,
    /// A validated value.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// As the publisher named it: 0 (low) to 3 (critical).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
}

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// JSON.
    Json,
    /// MessagePack.
    Msgpack,
}

impl From<Encoding> for Format {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Msgpack => Self::MessagePack,
        }
    }
}

/// Why a state can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateError {
    /// It is no state at all, or cut off.
    Malformed(String),
    /// It is of a version that this program does not know.
    Version(u32),
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "this is no state of a hub: {why}"),
            Self::Version(version) => {
                write!(f, "this state is of version {version}, this program reads version {STATE_VERSION}")
            }
        }
    }
}

impl std::error::Error for StateError {}

impl Default for State {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            channels: Vec::new(),
            inboxes: Vec::new(),
            sessions: Vec::new(),
            publishes: PublishesState::default(),
        }
    }
}

impl State {
    /// Adds what another shard exported.
    pub fn merge(&mut self, mut other: Self) {
        self.channels.append(&mut other.channels);
        self.inboxes.append(&mut other.inboxes);
        self.sessions.append(&mut other.sessions);
        // All shards of a node make their hashes alike.
        self.publishes.seed = other.publishes.seed;
        self.publishes.made.append(&mut other.publishes.made);
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("memory takes it, and all of it can be written")
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are no state, or one of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        /// What every version begins with.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let malformed = |error: rmp_serde::decode::Error| StateError::Malformed(error.to_string());
        let Head { version } = rmp_serde::from_slice(bytes).map_err(malformed)?;
        if version != STATE_VERSION {
            return Err(StateError::Version(version));
        }
        let mut rest = Cursor::new(bytes);
        let state: Self = rmp_serde::from_read(&mut rest).map_err(malformed)?;
        if rest.position() != bytes.len() as u64 {
            return Err(StateError::Malformed("something follows it".to_owned()));
        }
        state.check().map(|()| state)
    }

    /// Whether positions and names are such as a hub gives.
    fn check(&self) -> Result<(), StateError> {
        let channels = self.channels.iter().map(|it| (&it.name, it.offset, it.messages.len()));
        let inboxes = self.inboxes.iter().map(|it| (&it.participant, it.offset, it.messages.len()));
        let mut names = HashSet::new();
        for (is_inbox, (name, offset, messages)) in
            channels.map(|it| (false, it)).chain(inboxes.map(|it| (true, it)))
        {
            if offset > OFFSET_MAX || messages as u64 > offset {
                return Err(StateError::Malformed(format!("{name} can't be at offset {offset}")));
            }
            if !names.insert((is_inbox, name)) {
                return Err(StateError::Malformed(format!("{name} is in it twice")));
            }
        }
        Ok(())
    }
}

impl Hub {
    /// What this shard remembers, as the home of channels and participants.
    pub fn export(&self, now: Now) -> State {
        // Every hub has `system` in its table; one of them is its home.
        let own =
            self.homes.numbered().filter(|(name, ..)| self.home(self.hasher.of(*name)) == self.config.shard);
        let channels = own.map(|(name, epoch, offset, history)| ChannelState {
            name: name.to_owned(),
            epoch: text_of(epoch),
            offset,
            messages: history.map_or_else(Vec::new, |history| exported(history, now)),
        });
        let inboxes = self.participants.at_their_home().map(|it| InboxState {
            participant: it.name.to_owned(),
            epoch: text_of(it.epoch),
            offset: it.offset,
            unseen: it.unseen,
            messages: it.kept.map_or_else(Vec::new, |history| exported(history, now)),
        });
        State {
            version: STATE_VERSION,
            channels: channels.collect(),
            inboxes: inboxes.collect(),
            sessions: self.exported_sessions(),
            publishes: self.repetitions.exported(now.instant),
        }
    }

    /// Takes over what this shard is the home of; into a hub that has served nobody yet. What does not fit the
    /// configuration of this node (a namespace that is gone, a shorter history) is left out.
    pub fn import(&mut self, now: Now, state: &State) {
        for channel in &state.channels {
            let hash = self.hasher.of(&*channel.name);
            if self.home(hash) != self.config.shard {
                continue;
            }
            let space = channel.name.split_once(':').map_or(&*channel.name, |(space, _)| space);
            let Some(history) = self.config.namespaces.find(space).map(|(_, rule)| rule.history) else {
                continue;
            };
            let Some(epoch) = Epoch::read(&channel.epoch).filter(|_| history.messages > 0) else { continue };
            let bounds = history.bounds();
            let messages = sound(&channel.messages, now);
            self.homes.restore((hash, &channel.name), (epoch, channel.offset), messages, bounds);
            self.sweep_later(now);
        }
        let waits: HashSet<&str> = state.sessions.iter().map(|it| &*it.participant).collect();
        for inbox in &state.inboxes {
            let hash = self.hasher.of(&*inbox.participant);
            let is_wanted = !inbox.messages.is_empty() || waits.contains(&*inbox.participant);
            if self.home(hash) != self.config.shard || !is_wanted {
                continue;
            }
            let Some(epoch) = Epoch::read(&inbox.epoch) else { continue };
            let (whose, bounds) = ((hash, &*inbox.participant), self.inbox_bounds());
            let position = (epoch, inbox.offset, inbox.unseen);
            self.participants.restore_inbox(whose, position, sound(&inbox.messages, now), bounds);
            self.sweep_later(now);
        }
        self.bound_histories();
        for (number, session) in (0..).zip(&state.sessions) {
            if self.home(self.hasher.of(&*session.participant)) == self.config.shard {
                self.import_session(now, number, session);
            }
        }
        // A hash does not tell whose home it belongs to: every shard knows all of them, as many as it may know.
        self.repetitions.import(now.instant, &state.publishes);
    }
}

/// The messages of a history, with their ages.
pub(crate) fn exported(history: &History, now: Now) -> Vec<MessageState> {
    let message = |(kept, since): (Kept<'_>, Instant)| MessageState {
        age_ms: now.instant.saturating_duration_since(since).as_millis() as u64,
        timestamp: kept.timestamp,
        event: kept.event.map(str::to_owned),
        publisher: kept.publisher.to_owned(),
        encoding: match kept.format {
            Format::Json => Encoding::Json,
            Format::MessagePack => Encoding::Msgpack,
        },
        payload: kept.payload.to_vec(),
        priority: kept.priority.map(|it| it as u8),
    };
    history.all().map(message).collect()
}

/// The messages of a history behind the last one that is broken: they have no gap.
fn sound(messages: &[MessageState], now: Now) -> impl ExactSizeIterator<Item = (Kept<'_>, Instant)> {
    let broken = messages.iter().rposition(|message| !is_sound(message));
    messages[broken.map_or(0, |broken| broken + 1)..].iter().map(move |message| imported(message, now))
}

/// Whether a message can be kept and sent: the form may come from anywhere.
fn is_sound(it: &MessageState) -> bool {
    let texts = [it.event.as_deref().unwrap_or_default(), &it.publisher];
    texts.iter().all(|text| text.len() <= name::NAME_BYTES_MAX) && is_value(it.encoding.into(), &it.payload)
}

/// A message, and when it came in this node's time.
pub(crate) fn imported(it: &MessageState, now: Now) -> (Kept<'_>, Instant) {
    let kept = Kept {
        event: it.event.as_deref(),
        publisher: &it.publisher,
        format: it.encoding.into(),
        payload: &it.payload,
        priority: match it.priority {
            Some(0) => Some(Priority::Low),
            Some(1) => Some(Priority::Normal),
            Some(2) => Some(Priority::High),
            Some(_) => Some(Priority::Critical),
            None => None,
        },
        timestamp: it.timestamp,
    };
    let age = Duration::from_millis(it.age_ms);
    // The clock may have begun later than the message.
    (kept, now.instant.checked_sub(age).unwrap_or(now.instant))
}

pub(crate) fn text_of(epoch: Epoch) -> String {
    String::from_utf8_lossy(epoch.text()).into_owned()
}
