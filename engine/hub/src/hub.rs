//! One shard's hub: its state, and the one dispatch of commands and of records from other shards.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use corecast_protocol::envelope::command::{Command, OwnedRequestId, Request, RequestId};
use corecast_protocol::envelope::{NAMES_MAX, Rejection, event, name};
use corecast_protocol::{CloseCode, ErrorCode};

use crate::admission::Todo;
use crate::alarm::Alarms;
use crate::canary::{self, Canary};
use crate::channel::LocalChannels;
use crate::config::{Hasher, HubConfig, Now};
use crate::deliver::Scratch;
use crate::effect::{Class, ConnKey, Effect, Effects, MESSAGE_BYTES_MAX, ShardSet};
use crate::filter::{self, Bucket, Filter};
use crate::format::Format;
use crate::home::{Homes, Random};
use crate::idempotency::Repetitions;
use crate::inbox::Begin;
use crate::member::Members;
use crate::participant::Participants;
use crate::presence::Presence;
use crate::publish::Buffers;
use crate::reading::{Readings, Transcoder};
use crate::receipt::{Parts, Receipts};
use crate::remote::{FromHome, Receipt, ToHome, Written};
use crate::session::{HandOver, HomeSessions, SessionCounts, Suspended};
use crate::size::Batch;

/// Invalid messages in a row that end a connection.
const INVALID_IN_A_ROW_MAX: u8 = 10;

/// One shard's hub.
#[derive(Debug)]
pub struct Hub {
    pub(crate) config: HubConfig,
    pub(crate) hasher: Hasher,
    pub(crate) members: Members,
    pub(crate) channels: LocalChannels,
    pub(crate) homes: Homes,
    pub(crate) participants: Participants,
    /// Publishes with a key that were made at this home.
    pub(crate) repetitions: Repetitions,
    /// Receipts of messages whose home is here, and what is counted on this shard for some.
    pub(crate) receipts: Receipts,
    pub(crate) parts: Parts,
    /// Messages that were sent again, and that were never acknowledged.
    pub(crate) redelivered: u64,
    pub(crate) unacked_given_up: u64,
    pub(crate) client_ids: Random,
    /// Sessions that wait here for their client.
    pub(crate) suspended: Suspended,
    /// Sessions that are about to leave this shard.
    pub(crate) hand_over: HandOver,
    /// Tokens of participants whose home is here.
    pub(crate) home_sessions: HomeSessions,
    /// Sessions that went on in a connection of this shard.
    pub(crate) resumed: u64,
    /// What homes are still to be told or asked.
    pub(crate) todo: VecDeque<Todo>,
    /// Homes that have not yet answered the request of this serial for a pattern.
    pub(crate) awaited: BTreeMap<(ConnKey, u32), u16>,
    /// Members that want times as ISO 8601: while there are none, nobody is asked.
    pub(crate) iso_members: usize,
    /// Those, and live subscriptions with a filter: while there are none, a delivery copies a list and is done.
    pub(crate) special: usize,
    /// What subscriptions have that are being asked for: set while a `subscribe` is acted on.
    pub(crate) filter_in_hand: Option<Arc<Filter>>,
    /// The bucket of its rate.
    pub(crate) bucket_in_hand: Bucket,
    pub(crate) filter_scratch: filter::Scratch,
    /// When what is being acted on came.
    instant: Option<Instant>,
    /// Members that are sent MessagePack, likewise.
    pub(crate) msgpack_members: usize,
    /// What the batch that is being acted on has used of its bounds.
    pub(crate) batch: Option<Batch>,
    /// Numbers the deliveries for which members are chosen one by one.
    pub(crate) choices: u64,
    /// For a message in the making; boxed, because it is taken out for each.
    pub(crate) scratch: Option<Box<Buffers>>,
    pub(crate) deliver_scratch: Scratch,
    /// Recipients who want another variant of a message in the making.
    pub(crate) others: Vec<ConnKey>,
    /// Messages whose payload was written in the other encoding.
    pub(crate) transcoded: u64,
    /// Messages of the past that were sent to who was catching up.
    pub(crate) replayed: u64,
    /// What is to be done when a time has come.
    pub(crate) alarms: Alarms,
    /// An alarm is set to look for histories that are too old.
    pub(crate) is_sweeping: bool,
    /// For pages of histories in the making.
    pub(crate) page_scratch: Vec<u8>,
    /// For payloads in them, and who waits for some.
    pub(crate) transcoder: Transcoder,
    pub(crate) readings: Readings,
    /// Who is where.
    pub(crate) presence: Presence,
    /// Records that could not be read: a defect of ours.
    malformed: u64,
}

/// Where an answer of a home came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// This shard is the home: what follows may cause requests.
    Call,
    /// A `Deliver` ring: nothing that follows may cause records.
    Ring,
}

impl Hub {
    /// A hub without connections.
    ///
    /// # Panics
    /// If there are no shards, more than 128, or this one is not among them; if messages may be larger than
    /// [`MESSAGE_BYTES_MAX`].
    pub fn new(config: HubConfig) -> Self {
        assert!(
            config.shard < config.shards && usize::from(config.shards) <= ShardSet::SHARDS_MAX,
            "a shard is one of 1 to 128"
        );
        assert!(config.message_bytes <= MESSAGE_BYTES_MAX, "effects have positions of 32 bits");
        let hasher = Hasher::new(config.seed);
        // Clients see what these generate: they must not begin with the seed that keys the tables.
        let random = |purpose: &str| Random(hasher.of((config.shard, purpose)));
        let history_bytes = match config.limits.history_bytes {
            0 => usize::MAX,
            bytes => bytes as usize / usize::from(config.shards),
        };
        let mut homes =
            Homes::new(random("epochs of channels"), config.limits.idle_channels as usize, history_bytes);
        // Everybody is subscribed to it without asking: its home must never think that nobody is.
        homes.join(hasher.of(name::SYSTEM), name::SYSTEM, true, (config.shard, Format::Json));
        Self {
            members: Members::default(),
            channels: LocalChannels::new(),
            homes,
            participants: Participants::new(&hasher, random("epochs of inboxes")),
            repetitions: Repetitions::new(
                config.seed,
                config.limits.idempotency_keys.div_ceil(config.shards.into()) as usize,
            ),
            receipts: Receipts::default(),
            parts: Parts::default(),
            redelivered: 0,
            unacked_given_up: 0,
            client_ids: random("client ids"),
            suspended: Suspended::new(&hasher, &config),
            hand_over: HandOver::default(),
            home_sessions: HomeSessions::new(&hasher, &config.secret.0, config.shard),
            resumed: 0,
            todo: VecDeque::new(),
            awaited: BTreeMap::new(),
            iso_members: 0,
            special: 0,
            filter_in_hand: None,
            bucket_in_hand: Bucket::Full,
            filter_scratch: filter::Scratch::default(),
            instant: None,
            msgpack_members: 0,
            batch: None,
            choices: 0,
            scratch: Some(Box::default()),
            transcoded: 0,
            replayed: 0,
            alarms: Alarms::default(),
            is_sweeping: false,
            page_scratch: Vec::new(),
            transcoder: Transcoder::new(&hasher, history_bytes),
            readings: Readings::new(&hasher),
            deliver_scratch: Scratch::default(),
            others: Vec::new(),
            presence: Presence::new(&hasher, config.limits.resume_window_ms),
            malformed: 0,
            hasher,
            config,
        }
    }

    /// Whether a message may name so many more: each name may cause an answer, and a frame must not cause more than
    /// rings and outboxes are made for. Says so if not.
    pub(crate) fn may_name(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        count: usize,
        fx: &mut Effects,
    ) -> bool {
        if count > NAMES_MAX {
            self.invalid(conn, id, "at most 256 channels or participants in one message", fx);
            return false;
        }
        let Some(Batch { names, .. }) = &mut self.batch else { return true };
        if *names + count > NAMES_MAX {
            // Alone it would have been fine: it is not counted as one that was not understood.
            let why =
                "the messages of this batch name more than 256 channels or participants: send the rest apart";
            self.error(fx, conn, id, None, ErrorCode::Overloaded, why);
            return false;
        }
        *names += count;
        true
    }

    /// Acts on one command. A `batch` is the shard's to unroll.
    pub fn apply(&mut self, now: Now, conn: ConnKey, request: &Request<'_>, fx: &mut Effects) {
        self.begin_at(now);
        let Some(member) = self.members.find_mut(conn) else { return };
        if member.invalid_in_a_row >= INVALID_IN_A_ROW_MAX {
            return;
        }
        let invalid_before = member.invalid_in_a_row;
        let (is_time_iso, is_reading) = (member.is_time_iso, member.reading.is_some());
        if member.resuming.is_some() {
            // The shard holds back what comes behind a `resume`: its order would be lost.
            let why = "a session is being resumed: wait for its answer";
            return self.error(fx, conn, request.id, None, ErrorCode::Overloaded, why);
        }
        let has_former_token = member.tokens.is_some_and(|it| it.former.is_some());
        if member.path_channel.is_some() {
            // The path's subscription came before whatever the client says.
            self.go_on(now, conn, fx);
        }
        if has_former_token {
            self.confirm(now, conn, fx);
        }
        if is_reading {
            self.reads_on_unless_resuming(conn, &request.command, fx);
        }
        let id = request.id;
        match &request.command {
            Command::Publish(publish) => self.publish(now, conn, id, publish, fx),
            Command::Subscribe(subscribe) => self.subscribe(now, conn, id, subscribe, fx),
            Command::Unsubscribe { channels } => self.unsubscribe(conn, id, channels, fx),
            Command::Ping => {
                self.reply(fx, conn, |out, format| event::pong(out, format, id, now.unix_ms, is_time_iso))
            }
            Command::Pong => {}
            Command::Ack { channel, position } => self.ack(now, conn, id, channel, position, fx),
            Command::Call(call) => self.call(now, conn, id, call, fx),
            Command::Cancel | Command::Response { .. } => {
                self.error(fx, conn, id, None, ErrorCode::NotFound, "there is no such open call");
            }
            Command::Authenticate { .. } | Command::Refresh { .. } => {
                let why = "this server runs without authentication: tokens are neither needed nor checked";
                self.error(fx, conn, id, None, ErrorCode::Forbidden, why);
            }
            Command::Resume { token, positions } => self.resume(now, conn, id, (token, positions), fx),
            Command::Register { .. } => {
                let why = "registering capabilities needs a permission that nobody has on this server";
                self.error(fx, conn, id, None, ErrorCode::Forbidden, why);
            }
            Command::Batch { .. } => self.invalid(conn, id, "a batch holds no batches", fx),
        }
        if let Some(member) = self.members.find_mut(conn)
            && member.invalid_in_a_row == invalid_before
        {
            member.invalid_in_a_row = 0;
        }
    }

    /// Answers a message whose parts make no sense together; it counts as one that was not understood.
    pub(crate) fn invalid(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        why: &'static str,
        fx: &mut Effects,
    ) {
        let id = id.map(RequestId::to_owned);
        self.reject(conn, &Rejection { id, code: ErrorCode::InvalidMessage, message: why.into() }, fx);
    }

    /// Answers a message that was not understood; the tenth in a row ends the connection, and nothing of it is
    /// acted on any more.
    pub fn reject(&mut self, conn: ConnKey, rejection: &Rejection, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        if member.invalid_in_a_row >= INVALID_IN_A_ROW_MAX {
            return;
        }
        member.invalid_in_a_row += 1;
        let is_last = member.invalid_in_a_row >= INVALID_IN_A_ROW_MAX;
        let id = rejection.id.as_ref().map(OwnedRequestId::as_id);
        self.error(fx, conn, id, None, rejection.code, &rejection.message);
        if is_last {
            let reason = fx.write(|out| {
                out.extend_from_slice(rejection.code.as_str().as_bytes());
                out.extend_from_slice(b": 10 invalid messages in a row");
            });
            fx.list.push(Effect::Close { conn, code: CloseCode::Policy, reason });
        }
    }

    /// What follows happens at this time.
    pub(crate) fn begin_at(&mut self, now: Now) {
        self.instant = Some(now.instant);
    }

    /// When what is being acted on came.
    pub(crate) fn instant(&self) -> Instant {
        self.instant.expect("a command, a record or a settlement is being acted on")
    }

    /// Acts on a record of another shard's hub.
    pub fn remote(&mut self, now: Now, from: u16, class: Class, record: &[u8], fx: &mut Effects) {
        self.begin_at(now);
        let read = match class {
            Class::Request => ToHome::decode(record).map(|record| self.at_home(now, from, &record, fx)),
            Class::Deliver => {
                FromHome::decode(record).map(|record| self.on_answer(now, &record, Via::Ring, fx))
            }
        };
        debug_assert!(read.is_ok(), "records come from this program alone");
        self.malformed += u64::from(read.is_err());
    }

    /// Records of other shards that could not be read, since the start: always 0, or this program has a defect.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Messages whose payload was transcoded here, since the start: at their home, once, if anybody wants the other
    /// encoding.
    pub fn transcoded(&self) -> u64 {
        self.transcoded
    }

    /// Messages of the past that were sent to connections here, since the start.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Bytes that the histories and inboxes take whose home is here, with what is kept of them in the other encoding.
    pub fn history_bytes(&self) -> usize {
        self.homes.history_bytes() + self.participants.inbox_bytes() + self.transcoder.bytes()
    }

    /// Publishes whose key was known here, and which were delivered to nobody, since the start.
    pub fn duplicates_suppressed(&self) -> u64 {
        self.repetitions.suppressed()
    }

    /// Idempotency keys that are known here, and how many were forgotten early since the start.
    pub fn idempotency_keys(&self) -> (usize, u64) {
        self.repetitions.keys()
    }

    /// Sessions, now and since the start.
    pub fn sessions(&self) -> SessionCounts {
        SessionCounts {
            suspended: self.suspended.len() as u64,
            resumed: self.resumed,
            expired: self.suspended.expired(),
            taken_over: self.hand_over.taken(),
        }
    }

    /// Messages that were sent again because they were not acknowledged, since the start.
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Messages that were not acknowledged however often they were sent, since the start.
    pub fn unacked_given_up(&self) -> u64 {
        self.unacked_given_up
    }

    /// Connections, admitted or not yet.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Channels with subscribers on this shard, and channels whose home this is.
    pub fn channels(&self) -> (usize, usize) {
        (
            self.channels.exact.len() + self.channels.patterns.len(),
            self.homes.len() + self.homes.patterns_len(),
        )
    }

    /// Whether nothing is left but the memory of channels without subscribers.
    pub fn is_empty(&self) -> bool {
        self.members.len() == 0
            && self.channels.exact.is_empty()
            && self.channels.patterns.is_empty()
            && self.participants.is_empty()
            && self.todo.is_empty()
            && self.awaited.is_empty()
            && self.receipts.is_empty()
            && self.readings.is_empty()
            && self.parts.is_empty()
            && self.presence.is_empty()
            && self.suspended.len() == 0
            && self.hand_over.is_empty()
            && self.home_sessions.is_empty()
    }

    /// The home of what has this hash. The high bits choose: tables use the low ones.
    pub(crate) fn home(&self, hash: u64) -> u16 {
        (((hash >> 32) * u64::from(self.config.shards)) >> 32) as u16
    }

    /// Asks a home, which may be here.
    pub(crate) fn ask(&mut self, now: Now, home: u16, record: &ToHome<'_>, fx: &mut Effects) {
        if home == self.config.shard {
            return self.at_home(now, home, record, fx);
        }
        forward(fx, one(home), Class::Request, |out| record.encode(out));
    }

    /// Answers a shard, which may be this one.
    pub(crate) fn answer_to(&mut self, now: Now, shard: u16, record: &FromHome<'_>, fx: &mut Effects) {
        if shard == self.config.shard {
            return self.on_answer(now, record, Via::Call, fx);
        }
        forward(fx, one(shard), Class::Deliver, |out| record.encode(out));
    }

    /// What a home does with a request. It causes records to shards, and never further requests.
    fn at_home(&mut self, now: Now, from: u16, record: &ToHome<'_>, fx: &mut Effects) {
        match *record {
            ToHome::Subscribe { conn, serial, channel, id, format, ref past } => {
                self.subscribe_at_home(now, from, (conn, serial, channel, id, format), past, fx);
            }
            ToHome::SubscribePattern { conn, serial, prefix, id, format } => {
                self.homes.join_pattern(self.hasher.of(prefix), prefix, from, format);
                self.answer_to(now, from, &FromHome::PatternSubscribed { conn, serial, prefix, id }, fx);
            }
            ToHome::Leave { channel, formats } => {
                self.homes.leave(self.hasher.of(channel), channel, from, formats);
            }
            ToHome::LeavePattern { prefix, formats } => {
                self.homes.leave_pattern(self.hasher.of(prefix), prefix, from, formats);
            }
            ToHome::Publish(ref published) => self.publish_at_home(now, from, published, fx),
            ToHome::Direct(ref published) => self.direct_at_home(now, from, published, fx),
            ToHome::Report { serial, count } => self.reported(now, from, serial, count, fx),
            ToHome::AdmitIp { conn, ip } => {
                let is_admitted = self.participants.admit_ip(ip, self.config.limits.connections_per_ip);
                self.answer_to(now, from, &FromHome::IpAdmitted { conn, ip, is_admitted }, fx);
            }
            ToHome::ReleaseIp { ip } => self.participants.release_ip(ip),
            ToHome::AdmitParticipant { conn, participant, format, presented } => {
                self.admit_participant(now, (from, conn), participant, format, presented, fx);
            }
            ToHome::ReleaseParticipant { participant, format } => {
                self.participants.release(self.hasher.of(participant), participant, (from, format));
            }
            ToHome::Fetch { conn, serial, channel, format, epoch, after, limit } => {
                self.join_at_home(channel, (from, format));
                if !self.reading_waits(from, record) {
                    self.fetch(now, from, (conn, serial, channel, format), (epoch, after, limit), fx);
                }
            }
            ToHome::Present { channel, participant, before, connections } => {
                self.present_at_home(now, (channel, participant), (before, connections));
            }
            ToHome::Unwatch { channel } => {
                self.unwatch_at_home(now, from, channel);
            }
            ToHome::Missed { conn, channel, away_ms } => {
                self.missed_at_home(now, from, (conn, channel, away_ms), fx);
            }
            ToHome::Presence { conn, id, channel, ref ask } => {
                self.presence_at_home(now, from, (conn, id, channel), ask, fx);
            }
            ToHome::History { .. } if self.reading_waits(from, record) => {}
            ToHome::History { conn, id, channel, format, ref extent } => {
                self.history_page(now, from, (conn, id, channel, format), extent, fx);
            }
            ToHome::Resume { conn, participant, token, own } => {
                self.resume_at_home(now, (from, conn), participant, (token, own), fx);
            }
            ToHome::Released { participant, session, handed } => {
                self.released_at_home(now, (from, session), participant, handed, fx);
            }
            ToHome::Fence { number } => self.fence_at_home(now, from, number, fx),
            ToHome::SessionEnded { participant, tokens } => self.session_ended_at_home(participant, tokens),
            ToHome::TokenUsedUp { token } => self.token_used_up(token),
            ToHome::Inbox(ref ask) if self.inbox_waits(from, ask) => {}
            ToHome::Inbox(ref ask) => self.inbox_at_home(now, from, ask, fx),
        }
    }

    /// What a shard does with a home's answer or message.
    pub(crate) fn on_answer(&mut self, now: Now, record: &FromHome<'_>, via: Via, fx: &mut Effects) {
        match *record {
            FromHome::Subscribed { conn, serial, channel, id, ref page } => {
                self.subscribed(conn, serial, channel, id, page, fx);
            }
            FromHome::Replay { conn, serial, channel, ref page } => {
                self.page_came(conn, serial, channel, page, fx);
            }
            FromHome::HistoryPage { conn, id, channel, ref page } => {
                self.history_answer(conn, id, channel, page, fx);
            }
            FromHome::Changed(ref it) => self.presence_changed(it, fx),
            FromHome::TypingExpired { channel, count, participants } => {
                self.tell_names("typing_expired", channel, participants, count, fx);
            }
            FromHome::Members { conn, id, channel, ref page } => {
                self.presence_page(conn, id, channel, page, fx);
            }
            FromHome::PresenceStats { conn, id, channel, participants, connections } => {
                self.presence_stats(conn, id, channel, (participants, connections), fx);
            }
            FromHome::Missed(ref it) => self.tell_missed(it, fx),
            FromHome::PatternSubscribed { conn, serial, prefix, id } => {
                self.pattern_subscribed(conn, serial, prefix, id, fx);
            }
            FromHome::Message(ref written) => self.written(written, false, fx),
            FromHome::Direct(ref written) => self.written(written, true, fx),
            FromHome::Accepted(ref receipt) => self.accepted(receipt, fx),
            FromHome::Repeated(ref receipt) => self.repeated(receipt, fx),
            FromHome::Counted { ref receipt, channel, count } => self.counted(receipt, channel, count, fx),
            FromHome::NoReceipt { conn, id, target, is_direct, is_own } => {
                self.receipt_refused(conn, id, (target, is_direct, is_own), fx);
            }
            FromHome::Nobody { conn, id, participant } => {
                let why = format!("nobody is connected as {participant}");
                self.error(fx, conn, id, None, ErrorCode::NotFound, &why);
            }
            FromHome::TooLarge { conn, id, target, is_direct, format, bytes } => {
                self.too_large(conn, id, (target, is_direct), (format, bytes), fx);
            }
            FromHome::IpAdmitted { conn, ip, is_admitted } => {
                self.ip_admitted(now, conn, (ip, is_admitted), via, fx);
            }
            FromHome::ParticipantAdmitted {
                conn,
                participant,
                format,
                is_admitted,
                token,
                unseen,
                is_held,
            } => {
                let begin = Begin { unseen, is_held };
                let answer = (is_admitted, token, begin);
                self.participant_admitted(now, conn, (participant, format), answer, via, fx);
            }
            FromHome::Release { participant, session, to } => self.release(now, participant, session, to, fx),
            FromHome::Fenced { number } => self.fenced(number),
            FromHome::Resumed { conn, participant, ref session } => {
                self.session_arrived(now, conn, participant, session, fx);
            }
            FromHome::NotResumed { conn } => self.not_resumed(now, conn, fx),
            FromHome::Inbox(ref answer) => self.inbox_answered(answer, fx),
        }
    }

    /// A message for connections of this shard, and its publisher's answer.
    pub(crate) fn written(&mut self, written: &Written<'_>, is_direct: bool, fx: &mut Effects) {
        if let Some(serial) = written.serial {
            return self.written_tracked(written, is_direct, serial, fx);
        }
        if is_direct {
            self.deliver_direct(written, fx);
        } else {
            self.deliver(written, fx);
        }
        if let Some(receipt) = &written.receipt {
            self.accepted(receipt, fx);
        }
    }

    fn accepted(&self, it: &Receipt<'_>, fx: &mut Effects) {
        if !canary::strikes(Canary::AnswerForgotten) {
            self.reply(fx, it.conn, |out, format| {
                event::published(out, format, it.id, it.epoch.text(), it.offset, false)
            });
        }
    }

    /// Accepted before: nothing was delivered this time.
    fn repeated(&self, it: &Receipt<'_>, fx: &mut Effects) {
        self.reply(fx, it.conn, |out, format| {
            event::published(out, format, it.id, it.epoch.text(), it.offset, true)
        });
    }
}

/// Sessions that may wait on one shard: its part of the node's.
pub(crate) fn one(shard: u16) -> ShardSet {
    let mut set = ShardSet::EMPTY;
    set.insert(shard);
    set
}

pub(crate) fn forward(fx: &mut Effects, shards: ShardSet, class: Class, write: impl FnOnce(&mut Vec<u8>)) {
    let record = fx.write(write);
    fx.list.push(Effect::Forward { shards, class, record });
}
