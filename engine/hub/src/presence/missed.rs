//! What a watcher missed while its session was away: asked for behind `resumed`, and told as the same events.

use std::time::{Duration, Instant};

use corecast_protocol::envelope::event;

use crate::admission::Todo;
use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::presence::list;
use crate::remote::{FromHome, Missed, ToHome};
use crate::session::Lost;

/// The subscriber's shard.
impl Hub {
    /// When a session counts as lost that loses its connection now: if its client is not known to have come back yet,
    /// that is when it was lost before.
    pub(crate) fn lost_by(&mut self, now: Now, conn: ConnKey) -> Lost {
        let away = self.members.find(conn).and_then(|it| it.away.as_deref().copied());
        self.suspended.lost(now.instant, away.unwrap_or(Some(now.instant)))
    }

    /// So long ago, rounded down.
    pub(crate) fn away_ms(now: Now, lost_at: Instant) -> u32 {
        let away = now.instant.saturating_duration_since(lost_at).as_millis();
        u32::try_from(away).unwrap_or(u32::MAX)
    }

    /// `resumed` is written: who watches is told what it missed.
    pub(crate) fn ask_missed_later(&mut self, conn: ConnKey, channel: &str) {
        if self.presence.local.has_watchers()
            && self.presence.local.watches(self.hasher.of(channel), channel, conn)
            && !canary::strikes(Canary::MissedUntold)
        {
            let away = self.members.find(conn).and_then(|it| it.away.as_deref().copied());
            self.todo.push_back(Todo::AskMissed(Box::new((conn, channel.into(), away.flatten()))));
        }
    }

    pub(crate) fn ask_missed(
        &mut self,
        now: Now,
        (conn, channel, lost_at): (ConnKey, &str, Option<Instant>),
        fx: &mut Effects,
    ) {
        let away_ms = lost_at.map(|at| Self::away_ms(now, at));
        let home = self.home(self.hasher.of(channel));
        self.ask(now, home, &ToHome::Missed { conn, channel, away_ms }, fx);
    }

    /// Who came and went meanwhile, for one connection. It stays behind the events that were queued before it, and
    /// before those that follow.
    pub(crate) fn tell_missed(&self, it: &Missed<'_>, fx: &mut Effects) {
        let &Missed { conn, channel, count, who } = it;
        if !self.presence.local.watches(self.hasher.of(channel), channel, conn) {
            return;
        }
        let Some((joined, left)) = who else {
            return self.tell_watcher(conn, channel, fx, |out, format| {
                event::presence_counted(out, format, channel, count);
            });
        };
        for (what, names) in [("leave", left), ("join", joined)] {
            if !names.is_empty() {
                self.tell_watcher(conn, channel, fx, |out, format| {
                    event::members(out, format, what, channel, names.iter(), count);
                });
            }
        }
    }
}

/// The channel's home.
impl Hub {
    /// A shard has nobody left who wants to hear of changes.
    pub(crate) fn unwatch_at_home(&mut self, now: Now, from: u16, channel: &str) {
        let due = self.presence.home.unwatch(self.hasher.of(channel), channel, from, now.instant);
        if let Some(at) = due {
            self.alarms.set(at, Alarm::ForgetMissed);
        }
    }

    /// Nobody comes back any more to what changed in some channels.
    pub(crate) fn forget_missed(&mut self, now: Now) {
        if let Some(at) = self.presence.home.forget_logs(now.instant) {
            self.alarms.set(at, Alarm::ForgetMissed);
        }
    }

    /// Somebody comes back that was lost so long ago. If there is nothing to tell, nothing is.
    pub(crate) fn missed_at_home(
        &mut self,
        now: Now,
        from: u16,
        (conn, channel, away_ms): (ConnKey, &str, Option<u32>),
        fx: &mut Effects,
    ) {
        let lost_at = away_ms.and_then(|away| now.instant.checked_sub(Duration::from_millis(away.into())));
        let (count, missed) = self.presence.home.missed(self.hasher.of(channel), channel, lost_at);
        if missed.as_ref().is_some_and(|it| it.names == 0) {
            return;
        }
        let who = missed.as_ref().map(|it| (list(&it.joined), list(&it.left)));
        self.answer_to(now, from, &FromHome::Missed(Missed { conn, channel, count, who }), fx);
    }
}
