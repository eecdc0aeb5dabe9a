//! Subscriptions that wait: a connection is owed so many answers with messages at once, and asks for the others when
//! those have come and its outbox has room again.
//!
//! A subscription that waits exists, and may be unsubscribed; only its home does not know of it yet. What its connection
//! asks of the same channel behind it does not pass it, nor does what wants something of the past.

use std::collections::VecDeque;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::name;

use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects};
use crate::hub::Hub;
use crate::remote::{InboxAsk, Past, ToHome};
use crate::replay::BULK_MAX;
use crate::session::RESUMING;

/// Subscriptions of one connection that may wait; as many as one message may name.
const WAITING_MAX: usize = 256;

/// What a connection is going to ask homes.
#[derive(Debug, Default)]
pub(crate) struct Later {
    /// With the hashes of their channels.
    records: VecDeque<(u64, Box<[u8]>)>,
}

impl Hub {
    /// Whether a subscription has to wait; if not, and it has a past, its answer is counted.
    pub(crate) fn subscribes_later(&mut self, conn: ConnKey, hash: u64, past: &Past) -> bool {
        self.is_behind(conn, hash, past) || !past.is_held && past.is_carried && !self.takes_bulk(conn)
    }

    /// Whether something waits that it must not pass.
    fn is_behind(&self, conn: ConnKey, hash: u64, past: &Past) -> bool {
        let Some(later) = self.members.find(conn).and_then(|it| it.later.as_ref()) else { return false };
        !past.is_held && (past.is_carried || later.records.iter().any(|(of, _)| *of == hash))
    }

    /// Whether it would have to wait and no more may; said so if that is so.
    pub(crate) fn too_many_wait(
        &self,
        conn: ConnKey,
        (id, channel): (Option<RequestId<'_>>, &str),
        past: &Past,
        fx: &mut Effects,
    ) -> bool {
        // A session that is resumed has few enough.
        if id == Some(RESUMING) || !self.is_behind(conn, self.hasher.of(channel), past) {
            return false;
        }
        let later = self.members.find(conn).and_then(|it| it.later.as_ref());
        let is_full = later.is_some_and(|it| it.records.len() >= WAITING_MAX);
        if is_full {
            let why = "256 subscriptions of this connection wait for answers with messages: read some of them first";
            self.error(fx, conn, id, Some(channel), ErrorCode::Overloaded, why);
        }
        is_full
    }

    /// Keeps a request until it is its turn.
    pub(crate) fn ask_later(&mut self, conn: ConnKey, hash: u64, record: &ToHome<'_>, fx: &mut Effects) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let Some(member) = self.members.find_mut(conn) else { return };
        member.later.get_or_insert_default().records.push_back((hash, bytes.into()));
        if member.bulk < BULK_MAX {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// An answer with messages has come: what waits for that goes on when there is room.
    pub(crate) fn bulk_came(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        member.bulk -= 1;
        if member.later.is_some() {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// Asks what waited longest, if the connection may wait for one more answer.
    pub(crate) fn ask_at_last(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn).filter(|it| it.bulk < BULK_MAX) else { return };
        let Some(later) = &mut member.later else { return };
        let record = later.records.pop_front();
        if later.records.is_empty() {
            member.later = None;
        } else {
            fx.list.push(Effect::AwaitRoom { conn });
        }
        let Some((_, record)) = record else { return };
        let record = ToHome::decode(&record).expect("it was written here");
        match record {
            ToHome::Subscribe { serial, channel, id, past, .. } => {
                let hash = self.hasher.of(channel);
                if channel != name::SYSTEM && !self.is_subscribed(conn, serial, channel) {
                    return self.overtaken(fx, conn, id, channel);
                }
                if channel != name::SYSTEM && past.is_wanted() {
                    self.await_past(conn, hash, channel);
                }
                self.owe(conn, &past);
                self.ask(now, self.home(hash), &record, fx);
            }
            ToHome::Inbox(InboxAsk::Subscribe { reader, past, .. }) => {
                self.owe(conn, &past);
                self.ask(now, self.home(self.hasher.of(reader.participant)), &record, fx);
            }
            _ => unreachable!("nothing else waits"),
        }
    }

    /// Takes back what waits for subscriptions that are no more: it would keep others from waiting.
    pub(crate) fn forget_later(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(mut later) = self.members.find_mut(conn).and_then(|it| it.later.take()) else { return };
        later.records.retain(|(_, record)| match ToHome::decode(record).expect("it was written here") {
            ToHome::Subscribe { serial, channel, id, .. }
                if channel != name::SYSTEM && !self.is_subscribed(conn, serial, channel) =>
            {
                self.overtaken(fx, conn, id, channel);
                false
            }
            _ => true,
        });
        let Some(member) = self.members.find_mut(conn) else { return };
        member.later = Some(later).filter(|it| !it.records.is_empty());
    }

    fn owe(&mut self, conn: ConnKey, past: &Past) {
        if past.is_carried {
            self.takes_bulk(conn);
        }
    }
}
