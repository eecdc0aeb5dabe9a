//! The phases of a run beside its busy ones: coming to rest, letting time pass, and how it ends.

use corecast_shard::Order;

use super::World;
use crate::books::Book;
use crate::chaos::Fault;
use crate::client::Client;
use crate::host::{Host, State};
use crate::oracle::{Check, Checked, Failure};

/// Ticks in which everything that was begun must come to rest once nobody begins anything new.
const SETTLE_TICKS_MAX: u64 = 400_000;

/// Steps on the way to rest in which nothing moves: later than any completion or wake-up that is late.
const QUIET_STEPS_MAX: u64 = 200;

/// Steps on the way to rest in which shards run and no client gets on.
const IDLE_STEPS_MAX: u64 = 10_000;

/// Who types no more is told within this time, which only small towns wait for.
const TYPED_AFTER_US: u64 = 6_500_000;

/// Of its clients, so many type at most.
const TYPISTS: usize = 3;

/// So many clients write to who is away.
const WRITERS: usize = 12;

/// Clients of a small town.
const PATIENT_MAX: usize = 16;

/// Who comes and goes is told within this time.
const TOLD_AFTER_US: u64 = 300_000;

/// A session whose time is over ends within this time.
const EXPIRED_AFTER_US: u64 = 100_000;

/// Deadlines that pass in a row while all rests.
const REST_DEADLINES_MAX: usize = 12;

impl World {
    /// Nobody begins anything new; when nothing moves any more, everything must have arrived.
    pub(super) fn settle(&mut self) -> Checked {
        self.town.rests += 1;
        self.come_to_rest()?;
        self.check_settled()?;
        if self.town.chaos.is_on(Fault::Presence) {
            self.take_attendance()?;
        }
        if self.town.chaos.is_on(Fault::Resume) {
            self.write_to_who_is_away()?;
        }
        self.town.is_settling = false;
        self.town.chaos.calm(false);
        Ok(())
    }

    /// Some write to who is away, which is kept until they return.
    fn write_to_who_is_away(&mut self) -> Checked {
        for client in self.clients.iter_mut().take(WRITERS) {
            client.write_to_who_is_away(&mut self.town);
        }
        self.come_to_rest()?;
        self.check_settled()
    }

    /// Some ask who is there, once all that changed has been told.
    fn take_attendance(&mut self) -> Checked {
        let is_patient = self.clients.len() <= PATIENT_MAX && self.town.chaos.below(Fault::Presence, 2) == 0;
        let were_known = self.all_are_known();
        self.town.nobody_waits =
            self.sessions_waiting() == 0 && self.town.oracle.lingers_until_us().is_none();
        self.town.nobody_types = is_patient;
        if is_patient {
            for client in self.clients.iter_mut().take(TYPISTS) {
                client.type_something(&mut self.town);
            }
            self.come_to_rest()?;
        }
        let until_us = self.town.now_us + if is_patient { TYPED_AFTER_US } else { TOLD_AFTER_US };
        while self.town.now_us < until_us {
            if !self.pass_deadline() {
                self.town.now_us = until_us;
            }
            self.come_to_rest()?;
        }
        // Who is given up meanwhile leaves, and that is told later.
        self.town.all_are_known = were_known;
        for client in &mut self.clients {
            client.ask_attendance(&mut self.town);
        }
        self.come_to_rest()?;
        self.town.nobody_types = false;
        self.check_settled()
    }

    /// Sessions that wait, as the shards count them.
    pub(super) fn sessions_waiting(&self) -> u64 {
        self.hosts.iter().map(|host| host.counters.sessions_suspended.value()).sum()
    }

    /// Whether shards hold nobody who is gone for its client.
    pub(super) fn all_are_known(&self) -> bool {
        let is_held = |(host, book): (&Host, &Book)| host.counters.connections.value() > book.sessions;
        !self.hosts.iter().zip(&self.town.books).any(is_held)
    }

    fn come_to_rest(&mut self) -> Checked {
        self.town.is_settling = true;
        self.town.chaos.calm(true);
        let until = self.tick + SETTLE_TICKS_MAX;
        let mut quiet = 0;
        self.idle_steps = 0;
        while self.tick < until && self.idle_steps < IDLE_STEPS_MAX {
            let has_moved = self.step()?;
            quiet = if has_moved || self.is_stalled() { 0 } else { quiet + 1 };
            if quiet > 2 {
                self.check_asleep()?;
                if self.all_are_still()? {
                    return Ok(());
                }
            }
            if quiet > QUIET_STEPS_MAX && !self.pass_deadline() {
                return Err(self.stuck("nothing moves any more"));
            }
        }
        Err(self.stuck("it does not come to rest"))
    }

    /// Whether a shard is kept from its work.
    fn is_stalled(&self) -> bool {
        self.hosts.iter().any(|host| self.tick < host.stalled_until)
    }

    /// Whether nothing is under way: shards sleep, and clients have all that they waited for.
    fn all_are_still(&mut self) -> Result<bool, Failure> {
        let hosts_are = self.hosts.iter().all(Host::is_still);
        Ok(hosts_are && self.clients.iter().all(|client| client.is_still(&mut self.town.net)))
    }

    /// Lets time pass to the next deadline of a shard; whether there is one.
    fn pass_deadline(&mut self) -> bool {
        let now = self.now();
        let Some(deadline) = self.hosts.iter().filter_map(Host::deadline).min() else { return false };
        let ahead = deadline.saturating_duration_since(now);
        self.town.now_us += ahead.as_micros() as u64 + 1;
        // Nobody is late for it.
        self.town.oracle.deadline_passes(self.town.now_us);
        // Whoever waits for this was not idle.
        self.idle_steps = 0;
        true
    }

    /// Time passes while nobody does anything: heartbeats, time-outs of whoever vanished.
    pub(super) fn rest(&mut self) -> Checked {
        for _ in 0..self.rng.usize(..REST_DEADLINES_MAX) {
            if !self.pass_deadline() {
                break;
            }
            self.come_to_rest()?;
            self.check_settled()?;
        }
        self.town.is_settling = false;
        self.town.chaos.calm(false);
        Ok(())
    }

    pub(super) fn everybody_leaves(&mut self) -> Checked {
        self.town.is_settling = true;
        self.town.chaos.calm(true);
        self.clients.iter_mut().for_each(|client| client.quit(&mut self.town));
        self.until("everybody has left", |world| {
            world.hosts.iter().all(|host| host.io.len() == 0 && host.is_still())
                && world.clients.iter().all(|client| client.serial().is_none())
        })?;
        self.let_sessions_expire()?;
        self.check_gone()?;
        self.check_empty()
    }

    /// Nobody comes back: in time the sessions are over that still wait.
    fn let_sessions_expire(&mut self) -> Checked {
        let left_us = self.town.now_us;
        self.until("the last session has ended", |world| {
            world.sessions_waiting() == 0 && world.hosts.iter().all(Host::is_still)
        })?;
        let most_us = self.setup.habits.sessions.window_us() + EXPIRED_AFTER_US;
        let took_us = self.town.now_us - left_us;
        if took_us > most_us {
            let what = format!("the last session ended after {took_us} us, and may wait for {most_us}");
            return Err(Failure::new(Check::Sessions, what));
        }
        // Nor is anybody seen any more whose session went on.
        let until_us = self.town.oracle.lingers_until_us().unwrap_or_default();
        while self.town.now_us < until_us {
            if !self.pass_deadline() {
                self.town.now_us = until_us;
            }
            self.come_to_rest()?;
        }
        Ok(())
    }

    /// One shard falls behind, and others have more for it than the rings hold: what ends a phase finds it so.
    pub(super) fn fall_behind(&mut self) -> Checked {
        if !self.setup.has_laggard {
            return Ok(());
        }
        let ticks = self.rng.u64(10..400) * self.rng.u64(1..6);
        let index = self.rng.usize(..self.hosts.len());
        self.hosts[index].stalled_until = self.tick + ticks;
        let until = self.tick + self.rng.u64(..ticks);
        while self.tick < until {
            self.step()?;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self) -> Checked {
        self.fall_behind()?;
        self.town.is_draining = true;
        let patience = self.setup.limits.drain_timeout * 3 / 4;
        self.town.overdue_at_us = self.town.now_us + patience.as_micros() as u64;
        self.clients.iter_mut().for_each(Client::awaits_farewell);
        self.town.chaos.calm(true);
        self.node.order(Order::Drain);
        let tick = self.tick;
        // Some hear of it earlier than others.
        for host in &mut self.hosts {
            host.wakes_at = Some(tick + self.rng.u64(..6));
        }
        self.until("the node has drained", |world| {
            world.hosts.iter().all(|host| host.state == State::Stopped)
        })?;
        if !self.town.is_overdue() {
            self.check_gone()?;
        }
        self.town.is_settling = true;
        while self.step()? {}
        self.check_drained()
    }

    /// Steps until something is true, letting time pass where nothing else moves.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Checked {
        let until = self.tick + SETTLE_TICKS_MAX;
        let mut quiet = 0;
        while !is_so(self) {
            let has_moved = self.step()?;
            quiet = if has_moved { 0 } else { quiet + 1 };
            let is_stuck = quiet > 60 && !self.pass_deadline();
            if is_stuck && quiet > QUIET_STEPS_MAX && !self.is_stalled() || self.tick > until {
                return Err(self.stuck(&format!("{what}: never")));
            }
        }
        Ok(())
    }
}
