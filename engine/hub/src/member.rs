//! Connections as the hub sees them: whose they are, what they may and what they subscribed to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::ack::Acks;
use crate::canary::{self, Canary};
use crate::effect::ConnKey;
use crate::filter::{Filter, Gate, Renewal};
use crate::format::Format;
use crate::inbox::Reading;
use crate::later::Later;
use crate::remote::{Epoch, Page};
use crate::session::{Resuming, State, Tokens};

/// What a connection may, before any permissions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An anonymous visitor of a demo.
    Demo,
    /// A developer whose name is believed; may all that a backend may.
    Development,
}

/// A handshake that asks for admission.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    /// What the endpoint grants.
    pub access: Access,
    /// The name the client gave itself.
    pub as_name: Option<&'a str>,
    /// Where it connects from.
    pub ip: IpAddr,
    /// The channel that the path names, to be subscribed at once.
    pub channel: Option<&'a str>,
    /// Whether it wants times as ISO 8601.
    pub is_time_iso: bool,
    /// What it is sent.
    pub format: Format,
    /// The resume token that the handshake presents.
    pub resume: Option<&'a str>,
}

/// How far the admission is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// The address's home was asked.
    AwaitsIp,
    /// The address's home agreed; the participant's is not asked yet.
    OfIp,
    /// The participant's home was asked.
    AwaitsParticipant,
    Admitted,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) generation: u32,
    pub(crate) access: Access,
    pub(crate) admission: Admission,
    pub(crate) session: State,
    /// What its session may be resumed by, from the admission on, where sessions are kept.
    pub(crate) tokens: Option<Tokens>,
    /// Whether its session began with an earlier connection.
    pub(crate) has_resumed: bool,
    /// While it takes in a session.
    pub(crate) resuming: Option<Box<Resuming>>,
    pub(crate) is_time_iso: bool,
    pub(crate) format: Format,
    pub(crate) invalid_in_a_row: u8,
    pub(crate) ip: IpAddr,
    pub(crate) participant: Arc<str>,
    /// Among the connections of its participant on this shard.
    pub(crate) place: u32,
    pub(crate) client_id: u64,
    /// To be subscribed once admitted.
    pub(crate) path_channel: Option<Box<str>>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Counts subscriptions, so that a late answer to an earlier one is told apart.
    pub(crate) serial: u32,
    /// The last publish this connection was chosen for, so that overlapping subscriptions deliver once.
    pub(crate) chosen_for: u64,
    /// Subscriptions that are catching up, the inbox among them.
    pub(crate) behind: u32,
    /// A page for one of them was asked for.
    pub(crate) is_fetching: bool,
    /// The channel of the last one for which that was so.
    pub(crate) fetched_last: u32,
    /// Answers with messages of the past that it waits for.
    pub(crate) bulk: u8,
    /// What it is going to ask when some of them have come.
    pub(crate) later: Option<Box<Later>>,
    /// What it acknowledged last of its inbox.
    pub(crate) inbox_acked: Option<(Epoch, u64)>,
    /// How far it is in its participant's inbox; none where it is simply live.
    pub(crate) reading: Option<Box<Reading>>,
    /// Since when its session was away, until its client is known to be back; unknown if that was on another node.
    pub(crate) away: Option<Box<Option<Instant>>>,
}

impl Member {
    /// Whether the key is this member's, and not an earlier user's of its slot.
    fn is(&self, key: ConnKey) -> bool {
        self.generation == key.generation || canary::strikes(Canary::SlotReuse)
    }

    /// Greater than all before, until one connection has subscribed 4 billion times; then a late answer may be taken
    /// for another's.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    /// Its subscription to a channel, if it has one.
    pub(crate) fn of(&self, channel: u32) -> Option<&Subscription> {
        self.subscriptions.iter().find(|it| it.channel == channel)
    }
}

/// A member's subscription to a local channel or pattern.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) channel: u32,
    /// Place among the channel's subscribers, or among its filtered ones; `None` until the home has answered.
    pub(crate) place: Option<u32>,
    pub(crate) serial: u32,
    /// What most subscriptions have nothing of.
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only some subscriptions have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Set while it is catching up.
    pub(crate) cursor: Option<Cursor>,
    /// Answers to come that say where its past begins: only the last of them counts.
    pub(crate) awaited: u32,
    /// Everything up to this offset has come; what follows waits for one of those answers.
    pub(crate) held: Option<u64>,
    /// Set if it acknowledges.
    pub(crate) acks: Option<Box<Acks>>,
    /// What was acknowledged although nobody waits for it.
    pub(crate) acked: Option<(Epoch, u64)>,
    /// What of the channel is wanted, if not all.
    pub(crate) filter: Option<Arc<Filter>>,
    /// What of it will be wanted from the home's next answer on.
    pub(crate) renewal: Option<Renewal>,
    /// What the filter has done, while the subscription is not live.
    pub(crate) gate: Gate,
}

/// How far a subscription that is catching up has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    pub(crate) epoch: Epoch,
    /// Of the last message that was queued for the client.
    pub(crate) offset: u64,
    /// Nothing is fetched yet.
    pub(crate) is_held: bool,
}

impl Subscription {
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.extra.as_ref()?.cursor
    }

    /// Where it stands while it is not live, before this answer.
    pub(crate) fn stands(&self, page: &Page<'_>) -> Option<(Epoch, u64)> {
        let extra = self.extra.as_deref()?;
        let cursor = extra.cursor.map(|it| (it.epoch, it.offset));
        // What was held belongs to an earlier epoch, or there would have been a message that tells of this one.
        let held = extra.held.filter(|_| !page.is_reborn);
        cursor.or(held.map(|offset| (page.epoch, offset)))
    }

    pub(crate) fn filter(&self) -> Option<&Arc<Filter>> {
        self.extra.as_ref()?.filter.as_ref()
    }

    /// What was asked for last, although its answer may be still to come.
    pub(crate) fn filter_wanted(&self) -> Option<&Arc<Filter>> {
        let extra = self.extra.as_ref()?;
        extra.renewal.as_ref().map_or(extra.filter.as_ref(), |it| it.filter.as_ref())
    }

    pub(crate) fn cursor_mut(&mut self) -> Option<&mut Cursor> {
        self.extra.as_mut()?.cursor.as_mut()
    }

    /// What its client acknowledged last, if anything.
    pub(crate) fn acked(&self) -> Option<(Epoch, u64)> {
        self.acks().and_then(Acks::position).or(self.extra.as_ref()?.acked)
    }

    /// The rest, made if need be.
    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

/// All connections of a shard, by slot.
#[derive(Debug, Default)]
pub(crate) struct Members {
    slots: Vec<Option<Box<Member>>>,
    count: usize,
}

impl Members {
    pub(crate) fn insert(&mut self, index: u32, member: Member) {
        let index = index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none(), "a slot is closed before it is opened again");
        self.slots[index] = Some(Box::new(member));
        self.count += 1;
    }

    pub(crate) fn find(&self, key: ConnKey) -> Option<&Member> {
        self.slots.get(key.index as usize)?.as_deref().filter(|it| it.is(key))
    }

    pub(crate) fn find_mut(&mut self, key: ConnKey) -> Option<&mut Member> {
        self.slots.get_mut(key.index as usize)?.as_deref_mut().filter(|it| it.is(key))
    }

    pub(crate) fn remove(&mut self, key: ConnKey) -> Option<Box<Member>> {
        self.find(key)?;
        self.count -= 1;
        self.slots[key.index as usize].take()
    }

    /// All admitted ones, by slot.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = (ConnKey, &Member)> {
        (0u32..).zip(&self.slots).filter_map(|(index, slot)| {
            let member = slot.as_deref().filter(|it| it.admission == Admission::Admitted)?;
            Some((ConnKey { index, generation: member.generation }, member))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}
