//! Publishing: checked where it arrives, numbered and written once at the home.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Channels, Priority, Publish, RequestId, Target};
use corecast_protocol::envelope::event::{self, Message};
use corecast_protocol::envelope::name;

use crate::config::Now;
use crate::effect::{ConnKey, Effects, ShardSet};
use crate::hub::{Hub, error};
use crate::member::Access;
use crate::remote::{FromHome, Published, ToHome, Written};
use crate::rules::Act;
use crate::subscribe::{NAMES_MAX, Refused};

impl Hub {
    pub(crate) fn publish(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        match &publish.target {
            Target::Channel(channel) => self.publish_channel(now, conn, id, channel, publish, fx),
            Target::Participants(participants) => {
                self.publish_direct(now, conn, id, participants, publish, fx)
            }
        }
    }

    fn publish_channel(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        let numbers = match self.may_publish(conn, channel) {
            Ok(numbers) => numbers,
            Err(refused) => return error(fx, conn, id, Some(channel), refused.code, &refused.why),
        };
        let is_ephemeral = !numbers || publish.store == Some(false) || is_ephemeral(publish.event.as_deref());
        let home = self.home(self.hash(channel));
        self.publish_as(conn, |hub, publisher| {
            let published = Published {
                conn,
                id,
                target: channel,
                event: publish.event.as_deref(),
                payload: publish.payload.bytes(),
                publisher,
                priority: publish.priority,
                is_ephemeral,
                echoes: publish.echo,
                timestamp: publish.timestamp.unwrap_or(now.unix_ms),
            };
            hub.ask(now, home, ToHome::Publish(published), fx);
        });
    }

    /// Lends the connection's participant name, out of the member so that the hub can be changed meanwhile.
    fn publish_as(&mut self, conn: ConnKey, with: impl FnOnce(&mut Self, &str)) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let participant = std::mem::take(&mut member.participant);
        with(self, &participant);
        if let Some(member) = self.members.find_mut(conn) {
            member.participant = participant;
        }
    }

    /// Whether messages of the channel's namespace have offsets of their own.
    fn may_publish(&self, conn: ConnKey, channel: &str) -> Result<bool, Refused> {
        let space = name::channel(channel).map_err(Refused::name)?;
        let (_, rule) = self.config.namespaces.find(space).ok_or_else(Refused::namespace)?;
        let Some(member) = self.members.find(conn) else { return Err(Refused::namespace()) };
        rule.check(Act::Publish, member.access, &member.participant, channel)?;
        Ok(rule.numbers)
    }

    fn publish_direct(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        participants: &Channels<'_>,
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        let names = participants.as_slice();
        if names.len() > NAMES_MAX || names.is_empty() {
            return error(fx, conn, id, None, ErrorCode::InvalidMessage, "`to` names 1 to 256 participants");
        }
        if self.members.find(conn).is_none_or(|member| member.access == Access::Demo) {
            return error(
                fx,
                conn,
                id,
                None,
                ErrorCode::Forbidden,
                "demo participants publish to channels only",
            );
        }
        for (index, to) in names.iter().enumerate() {
            if to.starts_with("group:") {
                error(fx, conn, id, Some(to), ErrorCode::NotFound, "there is no such group");
                continue;
            }
            if let Err(wrong) = name::participant(to) {
                error(fx, conn, id, Some(to), ErrorCode::InvalidMessage, &format!("`to`: {wrong}"));
                continue;
            }
            // One request has one answer: the last of a list gives it.
            let id = id.filter(|_| index + 1 == names.len());
            let home = self.home(self.hash(to));
            self.publish_as(conn, |hub, publisher| {
                let published = Published {
                    conn,
                    id,
                    target: to,
                    event: publish.event.as_deref(),
                    payload: publish.payload.bytes(),
                    publisher,
                    priority: publish.priority,
                    is_ephemeral: false,
                    echoes: true,
                    timestamp: publish.timestamp.unwrap_or(now.unix_ms),
                };
                hub.ask(now, home, ToHome::Direct(published), fx);
            });
        }
    }

    /// At the channel's home: the message gets its place, is written once, and goes where it is wanted.
    pub(crate) fn publish_at_home(&mut self, now: Now, from: u16, it: &Published<'_>, fx: &mut Effects) {
        let hash = self.hash(it.target);
        let mut homes = std::mem::replace(&mut self.homes, crate::home::Homes::new(0, 0));
        let (epoch, offset, mut shards) =
            homes.publish(hash, it.target, !it.is_ephemeral, |name| self.hash(name));
        self.homes = homes;
        if it.target == name::SYSTEM {
            shards = ShardSet::first(usize::from(self.config.shards));
        }
        let space = name::channel(it.target).unwrap_or(name::DEFAULT_NAMESPACE);
        let default = self.config.namespaces.find(space).map_or(Priority::Normal, |(_, rule)| rule.priority);
        if !shards.is_empty() {
            let mut json = std::mem::take(&mut self.scratch);
            json.clear();
            let seams = event::message(
                &mut json,
                &Message {
                    channel: it.target,
                    event: it.event,
                    payload: it.payload,
                    publisher: Some(it.publisher),
                    epoch: epoch.text(&mut [0; 13]),
                    offset,
                    timestamp: it.timestamp,
                    priority: it.priority,
                    to: None,
                },
            );
            let exclude = (!it.echoes).then_some(it.conn);
            let written = Written {
                target: it.target,
                conflate: self.hash_of((hash, it.event)),
                priority: it.priority.unwrap_or(default),
                exclude: None,
                seams,
                timestamp: it.timestamp,
                json: &json,
            };
            self.spread(hash, shards, from, exclude, written, fx);
            self.scratch = json;
        }
        if let Some(id) = it.id {
            let accepted = FromHome::Accepted { conn: it.conn, id, epoch, offset };
            self.answer_to(now, from, accepted, fx);
        }
    }

    /// One record for all shards, but for the one whose publisher does not want his own message.
    fn spread(
        &mut self,
        hash: u64,
        mut shards: ShardSet,
        from: u16,
        exclude: Option<ConnKey>,
        written: Written<'_>,
        fx: &mut Effects,
    ) {
        if exclude.is_some() && shards.contains(from) {
            shards.remove(from);
            let without = Written { exclude, ..written };
            if from == self.config.shard {
                self.deliver(hash, &without, fx);
            } else {
                let mut origin = ShardSet::EMPTY;
                origin.insert(from);
                self.forward_to(fx, origin, FromHome::Message(without));
            }
        }
        self.forward_to(fx, shards, FromHome::Message(written));
        if shards.contains(self.config.shard) {
            self.deliver(hash, &written, fx);
        }
    }

    /// At the participant's home: the message gets its place in the inbox.
    pub(crate) fn direct_at_home(&mut self, now: Now, from: u16, it: &Published<'_>, fx: &mut Effects) {
        let hash = self.hash(it.target);
        let Some(participant) = self.participants.at_home(hash, it.target) else {
            let nobody = FromHome::Nobody { conn: it.conn, id: it.id, participant: it.target };
            return self.answer_to(now, from, nobody, fx);
        };
        participant.offset += 1;
        let (epoch, offset, shards) = (participant.epoch, participant.offset, participant.shards());
        let mut json = std::mem::take(&mut self.scratch);
        json.clear();
        let seams = event::message(
            &mut json,
            &Message {
                channel: name::INBOX,
                event: it.event,
                payload: it.payload,
                publisher: Some(it.publisher),
                epoch: epoch.text(&mut [0; 13]),
                offset,
                timestamp: it.timestamp,
                priority: it.priority,
                to: Some(it.target),
            },
        );
        let written = Written {
            target: it.target,
            conflate: 0,
            priority: it.priority.unwrap_or_default(),
            exclude: None,
            seams,
            timestamp: it.timestamp,
            json: &json,
        };
        self.forward_to(fx, shards, FromHome::Direct(written));
        if shards.contains(self.config.shard) {
            self.deliver_direct(&written, fx);
        }
        self.scratch = json;
        if let Some(id) = it.id {
            self.answer_to(now, from, FromHome::Accepted { conn: it.conn, id, epoch, offset }, fx);
        }
    }
}

/// Events that leave no trace anywhere.
fn is_ephemeral(event: Option<&str>) -> bool {
    matches!(event, Some("user_typing" | "chat_message_chunk" | "agent_status_update"))
}
