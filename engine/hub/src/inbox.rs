//! The inbox of a participant: direct messages in their order, kept for who is away, read like a channel.
//!
//! Everybody is live in its inbox without asking. A connection that catches up is not: it is not among its participant's
//! connections here, and reads pages from the home until one of them says that nothing follows (see `replay`). What came
//! while nobody was connected comes first to whoever comes, before anything else of the inbox; it counts as seen
//! once a connection that got all of it acknowledged it, said goodbye, or was still there `ack_timeout_ms` after nothing of it
//! waited in the outbox. Until then the next connection gets it as well: rather twice, with the same offsets, than never.
//!
//! For those who build on it:
//! - `subscribe_inbox(now, conn, id, past, fx)` is `subscribe` on `@me`: the home answers, and
//!   `inbox_subscribed` says `subscribed`. With `past.is_held` nothing is read before `inbox_goes_on(conn, fx)`.
//! - Who may be about to resume a session is held where it would begin: see `session::inbox`.
//! - `Participants::is_idle` counts `sessions`: while one waits, the inbox is kept and messages to it are accepted.

use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::event::{self, Subscribed};
use corecast_protocol::envelope::name;

use crate::admission::Todo;
use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects};
use crate::history::{Address, Bounds};
use crate::hub::Hub;
use crate::reading::Transcoder;
use crate::remote::{Epoch, Extent, FromHome, InboxAnswer, InboxAsk, Page, Past, Published, Reader, ToHome};
use crate::replay::Source;
use crate::session::RESUMING;

/// Messages of an inbox that has no bound of its own.
const MESSAGES_MAX: usize = 100_000;

/// So long an inbox waits for a new connection to resume the session that its participant has: a round trip, rarely more.
const HELD_FOR: std::time::Duration = std::time::Duration::from_secs(1);

/// How the inbox of a new connection begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Begin {
    /// Behind this position are messages that nobody has got yet.
    pub(crate) unseen: Option<(Epoch, u64)>,
    /// The connection may be about to resume a session, with a position of its own.
    pub(crate) is_held: bool,
}

/// How far a connection is that is not simply live in its inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    epoch: Epoch,
    /// Of the last message that was queued for the client.
    offset: u64,
    /// Tells pages that were asked for earlier from those that count.
    serial: u32,
    progress: Progress,
    /// It reads what nobody is known to have got.
    is_unseen: bool,
    /// It asked by this serial to be told when nothing of that waits in the outbox any more.
    awaits_idle: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Nothing is fetched yet.
    Held,
    /// Pages are fetched.
    Behind,
    /// It is live, but not yet known to have got what was unseen.
    Live,
}

impl Reading {
    /// Whether the connection is among those that get what is sent to their participant.
    pub(crate) fn is_live(&self) -> bool {
        self.progress == Progress::Live
    }

    /// Whether nothing is fetched yet, in this reading of the inbox.
    pub(crate) fn is_held(&self, serial: u32) -> bool {
        self.progress == Progress::Held && self.serial == serial
    }

    /// Of the last message that was queued for the client.
    pub(crate) fn position(&self) -> (Epoch, u64) {
        (self.epoch, self.offset)
    }
}

impl Hub {
    /// What a home answers.
    pub(crate) fn inbox_answered(&mut self, answer: &InboxAnswer<'_>, fx: &mut Effects) {
        match *answer {
            InboxAnswer::Replay { conn, serial, ref page } => {
                self.inbox_page_came(conn, serial, page, fx);
            }
            InboxAnswer::Subscribed { conn, id: Some(RESUMING), ref page } => {
                self.inbox_restored(conn, page, fx);
            }
            InboxAnswer::Subscribed { conn, id, ref page } => self.inbox_subscribed(conn, id, page, fx),
        }
    }

    /// A connection was admitted: it is live in its inbox, or begins with what nobody has got yet.
    pub(crate) fn begin_inbox(&mut self, now: Now, conn: ConnKey, begin: Begin) {
        match begin.unseen.filter(|_| !canary::strikes(Canary::StoredMessageForgotten)) {
            None => self.enter_inbox(conn),
            Some(position) if begin.is_held => {
                self.read_from(conn, position, Progress::Held, true);
                let serial = self.members.find(conn).map_or(0, |it| it.serial);
                self.alarms.set(now.instant + HELD_FOR, Alarm::InboxHeld(conn, serial));
            }
            Some(position) => {
                self.read_from(conn, position, Progress::Behind, true);
                self.todo.push_back(Todo::CatchUp(conn));
            }
        }
    }

    fn enter_inbox(&mut self, conn: ConnKey) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let hash = self.hasher.of(&*member.participant);
        member.place = self.participants.arrive(hash, &member.participant, conn);
    }

    /// The connection, whose member may be gone already, is no longer live in its inbox.
    pub(crate) fn leave_inbox(&mut self, participant: &str, place: u32) {
        let hash = self.hasher.of(participant);
        if let Some(moved) = self.participants.depart(hash, participant, place)
            && let Some(moved) = self.members.find_mut(moved)
        {
            moved.place = place;
        }
    }

    /// Puts the connection behind a position of its inbox.
    fn read_from(
        &mut self,
        conn: ConnKey,
        (epoch, offset): (Epoch, u64),
        progress: Progress,
        is_unseen: bool,
    ) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let serial = member.next_serial();
        let reading = Reading { epoch, offset, serial, progress, is_unseen, awaits_idle: None };
        let before = member.reading.replace(Box::new(reading));
        if before.is_none_or(|it| it.is_live()) {
            member.behind += 1;
        }
    }

    /// A connection, live or not, goes on from a position.
    pub(crate) fn rewind(&mut self, conn: ConnKey, position: (Epoch, u64), progress: Progress) {
        let Some(member) = self.members.find(conn) else { return };
        let (participant, place) = (member.participant.clone(), member.place);
        let was_live = member.reading.as_ref().is_none_or(|it| it.is_live());
        let is_unseen = member.reading.as_ref().is_some_and(|it| it.is_unseen);
        // A new connection that is going to be live has no place yet.
        if was_live {
            self.leave_inbox(&participant, place);
        }
        self.read_from(conn, position, progress, is_unseen);
    }

    /// What was held may be fetched.
    pub(crate) fn inbox_goes_on(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let Some(reading) = member.reading.as_mut().filter(|it| it.progress == Progress::Held) else {
            return;
        };
        reading.progress = Progress::Behind;
        fx.list.push(Effect::AwaitRoom { conn });
    }

    /// Fetches the next page of the connection's inbox, if it is behind there; whether it is.
    pub(crate) fn fetch_inbox(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) -> bool {
        let Some(member) = self.members.find_mut(conn) else { return false };
        let Some(reading) = member.reading.as_deref().filter(|it| it.progress == Progress::Behind) else {
            return false;
        };
        let Reading { epoch, offset: after, serial, .. } = *reading;
        member.is_fetching = true;
        let (participant, format) = (member.participant.clone(), member.format);
        let home = self.home(self.hasher.of(&*participant));
        let reader = Reader { conn, participant: &participant, format };
        let ask = InboxAsk::Fetch { reader, serial, epoch, after };
        self.ask(now, home, &ToHome::Inbox(ask), fx);
        true
    }

    /// A page of the inbox has come, if it is still waited for.
    fn inbox_page_came(&mut self, conn: ConnKey, serial: u32, page: &Page<'_>, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        member.is_fetching = false;
        let waits = |it: &&mut Box<Reading>| it.serial == serial && it.progress == Progress::Behind;
        if let Some(reading) = member.reading.as_mut().filter(waits) {
            (reading.epoch, reading.offset) = (page.epoch, page.offset);
            let messages = page.messages.unwrap_or_default();
            let begin = page.offset - u64::from(messages.count);
            // What was kept for who was away was promised to be kept within bounds only.
            if !page.is_recovered && !reading.is_unseen {
                self.reply_fixed(fx, conn, |out, format| {
                    let position = Some((page.epoch.text(), begin));
                    let news = Subscribed { position, ..Subscribed::default() };
                    event::subscribed(out, format, None, name::INBOX, &news);
                });
            }
            self.replay(conn, None, messages, fx);
            if page.is_live {
                self.has_caught_up(conn, fx);
            }
        }
        if self.members.find(conn).is_some_and(|it| it.behind > 0) {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// Whatever comes from here on comes live.
    fn has_caught_up(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let Some(reading) = member.reading.as_mut() else { return };
        reading.progress = Progress::Live;
        member.behind -= 1;
        if reading.is_unseen {
            let serial = member.next_serial();
            member.reading.as_mut().expect("it was just looked at").awaits_idle = Some(serial);
            fx.list.push(Effect::AwaitIdle { conn, serial });
        } else {
            member.reading = None;
        }
        self.enter_inbox(conn);
    }

    /// All that was unseen is written. It has its time from here on, and not from when it was queued: it may be lost on
    /// its way. What waits for the connection later on is no matter of the inbox, and what was asked before is none either:
    /// nothing waited then, and the outbox may be stuck by now.
    pub(crate) fn inbox_written(&mut self, now: Now, conn: ConnKey, serial: u32) {
        let Some(reading) = self.members.find_mut(conn).and_then(|it| it.reading.as_deref_mut()) else {
            return;
        };
        if reading.awaits_idle.take_if(|asked| *asked <= serial).is_none() {
            return;
        }
        let after = std::time::Duration::from_millis(self.config.limits.ack_timeout_ms);
        self.alarms.set(now.instant + after, Alarm::InboxSeen(conn, reading.serial));
    }

    /// A connection to which what was unseen was written long enough ago is still there: it has got that.
    pub(crate) fn inbox_seen(&mut self, now: Now, conn: ConnKey, serial: u32, fx: &mut Effects) {
        let Some(reading) = self.members.find(conn).and_then(|it| it.reading.as_deref()) else { return };
        if reading.serial == serial && reading.is_live() {
            self.inbox_acked(now, conn, reading.position(), fx);
        }
    }

    /// The client got everything up to here.
    pub(crate) fn inbox_acked(
        &mut self,
        now: Now,
        conn: ConnKey,
        (epoch, offset): (Epoch, u64),
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let Some(reading) = member.reading.as_deref().filter(|it| it.is_unseen && it.epoch == epoch) else {
            return;
        };
        // More than was sent can't have been seen.
        let is_all = reading.is_live() && offset >= reading.offset;
        let offset = offset.min(reading.offset);
        if is_all {
            member.reading = None;
        }
        let participant = member.participant.clone();
        self.tell_seen(now, &participant, (epoch, offset), is_all, fx);
    }

    /// A connection is known to have got what was kept up to here, or all of it.
    pub(crate) fn tell_seen(
        &mut self,
        now: Now,
        participant: &str,
        (epoch, offset): (Epoch, u64),
        is_all: bool,
        fx: &mut Effects,
    ) {
        let home = self.home(self.hasher.of(participant));
        let ask = InboxAsk::Seen { participant, epoch, offset, is_all };
        self.ask(now, home, &ToHome::Inbox(ask), fx);
    }

    /// A client says goodbye that took all that was queued for it: what was unseen comes to nobody else any more.
    pub(crate) fn inbox_parted(&mut self, conn: ConnKey) {
        let Some(member) = self.members.find(conn) else { return };
        let Some(reading) = member.reading.as_deref().filter(|it| it.is_unseen) else { return };
        let position = reading.position();
        let participant = member.participant.clone();
        let hash = self.hasher.of(&*participant);
        // What came live behind it may come again: more of it may be on its way here, and reaches nobody.
        if self.home(hash) == self.config.shard {
            self.participants.seen(hash, &participant, position, false);
        } else {
            self.todo.push_back(Todo::Seen(Box::new((participant, position))));
        }
    }

    /// `subscribe` on `@me`: everybody is subscribed to it already, but its past may be wanted.
    pub(crate) fn subscribe_inbox(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        mut past: Past,
        fx: &mut Effects,
    ) {
        if self.too_many_wait(conn, (id, name::INBOX), &past, fx) {
            return;
        }
        past.is_carried = past.is_wanted();
        let is_later = self.subscribes_later(conn, self.hasher.of(name::INBOX), &past);
        let Some(member) = self.members.find(conn) else { return };
        let (participant, format) = (member.participant.clone(), member.format);
        let home = self.home(self.hasher.of(&*participant));
        let reader = Reader { conn, participant: &participant, format };
        let record = ToHome::Inbox(InboxAsk::Subscribe { reader, id, past });
        if is_later {
            self.ask_later(conn, self.hasher.of(name::INBOX), &record, fx)
        } else {
            self.ask(now, home, &record, fx)
        }
    }

    /// The home has answered. Until here the connection stayed where it was: if it was live, everything up to the
    /// answer has come, and what the answer holds and announces comes again.
    fn inbox_subscribed(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        page: &Page<'_>,
        fx: &mut Effects,
    ) {
        if page.messages.is_some() {
            self.bulk_came(conn, fx);
        }
        let Some(member) = self.members.find(conn) else { return };
        let is_behind = member.reading.as_ref().is_some_and(|it| !it.is_live());
        self.say_subscribed(conn, id, name::INBOX, (page, (page.epoch, page.offset)), fx);
        if !page.is_past || page.is_live && !(is_behind && page.is_recovered) {
            return;
        }
        let progress = if page.is_held { Progress::Held } else { Progress::Behind };
        self.rewind(conn, (page.epoch, page.offset), progress);
        if page.is_live {
            self.has_caught_up(conn, fx);
        } else {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// A query for what is kept in the inbox.
    pub(crate) fn inbox_history(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        extent: Extent,
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find(conn) else { return };
        let (participant, format) = (member.participant.clone(), member.format);
        let home = self.home(self.hasher.of(&*participant));
        let reader = Reader { conn, participant: &participant, format };
        self.ask(now, home, &ToHome::Inbox(InboxAsk::History { reader, id, extent }), fx);
    }
}

/// At the participant's home.
impl Hub {
    pub(crate) fn inbox_at_home(&mut self, now: Now, from: u16, ask: &InboxAsk<'_>, fx: &mut Effects) {
        match *ask {
            InboxAsk::Fetch { reader, serial, epoch, after } => {
                self.fetch_inbox_at_home(now, from, reader, serial, (epoch, after), fx);
            }
            InboxAsk::Subscribe { reader, id, ref past } => {
                self.subscribe_inbox_at_home(now, from, (reader, id), past, fx);
            }
            InboxAsk::History { reader, id, ref extent } => {
                self.inbox_history_at_home(now, from, (reader, id), extent, fx);
            }
            InboxAsk::Seen { participant, epoch, offset, is_all } => {
                self.participants.seen(self.hasher.of(participant), participant, (epoch, offset), is_all);
            }
        }
    }

    /// Keeps a message that was just given its place in the inbox of this slot.
    pub(crate) fn keep_in_inbox(&mut self, now: Now, slot: u32, it: &Published<'_>) {
        let bounds = self.inbox_bounds();
        self.participants.keep(slot, &it.kept(), now.instant, bounds);
        self.bound_histories();
        self.sweep_later(now);
    }

    /// How much of each inbox is kept.
    pub(crate) fn inbox_bounds(&self) -> Bounds {
        let limits = &self.config.limits;
        Bounds {
            messages: match limits.inbox_messages {
                0 => MESSAGES_MAX,
                messages => messages as usize,
            },
            bytes: usize::MAX,
            age: match limits.inbox_age_ms {
                0 => std::time::Duration::MAX,
                age => std::time::Duration::from_millis(age),
            },
        }
    }

    /// The next page of an inbox.
    fn fetch_inbox_at_home(
        &mut self,
        now: Now,
        from: u16,
        reader: Reader<'_>,
        serial: u32,
        (epoch, after): (Epoch, u64),
        fx: &mut Effects,
    ) {
        let mut out = std::mem::take(&mut self.page_scratch);
        let limits = self.config.replay;
        let page = self.read_inbox(now, reader, &mut out, |source, out, transcoder| {
            // Of what is gone by now, the rest is sent at least.
            let first = source.history.map_or(source.offset + 1, |history| history.first());
            let page = source.next_page((epoch, after.max(first - 1)), limits, out, transcoder);
            Page { is_recovered: page.is_recovered && after + 1 >= first, ..page }
        });
        let conn = reader.conn;
        self.answer_to(now, from, &FromHome::Inbox(InboxAnswer::Replay { conn, serial, page }), fx);
        self.page_written(out);
    }

    /// Where an inbox is, and how its past begins.
    fn subscribe_inbox_at_home(
        &mut self,
        now: Now,
        from: u16,
        (reader, id): (Reader<'_>, Option<RequestId<'_>>),
        past: &Past,
        fx: &mut Effects,
    ) {
        let mut out = std::mem::take(&mut self.page_scratch);
        let limits = self.config.replay;
        let page = self.read_inbox(now, reader, &mut out, |source, out, transcoder| {
            source.first_page(past, limits, out, transcoder)
        });
        let conn = reader.conn;
        self.answer_to(now, from, &FromHome::Inbox(InboxAnswer::Subscribed { conn, id, page }), fx);
        self.page_written(out);
    }

    /// A part of what is kept, for a query.
    fn inbox_history_at_home(
        &mut self,
        now: Now,
        from: u16,
        (reader, id): (Reader<'_>, Option<RequestId<'_>>),
        extent: &Extent,
        fx: &mut Effects,
    ) {
        let mut out = std::mem::take(&mut self.page_scratch);
        let limits = self.config.replay;
        let page = self.read_inbox(now, reader, &mut out, |source, out, transcoder| {
            source.part(extent, limits, out, transcoder)
        });
        let (conn, channel) = (reader.conn, name::INBOX);
        self.answer_to(now, from, &FromHome::HistoryPage { conn, id, channel, page }, fx);
        self.page_written(out);
    }

    /// Reads in the inbox of whoever is connected, and so is known here.
    fn read_inbox<'b>(
        &mut self,
        now: Now,
        reader: Reader<'_>,
        out: &'b mut Vec<u8>,
        read: impl FnOnce(&Source<'_>, &'b mut Vec<u8>, &mut Transcoder) -> Page<'b>,
    ) -> Page<'b> {
        out.clear();
        let Reader { participant, format, .. } = reader;
        let hash = self.hasher.of(participant);
        let found = self.participants.find_at_home(hash, participant, now.instant);
        let found = found.map(|slot| self.participants.get_at_home(slot));
        let (epoch, offset) = found.map_or((Epoch::new(0), 0), |it| (it.epoch, it.offset));
        let to = Address { channel: name::INBOX, to: Some(participant), hash, epoch };
        let source = Source { offset, history: found.and_then(|it| it.inbox()), to, format };
        read(&source, out, &mut self.transcoder)
    }

    /// Channels and inboxes share one bound: what was used longest ago goes first.
    pub(crate) fn bound_histories(&mut self) {
        let max = self.homes.history_bytes_max();
        while self.homes.history_bytes() + self.participants.inbox_bytes() > max {
            let is_inbox = match (self.homes.oldest_use(), self.participants.oldest_use()) {
                (Some(channel), Some(inbox)) => inbox <= channel,
                (channel, _) => channel.is_none(),
            };
            let is_done = match is_inbox {
                true => !self.participants.forget_oldest_inbox(),
                false => !self.homes.forget_oldest_history(),
            };
            if is_done {
                return;
            }
        }
    }
}
