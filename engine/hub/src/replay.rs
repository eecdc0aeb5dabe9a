//! Catching up: how a subscription that begins in the past becomes one of the present.
//!
//! Such a subscription is not among its channel's subscribers. It has a cursor, the last position that was queued for
//! its client, and its shard fetches from the home what follows, a page at a time, whenever the client has read enough
//! for another. A page behind which the home has nothing says so, and makes the subscription live. What comes from a
//! home comes in the order in which it was sent: everything up to the page's end came with pages, everything later
//! comes as it is published. Nothing is merged, and so nothing can be missing, doubled or out of order.

use std::sync::Arc;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::event::{self, Changes, HistoryAnswer, Subscribed};

use crate::canary::{self, Canary};
use crate::config::{Now, ReplayLimits};
use crate::effect::{ConnKey, Effect, Effects};
use crate::filter::Filter;
use crate::format::Format;
use crate::history::{Address, History, Record};
use crate::hub::Hub;
use crate::member::{Cursor, Extra, Member};
use crate::reading::Transcoder;
use crate::remote::{Epoch, Extent, FromHome, Messages, Page, Past, ToHome};

/// An answer costs its shard as much as so many bytes that are copied, even if nothing is in it.
const ANSWER_BYTES: usize = 512;

/// Answers with messages that one connection may wait for at once.
pub(crate) const BULK_MAX: u8 = 8;

/// Messages of one answer at most; with small ones, bytes come first.
const ANSWER_MESSAGES_MAX: usize = 1_000;

/// Which messages of a history are written, and how many of them at most.
struct Selection {
    /// Behind this offset.
    after: u64,
    messages: usize,
    bytes: usize,
}

/// What pages are made of: a channel or an inbox at its home, and who reads it.
pub(crate) struct Source<'a> {
    /// Of the latest message.
    pub(crate) offset: u64,
    pub(crate) history: Option<&'a History>,
    pub(crate) to: Address<'a>,
    pub(crate) format: Format,
}

impl Source<'_> {
    /// What a new subscriber is told, and whether it is live from here on.
    pub(crate) fn first_page<'b>(
        &self,
        past: &Past,
        limits: ReplayLimits,
        out: &'b mut Vec<u8>,
        transcoder: &mut Transcoder,
    ) -> Page<'b> {
        let Self { offset, history, to, format } = *self;
        let is_live = !past.is_held;
        let now_on =
            Page { is_live, is_past: past.is_wanted(), is_held: past.is_held, ..Page::at(to.epoch, offset) };
        if !past.is_wanted() {
            return now_on;
        }
        let bytes = if past.is_carried { limits.answer_bytes } else { 0 };
        let found = past.position.flatten().filter(|(theirs, _)| *theirs == to.epoch);
        if let Some((_, after)) = found
            && is_whole(history, offset, after)
        {
            let selection = Selection { after, messages: ANSWER_MESSAGES_MAX, bytes };
            let (count, end) = write(history, &selection, (format, &to), out, transcoder);
            let has_more = end < offset;
            let is_live = is_live && !has_more;
            let messages = Messages { count, bytes: out };
            let messages = past.is_carried.then_some(messages);
            return Page { offset: end, is_recovered: true, is_live, has_more, messages, ..now_on };
        }
        if !past.is_carried {
            return Page { has_more: history.is_some() && past.latest > 0, ..now_on };
        }
        // The latest of them that fit.
        let wanted = (past.latest as usize).min(ANSWER_MESSAGES_MAX);
        let (after, has_more) = latest(history, offset, (wanted, bytes), (format, &to), transcoder);
        let selection = Selection { after, messages: usize::MAX, bytes: usize::MAX };
        let (count, _) = write(history, &selection, (format, &to), out, transcoder);
        Page { has_more, messages: Some(Messages { count, bytes: out }), ..now_on }
    }

    /// What follows a position, as much as one page holds.
    pub(crate) fn next_page<'b>(
        &self,
        (theirs, after): (Epoch, u64),
        limits: ReplayLimits,
        out: &'b mut Vec<u8>,
        transcoder: &mut Transcoder,
    ) -> Page<'b> {
        let Self { offset, history, to, format } = *self;
        let lost = Page { is_live: true, ..Page::at(to.epoch, offset) };
        if theirs != to.epoch || !is_whole(history, offset, after) {
            return lost;
        }
        let selection = Selection { after, messages: limits.messages, bytes: limits.bytes };
        let (count, end) = write(history, &selection, (format, &to), out, transcoder);
        let has_more = end < offset;
        let messages = Some(Messages { count, bytes: out });
        Page { offset: end, is_recovered: true, is_live: !has_more, has_more, messages, ..lost }
    }

    /// The same for who acknowledges: of what is not whole any more, the rest.
    fn next_page_of_rest<'b>(
        &self,
        (theirs, after): (Epoch, u64),
        limits: ReplayLimits,
        out: &'b mut Vec<u8>,
        transcoder: &mut Transcoder,
    ) -> Page<'b> {
        let is_known = theirs == self.to.epoch;
        if is_known && is_whole(self.history, self.offset, after) {
            return self.next_page((theirs, after), limits, out, transcoder);
        }
        let first = self.history.map_or(self.offset + 1, History::first);
        let from = if is_known { after.max(first - 1) } else { first - 1 };
        let rest = self.next_page((self.to.epoch, from), limits, out, transcoder);
        Page { is_recovered: false, ..rest }
    }

    /// A part of what is kept, for a query.
    pub(crate) fn part<'b>(
        &self,
        extent: &Extent,
        limits: ReplayLimits,
        out: &'b mut Vec<u8>,
        transcoder: &mut Transcoder,
    ) -> Page<'b> {
        let Self { offset, history, to, format } = *self;
        let first = history.map_or(offset + 1, History::first);
        let since = extent.since.map(|named| named.filter(|(theirs, _)| *theirs == to.epoch).map(|it| it.1));
        let page = Page { is_recovered: true, ..Page::at(to.epoch, offset) };
        let (messages, bytes) = ((extent.limit as usize).min(ANSWER_MESSAGES_MAX), limits.answer_bytes);
        // What is asked for lies behind `after` and before `until`.
        let (after, until) = match (since, extent.is_backward) {
            (None, _) => (Some(first - 1), offset + 1),
            (Some(since), false) => (since.filter(|since| is_whole(history, offset, *since)), offset + 1),
            (Some(since), true) => {
                // What came before it may all be gone: then there is nothing, and nothing wrong.
                let since = since.filter(|since| *since <= offset + 1);
                (since.map(|_| first - 1), since.unwrap_or(first))
            }
        };
        let Some(after) = after else { return Page { is_recovered: false, ..page } };
        let (count, has_more) = if extent.is_backward {
            write_back(history, (until, messages, bytes), (format, &to), out, transcoder)
        } else {
            let selection = Selection { after, messages, bytes };
            let (count, end) = write(history, &selection, (format, &to), out, transcoder);
            (count, end < offset)
        };
        Page { has_more, messages: Some(Messages { count, bytes: out }), ..page }
    }
}

impl Hub {
    /// What a new subscriber is told of a channel, and whether it is live from here on.
    pub(crate) fn first_page<'b>(
        &mut self,
        now: Now,
        (channel, format): (&str, Format),
        past: &Past,
        out: &'b mut Vec<u8>,
    ) -> Page<'b> {
        let hash = self.hasher.of(channel);
        let slot = self.homes.find(hash, channel);
        let (epoch, offset) = self.position_at_home(hash, slot);
        let is_reborn = slot.is_some_and(|slot| self.homes.is_reborn(slot));
        let wanted = slot.filter(|_| past.is_wanted());
        let history = wanted.and_then(|slot| self.homes.history(slot, now.instant));
        let to = Address { channel, to: None, hash, epoch };
        let source = Source { offset, history, to, format };
        Page { is_reborn, ..source.first_page(past, self.config.replay, out, &mut self.transcoder) }
    }

    /// At the home, where the shard is known to want the channel: what follows a position, as much as one page holds.
    pub(crate) fn fetch(
        &mut self,
        now: Now,
        from: u16,
        (conn, serial, channel, format): (ConnKey, u32, &str, Format),
        (epoch, after, limit): (Epoch, u64, u32),
        fx: &mut Effects,
    ) {
        let position = (epoch, after);
        let mut out = std::mem::take(&mut self.page_scratch);
        out.clear();
        let hash = self.hasher.of(channel);
        let slot = self.homes.find(hash, channel);
        let (epoch, offset) = self.position_at_home(hash, slot);
        let history = slot.and_then(|slot| self.homes.history(slot, now.instant));
        let source = Source { offset, history, to: Address { channel, to: None, hash, epoch }, format };
        let messages = self.config.replay.messages.min(limit as usize);
        let limits = ReplayLimits { messages, ..self.config.replay };
        // Only who acknowledges has a bound of its own.
        let page = if limit == u32::MAX {
            source.next_page(position, limits, &mut out, &mut self.transcoder)
        } else {
            source.next_page_of_rest(position, limits, &mut out, &mut self.transcoder)
        };
        self.answer_to(now, from, &FromHome::Replay { conn, serial, channel, page }, fx);
        self.page_written(out);
    }

    /// At the home: a part of what is kept, for a query.
    pub(crate) fn history_page(
        &mut self,
        now: Now,
        from: u16,
        (conn, id, channel, format): (ConnKey, Option<RequestId<'_>>, &str, Format),
        extent: &Extent,
        fx: &mut Effects,
    ) {
        let mut out = std::mem::take(&mut self.page_scratch);
        out.clear();
        let hash = self.hasher.of(channel);
        let slot = self.homes.find(hash, channel);
        let (epoch, offset) = self.position_at_home(hash, slot);
        let history = slot.and_then(|slot| self.homes.history(slot, now.instant));
        let source = Source { offset, history, to: Address { channel, to: None, hash, epoch }, format };
        let page = source.part(extent, self.config.replay, &mut out, &mut self.transcoder);
        self.answer_to(now, from, &FromHome::HistoryPage { conn, id, channel, page }, fx);
        self.page_written(out);
    }

    /// Where a channel is now that may not be remembered.
    pub(crate) fn position_at_home(&self, hash: u64, slot: Option<u32>) -> (Epoch, u64) {
        match slot {
            Some(slot) => self.homes.position(slot),
            None => self.homes.position_of_unknown(hash),
        }
    }

    /// A page was answered: its memory is for the next one.
    pub(crate) fn page_written(&mut self, page: Vec<u8>) {
        self.transcoder.copied(page.len() + ANSWER_BYTES);
        self.page_scratch = page;
    }

    /// Whether the connection may wait for one more answer with messages; counted if so.
    pub(crate) fn takes_bulk(&mut self, conn: ConnKey) -> bool {
        let Some(member) = self.members.find_mut(conn) else { return false };
        let has_room = member.bulk < BULK_MAX;
        member.bulk += u8::from(has_room);
        has_room
    }

    /// The answer to a query for history.
    pub(crate) fn history_answer(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        page: &Page<'_>,
        fx: &mut Effects,
    ) {
        self.bulk_came(conn, fx);
        let Some(member) = self.members.find(conn) else { return };
        let is_time_iso = member.is_time_iso;
        if !page.is_recovered {
            let why = "what follows this position is not kept any more, or it is none: ask without `since`";
            return self.refuse_call(conn, id, ErrorCode::Unrecoverable, why, fx);
        }
        let messages = Listed::new(page.messages.unwrap_or_default(), is_time_iso);
        self.reply(fx, conn, |out, format| {
            let variants = messages.variants(format);
            let answer = HistoryAnswer {
                channel,
                epoch: page.epoch.text(),
                offset: page.offset,
                messages: &variants.list(),
                more: page.has_more,
            };
            event::history(out, format, id, &answer);
        });
    }

    /// The client has read enough for more to be queued.
    pub fn has_room(&mut self, conn: ConnKey) {
        let has_more = |it: &Member| it.behind > 0 && !it.is_fetching || it.later.is_some();
        if self.members.find(conn).is_some_and(has_more) {
            self.todo.push_back(crate::admission::Todo::CatchUp(conn));
        }
    }

    /// Fetches what the next of the connection's subscriptions missed.
    pub(crate) fn catch_up(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        self.ask_at_last(now, conn, fx);
        let Some(member) = self.members.find_mut(conn) else { return };
        if member.is_fetching || member.behind == 0 {
            return;
        }
        if self.fetch_inbox(now, conn, fx) {
            return;
        }
        let Some(member) = self.members.find_mut(conn) else { return };
        let format = member.format;
        // In turn: one that is published to faster than its client reads must not keep the others in the past.
        let last = member.subscriptions.iter().position(|it| it.channel == member.fetched_last);
        let (first, second) = member.subscriptions.split_at_mut(last.map_or(0, |last| last + 1));
        let in_turn = second.iter_mut().chain(first);
        let next = in_turn.filter_map(|it| it.may_fetch().map(|found| (it, found))).next();
        let Some((subscription, (cursor, limit))) = next else { return };
        member.fetched_last = subscription.channel;
        let (serial, index) = (subscription.serial, subscription.channel);
        if let Some(acks) = subscription.acks_mut() {
            acks.is_fetching = true;
        }
        member.is_fetching = true;
        let Some(channel) = self.channels.get(index) else { return };
        let (name, home) = (channel.name.clone(), self.home(channel.hash));
        let Cursor { epoch, offset: after, .. } = cursor;
        let record = ToHome::Fetch { conn, serial, channel: &name, format, epoch, after, limit };
        self.ask(now, home, &record, fx);
    }

    /// A page has come for a subscription that is catching up, if it still is.
    pub(crate) fn page_came(
        &mut self,
        conn: ConnKey,
        serial: u32,
        channel: &str,
        page: &Page<'_>,
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find_mut(conn) else { return };
        member.is_fetching = false;
        let index = self.channels.find(self.hasher.of(channel), channel, false);
        let mut own =
            member.subscriptions.iter_mut().find(|it| Some(it.channel) == index && it.serial == serial);
        if let Some(acks) = own.as_mut().and_then(|own| own.acks_mut()) {
            acks.is_fetching = false;
        }
        if let Some(own) = own
            && let index = own.channel
            && let Some(cursor) = own.cursor_mut().filter(|it| !it.is_held)
        {
            (cursor.epoch, cursor.offset) = (page.epoch, page.offset);
            cursor.is_held = page.is_live && canary::strikes(Canary::LiveNever);
            let is_live = page.is_live && !cursor.is_held;
            if !page.is_recovered {
                // The position says it all: what is still kept comes behind it.
                own.extra().gate.take_skipped();
                let begin = page.offset - u64::from(page.messages.map_or(0, |it| it.count));
                self.acks_lost(conn, index, (page.epoch, begin));
                self.reply_fixed(fx, conn, |out, format| {
                    let position = Some((page.epoch.text(), begin));
                    event::subscribed(
                        out,
                        format,
                        None,
                        channel,
                        &Subscribed { position, ..Subscribed::default() },
                    );
                });
            }
            if !self.replay_to_acking(conn, index, page, fx) {
                self.replay(conn, Some(index), page.messages.unwrap_or_default(), fx);
            }
            if self.page_sent(conn, index, page) && is_live {
                self.activate(conn, serial, channel, false);
            }
        }
        if self.members.find(conn).is_some_and(|it| it.behind > 0) {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// Messages of the past for one connection, of those that its subscription wants.
    pub(crate) fn replay(
        &mut self,
        conn: ConnKey,
        subscription: Option<u32>,
        messages: Messages<'_>,
        fx: &mut Effects,
    ) {
        let is_time_iso = self.members.find(conn).is_some_and(|it| it.is_time_iso);
        for (event, form, timestamp) in messages.iter() {
            let iso_timestamp = is_time_iso.then_some(timestamp);
            let Some(skipped) = self.pass_replayed(conn, subscription, event) else { continue };
            self.replayed += 1;
            if canary::strikes(Canary::ReplayedMessageLost) {
                continue;
            }
            let changes = Changes { iso_timestamp, skipped, ..Changes::default() };
            self.reply(fx, conn, |out, format| {
                event::variant(out, format, form.bytes, form.seams, &changes);
            });
        }
    }

    /// How many messages were left out before this one, unless it is left out itself.
    fn pass_replayed(
        &mut self,
        conn: ConnKey,
        subscription: Option<u32>,
        event: Option<&str>,
    ) -> Option<u64> {
        let now = self.instant();
        let extra = subscription.and_then(|index| self.subscription_mut(conn, index)?.extra.as_deref_mut());
        let Some(Extra { filter: Some(filter), gate, .. }) = extra else { return Some(0) };
        if gate.passes(filter, event, now) {
            return Some(gate.take_skipped());
        }
        gate.skip();
        None
    }
}

/// Whether everything behind this offset is kept, of a channel whose last message has the other one.
fn is_whole(history: Option<&History>, offset: u64, after: u64) -> bool {
    history.map_or(after == offset, |history| history.since(after).is_some())
}

/// Where the latest messages begin that fit, one at least, and whether more of them were wanted.
fn latest(
    history: Option<&History>,
    offset: u64,
    (messages, bytes): (usize, usize),
    (format, to): (Format, &Address<'_>),
    transcoder: &mut Transcoder,
) -> (u64, bool) {
    let Some(history) = history else { return (offset, false) };
    let all = history.since(history.first() - 1).into_iter().flatten();
    let (mut after, mut room) = (offset, bytes);
    for (at, record) in all.rev().take(messages) {
        let len = record.len_in(format, to, at, transcoder);
        if len > room && after < offset {
            return (after, true);
        }
        room = room.saturating_sub(len);
        after = at - 1;
    }
    (after, false)
}

/// Writes what follows an offset: how many messages, and the offset of the last one. One is written however large it
/// is, unless there is no room at all.
fn write(
    history: Option<&History>,
    selection: &Selection,
    (format, to): (Format, &Address<'_>),
    out: &mut Vec<u8>,
    transcoder: &mut Transcoder,
) -> (u32, u64) {
    let (mut count, mut end) = (0, selection.after);
    let all = history.and_then(|history| history.since(selection.after)).into_iter().flatten();
    for (offset, record) in all.take(selection.messages) {
        let is_full = out.len() + record.len() > selection.bytes;
        if is_full && (count > 0 || selection.bytes == 0) {
            break;
        }
        write_one(out, (offset, &record), (format, to), transcoder);
        (count, end) = (count + 1, offset);
    }
    (count, end)
}

/// The same from the newest to the oldest, of those before an offset: how many, and whether older ones are left.
fn write_back(
    history: Option<&History>,
    (until, messages, bytes): (u64, usize, usize),
    (format, to): (Format, &Address<'_>),
    out: &mut Vec<u8>,
    transcoder: &mut Transcoder,
) -> (u32, bool) {
    let mut count = 0;
    let Some(history) = history else { return (0, false) };
    // What comes behind it is not walked over: that would cost more than what is written, and count for nothing.
    for (offset, record) in history.before(until) {
        if count as usize == messages || count > 0 && out.len() + record.len() > bytes {
            return (count, true);
        }
        write_one(out, (offset, &record), (format, to), transcoder);
        count += 1;
    }
    (count, false)
}

fn write_one(
    out: &mut Vec<u8>,
    (offset, record): (u64, &Record<'_>),
    (format, to): (Format, &Address<'_>),
    transcoder: &mut Transcoder,
) {
    let Record(kept) = record;
    Messages::push(out, kept.event, kept.timestamp, |out| record.write(out, format, to, offset, transcoder));
}

/// Messages of one answer, as its reader wants them.
pub(crate) struct Listed<'a> {
    messages: Messages<'a>,
    is_time_iso: bool,
    filter: Option<Arc<Filter>>,
}

/// The bytes of such messages: as they came, or one behind the other with where each ends.
pub(crate) enum Variants<'a> {
    AsTheyCame(Messages<'a>),
    Changed(Vec<u8>, Vec<usize>),
}

impl<'a> Listed<'a> {
    pub(crate) fn new(messages: Messages<'a>, is_time_iso: bool) -> Self {
        Self { messages, is_time_iso, filter: None }
    }

    /// Of these only the events that a subscription wants. They are one answer, which a rate does not bound.
    pub(crate) fn filtered(self, filter: Option<&Arc<Filter>>) -> Self {
        Self { filter: filter.cloned(), ..self }
    }

    pub(crate) fn variants(&self, format: Format) -> Variants<'a> {
        if !self.is_time_iso && self.filter.is_none() {
            return Variants::AsTheyCame(self.messages);
        }
        let (mut bytes, mut ends, mut skipped) = (Vec::new(), Vec::new(), 0);
        for (name, form, timestamp) in self.messages.iter() {
            if self.filter.as_ref().is_some_and(|it| !it.wants(name)) {
                skipped += 1;
                continue;
            }
            let iso_timestamp = self.is_time_iso.then_some(timestamp);
            let changes =
                Changes { iso_timestamp, skipped: std::mem::take(&mut skipped), ..Changes::default() };
            event::variant(&mut bytes, format, form.bytes, form.seams, &changes);
            ends.push(bytes.len());
        }
        Variants::Changed(bytes, ends)
    }
}

impl Variants<'_> {
    pub(crate) fn list(&self) -> Vec<&[u8]> {
        match self {
            Self::AsTheyCame(messages) => messages.iter().map(|(_, form, _)| form.bytes).collect(),
            Self::Changed(bytes, ends) => {
                let starts = std::iter::once(0).chain(ends.iter().copied());
                starts.zip(ends).map(|(start, end)| &bytes[start..*end]).collect()
            }
        }
    }
}
