//! Subscribing and unsubscribing: active from the home's answer on, so that `subscribed` precedes every message.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Channels, RequestId, Subscribe};
use corecast_protocol::envelope::{event, name};

use crate::channel::LocalChannel;
use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::hub::{Hub, error, reply};
use crate::member::Subscription;
use crate::remote::{Epoch, ToHome};
use crate::rules::{Act, Denied};

/// Names in one message at most: each may cause an answer.
pub(crate) const NAMES_MAX: usize = 256;

impl Hub {
    pub(crate) fn subscribe(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        subscribe: &Subscribe<'_>,
        fx: &mut Effects,
    ) {
        let names = subscribe.channels.as_slice();
        if names.len() > NAMES_MAX {
            return error(
                fx,
                conn,
                id,
                None,
                ErrorCode::InvalidMessage,
                "at most 256 channels in one message",
            );
        }
        if !subscribe.events.is_empty() {
            let why = "`events` beside a channel is not supported by this version: subscribe without it";
            return error(fx, conn, id, None, ErrorCode::InvalidMessage, why);
        }
        for channel in names {
            self.subscribe_one(now, conn, id, channel, fx);
        }
    }

    /// One channel or pattern.
    pub(crate) fn subscribe_one(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        text: &str,
        fx: &mut Effects,
    ) {
        let (rule, stem, is_pattern) = match self.may_subscribe(conn, text) {
            Ok(found) => found,
            Err(denied) => return error(fx, conn, id, Some(text), denied.code, &denied.why),
        };
        let hash = self.hash(stem);
        let known = self.channels.find(hash, stem, is_pattern);
        let shards = self.config.shards;
        let limit = self.config.limits.subscriptions_per_connection as usize;
        let Some(member) = self.members.find_mut(conn) else { return };
        let own = known.and_then(|index| member.subscriptions.iter().position(|it| it.channel == index));
        let serial = match own {
            // Subscribing twice is idempotent; the answer still names the current position.
            Some(own) => {
                let subscription = &mut member.subscriptions[own];
                subscription.awaited += if is_pattern && subscription.awaited > 0 { shards } else { 0 };
                subscription.serial
            }
            None if limit > 0 && member.subscriptions.len() >= limit => {
                let why =
                    format!("{limit} subscriptions per connection (limits.subscriptions_per_connection)");
                return error(fx, conn, id, Some(text), ErrorCode::SubscriptionLimit, &why);
            }
            None => {
                member.serial += 1;
                let serial = member.serial;
                let channel = self.channels.find_or_insert(hash, stem, rule, is_pattern);
                self.channels.get_mut(channel).expect("it was found or inserted").pending += 1;
                let awaited = if is_pattern { shards } else { 1 };
                member.subscriptions.push(Subscription { channel, place: None, serial, awaited });
                serial
            }
        };
        if is_pattern {
            for home in 0..shards {
                self.ask(now, home, ToHome::SubscribePattern { conn, serial, prefix: stem, id }, fx);
            }
        } else {
            let home = self.home(hash);
            self.ask(now, home, ToHome::Subscribe { conn, serial, channel: stem, id }, fx);
        }
    }

    /// The rule's index, the name or prefix, and whether it is a pattern.
    fn may_subscribe<'t>(&self, conn: ConnKey, text: &'t str) -> Result<(u16, &'t str, bool), Refused> {
        let is_pattern = name::is_pattern(text);
        let named =
            if is_pattern { name::pattern(text) } else { name::channel(text).map(|space| (space, text)) };
        let (space, stem) = named.map_err(Refused::name)?;
        let (index, rule) = self.config.namespaces.find(space).ok_or_else(Refused::namespace)?;
        let Some(member) = self.members.find(conn) else { return Err(Refused::namespace()) };
        rule.check(Act::Subscribe, member.access, &member.participant, stem)?;
        Ok((index, stem, is_pattern))
    }

    /// The home has answered: from here on the connection gets what is published.
    pub(crate) fn subscribed(
        &mut self,
        conn: ConnKey,
        serial: u32,
        channel: &str,
        id: Option<RequestId<'_>>,
        position: (Epoch, u64),
        fx: &mut Effects,
    ) {
        if self.activate(conn, serial, channel, false).is_some() {
            let (epoch, offset) = position;
            reply(fx, conn, |out| {
                event::subscribed(out, id, channel, Some((epoch.text(&mut [0; 13]), offset)))
            });
        }
    }

    /// One home knows the pattern; the last one makes it active.
    pub(crate) fn pattern_subscribed(
        &mut self,
        conn: ConnKey,
        serial: u32,
        prefix: &str,
        id: Option<RequestId<'_>>,
        fx: &mut Effects,
    ) {
        let Some(awaited) = self.activate(conn, serial, prefix, true) else { return };
        // Every home answers every request: the last answer of each is the one that is passed on.
        if awaited % self.config.shards == 0 {
            let text = format!("{prefix}*");
            reply(fx, conn, |out| event::subscribed(out, id, &text, None));
        }
    }

    /// How many answers are still awaited, if the subscription still exists.
    fn activate(&mut self, conn: ConnKey, serial: u32, stem: &str, is_pattern: bool) -> Option<u16> {
        let index = self.channels.find(self.hash(stem), stem, is_pattern)?;
        let member = self.members.find_mut(conn)?;
        let subscription =
            member.subscriptions.iter_mut().find(|it| it.channel == index && it.serial == serial)?;
        subscription.awaited = subscription.awaited.saturating_sub(1);
        if subscription.awaited == 0 && subscription.place.is_none() {
            let channel = self.channels.get_mut(index)?;
            subscription.place = Some(channel.subscribers.len() as u32);
            channel.subscribers.push(conn);
            channel.pending -= 1;
        }
        Some(subscription.awaited)
    }

    pub(crate) fn unsubscribe(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channels: &Channels<'_>,
        fx: &mut Effects,
    ) {
        let names = channels.as_slice();
        if names.len() > NAMES_MAX {
            return error(
                fx,
                conn,
                id,
                None,
                ErrorCode::InvalidMessage,
                "at most 256 channels in one message",
            );
        }
        for text in names {
            let is_pattern = name::is_pattern(text);
            let stem = if is_pattern { text.trim_end_matches('*') } else { text };
            let index = self.channels.find(self.hash(stem), stem, is_pattern);
            let Some(member) = self.members.find_mut(conn) else { return };
            let at = index.and_then(|index| member.subscriptions.iter().position(|it| it.channel == index));
            match at {
                Some(at) => {
                    let subscription = member.subscriptions.swap_remove(at);
                    self.drop_subscription(conn, &subscription);
                    reply(fx, conn, |out| event::unsubscribed(out, id, text, None));
                }
                None => error(
                    fx,
                    conn,
                    id,
                    Some(text),
                    ErrorCode::NotSubscribed,
                    "there was no such subscription",
                ),
            }
        }
    }

    /// Takes a subscription, already removed from its member, out of its channel.
    pub(crate) fn drop_subscription(&mut self, conn: ConnKey, subscription: &Subscription) {
        let Some(channel) = self.channels.get_mut(subscription.channel) else { return };
        match subscription.place {
            None => channel.pending -= 1,
            Some(place) => {
                debug_assert_eq!(channel.subscribers[place as usize], conn, "a place is its subscriber's");
                channel.subscribers.swap_remove(place as usize);
                // The last subscriber moved into the place.
                if let Some(moved) = channel.subscribers.get(place as usize).copied()
                    && let Some(member) = self.members.find_mut(moved)
                    && let Some(own) =
                        member.subscriptions.iter_mut().find(|it| it.channel == subscription.channel)
                {
                    own.place = Some(place);
                }
            }
        }
        self.channels.mark(subscription.channel);
    }

    /// Tells the home, or all of them, that nobody on this shard is left.
    pub(crate) fn leave(&mut self, now: Now, channel: &LocalChannel, is_pattern: bool, fx: &mut Effects) {
        if is_pattern {
            for home in 0..self.config.shards {
                self.ask(now, home, ToHome::LeavePattern { prefix: &channel.name }, fx);
            }
        } else {
            let home = self.home(channel.hash);
            self.ask(now, home, ToHome::Leave { channel: &channel.name }, fx);
        }
    }
}

/// Why a channel can't be used.
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) why: std::borrow::Cow<'static, str>,
}

impl Refused {
    pub(crate) fn name(error: name::NameError) -> Self {
        Self { code: ErrorCode::InvalidChannel, why: error.to_string().into() }
    }

    pub(crate) fn namespace() -> Self {
        Self { code: ErrorCode::InvalidChannel, why: "this namespace is not configured here".into() }
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self { code: denied.code, why: denied.why.into() }
    }
}
