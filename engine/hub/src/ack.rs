//! Acknowledgements: what a subscriber with `ack` has got, and what is sent to it again.
//!
//! A subscription knows how far its client has acknowledged and how far it was sent. While it keeps up it is among its
//! channel's subscribers as any other; with too much unacknowledged it leaves them and catches up as acknowledgements
//! come. What is not acknowledged in time is fetched again from the home's history, in order, once nothing of an earlier
//! copy waits in the outbox.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Position, RequestId};
use corecast_protocol::envelope::event::{self, Changes};
use corecast_protocol::envelope::name;

use crate::admission::Todo;
use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::channel::LocalChannels;
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects, Idle, Tracking};
use crate::hub::Hub;
use crate::member::{Cursor, Subscription};
use crate::remote::{Epoch, Page, Written};

/// Receipts that may wait for the acknowledgements of one subscription; beyond, the oldest counts as failed: of what is
/// not acknowledged yet, a window of 100 was sent.
const RECEIPTS_MAX: usize = 256;

/// Messages that one subscription may have unacknowledged.
const UNACKED_MAX: u64 = 100;

/// A page is on its way, which would have to be sent again: soon after it.
const PAGE_AWAITED: Duration = Duration::from_millis(50);

/// The delay doubles so many times at most.
const DOUBLINGS_MAX: u32 = 16;

/// How far one subscription has acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acks {
    /// None until the home has answered.
    epoch: Option<Epoch>,
    /// Everything up to here is acknowledged, or was given up.
    acked: u64,
    /// Everything up to here was queued for the client at least once.
    sent: u64,
    /// How far it had been sent each time when it was sent again, as far as that is not acknowledged.
    rounds: Vec<u64>,
    /// When it is sent again.
    due: Option<Instant>,
    has_alarm: bool,
    /// The time is to be taken, or an empty outbox awaited.
    awaits_time: bool,
    /// By the serial that it asked with.
    awaits_idle: Option<u32>,
    /// A page is on its way.
    pub(crate) is_fetching: bool,
    /// Messages whose publishers want to know.
    receipts: VecDeque<(u64, Tracking)>,
    /// Its own messages that it did not want.
    left_out: VecDeque<u64>,
}

impl Acks {
    fn at(epoch: Epoch, offset: u64) -> Self {
        Self { epoch: Some(epoch), acked: offset, sent: offset, ..Self::default() }
    }

    /// Which attempt it is to deliver the message of this offset; 0 for the first.
    pub(crate) fn attempt(&self, offset: u64) -> u32 {
        let times = self.rounds.iter().filter(|until| **until >= offset).count() as u32;
        if times == 0 { 0 } else { times + 1 }
    }

    /// Whether the message of this offset is not to be sent again.
    pub(crate) fn is_done(&self, offset: u64) -> bool {
        offset <= self.acked || self.left_out.contains(&offset)
    }

    /// The position that was acknowledged last.
    pub(crate) fn position(&self) -> Option<(Epoch, u64)> {
        self.epoch.map(|epoch| (epoch, self.acked))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sent - self.acked >= UNACKED_MAX
    }

    /// Messages that may be fetched behind this offset.
    pub(crate) fn room(&self, offset: u64) -> u32 {
        // Nothing is to be acknowledged yet.
        let acked = self.epoch.map(|_| self.acked);
        acked.map_or(u32::MAX, |acked| (acked + UNACKED_MAX).saturating_sub(offset) as u32)
    }

    fn delay(&self, timeout_ms: u64) -> Duration {
        Duration::from_millis(timeout_ms) * (1 << (self.rounds.len() as u32).min(DOUBLINGS_MAX))
    }

    /// Everything up to this offset is done; the receipts of it.
    fn advance(&mut self, offset: u64) -> Vec<Tracking> {
        self.acked = self.acked.max(offset);
        while let Some(own) = self.left_out.front().filter(|own| **own <= self.acked + 1) {
            self.acked = self.acked.max(*own);
            self.left_out.pop_front();
        }
        self.rounds.retain(|until| *until > self.acked);
        if self.acked == self.sent {
            self.due = None;
        }
        let count = self.receipts.iter().take_while(|(offset, _)| *offset <= self.acked).count();
        self.receipts.drain(..count).map(|(_, tracking)| tracking).collect()
    }

    /// What is not acknowledged up to this position can't be sent again: how much that is, and the receipts of it.
    fn lose(&mut self, (epoch, offset): (Epoch, u64)) -> (u64, Vec<Tracking>) {
        if self.epoch != Some(epoch) {
            return (self.sent - self.acked, self.restart(epoch, offset, offset));
        }
        let lost = offset.saturating_sub(self.acked);
        self.sent = self.sent.max(offset);
        (lost, self.advance(offset))
    }

    /// It goes on from another position, up to which everything was sent; the receipts of what was before.
    fn restart(&mut self, epoch: Epoch, acked: u64, sent: u64) -> Vec<Tracking> {
        let is_same = self.epoch == Some(epoch);
        let count = self.receipts.iter().take_while(|(offset, _)| !is_same || *offset <= acked).count();
        let receipts = self.receipts.drain(..count).map(|(_, tracking)| tracking).collect();
        (self.epoch, self.acked, self.sent) = (Some(epoch), acked, sent);
        self.rounds.clear();
        self.left_out.clear();
        self.due = None;
        receipts
    }
}

impl Subscription {
    pub(crate) fn acks(&self) -> Option<&Acks> {
        self.extra.as_ref()?.acks.as_deref()
    }

    pub(crate) fn acks_mut(&mut self) -> Option<&mut Acks> {
        self.extra.as_mut()?.acks.as_deref_mut()
    }

    /// How many messages may be fetched for it now, if it is catching up.
    pub(crate) fn may_fetch(&self) -> Option<(Cursor, u32)> {
        let cursor = self.cursor().filter(|it| !it.is_held)?;
        let room = self.acks().map_or(u32::MAX, |acks| acks.room(cursor.offset));
        (room > 0).then_some((cursor, room))
    }
}

impl Hub {
    /// A subscription is going to acknowledge.
    pub(crate) fn promise_acks(&mut self, conn: ConnKey, hash: u64, name: &str) {
        let Some(index) = self.channels.find(hash, name, false) else { return };
        let Some(own) = self.subscription_mut(conn, index) else { return };
        if own.acks().is_none() {
            // Who is catching up is to acknowledge from where it is: no answer will say where that is. But a filter
            // holds until the answer, see `begin_acks_on_the_way`.
            let cursor = own.cursor().filter(|_| own.filter().is_none());
            let acks = cursor.map(|it| Acks::at(it.epoch, it.offset));
            own.extra().acks = Some(Box::new(acks.unwrap_or_default()));
            self.channels.get_mut(index).expect("it was found").acking.get_or_insert_default().push(conn);
        }
    }

    /// The home has answered who is catching up, whose filter holds no more: what comes behind that is to be
    /// acknowledged.
    pub(crate) fn begin_acks_on_the_way(&mut self, conn: ConnKey, index: u32) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let cursor = own.cursor();
        if let (Some(acks), Some(it)) = (own.acks_mut().filter(|acks| acks.epoch.is_none()), cursor) {
            *acks = Acks { is_fetching: acks.is_fetching, ..Acks::at(it.epoch, it.offset) };
        }
    }

    /// Acknowledgements of another epoch begin anew where the subscription stands; whether they were of another.
    pub(crate) fn acks_begin_at(&mut self, conn: ConnKey, index: u32, (epoch, offset): (Epoch, u64)) -> bool {
        let acks = self.subscription_mut(conn, index).and_then(|own| own.acks_mut());
        let Some(acks) = acks.filter(|acks| acks.epoch != Some(epoch)) else { return false };
        let receipts = acks.restart(epoch, offset, offset);
        self.time_acks(conn, index);
        self.resolve(receipts, Outcome::Failed);
        true
    }

    /// The home has said where a subscription begins. One that has begun before goes on from the offset returned,
    /// because a mere look back acknowledges nothing and leaves nothing out.
    pub(crate) fn begin_acks(&mut self, conn: ConnKey, index: u32, page: &Page<'_>) -> Option<u64> {
        let own = self.subscription_mut(conn, index)?;
        let cursor = own.cursor();
        let acks = own.acks_mut()?;
        let is_same = acks.epoch == Some(page.epoch);
        if is_same && !page.is_past {
            return None;
        }
        if is_same && !page.is_recovered {
            return Some(cursor.map_or(acks.sent, |it| it.offset));
        }
        // What was asked for as a past to go on from is to be acknowledged from the position that was named.
        let carried = page.messages.filter(|_| page.is_recovered).map_or(0, |it| u64::from(it.count));
        let receipts = acks.restart(page.epoch, page.offset - carried, page.offset);
        self.time_acks(conn, index);
        self.resolve(receipts, if is_same { Outcome::Delivered } else { Outcome::Failed });
        None
    }

    /// `ack`: cumulative; what makes no sense is answered with what would.
    pub(crate) fn ack(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        position: &Position<'_>,
        fx: &mut Effects,
    ) {
        let named = Epoch::read(&position.epoch).map(|epoch| (epoch, position.offset));
        if channel == name::INBOX {
            if let Some(member) = self.members.find_mut(conn) {
                member.inbox_acked = named.or(member.inbox_acked);
            }
            if let Some(position) = named {
                self.inbox_acked(now, conn, position, fx);
            }
            return;
        }
        let index = self.channels.find(self.hasher.of(channel), channel, false);
        let Some((index, own)) = index.and_then(|index| Some((index, self.subscription_mut(conn, index)?)))
        else {
            return self.ack_unsubscribed(conn, id, channel, fx);
        };
        let Some(acks) = own.acks_mut() else {
            // Nothing waits for it, but a session that is resumed goes on from there.
            let extra = own.extra();
            extra.acked = named.or(extra.acked);
            return;
        };
        let Some(epoch) = acks.epoch else { return };
        if named.is_none_or(|(theirs, offset)| theirs != epoch || offset > acks.sent) {
            let epoch = String::from_utf8_lossy(epoch.text());
            let why = format!("{channel} is in epoch {epoch}, and offset {} was sent last", acks.sent);
            return self.error(fx, conn, id, Some(channel), ErrorCode::InvalidMessage, &why);
        }
        if position.offset > acks.acked && !canary::strikes(Canary::AckForgotten) {
            self.acked(now, conn, index, position.offset, fx);
        }
    }

    /// An `ack` for what no subscription by this name exists.
    fn ack_unsubscribed(&self, conn: ConnKey, id: Option<RequestId<'_>>, channel: &str, fx: &mut Effects) {
        let Some(member) = self.members.find(conn) else { return };
        let is_covered = |it: &Subscription| {
            LocalChannels::is_pattern(it.channel)
                && self.channels.get(it.channel).is_some_and(|pattern| channel.starts_with(&*pattern.name))
        };
        if channel != name::SYSTEM && !member.subscriptions.iter().any(is_covered) {
            let why = "subscribe before acknowledging";
            self.error(fx, conn, id, Some(channel), ErrorCode::NotSubscribed, why);
        }
    }

    fn acked(&mut self, now: Now, conn: ConnKey, index: u32, offset: u64, fx: &mut Effects) {
        let timeout_ms = self.config.limits.ack_timeout_ms;
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let is_behind = own.cursor().is_some();
        let Some(acks) = own.acks_mut() else { return };
        let receipts = acks.advance(offset);
        if acks.due.is_some() {
            acks.due = Some(now.instant + acks.delay(timeout_ms));
        }
        // It has its time anew, whatever waits in the outbox.
        acks.awaits_idle = None;
        if is_behind {
            fx.list.push(Effect::AwaitRoom { conn });
        }
        self.set_alarm(conn, index);
        self.resolve(receipts, Outcome::Delivered);
    }

    /// A message of the channel was queued for those who acknowledge.
    #[cold]
    pub(crate) fn sent_to_acking(&mut self, slot: u32, written: &Written<'_>) {
        let index = slot << 1;
        for at in 0.. {
            let acking = self.channels.get(index).and_then(|it| it.acking.as_ref()?.get(at).copied());
            let Some(conn) = acking else { return };
            let Some(own) = self.subscription_mut(conn, index).filter(|it| it.place.is_some()) else {
                continue;
            };
            let Some(acks) = own.acks_mut().filter(|it| it.epoch.is_some()) else { continue };
            let mut lost = Vec::new();
            if let Some(reborn) = written.reborn.filter(|it| it.is_for_all) {
                lost = acks.restart(reborn.epoch, reborn.offset, reborn.offset);
            }
            if written.offset == 0 {
                // Nothing is acknowledged of an ephemeral message but the news that it brings.
                self.resolve(lost, Outcome::Failed);
                continue;
            }
            let was_done = acks.acked == acks.sent;
            acks.sent = written.offset;
            if written.exclude == Some(conn) && was_done {
                acks.acked = acks.sent;
            } else if written.exclude == Some(conn) {
                acks.left_out.push_back(acks.sent);
            }
            let cursor = acks.epoch.map(|epoch| Cursor { epoch, offset: acks.sent, is_held: false });
            if acks.is_full()
                && let Some(cursor) = cursor
            {
                self.fall_behind(conn, index, cursor);
            }
            self.time_acks(conn, index);
            self.resolve(lost, Outcome::Failed);
        }
    }

    /// Queues a page for who acknowledges, if it is for such a one: without what is done, and with the attempt that it is.
    pub(crate) fn replay_to_acking(
        &mut self,
        conn: ConnKey,
        index: u32,
        page: &Page<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(member) = self.members.find(conn) else { return true };
        let own = member.subscriptions.iter().find(|it| it.channel == index);
        let Some(acks) = own.and_then(Subscription::acks).filter(|it| it.epoch.is_some()) else {
            return false;
        };
        let messages = page.messages.unwrap_or_default();
        let (mut replayed, mut redelivered) = (0, 0);
        for (offset, (_, form, timestamp)) in
            (page.offset + 1 - u64::from(messages.count)..).zip(messages.iter())
        {
            if acks.is_done(offset) {
                continue;
            }
            let attempt = acks.attempt(offset);
            replayed += 1;
            redelivered += u64::from(attempt > 0);
            let iso_timestamp = member.is_time_iso.then_some(timestamp);
            let changes = Changes { iso_timestamp, attempt, ..Changes::default() };
            let write = |out: &mut Vec<u8>, format| {
                event::variant(out, format, form.bytes, form.seams, &changes);
            };
            if replayed == 1 {
                // What was live before it may still be queued: a page that is lifted must not pass that.
                self.reply_fixed(fx, conn, write);
            } else {
                self.reply(fx, conn, write);
            }
        }
        self.replayed += replayed;
        self.redelivered += redelivered;
        true
    }

    /// A page was queued for who is catching up; whether it may be live now.
    pub(crate) fn page_sent(&mut self, conn: ConnKey, index: u32, page: &Page<'_>) -> bool {
        let Some(acks) = self.subscription_mut(conn, index).and_then(Subscription::acks_mut) else {
            return true;
        };
        acks.is_fetching = false;
        if acks.epoch.is_none() {
            return true;
        }
        if page.offset > acks.acked {
            // What was sent again has its time from now on.
            acks.due = None;
        }
        acks.sent = acks.sent.max(page.offset);
        let is_full = acks.is_full();
        self.time_acks(conn, index);
        !is_full
    }

    /// The history has forgotten what comes before this position, whether it was acknowledged or not.
    pub(crate) fn acks_lost(&mut self, conn: ConnKey, index: u32, position: (Epoch, u64)) {
        let acks = self.subscription_mut(conn, index).and_then(Subscription::acks_mut);
        let Some(acks) = acks.filter(|it| it.epoch.is_some()) else { return };
        let (given_up, lost) = acks.lose(position);
        self.unacked_given_up += given_up;
        self.resolve(lost, Outcome::Failed);
    }

    /// Takes the time from when something is unacknowledged, where time is known.
    fn time_acks(&mut self, conn: ConnKey, index: u32) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let serial = own.serial;
        let Some(acks) = own.acks_mut() else { return };
        if acks.acked < acks.sent && acks.due.is_none() && !acks.awaits_time {
            acks.awaits_time = true;
            self.todo.push_back(Todo::TimeAcks(conn, serial));
        }
    }

    pub(crate) fn begin_time(&mut self, now: Now, conn: ConnKey, serial: u32) {
        let timeout_ms = self.config.limits.ack_timeout_ms;
        let Some(index) = self.index_of(conn, serial) else { return };
        let Some(acks) = self.subscription_mut(conn, index).and_then(Subscription::acks_mut) else { return };
        acks.awaits_time = false;
        if acks.acked < acks.sent && acks.due.is_none() {
            acks.due = Some(now.instant + acks.delay(timeout_ms));
        }
        self.set_alarm(conn, index);
    }

    /// One alarm for each subscription: what it is for may come later than it rings.
    fn set_alarm(&mut self, conn: ConnKey, index: u32) {
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let serial = own.serial;
        let Some(acks) = own.acks_mut() else { return };
        if let Some(due) = acks.due
            && !acks.has_alarm
        {
            acks.has_alarm = true;
            self.alarms.set(due, Alarm::Unacked { conn, serial });
        }
    }

    /// Something may have been unacknowledged for too long.
    pub(crate) fn unacked(&mut self, now: Now, conn: ConnKey, serial: u32, fx: &mut Effects) {
        let Some(index) = self.index_of(conn, serial) else { return };
        let Some(acks) = self.subscription_mut(conn, index).and_then(Subscription::acks_mut) else { return };
        acks.has_alarm = false;
        if acks.due.is_none_or(|due| now.instant < due) {
            return self.set_alarm(conn, index);
        }
        let Some(member) = self.members.find_mut(conn) else { return };
        let serial = member.next_serial();
        if let Some(acks) = self.subscription_mut(conn, index).and_then(Subscription::acks_mut) {
            acks.awaits_idle = Some(serial);
        }
        fx.list.push(Effect::AwaitIdle { conn, serial });
    }

    /// Nothing waits for the connection any more that did when it was asked for by this serial.
    pub fn idle(&mut self, conn: ConnKey, serial: u32, idle: Idle) {
        self.todo.push_back(Todo::Idle(conn, serial, idle));
    }

    /// Sends again what was waited for in vain; its time begins anew where it has only now been written.
    pub(crate) fn resend_all(
        &mut self,
        now: Now,
        conn: ConnKey,
        (serial, idle): (u32, Idle),
        fx: &mut Effects,
    ) {
        let timeout_ms = self.config.limits.ack_timeout_ms;
        for at in 0.. {
            let Some(member) = self.members.find_mut(conn) else { return };
            let Some(own) = member.subscriptions.get_mut(at) else { return };
            let index = own.channel;
            let is_settling = own.extra.as_ref().is_some_and(|extra| extra.awaited > 0);
            let cursor = own.cursor();
            let is_answered = |acks: &&mut Acks| acks.awaits_idle.is_some_and(|asked| asked <= serial);
            let Some(acks) = own.acks_mut().filter(is_answered) else { continue };
            acks.awaits_idle = None;
            if acks.due.is_none_or(|due| now.instant < due) {
                // Some of it was sent only now.
                self.set_alarm(conn, index);
                continue;
            }
            // What is being sent again has not all been fetched: that is no attempt yet.
            let is_unfinished = cursor.is_some_and(|it| it.offset < acks.sent);
            if acks.is_fetching || is_settling || is_unfinished {
                acks.due = Some(now.instant + PAGE_AWAITED);
            } else if idle == Idle::Now && !canary::strikes(Canary::ResentWhileQueued) {
                acks.due = Some(now.instant + acks.delay(timeout_ms));
            } else {
                self.resend(now, conn, index);
            }
            fx.list.push(Effect::AwaitRoom { conn });
            self.set_alarm(conn, index);
        }
    }

    fn resend(&mut self, now: Now, conn: ConnKey, index: u32) {
        let (timeout_ms, attempts) =
            (self.config.limits.ack_timeout_ms, self.config.limits.ack_attempts.max(1));
        let Some(own) = self.subscription_mut(conn, index) else { return };
        let is_live = own.place.is_some();
        let Some(acks) = own.acks_mut() else { return };
        let (mut lost, mut given_up) = (Vec::new(), 0);
        // Sent as often as it may be: given up.
        let done = match (acks.rounds.len() + 1).checked_sub(attempts as usize) {
            Some(_) if attempts == 1 => acks.sent,
            Some(oldest) => acks.rounds[oldest],
            None => 0,
        };
        if done > acks.acked {
            given_up = done - acks.acked;
            lost = acks.advance(done);
        }
        acks.due = None;
        let offset = acks.acked;
        let again = acks.epoch.filter(|_| acks.acked < acks.sent);
        if let Some(epoch) = again {
            acks.rounds.push(acks.sent);
            acks.due = Some(now.instant + acks.delay(timeout_ms));
            let cursor = Cursor { epoch, offset, is_held: false };
            if is_live {
                self.fall_behind(conn, index, cursor);
            } else if let Some(own) = own.cursor_mut() {
                *own = cursor;
            }
        }
        self.unacked_given_up += given_up;
        self.resolve(lost, Outcome::Failed);
    }

    /// Counts a message's copy for each of those who are to acknowledge it; how many.
    pub(crate) fn await_acks(&mut self, written: &Written<'_>, tracking: Tracking) -> Vec<ConnKey> {
        if written.offset == 0 {
            return Vec::new();
        }
        let Some(index) = self.channels.find(written.hash, written.target, false) else { return Vec::new() };
        let acking = self.channels.get(index).and_then(|it| it.acking.as_deref().cloned());
        let mut all = acking.unwrap_or_default();
        let mut given_up = Vec::new();
        all.retain(|conn| {
            let acks = self.subscription_mut(*conn, index).and_then(Subscription::acks_mut);
            let acks = acks.filter(|it| it.epoch.is_some() && written.exclude != Some(*conn));
            let Some(acks) = acks else { return false };
            if acks.receipts.len() >= RECEIPTS_MAX {
                given_up.extend(acks.receipts.pop_front().map(|(_, tracking)| tracking));
            }
            acks.receipts.push_back((written.offset, tracking));
            true
        });
        self.resolve(given_up, Outcome::Failed);
        all
    }

    /// A subscription is over: nobody acknowledges any more.
    pub(crate) fn drop_acks(&mut self, conn: ConnKey, subscription: &Subscription) {
        let Some(acks) = subscription.acks() else { return };
        if let Some(channel) = self.channels.get_mut(subscription.channel)
            && let Some(acking) = &mut channel.acking
        {
            acking.retain(|it| *it != conn);
            if acking.is_empty() {
                channel.acking = None;
            }
        }
        let receipts = acks.receipts.iter().map(|(_, tracking)| *tracking).collect();
        self.resolve(receipts, Outcome::Failed);
    }

    fn index_of(&self, conn: ConnKey, serial: u32) -> Option<u32> {
        let own = self.members.find(conn)?.subscriptions.iter().find(|it| it.serial == serial)?;
        Some(own.channel)
    }

    fn resolve(&mut self, receipts: Vec<Tracking>, outcome: Outcome) {
        for tracking in receipts {
            self.acknowledged(tracking, outcome);
        }
    }
}

/// What became of a message that was to be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Delivered,
    Failed,
}
