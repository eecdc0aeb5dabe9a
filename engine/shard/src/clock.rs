//! The shard's own time: it stands still while the shard is kept from its work.
//!
//! A process may be stopped, its machine suspended, its core given to others. What peers sent meanwhile lies in the
//! kernel, unread: their silence is not theirs. So what a turn comes late counts as [`LATE_MAX`] at most, and nobody is
//! judged before the sockets were read. The time up to the turn that was asked for counts in full.

use std::time::{Duration, Instant};

/// What a turn may be late before that counts as absence: far more than a busy host causes, far less than a peer is
/// given.
const LATE_MAX: Duration = Duration::from_millis(100);

/// Connections that one turn hears at least, if they all have something to say.
const HEARD_PER_TURN: usize = 256;

/// The time of one shard.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The last turn, in the driver's time.
    last: Instant,
    /// When the next one was asked for; never, if only an event could cause it.
    due: Option<Instant>,
    /// How much this time lags behind the driver's.
    behind: Duration,
    /// Turns before anybody is judged.
    hearing: usize,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, due: None, behind: Duration::ZERO, hearing: 0 }
    }

    /// A turn begins; the time that it counts as.
    pub(crate) fn turn(&mut self, real: Instant, connections: usize) -> Instant {
        let late = self.due.map_or(Duration::ZERO, |due| real.saturating_duration_since(due.max(self.last)));
        if late > LATE_MAX {
            self.behind += late - LATE_MAX;
            if self.hearing == 0 {
                self.hearing = connections / HEARD_PER_TURN + 2;
            }
        }
        // Where every turn is late somebody is judged all the same, from time to time.
        self.hearing = self.hearing.saturating_sub(1);
        self.last = self.last.max(real);
        // Until told otherwise.
        self.due = Some(self.last);
        self.last - self.behind
    }

    /// Whether all that peers sent while nobody read was read.
    pub(crate) fn may_judge(&self) -> bool {
        self.hearing == 0
    }

    /// This turn in the driver's time: for what is promised to those who don't care how busy the shard is.
    pub(crate) fn real(&self) -> Instant {
        self.last
    }

    /// The next turn is wanted at one of these times, the second in the driver's, or when something happens; the
    /// first of them in the driver's time.
    pub(crate) fn sleep(&mut self, until: Option<Instant>, real: Option<Instant>) -> Option<Instant> {
        self.due = until.map(|until| until + self.behind).into_iter().chain(real).min();
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_is_in_time_sees_time_pass() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        assert_eq!(clock.turn(start + 5000 * MS, 0), start + 5000 * MS, "nobody asked for a turn");
        assert_eq!(clock.sleep(Some(start + 9000 * MS), None), Some(start + 9000 * MS));
        assert_eq!(clock.turn(start + 9100 * MS, 0), start + 9100 * MS);
        assert!(clock.may_judge());
        assert_eq!(clock.sleep(None, None), None);
        assert_eq!(clock.turn(start + 99_000 * MS, 0), start + 99_000 * MS);
        assert!(clock.may_judge());
    }

    /// What peers were given up to their deadlines they were given; only the server's own absence is no time.
    #[test]
    fn an_absence_is_no_time() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.sleep(Some(start + 1000 * MS), None);
        let now = clock.turn(start + 60_000 * MS, 10);
        assert_eq!(now, start + 1000 * MS + LATE_MAX, "what would have been due later is due later");
        assert!(!clock.may_judge());
        assert_eq!(clock.turn(start + 60_001 * MS, 10), now + MS);
        assert!(clock.may_judge(), "in between the sockets were read");
        assert_eq!(clock.sleep(Some(now + 100 * MS), None), Some(start + 60_100 * MS));
        assert_eq!(clock.turn(start + 60_100 * MS, 10), now + 100 * MS);
        assert!(clock.may_judge());
        let (own, real) = (now + 500 * MS, start + 60_300 * MS);
        assert_eq!(clock.sleep(Some(own), Some(real)), Some(real), "the driver's time has no absence");
    }

    /// A host that steals the core wakes everybody late, always. Time-outs hold all the same.
    #[test]
    fn who_always_wakes_late_is_late_by_that_only() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let deadline = start + 30_000 * MS;
        let (mut now, mut real) = (start, start);
        while now < deadline {
            real = clock.sleep(Some(deadline), None).expect("a deadline") + 150 * MS;
            now = clock.turn(real, 0);
        }
        assert_eq!((real - start, clock.real()), (30_150 * MS, real));
    }

    #[test]
    fn many_take_several_turns_to_be_heard() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.sleep(Some(start), None);
        let mut turns = 0;
        clock.turn(start + 5000 * MS, 10_000);
        while !clock.may_judge() {
            clock.turn(start + 5000 * MS, 10_000);
            turns += 1;
        }
        assert!(turns * HEARD_PER_TURN >= 10_000, "{turns}");
    }

    /// An overloaded shard has slow turns only: its time goes slowly, but it goes.
    #[test]
    fn time_goes_on_where_every_turn_is_late() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let mut judged = 0;
        let mut now = start;
        clock.turn(start, 0);
        for turn in 1..=100 {
            now = clock.turn(start + turn * 300 * MS, 1000);
            judged += u32::from(clock.may_judge());
        }
        assert_eq!(now, start + 100 * LATE_MAX);
        assert!(judged >= 10, "{judged}");
    }

    #[test]
    fn a_clock_that_goes_back_stands_still() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let before = clock.turn(start + 50 * MS, 0);
        assert_eq!(clock.turn(start + 40 * MS, 0), before);
    }
}
