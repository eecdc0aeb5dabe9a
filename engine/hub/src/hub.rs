//! One shard's hub: its state, and the one dispatch of commands and of records from other shards.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use corecast_protocol::envelope::command::{Command, Request, RequestId};
use corecast_protocol::envelope::{Rejection, event};
use corecast_protocol::{CloseCode, ErrorCode};

use crate::admission::Release;
use crate::channel::LocalChannels;
use crate::config::{HubConfig, Now};
use crate::effect::{Class, ConnKey, Effect, Effects, ShardSet};
use crate::home::{Epochs, Homes};
use crate::member::Members;
use crate::participant::Participants;
use crate::remote::{FromHome, ToHome};

/// Invalid messages in a row that end a connection.
const INVALID_IN_A_ROW_MAX: u8 = 10;

/// One shard's hub.
#[derive(Debug)]
pub struct Hub {
    pub(crate) config: HubConfig,
    pub(crate) hasher: foldhash::fast::FixedState,
    pub(crate) members: Members,
    pub(crate) channels: LocalChannels,
    pub(crate) homes: Homes,
    pub(crate) participants: Participants,
    pub(crate) client_ids: Epochs,
    /// Counts that homes are still to be told.
    pub(crate) releases: VecDeque<Release>,
    /// Members that want times as ISO 8601: while there are none, nobody is asked.
    pub(crate) iso_members: usize,
    /// Numbers the deliveries for which members are chosen one by one.
    pub(crate) choices: u64,
    /// A message in the making.
    pub(crate) scratch: Vec<u8>,
}

impl Hub {
    /// A hub without connections.
    ///
    /// # Panics
    /// If there are no shards, more than 128, or this one is not among them.
    pub fn new(config: HubConfig) -> Self {
        assert!(
            config.shard < config.shards && usize::from(config.shards) <= ShardSet::SHARDS_MAX,
            "a shard is one of 1 to 128"
        );
        let own_seed = config.seed ^ (u64::from(config.shard) + 1) << 48;
        Self {
            hasher: foldhash::fast::FixedState::with_seed(config.seed),
            members: Members::default(),
            channels: LocalChannels::new(),
            homes: Homes::new(own_seed, config.limits.idle_channels as usize),
            participants: Participants::new(own_seed.rotate_left(17)),
            client_ids: Epochs(own_seed.rotate_left(31)),
            releases: VecDeque::new(),
            iso_members: 0,
            choices: 0,
            scratch: Vec::new(),
            config,
        }
    }

    /// Acts on one command. A `batch` is the shard's to unroll.
    pub fn apply(&mut self, now: Now, conn: ConnKey, request: &Request<'_>, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        member.invalid_in_a_row = 0;
        let is_time_iso = member.is_time_iso;
        let id = request.id;
        match &request.command {
            Command::Publish(publish) => self.publish(now, conn, id, publish, fx),
            Command::Subscribe(subscribe) => self.subscribe(now, conn, id, subscribe, fx),
            Command::Unsubscribe { channels } => self.unsubscribe(conn, id, channels, fx),
            Command::Ping => reply(fx, conn, |out| event::pong(out, id, now.unix_ms, is_time_iso)),
            Command::Pong => {}
            Command::Ack { channel, .. } => self.ack(conn, id, channel, fx),
            Command::Call(call) => self.call(conn, id, call, fx),
            Command::Cancel | Command::Response { .. } => {
                error(fx, conn, id, None, ErrorCode::NotFound, "there is no such open call");
            }
            Command::Authenticate { .. } | Command::Refresh { .. } => {
                let why = "this server runs without authentication: tokens are neither needed nor checked";
                error(fx, conn, id, None, ErrorCode::Forbidden, why);
            }
            Command::Resume { .. } => {
                let why = "this server keeps no sessions: subscribe again";
                error(fx, conn, id, None, ErrorCode::Unrecoverable, why);
            }
            Command::Register { .. } => {
                let why = "registering capabilities needs a permission that nobody has on this server";
                error(fx, conn, id, None, ErrorCode::Forbidden, why);
            }
            Command::Batch { .. } => {
                error(fx, conn, id, None, ErrorCode::InvalidMessage, "a batch holds no batches");
            }
        }
    }

    /// Answers a message that was not understood; the tenth in a row ends the connection.
    pub fn reject(&mut self, conn: ConnKey, rejection: &Rejection, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        member.invalid_in_a_row += 1;
        let is_last = member.invalid_in_a_row >= INVALID_IN_A_ROW_MAX;
        let id = rejection.id.as_deref();
        reply(fx, conn, |out| event::error(out, id, None, rejection.code, &rejection.message, None));
        if is_last {
            let reason = fx.write(|out| {
                out.extend_from_slice(rejection.code.as_str().as_bytes());
                out.extend_from_slice(b": 10 invalid messages in a row");
            });
            fx.list.push(Effect::Close { conn, code: CloseCode::Policy, reason });
        }
    }

    /// Acts on a record of another shard's hub.
    pub fn remote(&mut self, now: Now, from: u16, class: Class, record: &[u8], fx: &mut Effects) {
        match class {
            Class::Request => self.at_home(now, from, ToHome::decode(record), fx),
            Class::Deliver => self.on_answer(now, FromHome::decode(record), fx),
        }
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
            && self.releases.is_empty()
    }

    pub(crate) fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    pub(crate) fn hash_of(&self, value: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    /// The home of what has this hash. The high bits choose: tables use the low ones.
    pub(crate) fn home(&self, hash: u64) -> u16 {
        (((hash >> 32) * u64::from(self.config.shards)) >> 32) as u16
    }

    /// Asks a home, which may be here.
    pub(crate) fn ask(&mut self, now: Now, home: u16, record: ToHome<'_>, fx: &mut Effects) {
        if home == self.config.shard {
            return self.at_home(now, home, record, fx);
        }
        forward(fx, one(home), Class::Request, |out| record.encode(out));
    }

    /// Answers a shard, which may be this one.
    pub(crate) fn answer_to(&mut self, now: Now, shard: u16, record: FromHome<'_>, fx: &mut Effects) {
        if shard == self.config.shard {
            return self.on_answer(now, record, fx);
        }
        forward(fx, one(shard), Class::Deliver, |out| record.encode(out));
    }

    /// What a home does with a request. It causes records to shards, and never further requests.
    fn at_home(&mut self, now: Now, from: u16, record: ToHome<'_>, fx: &mut Effects) {
        match record {
            ToHome::Subscribe { conn, serial, channel, id } => {
                let (epoch, offset) = self.homes.join(self.hash(channel), channel, from);
                self.answer_to(
                    now,
                    from,
                    FromHome::Subscribed { conn, serial, channel, id, epoch, offset },
                    fx,
                );
            }
            ToHome::SubscribePattern { conn, serial, prefix, id } => {
                self.homes.join_pattern(self.hash(prefix), prefix, from);
                self.answer_to(now, from, FromHome::PatternSubscribed { conn, serial, prefix, id }, fx);
            }
            ToHome::Leave { channel } => self.homes.leave(self.hash(channel), channel, from),
            ToHome::LeavePattern { prefix } => self.homes.leave_pattern(self.hash(prefix), prefix, from),
            ToHome::Publish(published) => self.publish_at_home(now, from, &published, fx),
            ToHome::Direct(published) => self.direct_at_home(now, from, &published, fx),
            ToHome::AdmitIp { conn, ip } => {
                let is_admitted = self.participants.admit_ip(ip, self.config.limits.connections_per_ip);
                self.answer_to(now, from, FromHome::IpAdmitted { conn, ip, is_admitted }, fx);
            }
            ToHome::ReleaseIp { ip } => self.participants.release_ip(ip),
            ToHome::AdmitParticipant { conn, participant } => {
                let limit = self.config.limits.connections_per_participant;
                let is_admitted = self.participants.admit(self.hash(participant), participant, from, limit);
                self.answer_to(
                    now,
                    from,
                    FromHome::ParticipantAdmitted { conn, participant, is_admitted },
                    fx,
                );
            }
            ToHome::ReleaseParticipant { participant } => {
                self.participants.release(self.hash(participant), participant, from);
            }
        }
    }

    /// What a shard does with a home's answer or message.
    fn on_answer(&mut self, now: Now, record: FromHome<'_>, fx: &mut Effects) {
        match record {
            FromHome::Subscribed { conn, serial, channel, id, epoch, offset } => {
                self.subscribed(conn, serial, channel, id, (epoch, offset), fx);
            }
            FromHome::PatternSubscribed { conn, serial, prefix, id } => {
                self.pattern_subscribed(conn, serial, prefix, id, fx);
            }
            FromHome::Message(written) => self.deliver(self.hash(written.target), &written, fx),
            FromHome::Direct(written) => self.deliver_direct(&written, fx),
            FromHome::Accepted { conn, id, epoch, offset } => {
                if self.members.find(conn).is_some() {
                    reply(fx, conn, |out| event::published(out, id, epoch.text(&mut [0; 13]), offset));
                }
            }
            FromHome::Nobody { conn, id, participant } => {
                let why = "nobody is connected as this participant";
                if self.members.find(conn).is_some() {
                    error(fx, conn, id, Some(participant), ErrorCode::NotFound, why);
                }
            }
            FromHome::IpAdmitted { conn, ip, is_admitted } => {
                self.ip_admitted(now, conn, ip, is_admitted, fx)
            }
            FromHome::ParticipantAdmitted { conn, participant, is_admitted } => {
                self.participant_admitted(now, conn, participant, is_admitted, fx);
            }
        }
    }

    pub(crate) fn forward_to(&self, fx: &mut Effects, mut shards: ShardSet, record: FromHome<'_>) {
        shards.remove(self.config.shard);
        if !shards.is_empty() {
            forward(fx, shards, Class::Deliver, |out| record.encode(out));
        }
    }

    fn ack(&mut self, conn: ConnKey, id: Option<RequestId<'_>>, channel: &str, fx: &mut Effects) {
        let hash = self.hash(channel);
        let is_subscribed = self.channels.find(hash, channel, false).is_some_and(|index| {
            self.members.find(conn).is_some_and(|it| it.subscriptions.iter().any(|sub| sub.channel == index))
        });
        if !is_subscribed && channel != corecast_protocol::envelope::name::INBOX {
            error(fx, conn, id, Some(channel), ErrorCode::NotSubscribed, "subscribe before acknowledging");
        }
    }

    fn call(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        call: &corecast_protocol::envelope::command::Call<'_>,
        fx: &mut Effects,
    ) {
        let why = if call.is_command {
            "no agent registered this capability"
        } else {
            "this server answers no queries of this name"
        };
        reply(fx, conn, |out| event::response_error(out, id, ErrorCode::NoHandler, why));
    }
}

fn one(shard: u16) -> ShardSet {
    let mut set = ShardSet::EMPTY;
    set.insert(shard);
    set
}

fn forward(fx: &mut Effects, shards: ShardSet, class: Class, write: impl FnOnce(&mut Vec<u8>)) {
    let record = fx.write(write);
    fx.list.push(Effect::Forward { shards, class, record });
}

/// A message for one connection.
pub(crate) fn reply(fx: &mut Effects, conn: ConnKey, write: impl FnOnce(&mut Vec<u8>)) {
    let message = fx.write(write);
    fx.list.push(Effect::Reply { conn, message });
}

/// An error for one connection.
pub(crate) fn error(
    fx: &mut Effects,
    conn: ConnKey,
    id: Option<RequestId<'_>>,
    channel: Option<&str>,
    code: ErrorCode,
    why: &str,
) {
    reply(fx, conn, |out| event::request_error(out, id, channel, code, why));
}
