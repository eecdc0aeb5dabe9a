//! Subscribing and unsubscribing: active from the home's answer on, so that `subscribed` precedes every message.

use std::borrow::Cow;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Channels, RequestId, Subscribe};
use corecast_protocol::envelope::{event, name};

use crate::canary::{self, Canary};
use crate::channel::Left;
use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::format::Format;
use crate::hub::Hub;
use crate::member::Subscription;
use crate::remote::{Epoch, ToHome};
use crate::rules::{Act, Denied, Request};

/// Namespaces that an error names: an answer must not grow with the configuration.
const NAMED_MAX: usize = 8;

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
        if !self.may_name(conn, id, names.len(), fx) {
            return;
        }
        if !subscribe.events.is_empty() {
            let why = "`events` beside a channel is not supported by this version: subscribe without it";
            return self.invalid(conn, id, why, fx);
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
            Err(denied) => return self.error(fx, conn, id, Some(text), denied.code, &denied.why),
        };
        let hash = self.hasher.of(stem);
        let Some(member) = self.members.find_mut(conn) else { return };
        let format = member.format;
        if stem == name::SYSTEM {
            // Everybody has it already: only its position is asked for.
            let record = ToHome::Subscribe { conn, serial: 0, channel: stem, id, format };
            return self.ask(now, self.home(hash), &record, fx);
        }
        let known = self.channels.find(hash, stem, is_pattern);
        let own = known.and_then(|index| member.subscriptions.iter().find(|it| it.channel == index));
        let limit = self.config.limits.subscriptions_per_connection as usize;
        let serial = match own {
            // Subscribing twice is idempotent: the answer names the current position. A pattern has none.
            Some(own) if is_pattern && own.place.is_some() => {
                return self
                    .reply_fixed(fx, conn, |out, format| event::subscribed(out, format, id, text, None));
            }
            Some(own) if !is_pattern => own.serial,
            Some(_) => member.next_serial(),
            None if limit > 0 && member.subscriptions.len() >= limit => {
                let why = format!(
                    "{limit} subscriptions per connection (limits.subscriptions_per_connection): unsubscribe first"
                );
                return self.error(fx, conn, id, Some(text), ErrorCode::SubscriptionLimit, &why);
            }
            None => {
                let serial = member.next_serial();
                let channel = self.channels.find_or_insert(hash, stem, rule, is_pattern);
                self.channels.get_mut(channel).expect("it was found or inserted").await_home(format);
                member.subscriptions.push(Subscription { channel, place: None, serial });
                serial
            }
        };
        if canary::strikes(Canary::EarlyMessages) {
            self.activate(conn, serial, stem, is_pattern);
        }
        if is_pattern {
            self.awaited.insert((conn, serial), self.config.shards);
            for home in 0..self.config.shards {
                self.ask(now, home, &ToHome::SubscribePattern { conn, serial, prefix: stem, id, format }, fx);
            }
        } else {
            self.ask(
                now,
                self.home(hash),
                &ToHome::Subscribe { conn, serial, channel: stem, id, format },
                fx,
            );
        }
    }

    /// The rule's index, the name or prefix, and whether it is a pattern.
    fn may_subscribe<'t>(&self, conn: ConnKey, text: &'t str) -> Result<(u16, &'t str, bool), Refused> {
        let is_pattern = name::is_pattern(text);
        let named =
            if is_pattern { name::pattern(text) } else { name::channel(text).map(|space| (space, text)) };
        let (space, stem) = named.map_err(Refused::name)?;
        let (index, rule) = self.config.namespaces.find(space).ok_or_else(|| self.no_namespace(space))?;
        let member = self.members.find(conn).ok_or_else(Refused::gone)?;
        rule.check(&Request {
            act: Act::Subscribe,
            access: member.access,
            participant: &member.participant,
            name: stem,
            is_pattern,
        })?;
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
        if self.members.find(conn).is_none() {
            return;
        }
        if channel != name::SYSTEM && !self.activate(conn, serial, channel, false) {
            return self.overtaken(fx, conn, id, channel);
        }
        let (epoch, offset) = position;
        self.reply_fixed(fx, conn, |out, format| {
            event::subscribed(out, format, id, channel, Some((epoch.text(), offset)))
        });
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
        let Some(awaited) = self.awaited.get_mut(&(conn, serial)) else { return };
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        self.awaited.remove(&(conn, serial));
        if self.members.find(conn).is_none() {
            return;
        }
        let text = format!("{prefix}*");
        if self.activate(conn, serial, prefix, true) {
            self.reply_fixed(fx, conn, |out, format| event::subscribed(out, format, id, &text, None));
        } else {
            self.overtaken(fx, conn, id, &text);
        }
    }

    /// Tells the client that its subscription was taken back before it became active.
    fn overtaken(&self, fx: &mut Effects, conn: ConnKey, id: Option<RequestId<'_>>, text: &str) {
        if id.is_some() {
            let why = "it was unsubscribed before it became active";
            self.error(fx, conn, id, Some(text), ErrorCode::Cancelled, why);
        }
    }

    /// Makes a subscription active that the request with this serial asked for; whether it still exists.
    ///
    /// A pattern that is asked for again while it is pending has a later serial than the subscription. All homes
    /// answer in the order they were asked, so the earlier request is complete by then.
    fn activate(&mut self, conn: ConnKey, serial: u32, stem: &str, is_pattern: bool) -> bool {
        let Some(index) = self.channels.find(self.hasher.of(stem), stem, is_pattern) else { return false };
        let Some(member) = self.members.find_mut(conn) else { return false };
        let Some(subscription) = member.subscriptions.iter_mut().find(|it| it.channel == index) else {
            return false;
        };
        if subscription.serial > serial {
            return false;
        }
        if subscription.place.is_none() {
            let channel = self.channels.get_mut(index).expect("a subscription's channel exists");
            let subscribers = channel.subscribers.of_mut(member.format);
            subscription.place = Some(subscribers.len() as u32);
            subscribers.push(conn);
            *channel.pending.of_mut(member.format) -= 1;
        }
        true
    }

    pub(crate) fn unsubscribe(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channels: &Channels<'_>,
        fx: &mut Effects,
    ) {
        let names = channels.as_slice();
        if !self.may_name(conn, id, names.len(), fx) {
            return;
        }
        for text in names {
            if text == name::SYSTEM {
                let why = "everybody gets `system`: it can't be unsubscribed";
                self.error(fx, conn, id, Some(text), ErrorCode::Forbidden, why);
                continue;
            }
            let (stem, is_pattern) = text.strip_suffix('*').map_or((&**text, false), |stem| (stem, true));
            let index = self.channels.find(self.hasher.of(stem), stem, is_pattern);
            let Some(member) = self.members.find_mut(conn) else { return };
            let at = index.and_then(|index| member.subscriptions.iter().position(|it| it.channel == index));
            match at {
                Some(at) => {
                    if !canary::strikes(Canary::UnsubscribedStillServed) {
                        let subscription = member.subscriptions.swap_remove(at);
                        let format = member.format;
                        self.drop_subscription(conn, format, &subscription);
                    }
                    self.reply_fixed(fx, conn, |out, format| {
                        event::unsubscribed(out, format, id, text, None)
                    });
                }
                None => self.error(
                    fx,
                    conn,
                    id,
                    Some(text),
                    ErrorCode::NotSubscribed,
                    "this connection has no such subscription",
                ),
            }
        }
    }

    /// Takes a subscription, already removed from its member, out of its channel.
    pub(crate) fn drop_subscription(&mut self, conn: ConnKey, format: Format, subscription: &Subscription) {
        let Some(channel) = self.channels.get_mut(subscription.channel) else { return };
        match subscription.place {
            None => *channel.pending.of_mut(format) -= 1,
            Some(place) => {
                let subscribers = channel.subscribers.of_mut(format);
                debug_assert_eq!(subscribers[place as usize], conn, "a place is its subscriber's");
                subscribers.swap_remove(place as usize);
                // The last subscriber of this encoding moved into the place.
                if let Some(moved) = subscribers.get(place as usize).copied()
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
    pub(crate) fn leave(&mut self, now: Now, left: &Left, fx: &mut Effects) {
        let formats = left.formats;
        if left.is_pattern {
            for home in 0..self.config.shards {
                self.ask(now, home, &ToHome::LeavePattern { prefix: &left.name, formats }, fx);
            }
        } else {
            let home = self.home(left.hash);
            self.ask(now, home, &ToHome::Leave { channel: &left.name, formats }, fx);
        }
    }
}

/// Why a request can't be done.
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) why: Cow<'static, str>,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self { code, why: why.into() }
    }

    pub(crate) fn name(error: name::NameError) -> Self {
        Self::new(ErrorCode::InvalidChannel, error.to_string())
    }

    /// A payload that the namespace doesn't take.
    #[cold]
    pub(crate) fn payload(space: &str, bytes_max: u64, bytes: u64) -> Self {
        let why = format!("a payload in {space} has at most {bytes_max} bytes, this one {bytes}");
        Self::new(ErrorCode::MessageTooLarge, why)
    }

    /// The connection is not there any more, and so nobody will read this.
    pub(crate) fn gone() -> Self {
        Self::new(ErrorCode::Internal, "the connection is gone")
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code, denied.why)
    }
}

impl Hub {
    /// Nobody configured this namespace.
    pub(crate) fn no_namespace(&self, space: &str) -> Refused {
        let mut names = self.config.namespaces.names();
        let mut known = names.by_ref().take(NAMED_MAX).collect::<Vec<_>>().join(", ");
        if names.next().is_some() {
            known.push_str(" and others");
        }
        let why = if space == name::DEFAULT_NAMESPACE {
            format!("a name needs a namespace here, as in conversation:42; the namespaces are {known}")
        } else {
            format!("there is no namespace {space} here, but {known}")
        };
        Refused::new(ErrorCode::InvalidChannel, why)
    }
}
