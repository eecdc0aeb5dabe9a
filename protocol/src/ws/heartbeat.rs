//! When to ping and when to give up: pings after silence, three misses in a row end a connection.

use std::time::{Duration, Instant};

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing yet: look again at [`Heartbeat::deadline`].
    Nothing,
    /// Send a ping.
    SendPing,
    /// Nobody answers: close with 4001.
    Dead,
}

/// One connection's heartbeat: a ping after each `interval` without a sign of life; a silence of `pong_timeout`
/// after it is a miss and pings again; the last miss ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    interval: Duration,
    pong_timeout: Duration,
    /// The next deadline; moved lazily: `heard` only notes the time, unless a pong was awaited.
    due: Instant,
    heard: Instant,
    missed: u16,
    missed_max: u16,
    is_awaiting: bool,
    is_paused: bool,
}

impl Heartbeat {
    /// A heartbeat that starts at `now`.
    pub fn new(interval: Duration, pong_timeout: Duration, missed_max: u32, now: Instant) -> Self {
        let missed_max = missed_max.clamp(1, 1000) as u16;
        Self {
            interval,
            pong_timeout,
            due: now + interval,
            heard: now,
            missed: 0,
            missed_max,
            is_awaiting: false,
            is_paused: false,
        }
    }

    /// Something arrived: whatever it is, the peer lives. Whether that moved the deadline, which may be earlier now.
    pub fn heard(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.missed = 0;
        let was_awaiting = std::mem::take(&mut self.is_awaiting);
        if was_awaiting {
            self.due = now + self.interval;
        }
        was_awaiting
    }

    /// Reading stops or goes on; while it is stopped no pong can be seen, so none is missed. Whether that moved the
    /// deadline.
    pub fn paused(&mut self, is_paused: bool, now: Instant) -> bool {
        self.is_paused = is_paused;
        !is_paused && self.heard(now)
    }

    /// Whether pongs are not missed for now.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// When [`Heartbeat::on_deadline`] is to be asked, at the earliest.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.due)
    }

    /// The deadline may have passed.
    pub fn on_deadline(&mut self, now: Instant) -> Verdict {
        if now < self.due {
            return Verdict::Nothing;
        }
        if self.is_paused {
            self.due = now + self.interval;
            return Verdict::Nothing;
        }
        if !self.is_awaiting {
            let quiet_until = self.heard + self.interval;
            if now < quiet_until {
                self.due = quiet_until;
                return Verdict::Nothing;
            }
        } else {
            self.missed += 1;
            if self.missed >= self.missed_max {
                return Verdict::Dead;
            }
        }
        self.is_awaiting = true;
        self.due = now + self.pong_timeout;
        Verdict::SendPing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat(now: Instant) -> Heartbeat {
        Heartbeat::new(30 * SECOND, 5 * SECOND, 3, now)
    }

    #[test]
    fn the_third_miss_is_the_end() {
        let start = Instant::now();
        let mut it = heartbeat(start);
        assert_eq!(it.on_deadline(start + 29 * SECOND), Verdict::Nothing);
        for second in [30, 35, 40] {
            assert_eq!(it.deadline(), Some(start + second * SECOND));
            assert_eq!(it.on_deadline(start + second * SECOND), Verdict::SendPing);
        }
        assert_eq!(it.on_deadline(start + 45 * SECOND), Verdict::Dead);
    }

    #[test]
    fn any_sign_of_life_starts_over() {
        let start = Instant::now();
        let mut it = heartbeat(start);
        assert!(!it.heard(start + 10 * SECOND), "the deadline stays");
        assert_eq!(it.on_deadline(start + 30 * SECOND), Verdict::Nothing);
        assert_eq!(it.on_deadline(start + 40 * SECOND), Verdict::SendPing);
        it.on_deadline(start + 45 * SECOND);
        assert!(it.heard(start + 46 * SECOND), "the deadline moves");
        assert_eq!(it.deadline(), Some(start + 76 * SECOND));
        assert_eq!(it.on_deadline(start + 76 * SECOND), Verdict::SendPing);
    }

    #[test]
    fn an_answer_may_bring_the_deadline_nearer() {
        let start = Instant::now();
        let mut it = Heartbeat::new(SECOND, 5 * SECOND, 3, start);
        assert_eq!(it.on_deadline(start + SECOND), Verdict::SendPing);
        assert_eq!(it.deadline(), Some(start + 6 * SECOND));
        assert!(it.heard(start + 2 * SECOND));
        assert_eq!(it.deadline(), Some(start + 3 * SECOND));
    }

    #[test]
    fn nothing_is_missed_while_reading_is_paused() {
        let start = Instant::now();
        let mut it = heartbeat(start);
        it.on_deadline(start + 30 * SECOND);
        it.paused(true, start + 31 * SECOND);
        for second in [35, 65, 95, 125, 155] {
            assert_eq!(it.on_deadline(start + second * SECOND), Verdict::Nothing);
        }
        assert!(it.is_paused());
        it.paused(false, start + 156 * SECOND);
        assert!(!it.is_paused());
        assert_eq!(it.deadline().map(|due| due > start + 180 * SECOND), Some(true));
    }
}
