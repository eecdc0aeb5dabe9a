//! Who comes in and who goes: limits per address and per participant, counted at their homes.
//!
//! Opening asks the address's home, then the participant's. Where both are here, all of it happens in the call. An
//! answer that comes through a ring may cause no records, so what follows it waits for [`Hub::settle`], which the
//! shard calls in the same tick when there is room.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use corecast_protocol::envelope::event::{self, Established};

use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects, Idle, Refusal, Tracking};
use crate::format::Format;
use crate::hub::{Hub, Via};
use crate::inbox::Begin;
use crate::member::{Access, Admission, Member, Open};
use crate::receipt::{self, Report};
use crate::remote::{Epoch, FromHome, Past, ToHome, base36};
use crate::session::{Asking, End, Handed, Happened, Resuming, State, Token, Tokens, Waiting};

/// What homes are still to be told or asked.
#[derive(Debug)]
pub(crate) enum Todo {
    /// One connection of this address less.
    ReleaseIp(IpAddr),
    /// One connection of this participant less.
    ReleaseParticipant(Arc<str>, Format),
    /// An admission goes on from an answer that came through a ring.
    GoOn(ConnKey),
    /// A connection has room for more of what it missed.
    CatchUp(ConnKey),
    /// A subscription has something unacknowledged from now on.
    TimeAcks(ConnKey, u32),
    /// Nothing waits for a connection that is to be sent something again.
    Idle(ConnKey, u32, Idle),
    /// A message's copies are waited for from now on.
    Patience(Tracking),
    /// What became of a message's copies here.
    Report(Report),
    /// What is known of a message's copies is told to its publisher.
    Receipt(Box<receipt::Open>),
    /// A connection that is gone had got its participant's inbox up to here.
    Seen(Box<(Arc<str>, (Epoch, u64))>),
    /// A session of this participant is over.
    EndSession(Box<(Arc<str>, Tokens)>),
    /// All homes are to answer behind what they were asked so far, for sessions that leave this shard.
    Fence,
    /// A session leaves this shard.
    HandOver(Box<Handed>),
    /// Somebody asks for a session where it is now.
    AskAgain(Box<(Box<str>, Asking)>),
    /// The next subscription of a session that came to this connection.
    Restore(ConnKey),
    /// A session that goes on in this connection may have missed who came and went in a channel.
    AskMissed(Box<(ConnKey, Box<str>, Option<Instant>)>),
}

impl Hub {
    /// A handshake asks for admission. [`Effect::Admitted`] or [`Effect::Refused`] answers it, now or after a
    /// home's answer.
    pub fn open(&mut self, now: Now, conn: ConnKey, open: Open<'_>, fx: &mut Effects) {
        let client_id = self.client_ids.next();
        let mut buffer = [0; 13];
        let name = open.as_name.unwrap_or_else(|| base36(client_id, &mut buffer));
        let participant = match open.access {
            Access::Demo => format!("demo:{name}").into(),
            Access::Development => name.into(),
        };
        let member = Member {
            generation: conn.generation,
            access: open.access,
            admission: Admission::AwaitsIp,
            session: State::Connected,
            tokens: None,
            has_resumed: false,
            resuming: open.resume.map(Resuming::with_handshake),
            is_time_iso: open.is_time_iso,
            format: open.format,
            invalid_in_a_row: 0,
            ip: open.ip,
            participant,
            place: 0,
            client_id,
            path_channel: open.channel.map(Into::into),
            subscriptions: Vec::new(),
            serial: 0,
            chosen_for: 0,
            behind: 0,
            is_fetching: false,
            fetched_last: u32::MAX,
            bulk: 0,
            later: None,
            inbox_acked: None,
            reading: None,
            away: None,
        };
        self.members.insert(conn.index, member);
        let home = self.home(self.hasher.of(open.ip));
        self.ask(now, home, &ToHome::AdmitIp { conn, ip: open.ip }, fx);
    }

    pub(crate) fn ip_admitted(
        &mut self,
        now: Now,
        conn: ConnKey,
        (ip, is_admitted): (IpAddr, bool),
        via: Via,
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find_mut(conn) else {
            // Gone while its home was asked: what was counted is to be taken back.
            if is_admitted {
                self.todo.push_back(Todo::ReleaseIp(ip));
            }
            return;
        };
        if !is_admitted {
            member.session.go(Happened::Ended);
            self.members.remove(conn);
            let refusal = Refusal::PerIp { limit: self.config.limits.connections_per_ip };
            fx.list.push(Effect::Refused { conn, refusal });
            return;
        }
        member.admission = Admission::OfIp;
        self.go_on_or_later(now, conn, via, fx);
    }

    fn go_on_or_later(&mut self, now: Now, conn: ConnKey, via: Via, fx: &mut Effects) {
        match via {
            Via::Call => self.go_on(now, conn, fx),
            Via::Ring => self.todo.push_back(Todo::GoOn(conn)),
        }
    }

    /// The next step of an admission, where requests are allowed.
    pub(crate) fn go_on(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        match member.admission {
            Admission::OfIp => {
                member.admission = Admission::AwaitsParticipant;
                let (participant, format) = (member.participant.clone(), member.format);
                let presented = member.resuming.as_ref().and_then(|it| it.presented());
                let home = self.home(self.hasher.of(&*participant));
                let record = ToHome::AdmitParticipant { conn, participant: &participant, format, presented };
                self.ask(now, home, &record, fx);
            }
            Admission::Admitted if member.resuming.is_some() => {
                if member.resuming.as_ref().is_some_and(|it| it.is_due()) {
                    self.ask_for_session(now, conn, fx);
                }
            }
            Admission::Admitted => {
                if let Some(channel) = member.path_channel.take() {
                    self.subscribe_one(now, conn, None, (&channel, Past::default()), fx);
                }
            }
            Admission::AwaitsIp | Admission::AwaitsParticipant => {}
        }
    }

    /// At the participant's home. Who presents a token of it takes over a connection that may still be counted, and so
    /// may be one above the limit.
    pub(crate) fn admit_participant(
        &mut self,
        now: Now,
        (from, conn): (u16, ConnKey),
        participant: &str,
        format: Format,
        presented: Option<Token>,
        fx: &mut Effects,
    ) {
        let limit = self.config.limits.connections_per_participant;
        let hash = self.hasher.of(participant);
        let resumes = presented.is_some_and(|token| self.home_sessions.knows(hash, token));
        let limit = if resumes && limit > 0 { limit.saturating_add(1) } else { limit };
        let begin = self.participants.admit(hash, participant, (from, format), (limit, resumes), now.instant);
        let is_admitted = begin.is_some();
        let begins = is_admitted && self.config.limits.resume_window_ms > 0;
        let token = begins.then(|| {
            self.participants.session_began(hash, participant);
            self.home_sessions.begin(hash, (from, conn))
        });
        let Begin { unseen, is_held } = begin.unwrap_or_default();
        let answer =
            FromHome::ParticipantAdmitted { conn, participant, format, is_admitted, token, unseen, is_held };
        self.answer_to(now, from, &answer, fx);
    }

    pub(crate) fn participant_admitted(
        &mut self,
        now: Now,
        conn: ConnKey,
        (participant, format): (&str, Format),
        (is_admitted, token, begin): (bool, Option<Token>, Begin),
        via: Via,
        fx: &mut Effects,
    ) {
        let tokens = token.map(|current| Tokens { current, former: None });
        let Some(member) = self.members.find_mut(conn) else {
            if is_admitted {
                let participant = Arc::from(participant);
                if let Some(tokens) = tokens {
                    self.end_session(&participant, tokens);
                }
                self.todo.push_back(Todo::ReleaseParticipant(participant, format));
            }
            return;
        };
        if !is_admitted {
            member.session.go(Happened::Ended);
            self.todo.push_back(Todo::ReleaseIp(member.ip));
            self.members.remove(conn);
            let refusal = Refusal::PerParticipant { limit: self.config.limits.connections_per_participant };
            fx.list.push(Effect::Refused { conn, refusal });
            return;
        }
        member.admission = Admission::Admitted;
        member.session.go(Happened::Admitted);
        member.tokens = tokens;
        self.iso_members += usize::from(member.is_time_iso);
        self.special += usize::from(member.is_time_iso);
        self.msgpack_members += usize::from(member.format == Format::MessagePack);
        let goes_on = member.path_channel.is_some() || member.resuming.is_some();
        let is_held = member.resuming.is_some();
        let client_id = member.client_id;
        fx.list.push(Effect::Admitted { conn });
        let config = &self.config;
        self.reply_fixed(fx, conn, |out, format| {
            let (mut buffer, mut letters) = ([0; 13], [0; 22]);
            let established = Established {
                client_id: base36(client_id, &mut buffer),
                participant,
                node: &config.node,
                shard: config.shard,
                resume_token: token.map_or("", |it| it.text(&mut letters)),
                resume_window_ms: config.limits.resume_window_ms,
                heartbeat_interval_ms: config.heartbeat_interval_ms,
                max_message_bytes: config.message_bytes,
                version: &config.version,
            };
            event::connection_established(out, format, &established);
        });
        self.begin_inbox(now, conn, begin);
        if is_held {
            fx.list.push(Effect::Hold { conn });
        }
        if goes_on {
            self.go_on_or_later(now, conn, via, fx);
        }
    }

    /// The connection is gone. Its session ends with it, or waits here for its client.
    pub fn close(&mut self, now: Now, conn: ConnKey, end: End, _fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        // Who was about to take in another session has nothing of its own that is worth keeping.
        let is_in_between = member.resuming.as_ref().is_some_and(|it| !it.has_arrived());
        let is_kept = end == End::Suspended && member.tokens.is_some() && !is_in_between;
        member.session.go(if is_kept { Happened::Lost } else { Happened::Ended });
        let Some(member) = self.members.find(conn) else { return };
        let (participant, kept) = (member.participant.clone(), self.kept_of(now, conn, member));
        let (tokens, state) = (member.tokens, member.session);
        if end == End::Parted {
            self.inbox_parted(conn);
        }
        if let Some(tokens) = tokens.filter(|_| !is_kept) {
            // Before its connection is counted no more: else it would look for a moment as if it waited.
            self.end_session(&participant, tokens);
        }
        let lost = self.lost_by(now, conn);
        self.take_out(conn);
        match tokens {
            Some(tokens) if is_kept => {
                self.suspend(now, conn, Waiting { participant, tokens, kept: kept.into(), state, lost });
            }
            _ => self.end_session_of(&participant, &kept, None),
        }
    }

    /// Forgets a connection, but for its session.
    pub(crate) fn take_out(&mut self, conn: ConnKey) {
        let Some(member) = self.members.remove(conn) else { return };
        for subscription in &member.subscriptions {
            if canary::strikes(Canary::MemberRemembered) {
                continue;
            }
            self.stop_watching(conn, subscription);
            self.drop_subscription(conn, member.format, subscription);
        }
        // What was asked but not answered is taken back when the answer finds nobody.
        if member.admission == Admission::Admitted {
            self.iso_members -= usize::from(member.is_time_iso);
            self.special -= usize::from(member.is_time_iso);
            self.msgpack_members -= usize::from(member.format == Format::MessagePack);
            let hash = self.hasher.of(&*member.participant);
            if member.reading.as_ref().is_none_or(|it| it.is_live()) {
                self.leave_inbox(&member.participant, member.place);
            }
            if self.home(hash) == self.config.shard {
                let whose = (self.config.shard, member.format);
                self.participants.release(hash, &member.participant, whose);
            } else {
                self.todo.push_back(Todo::ReleaseParticipant(member.participant, member.format));
            }
        }
        if member.admission != Admission::AwaitsIp && !canary::strikes(Canary::AddressRemembered) {
            // Counts whose home is here wait for no room in any ring.
            if self.home(self.hasher.of(member.ip)) == self.config.shard {
                self.participants.release_ip(member.ip);
            } else {
                self.todo.push_back(Todo::ReleaseIp(member.ip));
            }
        }
    }

    /// Tells homes what changed since the last call, and goes on with admissions: at most `budget` things, each of
    /// which causes at most one record per shard. Whether more is left.
    ///
    /// What waits here is bounded by the connections that were admitted by way of a ring, because none is admitted
    /// that way while the rings have no room for this call.
    pub fn settle(&mut self, now: Now, budget: usize, fx: &mut Effects) -> bool {
        self.begin_at(now);
        for step in 0..budget {
            // In turn: neither keeps the other from its turn.
            let is_first = step % 2 == 0 && self.read_on(now, fx);
            if !is_first && !self.settle_one(now, fx) && !self.read_on(now, fx) {
                return false;
            }
        }
        self.has_to_settle(now)
    }

    /// The next thing that is no reading; whether there was one.
    fn settle_one(&mut self, now: Now, fx: &mut Effects) -> bool {
        if let Some(todo) = self.todo.pop_front() {
            self.act_on(now, todo, fx);
        } else if self.ring(now, fx) {
        } else if let Some(settled) = self.channels.settle_one() {
            if let Some(left) = settled {
                self.leave(now, &left, fx);
            }
        } else if let Some(settled) = self.presence.local.settle_one() {
            if let Some(news) = settled {
                self.tell_presence(now, &news, fx);
            }
        } else {
            return false;
        }
        true
    }

    /// How much waits for [`settle`](Self::settle).
    pub fn to_do(&self) -> usize {
        self.todo.len() + self.readings.len()
    }

    /// Whether [`settle`](Self::settle) has something to do.
    pub fn has_to_settle(&self, now: Now) -> bool {
        !self.todo.is_empty()
            || !self.readings.is_empty()
            || !self.channels.dirty.is_empty()
            || self.presence.local.has_news()
            || self.deadline().is_some_and(|deadline| deadline <= now.instant)
    }

    fn act_on(&mut self, now: Now, todo: Todo, fx: &mut Effects) {
        match todo {
            Todo::ReleaseIp(ip) => {
                let home = self.home(self.hasher.of(ip));
                self.ask(now, home, &ToHome::ReleaseIp { ip }, fx);
            }
            Todo::ReleaseParticipant(participant, format) => {
                let home = self.home(self.hasher.of(&*participant));
                let record = ToHome::ReleaseParticipant { participant: &participant, format };
                self.ask(now, home, &record, fx);
            }
            Todo::GoOn(conn) => self.go_on(now, conn, fx),
            Todo::CatchUp(conn) => self.catch_up(now, conn, fx),
            Todo::TimeAcks(conn, serial) => self.begin_time(now, conn, serial),
            Todo::Idle(conn, serial, idle) => {
                self.resend_all(now, conn, (serial, idle), fx);
                self.inbox_written(now, conn, serial);
            }
            Todo::Patience(tracking) => self.be_patient(now, tracking),
            Todo::Report(Report { home, serial, count }) => {
                self.ask(now, home, &ToHome::Report { serial, count }, fx);
            }
            Todo::Receipt(open) => self.end_receipt(now, &open, fx),
            Todo::Seen(seen) => {
                let (participant, position) = &*seen;
                self.tell_seen(now, participant, *position, false, fx);
            }
            Todo::EndSession(ended) => {
                let (participant, tokens) = *ended;
                let home = self.home(self.hasher.of(&*participant));
                self.ask(now, home, &ToHome::SessionEnded { participant: &participant, tokens }, fx);
            }
            Todo::Fence => self.fence(now, fx),
            Todo::HandOver(handed) => self.hand_session_over(now, &handed, fx),
            Todo::AskAgain(asking) => self.ask_again(now, &asking.0, &asking.1, fx),
            Todo::Restore(conn) => self.restore(now, conn, fx),
            Todo::AskMissed(asked) => self.ask_missed(now, (asked.0, &asked.1, asked.2), fx),
        }
    }
}
