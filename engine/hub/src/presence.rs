//! Who is in a channel: participants with a subscription to it by name, however many connections they have.
//!
//! Their shards know them ([`local`]) and tell the channel's home ([`home`]), which answers queries and tells changes
//! to the shards with connections that asked for them. A participant whose session is suspended stays; patterns make
//! nobody a member.

mod changes;
pub(crate) mod home;
pub(crate) mod local;
mod log;
mod members;
mod missed;
pub(crate) mod names;
pub(crate) mod query;
mod typing;

use std::time::Duration;

use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::{event, name};

use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::{Hasher, Now};
use crate::effect::{Class, ConnKey, Delivery, Effect, Effects, ShardSet, SlowPolicy};
use crate::format::{FORMATS, Format};
use crate::hub::{Hub, Via, forward};
use crate::member::Subscription;
use crate::presence::home::{Change, Home, Told};
use crate::presence::local::{Local, News, parts};
use crate::presence::log::UNSEEN;
use crate::remote::{Changed, FromHome, Names, Published, ToHome};
use crate::rules::Namespace;

/// What one hub knows of presence.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) local: Local,
    pub(crate) home: Home,
}

impl Presence {
    /// Where sessions wait so long for their clients.
    pub(crate) fn new(hasher: &Hasher, resume_window_ms: u64) -> Self {
        let reach = match resume_window_ms {
            0 => Duration::ZERO,
            // Who comes back and is lost again before it is known to be there was lost twice.
            window => Duration::from_millis(window) + 2 * UNSEEN,
        };
        Self { local: Local::new(hasher.clone()), home: Home::new(reach) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.home.is_empty()
    }
}

/// The subscriber's shard.
impl Hub {
    /// The home has answered: from here on the connection hears who comes and goes, if it asked for that.
    pub(crate) fn begin_watching(&mut self, conn: ConnKey, channel: &str) {
        if self.presence.local.has_watchers() {
            self.presence.local.activate(self.hasher.of(channel), channel, conn);
        }
    }

    /// A subscription ends, or loses its connection: nobody hears there of who comes and goes.
    pub(crate) fn stop_watching(&mut self, conn: ConnKey, subscription: &Subscription) {
        let Some(channel) = self.channels.get(subscription.channel) else { return };
        if self.config.namespaces.at(channel.rule).presence {
            self.presence.local.unwatch(channel.hash, &channel.name, conn);
        }
    }

    /// Participants whose sessions went on elsewhere are present here no more.
    pub(crate) fn stop_lingering(&mut self, now: Now) {
        if let Some(at) = self.presence.local.let_go(now.instant) {
            self.alarms.set(at, Alarm::Linger);
        }
    }

    /// Tells a home what has changed here since it was told last.
    pub(crate) fn tell_presence(&mut self, now: Now, news: &News, fx: &mut Effects) {
        match *news {
            News::Present { ref key, before, connections } => {
                let (channel, participant) = parts(key);
                let home = self.home(self.hasher.of(channel));
                let record = ToHome::Present { channel, participant, before, connections };
                self.ask(now, home, &record, fx);
            }
            News::Unwatched { ref channel, hash } => {
                self.ask(now, self.home(hash), &ToHome::Unwatch { channel }, fx);
            }
        }
    }

    /// Tells those here who want to know who came and went.
    pub(crate) fn presence_changed(&mut self, it: &Changed<'_>, fx: &mut Effects) {
        if let Some((joined, left)) = it.counts {
            return self.tell_watchers(it.channel, fx, |out, format| {
                event::presence_changed(out, format, it.channel, it.count, joined.into(), left.into());
            });
        }
        for (what, names) in [("leave", it.left), ("join", it.joined)] {
            if !names.is_empty() {
                self.tell_names(what, it.channel, names, it.count, fx);
            }
        }
    }

    /// Tells those here who want to know one thing of some participants.
    pub(crate) fn tell_names(
        &mut self,
        what: &str,
        channel: &str,
        names: Names<'_>,
        count: u64,
        fx: &mut Effects,
    ) {
        self.tell_watchers(channel, fx, |out, format| {
            event::members(out, format, what, channel, names.iter(), count);
        });
    }

    /// One event for all of the channel's watchers, written once for each encoding. No policy drops it: what is said of
    /// members would be wrong from then on.
    fn tell_watchers(&mut self, channel: &str, fx: &mut Effects, write: impl Fn(&mut Vec<u8>, Format)) {
        let hash = self.hasher.of(channel);
        for format in FORMATS {
            let start = fx.recipients.len();
            fx.recipients.extend(self.presence.local.watchers(hash, channel, format));
            self.tell_since(start, channel, format, fx, &write);
        }
    }

    /// The same for one of them.
    pub(crate) fn tell_watcher(
        &self,
        conn: ConnKey,
        channel: &str,
        fx: &mut Effects,
        write: impl Fn(&mut Vec<u8>, Format),
    ) {
        let Some(format) = self.members.find(conn).map(|it| it.format) else { return };
        let start = fx.recipients.len();
        fx.recipients.push(conn);
        self.tell_since(start, channel, format, fx, &write);
    }

    /// For the recipients from this one on.
    fn tell_since(
        &self,
        start: usize,
        channel: &str,
        format: Format,
        fx: &mut Effects,
        write: &impl Fn(&mut Vec<u8>, Format),
    ) {
        let recipients = (start as u32, fx.recipients.len() as u32);
        let namespace = self.config.namespaces.find(space_of(channel));
        let Some((namespace, _)) = namespace.filter(|_| recipients.0 < recipients.1) else { return };
        let message = fx.write(|out| write(out, format));
        let (priority, policy) = (Priority::Normal, SlowPolicy::Disconnect);
        let channel = self.hasher.of(channel) as u32;
        let delivery = Delivery { priority, policy, namespace, channel, conflate: 0 };
        let (variant, tracking) = (None, None);
        fx.list.push(Effect::Deliver { message, format, variant, recipients, delivery, tracking });
    }
}

/// The channel's home.
impl Hub {
    /// The options of a channel whose name is a good one.
    fn namespace_of(&self, channel: &str) -> Option<&Namespace> {
        self.config.namespaces.named(space_of(channel))
    }

    /// A shard tells of one participant.
    pub(crate) fn present_at_home(
        &mut self,
        now: Now,
        (channel, participant): (&str, &str),
        (before, connections): (u32, u32),
    ) {
        let listed_max = self.namespace_of(channel).map_or(0, |namespace| namespace.presence_members);
        let (hash, who) = (self.hasher.of(channel), self.hasher.of(participant));
        let change = Change { channel, participant, who, before, connections };
        let due = self.presence.home.change(hash, &change, listed_max as usize, now.instant);
        if let Some((slot, at)) = due {
            self.alarms.set(at, Alarm::Presence(slot));
        }
    }

    /// What changed in a channel is told to those who want to know.
    pub(crate) fn flush_presence(&mut self, now: Now, slot: u32, fx: &mut Effects) {
        let (told, due) = self.presence.home.flush(slot, now.instant);
        if let Some((slot, at)) = due {
            self.alarms.set(at, Alarm::Presence(slot));
        }
        let Some(told) = told else { return };
        if canary::strikes(Canary::JoinForgotten) {
            return;
        }
        let record = FromHome::Changed(Changed {
            channel: &told.channel,
            count: told.count,
            joined: list(&told.joined),
            left: list(&told.left),
            counts: told.counts,
        });
        self.spread_presence(now, told.shards, &record, fx);
    }

    /// Somebody publishes on a channel with presence: who says that it types does for a while, or until it says more.
    #[cold]
    pub(crate) fn typed_at_home(&mut self, now: Now, it: &Published<'_>) {
        if it.event != Some("user_typing") {
            return self.presence.home.wrote(it.hash, it.target, it.publisher);
        }
        if let Some((slot, at)) = self.presence.home.typed(it.hash, it.target, it.publisher, now.instant) {
            self.alarms.set(at, Alarm::Typing(slot));
        }
    }

    /// Who has typed for too long is told to those who want to know.
    pub(crate) fn expire_typing(&mut self, now: Now, slot: u32, fx: &mut Effects) {
        let (told, due) = self.presence.home.expire_typing(slot, now.instant);
        if let Some((slot, at)) = due {
            self.alarms.set(at, Alarm::Typing(slot));
        }
        if canary::strikes(Canary::TypingForEver) {
            return;
        }
        let Some(Told { channel, shards, count, left, .. }) = told else { return };
        let record = FromHome::TypingExpired { channel: &channel, count, participants: list(&left) };
        self.spread_presence(now, shards, &record, fx);
    }

    /// One record to each of these shards.
    fn spread_presence(&mut self, now: Now, shards: ShardSet, record: &FromHome<'_>, fx: &mut Effects) {
        let own = self.config.shard;
        let mut elsewhere = shards;
        elsewhere.remove(own);
        if !elsewhere.is_empty() {
            forward(fx, elsewhere, Class::Deliver, |out| record.encode(out));
        }
        if shards.contains(own) {
            self.on_answer(now, record, Via::Call, fx);
        }
    }
}

/// Of a name that is one.
fn space_of(channel: &str) -> &str {
    channel.split_once(':').map_or(name::DEFAULT_NAMESPACE, |(space, _)| space)
}

fn list(bytes: &[u8]) -> Names<'_> {
    Names::read(bytes).expect("this program wrote it")
}
