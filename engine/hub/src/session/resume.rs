//! How a session goes on in a new connection: asked for, taken in, and everything subscribed again.
//!
//! Until `resumed` is written nothing more is read from the connection: what it publishes must come behind all that the
//! connection before it published. Then each subscription catches up from its position, and goes on live.

use std::sync::Arc;
use std::time::Duration;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Name, OwnedRequestId, Position, RequestId};
use corecast_protocol::envelope::event;
use corecast_protocol::envelope::name;

use crate::admission::Todo;
use crate::canary::{self, Canary};
use crate::channel::LocalChannels;
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects};
use crate::filter::{Bucket, Filter};
use crate::hub::Hub;
use crate::member::Member;
use crate::refused::Refused;
use crate::remote::{Epoch, Moved, Past, ToHome};
use crate::rules::Mode;
use crate::session::token::Token;
use crate::session::{Happened, Kept, State, Waiting};

/// The id of requests that no client made. Clients' numbers are smaller.
pub(crate) const RESUMING: RequestId<'static> = RequestId::Number(u64::MAX);

/// A connection that takes in a session.
#[derive(Debug)]
pub(crate) struct Resuming {
    id: Option<OwnedRequestId>,
    /// Presented with the handshake, and not asked for yet.
    presented: Option<Option<Token>>,
    /// What the client has seen, by channel.
    positions: Vec<(Box<str>, Epoch, u64)>,
    /// Subscriptions that are still to be asked for, from `next` on: see [`Kept`].
    kept: Box<[u8]>,
    next: usize,
    /// Whether the session has arrived.
    has_arrived: bool,
    /// Channels whose home has not answered yet.
    awaited: usize,
    answers: Vec<Answer>,
    /// Patterns that are live from `resumed` on, by their prefixes, and the serials of what asked for them.
    patterns: Vec<(u32, Box<str>)>,
    /// What it can't have any more, and why: the client is told so behind `resumed`.
    refused: Vec<(Box<str>, Refused)>,
    /// Whether the inbox was seen to.
    is_inbox_asked: bool,
}

#[derive(Debug)]
struct Answer {
    channel: Box<str>,
    /// A pattern has none.
    position: Option<(Epoch, u64)>,
    is_recovered: bool,
}

impl Resuming {
    fn new(id: Option<RequestId<'_>>, positions: &[(Name<'_>, Position<'_>)]) -> Self {
        let known = positions.iter().filter_map(|(channel, position)| {
            // What is no epoch of ours was never a position here: then nothing is known of that channel.
            let epoch = Epoch::read(&position.epoch)?;
            Some(((**channel).into(), epoch, position.offset))
        });
        Self {
            id: id.map(RequestId::to_owned),
            presented: None,
            positions: known.collect(),
            kept: Box::default(),
            next: 0,
            has_arrived: false,
            awaited: 0,
            answers: Vec::new(),
            patterns: Vec::new(),
            refused: Vec::new(),
            is_inbox_asked: false,
        }
    }

    /// For `?resume=`: asked for as soon as the connection is admitted.
    pub(crate) fn with_handshake(text: &str) -> Box<Self> {
        let presented = Some(Token::parse(text));
        Box::new(Self { presented, ..Self::new(None, &[]) })
    }

    /// Subscriptions that are still to be asked for.
    fn rest(&self) -> &[u8] {
        &self.kept[self.next..]
    }

    /// Whether the inbox is still to be seen to, once.
    pub(super) fn takes_inbox(&mut self) -> bool {
        !std::mem::replace(&mut self.is_inbox_asked, true)
    }

    /// One more home is to answer.
    pub(super) fn awaits_one(&mut self) {
        self.awaited += 1;
    }

    /// What the client has seen of this channel.
    pub(super) fn seen(&self, channel: &str) -> Option<(Epoch, u64)> {
        let seen = self.positions.iter().find(|(it, ..)| **it == *channel);
        let skipped = u64::from(seen.is_some() && canary::strikes(Canary::SessionSkips));
        seen.map(|(_, epoch, offset)| (*epoch, *offset + skipped))
    }

    /// Whether the session is here.
    pub(crate) fn has_arrived(&self) -> bool {
        self.has_arrived
    }

    /// The token of the handshake, while it was not asked for.
    pub(crate) fn presented(&self) -> Option<Token> {
        self.presented.flatten()
    }

    /// Whether it only waits to be asked for.
    pub(crate) fn is_due(&self) -> bool {
        self.presented.is_some()
    }
}

impl Hub {
    /// `resume`.
    pub(crate) fn resume(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (token, positions): (&str, &[(Name<'_>, Position<'_>)]),
        fx: &mut Effects,
    ) {
        if self.batch.is_some() {
            // What follows in the batch would have to wait for the answer, and for that nobody has a place.
            return self.invalid(conn, id, "`resume` stands for itself: send it outside of a batch", fx);
        }
        if !self.may_name(conn, id, positions.len(), fx) {
            return;
        }
        let Some(member) = self.members.find_mut(conn) else { return };
        let mut resuming = Resuming::new(id, positions);
        resuming.presented = Some(Token::parse(token));
        member.resuming = Some(Box::new(resuming));
        fx.list.push(Effect::Hold { conn });
        self.ask_for_session(now, conn, fx);
    }

    /// Asks the participant's home for the session of the token that was presented.
    pub(crate) fn ask_for_session(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let own = member.tokens.filter(|_| !member.has_resumed);
        let presented = member.resuming.as_mut().and_then(|it| it.presented.take());
        let (Some(own), Some(Some(token))) = (own, presented) else { return self.not_resumed(now, conn, fx) };
        let participant = member.participant.clone();
        let home = self.home(self.hasher.of(&*participant));
        let record = ToHome::Resume { conn, participant: &participant, token, own: own.current };
        self.ask(now, home, &record, fx);
    }

    /// There is no such session: the connection goes on with its own.
    pub(crate) fn not_resumed(&mut self, _now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let has_resumed = member.has_resumed;
        let Some(resuming) = member.resuming.take() else { return };
        let id = resuming.id.as_ref().map(OwnedRequestId::as_id);
        let why = if self.config.limits.resume_window_ms == 0 {
            "this server keeps no sessions: subscribe again"
        } else if has_resumed {
            "this connection has resumed a session already: resume another one in a new connection"
        } else {
            "there is no session of this participant with this token: it ended, or was resumed before; subscribe again"
        };
        self.error(fx, conn, id, None, ErrorCode::Unrecoverable, why);
        self.inbox_goes_on(conn, fx);
        fx.list.push(Effect::GoOn { conn });
        self.path_later(conn);
    }

    /// The path's subscription waited for the session.
    fn path_later(&mut self, conn: ConnKey) {
        if self.members.find(conn).is_some_and(|it| it.path_channel.is_some()) {
            self.todo.push_back(Todo::GoOn(conn));
        }
    }

    /// The session has come from where it was.
    pub(crate) fn session_arrived(
        &mut self,
        now: Now,
        conn: ConnKey,
        participant: &str,
        &Moved { tokens, kept, away_ms }: &Moved<'_>,
        _fx: &mut Effects,
    ) {
        let lost_at = away_ms.and_then(|away| now.instant.checked_sub(Duration::from_millis(away.into())));
        let kept = Kept::each_once(kept);
        // Its participant is present here from now on, and goes on being so once all is subscribed again.
        for it in Kept::each(&kept).filter(|it| !it.is_pattern) {
            self.subscription_kept(participant, it.name);
        }
        let member = self.members.find_mut(conn).filter(|it| it.resuming.is_some());
        let Some(member) = member else {
            // Its new connection was lost meanwhile, so it waits here for the next one.
            let participant: Arc<str> = participant.into();
            let lost = self.suspended.lost(now.instant, lost_at);
            let mut state = State::Authenticated;
            state.go(Happened::Lost);
            return self.suspend(now, conn, Waiting { participant, tokens, kept, state, lost });
        };
        member.session.go(Happened::Resumed);
        member.tokens = Some(tokens);
        member.has_resumed = true;
        member.away = Some(Box::new(lost_at));
        let resuming = member.resuming.as_mut().expect("it was just looked at");
        resuming.kept = kept;
        resuming.has_arrived = true;
        self.todo.push_back(Todo::Restore(conn));
    }

    /// Subscribes again to the next channel of the session that has arrived.
    pub(crate) fn restore(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let participant = member.participant.clone();
        let Some(resuming) = member.resuming.as_mut() else { return };
        let Some((kept, bytes)) = Kept::first(resuming.rest()) else {
            resuming.next = resuming.kept.len();
            return self.restore_inbox(now, conn, fx);
        };
        let filter = kept.filter.and_then(Filter::unpacked);
        let (channel, kept) = (Box::<str>::from(kept.name), Kept { name: "", filter: None, ..kept });
        resuming.next += bytes;
        if &*channel == name::INBOX {
            member.inbox_acked = member.inbox_acked.or(kept.acked);
        } else if !canary::strikes(Canary::SubscriptionLost) {
            self.filter_in_hand = filter;
            if !canary::strikes(Canary::BucketRefilled) {
                self.bucket_in_hand = Bucket::FullAt(now.instant + kept.full_in);
            }
            self.restore_one(now, conn, &Kept { name: &channel, ..kept }, fx);
            (self.filter_in_hand, self.bucket_in_hand) = (None, Bucket::Full);
        }
        if !kept.is_pattern {
            // It counts as the connection's own from here on.
            self.subscription_ended(&participant, &channel);
        }
        // One at a time, because each may cause a record for every shard.
        self.todo.push_back(Todo::Restore(conn));
    }

    /// What it wants of the channel is in hand.
    fn restore_one(&mut self, now: Now, conn: ConnKey, kept: &Kept<'_>, fx: &mut Effects) {
        let pattern;
        let text = if kept.is_pattern {
            pattern = format!("{}*", kept.name);
            &pattern
        } else {
            kept.name
        };
        let rule = self.may_subscribe(conn, text).map(|(rule, ..)| rule);
        let hash = self.hasher.of(kept.name);
        let index = self.channels.find(hash, kept.name, kept.is_pattern);
        let Some(member) = self.members.find_mut(conn) else { return };
        let own = index.and_then(|index| member.of(index));
        let has_it = own.is_some();
        let is_reliable = rule.is_ok_and(|rule| self.config.namespaces.at(rule).mode == Mode::Reliable);
        // A node that was restarted may promise less than the one before.
        let (is_watching, mut wants_ack) = (kept.wants_presence, kept.wants_ack && is_reliable);
        if let Some(own) = own {
            // What the connection asked for by itself was asked for last.
            self.filter_in_hand = own.filter_wanted().cloned();
            self.bucket_in_hand = Bucket::GoesOn;
            wants_ack &= self.filter_in_hand.is_none();
        }
        let Some(resuming) = member.resuming.as_mut() else { return };
        resuming.awaited += 1;
        let past = if kept.is_pattern || has_it {
            // What came since the connection subscribed by itself must not come again.
            Past { is_watching, wants_ack, ..Past::default() }
        } else {
            let position = Some(resuming.seen(kept.name).or(kept.acked));
            Past { position, latest: 0, is_carried: false, is_held: true, is_watching, wants_ack }
        };
        self.subscribe_one(now, conn, Some(RESUMING), (text, past), fx);
    }

    /// What waited for `resumed` to be written goes on: from its position, or at once where there is no past.
    fn let_subscriptions_go_on(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let mut live = Vec::new();
        for it in &mut member.subscriptions {
            let (index, serial) = (it.channel, it.serial);
            if it.extra.as_ref().is_some_and(|it| it.awaited > 0) {
                // Its own answer is still to come.
                continue;
            }
            let Some(cursor) = it.cursor_mut().filter(|it| it.is_held) else { continue };
            let Some(channel) = self.channels.get(index) else { continue };
            cursor.is_held = false;
            if !self.config.namespaces.at(channel.rule).numbers() {
                live.push((serial, channel.name.clone()));
            }
        }
        for (serial, name) in live {
            self.activate(conn, serial, &name, false);
        }
        fx.list.push(Effect::AwaitRoom { conn });
    }

    /// A channel's home has answered: whether that was for a session that is being resumed.
    pub(crate) fn restored(
        &mut self,
        conn: ConnKey,
        (channel, position): (&str, Option<(Epoch, u64)>),
        is_recovered: bool,
        fx: &mut Effects,
    ) {
        let Some(resuming) = self.members.find_mut(conn).and_then(|it| it.resuming.as_mut()) else { return };
        resuming.awaited -= 1;
        resuming.answers.push(Answer { channel: channel.into(), position, is_recovered });
        self.resumed_if_complete(conn, fx);
    }

    /// All homes know a pattern of the session: nothing comes by it before `resumed`.
    pub(crate) fn pattern_restored(&mut self, conn: ConnKey, serial: u32, prefix: &str, fx: &mut Effects) {
        let Some(resuming) = self.members.find_mut(conn).and_then(|it| it.resuming.as_mut()) else { return };
        resuming.patterns.push((serial, prefix.into()));
        self.restored(conn, (&format!("{prefix}*"), None), false, fx);
    }

    /// A channel or pattern of the session can't be had any more: the session goes on without it.
    pub(crate) fn not_restored(&mut self, conn: ConnKey, text: &str, why: Refused, fx: &mut Effects) {
        let Some(resuming) = self.members.find_mut(conn).and_then(|it| it.resuming.as_mut()) else { return };
        resuming.awaited -= 1;
        resuming.refused.push((text.into(), why));
        self.resumed_if_complete(conn, fx);
    }

    /// Tells the client that its session goes on, once all homes have answered.
    pub(super) fn resumed_if_complete(&mut self, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let is_complete = member
            .resuming
            .as_ref()
            .is_some_and(|it| it.has_arrived && it.awaited == 0 && it.rest().is_empty() && it.is_inbox_asked);
        let (true, Some(tokens)) = (is_complete, member.tokens) else { return };
        let Some(resuming) = member.resuming.take() else { return };
        self.resumed += 1;
        self.reply_fixed(fx, conn, |out, format| {
            let mut buffer = [0; 22];
            let token = tokens.current.text(&mut buffer);
            let id = resuming.id.as_ref().map(OwnedRequestId::as_id);
            let channels = resuming.answers.iter().map(|it| event::ResumedChannel {
                channel: &it.channel,
                epoch: it.position.as_ref().map_or(b"", |(epoch, _)| epoch.text()),
                offset: it.position.map_or(0, |(_, offset)| offset),
                recovered: it.is_recovered,
            });
            event::resumed(out, format, id, token, channels);
        });
        for (channel, Refused { code, why }) in &resuming.refused {
            self.reply_fixed(fx, conn, |out, format| {
                event::unsubscribed(out, format, None, channel, Some((*code, why)));
            });
        }
        for answer in &resuming.answers {
            self.begin_watching(conn, &answer.channel);
            self.ask_missed_later(conn, &answer.channel);
        }
        for (serial, prefix) in &resuming.patterns {
            self.activate(conn, *serial, prefix, true);
        }
        self.let_subscriptions_go_on(conn, fx);
        self.inbox_goes_on(conn, fx);
        fx.list.push(Effect::GoOn { conn });
        self.path_later(conn);
    }

    /// The first message behind `resumed`: the client has its token, and the one before is good no more.
    pub(crate) fn confirm(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn).filter(|it| it.resuming.is_none()) else { return };
        let Some(former) = member.tokens.as_mut().and_then(|it| it.former.take()) else { return };
        member.away = None;
        let hash = self.hasher.of(&*member.participant);
        self.ask(now, self.home(hash), &ToHome::TokenUsedUp { token: former }, fx);
    }

    /// The subscriptions of a connection's session, as they are kept without it.
    pub(crate) fn kept_of(&self, now: Now, conn: ConnKey, member: &Member) -> Vec<u8> {
        let mut kept = Vec::new();
        for subscription in &member.subscriptions {
            let Some(channel) = self.channels.get(subscription.channel) else { continue };
            let is_pattern = LocalChannels::is_pattern(subscription.channel);
            let name = &*channel.name;
            let wants_presence = !is_pattern && self.presence.local.watches(channel.hash, name, conn);
            let (wants_ack, acked) = (subscription.acks().is_some(), subscription.acked());
            let filter = subscription.filter_wanted().map(|it| it.packed());
            let filter = filter.as_deref();
            let full_in = self.bucket_full_in(now.instant, member, subscription);
            Kept { name, is_pattern, wants_presence, wants_ack, acked, filter, full_in }.write(&mut kept);
        }
        if let acked @ Some(_) = member.inbox_acked {
            Kept { acked, ..Kept::of(name::INBOX, false) }.write(&mut kept);
        }
        if let Some(resuming) = &member.resuming {
            kept.extend_from_slice(resuming.rest());
        }
        kept
    }
}
