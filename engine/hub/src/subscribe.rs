//! Subscribing: active from the home's answer on, so that `subscribed` precedes every message.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{RequestId, Subscribe};
use corecast_protocol::envelope::event::{self, Subscribed};
use corecast_protocol::envelope::name;

use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects};
use crate::filter::{Filter, Gate};
use crate::format::Format;
use crate::hub::Hub;
use crate::member::Subscription;
use crate::refused::Refused;
use crate::remote::{Epoch, FromHome, Messages, Page, Past, ToHome};
use crate::replay::{Listed, Variants};
use crate::rules::{Act, Mode, Request};
use crate::session::RESUMING;

/// Why nobody filters what he acknowledges.
const ACKS_ARE_OF_ALL: &str = "`ack` and `events` or `max_rate` exclude each other: an acknowledgement is of all \
    messages of the channel up to its offset, also of those that a filter leaves out; unsubscribe to change from one \
    to the other";

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
        let filter = match Filter::of(subscribe) {
            Ok(filter) => filter,
            Err(why) => return self.invalid(conn, id, why, fx),
        };
        let past = Past {
            position: subscribe
                .recover
                .as_ref()
                .map(|it| Epoch::read(&it.epoch).map(|epoch| (epoch, it.offset))),
            latest: subscribe.history.map_or(0, |wanted| u32::try_from(wanted).unwrap_or(u32::MAX)),
            is_carried: false,
            is_held: false,
            is_watching: subscribe.presence,
            wants_ack: subscribe.ack,
        };
        self.filter_in_hand = filter;
        for channel in names {
            match &**channel {
                channel if subscribe.unsupported.is_some() => {
                    let field = subscribe.unsupported.unwrap_or_default();
                    let why = format!("this server has no `{field}` for subscriptions: subscribe without it");
                    self.error(fx, conn, id, Some(channel), ErrorCode::InvalidMessage, &why);
                }
                name::INBOX if self.filter_in_hand.is_some() => {
                    let why = "everybody gets all of `@me`: subscribe to it without `events` and `max_rate`";
                    self.error(fx, conn, id, Some(channel), ErrorCode::InvalidMessage, why);
                }
                name::INBOX => self.subscribe_inbox(now, conn, id, past, fx),
                channel => self.subscribe_one(now, conn, id, (channel, past), fx),
            }
        }
        self.filter_in_hand = None;
    }

    /// One channel or pattern.
    pub(crate) fn subscribe_one(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (text, mut past): (&str, Past),
        fx: &mut Effects,
    ) {
        let (rule, stem, is_pattern) = match self.may_have(conn, text, &past) {
            Ok(found) => found,
            Err(denied) if id == Some(RESUMING) => return self.not_restored(conn, text, denied, fx),
            Err(denied) => return self.error(fx, conn, id, Some(text), denied.code, &denied.why),
        };
        let hash = self.hasher.of(stem);
        past.is_carried = !past.is_held && !is_pattern && past.is_wanted();
        if !is_pattern && self.too_many_wait(conn, (id, stem), &past, fx) {
            return;
        }
        let Some(member) = self.members.find_mut(conn) else { return };
        let format = member.format;
        if stem == name::SYSTEM {
            // Everybody has it already: only its position is asked for.
            return self.ask_channel(now, (0, stem, id, past), (conn, format), fx);
        }
        past.is_watching &= !is_pattern && self.config.namespaces.at(rule).presence;
        let known = self.channels.find(hash, stem, is_pattern);
        let own = known.and_then(|index| member.subscriptions.iter().find(|it| it.channel == index));
        let limit = self.config.limits.subscriptions_per_connection as usize;
        let awaits_homes = self.awaited.range((conn, 0)..=(conn, u32::MAX)).next().is_some();
        let serial = match own.map(|own| (own.channel, own.serial, own.place.is_some())) {
            // Behind an answer that is under way: the last one says which filter holds.
            Some((index, _, true)) if is_pattern && !awaits_homes => {
                return self.subscribe_pattern_again(conn, id, (index, text), fx);
            }
            Some((index, serial, _)) => {
                let serial = if is_pattern { member.next_serial() } else { serial };
                self.will_filter(conn, index);
                serial
            }
            // A session brings no more along than a connection may have.
            None if limit > 0 && member.subscriptions.len() >= limit => {
                let why = Refused::new(ErrorCode::SubscriptionLimit, too_many(limit));
                return match id {
                    Some(RESUMING) => self.not_restored(conn, text, why, fx),
                    _ => self.error(fx, conn, id, Some(text), why.code, &why.why),
                };
            }
            None => self.begin_subscription(conn, (hash, stem, rule, is_pattern)),
        };
        if past.is_watching {
            self.presence.local.watch(hash, stem, conn, format);
        }
        if past.wants_ack {
            self.promise_acks(conn, hash, stem);
        }
        if canary::strikes(Canary::EarlyMessages) {
            self.activate(conn, serial, stem, is_pattern);
        }
        if is_pattern {
            self.ask_all_homes(now, (conn, serial, stem, id, format), fx);
        } else {
            self.ask_channel(now, (serial, stem, id, past), (conn, format), fx);
        }
    }

    /// Asks a channel's home, now or when the connection may wait for another answer.
    fn ask_channel(
        &mut self,
        now: Now,
        (serial, channel, id, past): (u32, &str, Option<RequestId<'_>>, Past),
        (conn, format): (ConnKey, Format),
        fx: &mut Effects,
    ) {
        let hash = self.hasher.of(channel);
        let is_later = self.subscribes_later(conn, hash, &past);
        let record = ToHome::Subscribe { conn, serial, channel, id, format, past };
        if is_later {
            return self.ask_later(conn, hash, &record, fx);
        }
        if past.is_wanted() && channel != name::SYSTEM {
            self.await_past(conn, hash, channel);
        }
        self.ask(now, self.home(hash), &record, fx);
    }

    /// What may be subscribed to, and in the way that it is asked for.
    fn may_have<'t>(
        &self,
        conn: ConnKey,
        text: &'t str,
        &Past { wants_ack, is_watching, .. }: &Past,
    ) -> Result<(u16, &'t str, bool), Refused> {
        let (rule, stem, is_pattern) = self.may_subscribe(conn, text)?;
        let invalid = |why: &'static str| Err(Refused::new(ErrorCode::InvalidMessage, why));
        if wants_ack && (is_pattern || self.config.namespaces.at(rule).mode != Mode::Reliable) {
            return invalid("`ack` is for channels of reliable namespaces, by their full names");
        }
        if is_watching && is_pattern {
            return invalid(
                "`presence` is for channels by their full names: a pattern makes nobody a member",
            );
        }
        if self.filter_in_hand.is_none() {
            return Ok((rule, stem, is_pattern));
        }
        if stem == name::SYSTEM {
            return invalid(
                "everybody gets all of `system`: subscribe to it without `events` and `max_rate`",
            );
        }
        let index = self.channels.find(self.hasher.of(stem), stem, is_pattern);
        let own = self.members.find(conn).and_then(|it| it.of(index?));
        if wants_ack || own.is_some_and(|it| it.acks().is_some()) {
            return invalid(ACKS_ARE_OF_ALL);
        }
        Ok((rule, stem, is_pattern))
    }

    /// Subscribing twice is idempotent: the answer names the current position. A pattern has none.
    fn subscribe_pattern_again(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (index, text): (u32, &str),
        fx: &mut Effects,
    ) {
        if id == Some(RESUMING) {
            return self.restored(conn, (text, None), false, fx);
        }
        self.will_filter(conn, index);
        self.renew_filter(conn, index);
        self.reply_fixed(fx, conn, |out, format| {
            event::subscribed(out, format, id, text, &Subscribed::default());
        });
    }

    /// A subscription that awaits its home's answer, and its serial.
    fn begin_subscription(
        &mut self,
        conn: ConnKey,
        (hash, stem, rule, is_pattern): (u64, &str, u16, bool),
    ) -> u32 {
        let member = self.members.find_mut(conn).expect("it is asking");
        let serial = member.next_serial();
        let channel = self.channels.find_or_insert(hash, stem, rule, is_pattern);
        self.channels.get_mut(channel).expect("it was found or inserted").await_home(member.format);
        member.subscriptions.push(Subscription { channel, place: None, serial, extra: None });
        if !is_pattern && self.config.namespaces.at(rule).presence {
            self.presence.local.enter(stem, &member.participant);
        }
        self.will_filter(conn, channel);
        serial
    }

    /// A pattern's channels may have their homes anywhere.
    fn ask_all_homes(
        &mut self,
        now: Now,
        (conn, serial, prefix, id, format): (ConnKey, u32, &str, Option<RequestId<'_>>, Format),
        fx: &mut Effects,
    ) {
        self.awaited.insert((conn, serial), self.config.shards);
        for home in 0..self.config.shards {
            self.ask(now, home, &ToHome::SubscribePattern { conn, serial, prefix, id, format }, fx);
        }
    }

    /// The rule's index, the name or prefix, and whether it is a pattern.
    pub(crate) fn may_subscribe<'t>(
        &self,
        conn: ConnKey,
        text: &'t str,
    ) -> Result<(u16, &'t str, bool), Refused> {
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

    /// At the channel's home: the shard wants it from here on, and this connection some of what came before.
    pub(crate) fn subscribe_at_home(
        &mut self,
        now: Now,
        from: u16,
        (conn, serial, channel, id, mut format): (ConnKey, u32, &str, Option<RequestId<'_>>, Format),
        past: &Past,
        fx: &mut Effects,
    ) {
        if format == Format::MessagePack && canary::strikes(Canary::EncodingForgotten) {
            format = Format::Json;
        }
        self.join_at_home(channel, (from, format));
        if past.is_watching {
            self.presence.home.watch(self.hasher.of(channel), channel, from, now.instant);
        }
        let record = ToHome::Subscribe { conn, serial, channel, id, format, past: *past };
        let whose = (from, conn, self.hasher.of(channel));
        if !self.subscription_waits(whose, past, &record) {
            self.answer_subscription(now, from, (conn, serial, channel, id, format), past, fx);
        }
    }

    /// What a new subscriber is told, now or when it is its turn: its shard may have left the channel meanwhile.
    pub(crate) fn answer_subscription(
        &mut self,
        now: Now,
        from: u16,
        (conn, serial, channel, id, format): (ConnKey, u32, &str, Option<RequestId<'_>>, Format),
        past: &Past,
        fx: &mut Effects,
    ) {
        let mut out = std::mem::take(&mut self.page_scratch);
        out.clear();
        let mut page = self.first_page(now, (channel, format), past, &mut out);
        if channel == name::SYSTEM && page.is_recovered && page.has_more {
            // Everybody has it live already, so nothing could follow the answer in order: better none than a part.
            out.clear();
            page = self.first_page(now, (channel, format), &Past { position: Some(None), ..*past }, &mut out);
        }
        self.answer_to(now, from, &FromHome::Subscribed { conn, serial, channel, id, page }, fx);
        self.page_written(out);
    }

    /// The channel's slot, wanted by a shard.
    pub(crate) fn join_at_home(&mut self, channel: &str, whose: (u16, Format)) -> u32 {
        let space = channel.split_once(':').map_or(channel, |(space, _)| space);
        let is_numbered = self.config.namespaces.find(space).is_some_and(|(_, rule)| rule.numbers());
        self.homes.join(self.hasher.of(channel), channel, is_numbered, whose)
    }

    /// The home has answered: from here on the connection gets what is published, or what it missed.
    pub(crate) fn subscribed(
        &mut self,
        conn: ConnKey,
        serial: u32,
        channel: &str,
        id: Option<RequestId<'_>>,
        page: &Page<'_>,
        fx: &mut Effects,
    ) {
        if self.members.find(conn).is_none() {
            return;
        }
        if page.messages.is_some() {
            self.bulk_came(conn, fx);
        }
        let begun =
            if channel == name::SYSTEM { Some(None) } else { self.begin(conn, serial, channel, page) };
        let Some(stands) = begun else { return self.overtaken(fx, conn, id, channel) };
        if id == Some(RESUMING) {
            // Who catches up by itself goes on from where it stands.
            let position = Some(stands.unwrap_or((page.epoch, page.offset)));
            return self.restored(conn, (channel, position), page.is_recovered, fx);
        }
        match stands {
            // Who is catching up is told how far it is: what follows comes behind that.
            Some(position) => {
                // The latest messages come on the way: none comes twice.
                let found = page.messages.map_or(0, |it| it.count);
                let messages = page.messages.map(|_| Messages { count: 0, bytes: &[] });
                let has_more = page.has_more || found > 0 || page.is_past && position.1 < page.offset;
                let page = Page { has_more, messages, ..*page };
                self.say_subscribed(conn, id, channel, (&page, position), fx);
            }
            None => self.say_subscribed(conn, id, channel, (page, (page.epoch, page.offset)), fx),
        }
        self.begin_watching(conn, channel);
        let is_behind = self.own(conn, serial, channel, false).is_some_and(|(_, own)| own.cursor().is_some());
        if !page.is_live || is_behind {
            fx.list.push(Effect::AwaitRoom { conn });
        }
    }

    /// Tells a client where it is, with the messages of the page that it wants.
    pub(crate) fn say_subscribed(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        (page, (epoch, offset)): (&Page<'_>, (Epoch, u64)),
        fx: &mut Effects,
    ) {
        let member = self.members.find(conn);
        let is_time_iso = member.is_some_and(|it| it.is_time_iso);
        let index = self.channels.find(self.hasher.of(channel), channel, false);
        let filter = member.and_then(|it| it.of(index?)?.filter());
        let messages = page.messages.map(|messages| Listed::new(messages, is_time_iso).filtered(filter));
        self.reply_fixed(fx, conn, |out, format| {
            let variants = messages.as_ref().map(|it| it.variants(format));
            let list = variants.as_ref().map(Variants::list);
            let subscribed = Subscribed {
                position: Some((epoch.text(), offset)),
                recovered: page.is_recovered,
                messages: list.as_deref(),
                more: page.has_more,
            };
            event::subscribed(out, format, id, channel, &subscribed);
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
        if let Some(index) = self.channels.find(self.hasher.of(prefix), prefix, true) {
            self.renew_filter(conn, index);
        }
        let text = format!("{prefix}*");
        if id == Some(RESUMING) && self.own(conn, serial, prefix, true).is_some() {
            self.pattern_restored(conn, serial, prefix, fx);
        } else if !self.activate(conn, serial, prefix, true) {
            self.overtaken(fx, conn, id, &text);
        } else {
            self.reply_fixed(fx, conn, |out, format| {
                event::subscribed(out, format, id, &text, &Subscribed::default());
            });
        }
    }

    /// Tells the client that its subscription was taken back before it became active.
    pub(crate) fn overtaken(
        &mut self,
        fx: &mut Effects,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        text: &str,
    ) {
        let why = "it was unsubscribed before it became active";
        if id == Some(RESUMING) {
            self.not_restored(conn, text, Refused::new(ErrorCode::Cancelled, why), fx);
        } else if id.is_some() {
            self.error(fx, conn, id, Some(text), ErrorCode::Cancelled, why);
        }
    }

    /// Makes a subscription active that the request with this serial asked for; whether it still exists.
    ///
    /// A pattern that is asked for again while it is pending has a later serial than the subscription. All homes
    /// answer in the order they were asked, so the earlier request is complete by then.
    pub(crate) fn activate(&mut self, conn: ConnKey, serial: u32, stem: &str, is_pattern: bool) -> bool {
        let Some((index, subscription)) = self.own(conn, serial, stem, is_pattern) else { return false };
        if subscription.place.is_none() {
            let extra = subscription.extra.as_mut();
            let (was_behind, was_held) =
                extra.map_or((false, false), |it| (it.cursor.take().is_some(), it.held.take().is_some()));
            let member = self.members.find_mut(conn).expect("it has a subscription");
            member.behind -= u32::from(was_behind);
            let format = member.format;
            let channel = self.channels.get_mut(index).expect("a subscription's channel exists");
            if was_behind || was_held {
                channel.caught_up(conn);
            }
            *channel.pending.of_mut(format) -= 1;
            self.enter_place(conn, format, index);
        }
        true
    }

    /// A connection's subscription to a channel, if it has one.
    pub(crate) fn subscription_mut(&mut self, conn: ConnKey, index: u32) -> Option<&mut Subscription> {
        self.members.find_mut(conn)?.subscriptions.iter_mut().find(|it| it.channel == index)
    }

    /// Whether the subscription still exists that the request with this serial asked for.
    pub(crate) fn is_subscribed(&mut self, conn: ConnKey, serial: u32, channel: &str) -> bool {
        self.own(conn, serial, channel, false).is_some()
    }

    /// The subscription that the request with this serial asked for, if it still exists.
    pub(crate) fn own(
        &mut self,
        conn: ConnKey,
        serial: u32,
        stem: &str,
        is_pattern: bool,
    ) -> Option<(u32, &mut Subscription)> {
        let index = self.channels.find(self.hasher.of(stem), stem, is_pattern)?;
        let member = self.members.find_mut(conn)?;
        let own = member.subscriptions.iter_mut().find(|it| it.channel == index)?;
        (own.serial <= serial).then_some((index, own))
    }

    /// Takes a connection out of a channel's subscribers, or out of the filtered ones: what its filter has done.
    pub(crate) fn leave_place(
        &mut self,
        conn: ConnKey,
        format: Format,
        (index, place, is_filtered): (u32, u32, bool),
    ) -> Gate {
        let (gate, moved) = if is_filtered {
            self.leave_filtered((index, format), place).unwrap_or_default()
        } else {
            let Some(channel) = self.channels.get_mut(index) else { return Gate::default() };
            let subscribers = channel.subscribers.of_mut(format);
            debug_assert_eq!(subscribers[place as usize], conn, "a place is its subscriber's");
            subscribers.swap_remove(place as usize);
            (Gate::default(), subscribers.get(place as usize).copied())
        };
        // The last one of the list moved into the place.
        if let Some(own) = moved.and_then(|moved| self.subscription_mut(moved, index)) {
            own.place = Some(place);
        }
        gate
    }
}

/// Why nothing more can be subscribed to.
fn too_many(limit: usize) -> String {
    format!("{limit} subscriptions per connection (limits.subscriptions_per_connection): unsubscribe first")
}
