//! Who comes in and who goes: limits per address and per participant, counted at their homes.

use std::net::IpAddr;

use corecast_protocol::envelope::event::{self, Established};

use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects, Refusal};
use crate::hub::{Hub, reply};
use crate::member::{Access, Admission, Member, Open};
use crate::remote::ToHome;

/// A count that a home is still to be told.
#[derive(Debug)]
pub(crate) enum Release {
    Ip(IpAddr),
    Participant(Box<str>),
}

impl Hub {
    /// A handshake asks for admission. [`Effect::Admitted`] or [`Effect::Refused`] answers it, now or after a
    /// home's answer.
    pub fn open(&mut self, now: Now, conn: ConnKey, open: Open<'_>, fx: &mut Effects) {
        let client_id = self.client_ids.next();
        let mut buffer = [0; 13];
        let name = open.as_name.unwrap_or_else(|| client_id.text(&mut buffer));
        let participant = match open.access {
            Access::Demo => format!("demo:{name}").into_boxed_str(),
            Access::Development => name.into(),
        };
        let member = Member {
            generation: conn.generation,
            access: open.access,
            admission: Admission::AwaitsIp,
            is_time_iso: open.is_time_iso,
            invalid_in_a_row: 0,
            ip: open.ip,
            participant,
            client_id: client_id.0,
            path_channel: open.channel.map(Into::into),
            subscriptions: Vec::new(),
            serial: 0,
            chosen_for: 0,
        };
        self.members.insert(conn.index, member);
        let home = self.home(self.hash_of(open.ip));
        self.ask(now, home, ToHome::AdmitIp { conn, ip: open.ip }, fx);
    }

    pub(crate) fn ip_admitted(
        &mut self,
        now: Now,
        conn: ConnKey,
        ip: IpAddr,
        is_admitted: bool,
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find_mut(conn) else {
            // Gone while its home was asked: what was counted is to be taken back.
            if is_admitted {
                self.releases.push_back(Release::Ip(ip));
            }
            return;
        };
        if !is_admitted {
            self.members.remove(conn);
            let refusal = Refusal::PerIp { limit: self.config.limits.connections_per_ip };
            fx.list.push(Effect::Refused { conn, refusal });
            return;
        }
        member.admission = Admission::AwaitsParticipant;
        let participant = member.participant.clone();
        let home = self.home(self.hash(&participant));
        self.ask(now, home, ToHome::AdmitParticipant { conn, participant: &participant }, fx);
    }

    pub(crate) fn participant_admitted(
        &mut self,
        now: Now,
        conn: ConnKey,
        participant: &str,
        is_admitted: bool,
        fx: &mut Effects,
    ) {
        let Some(member) = self.members.find_mut(conn) else {
            if is_admitted {
                self.releases.push_back(Release::Participant(participant.into()));
            }
            return;
        };
        if !is_admitted {
            self.releases.push_back(Release::Ip(member.ip));
            self.members.remove(conn);
            let refusal = Refusal::PerParticipant { limit: self.config.limits.connections_per_participant };
            fx.list.push(Effect::Refused { conn, refusal });
            return;
        }
        member.admission = Admission::Admitted;
        let (client_id, path_channel) = (member.client_id, member.path_channel.take());
        self.iso_members += usize::from(member.is_time_iso);
        let hash = self.hash(participant);
        self.participants.arrive(hash, participant, conn);
        fx.list.push(Effect::Admitted { conn });
        let config = &self.config;
        reply(fx, conn, |out| {
            let mut buffer = [0; 13];
            let established = Established {
                client_id: crate::remote::Epoch(client_id).text(&mut buffer),
                participant,
                node: &config.node,
                shard: config.shard,
                // Nothing can be resumed yet.
                resume_window_ms: 0,
                heartbeat_interval_ms: config.heartbeat_interval_ms,
                max_message_bytes: config.message_bytes,
                version: &config.version,
            };
            event::connection_established(out, &established);
        });
        if let Some(channel) = path_channel {
            self.subscribe_one(now, conn, None, &channel, fx);
        }
    }

    /// The connection is gone: forget all of it.
    pub fn close(&mut self, _now: Now, conn: ConnKey, _fx: &mut Effects) {
        let Some(member) = self.members.remove(conn) else { return };
        for subscription in &member.subscriptions {
            self.drop_subscription(conn, subscription);
        }
        // What was asked but not answered is taken back when the answer finds nobody.
        match member.admission {
            Admission::AwaitsIp => {}
            Admission::AwaitsParticipant => self.releases.push_back(Release::Ip(member.ip)),
            Admission::Admitted => {
                self.iso_members -= usize::from(member.is_time_iso);
                let hash = self.hash(&member.participant);
                self.participants.depart(hash, &member.participant, conn);
                self.releases.push_back(Release::Ip(member.ip));
                self.releases.push_back(Release::Participant(member.participant));
            }
        }
    }

    /// Tells homes what changed since the last call, at most `budget` things; whether more is left.
    pub fn settle(&mut self, now: Now, budget: usize, fx: &mut Effects) -> bool {
        for _ in 0..budget {
            if let Some(release) = self.releases.pop_front() {
                self.release(now, release, fx);
            } else if let Some(settled) = self.channels.settle_one() {
                if let Some((channel, is_pattern)) = settled {
                    self.leave(now, &channel, is_pattern, fx);
                }
            } else {
                return false;
            }
        }
        !self.releases.is_empty() || !self.channels.dirty.is_empty()
    }

    fn release(&mut self, now: Now, release: Release, fx: &mut Effects) {
        match release {
            Release::Ip(ip) => {
                let home = self.home(self.hash_of(ip));
                self.ask(now, home, ToHome::ReleaseIp { ip }, fx);
            }
            Release::Participant(participant) => {
                let home = self.home(self.hash(&participant));
                self.ask(now, home, ToHome::ReleaseParticipant { participant: &participant }, fx);
            }
        }
    }
}
