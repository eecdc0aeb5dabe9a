//! The heartbeat on virtual time: who answers lives, who is silent is given up in time, who is paused is spared.

mod seeded;

use std::time::{Duration, Instant};

use corecast_protocol::ws::{Heartbeat, Verdict};
use proptest::prelude::*;
use seeded::seeded;

const MS: Duration = Duration::from_millis(1);

/// Runs one heartbeat from its start on, by the millisecond of virtual time.
struct Run {
    start: Instant,
    heartbeat: Heartbeat,
    /// When pings were sent, and when the connection was given up.
    pings: Vec<u32>,
    dead: Option<u32>,
}

impl Run {
    fn new(interval_ms: u32, pong_timeout_ms: u32, missed_pongs: u32) -> Self {
        let start = Instant::now();
        let heartbeat = Heartbeat::new(interval_ms * MS, pong_timeout_ms * MS, missed_pongs, start);
        Self { start, heartbeat, pings: Vec::new(), dead: None }
    }

    fn at(&self, ms: u32) -> Instant {
        self.start + ms * MS
    }

    fn heard(&mut self, ms: u32) {
        self.heartbeat.heard(self.at(ms));
    }

    /// Does what is due until `end`, as a timer would that fires exactly.
    fn until(&mut self, end: u32) {
        while self.dead.is_none() {
            let Some(due) = self.heartbeat.deadline().filter(|due| *due <= self.at(end)) else { return };
            let now = due.duration_since(self.start).as_millis() as u32;
            match self.heartbeat.on_deadline(due) {
                Verdict::Nothing => {
                    let next = self.heartbeat.deadline();
                    assert!(next > Some(due), "nothing was due, yet the deadline stays");
                }
                Verdict::SendPing => self.pings.push(now),
                Verdict::Dead => self.dead = Some(now),
            }
        }
    }
}

#[test]
fn the_defaults_of_the_contract() {
    // "nothing heard 5 s after a ping is a miss and pings again; the third closes"
    let mut run = Run::new(30_000, 5_000, 3);
    run.until(1_000_000);
    assert_eq!((run.pings, run.dead), (vec![30_000, 35_000, 40_000], Some(45_000)));
}

#[test]
fn a_late_answer_between_two_pings_starts_over() {
    let mut run = Run::new(30_000, 5_000, 3);
    run.until(44_999);
    run.heard(44_999);
    run.until(200_000);
    assert_eq!(run.pings, [30_000, 35_000, 40_000, 74_999, 79_999, 84_999]);
    assert_eq!(run.dead, Some(89_999));
}

#[test]
fn a_timer_that_fires_late_kills_nobody_at_once() {
    let mut run = Run::new(30_000, 5_000, 3);
    let late = run.at(3_600_000);
    assert_eq!(run.heartbeat.on_deadline(late), Verdict::SendPing);
    assert_eq!(run.heartbeat.deadline(), Some(late + 5_000 * MS));
    assert_eq!(run.heartbeat.on_deadline(late), Verdict::Nothing);
}

proptest! {
    #![proptest_config(seeded(256))]

    #[test]
    fn a_silent_peer_is_given_up_exactly_in_time(
        interval in 1u32..50_000, pong_timeout in 1u32..50_000, missed in 1u32..6,
        mut signs in prop::collection::vec(0u32..100_000, 0..20),
    ) {
        signs.sort_unstable();
        let mut run = Run::new(interval, pong_timeout, missed);
        let mut last = 0;
        for sign in signs {
            run.until(sign);
            if run.dead.is_some() {
                break;
            }
            run.heard(sign);
            last = sign;
        }
        run.until(10_000_000);
        // A ping after the interval; each silence behind one is a miss, and so many misses are the end.
        prop_assert_eq!(run.dead, Some(last + interval + missed * pong_timeout));
        prop_assert!(run.pings.windows(2).all(|pair| pair[1] - pair[0] >= pong_timeout.min(interval)));
    }

    #[test]
    fn who_answers_every_ping_lives(
        interval in 1u32..1_000, pong_timeout in 2u32..1_000, missed in 1u32..6, delay in 0u32..1_000,
    ) {
        let delay = delay % pong_timeout;
        let mut run = Run::new(interval, pong_timeout, missed);
        for count in 1..100 {
            let due = run.heartbeat.deadline().map(|it| it.duration_since(run.start).as_millis() as u32);
            let due = due.expect("there is always a next deadline");
            run.until(due);
            if run.pings.len() == count {
                run.heard(due + delay);
            }
            prop_assert_eq!(run.dead, None);
        }
        let gap = interval + delay;
        prop_assert!(run.pings.windows(2).all(|pair| pair[1] - pair[0] == gap), "{:?}", run.pings);
    }

    #[test]
    fn who_sends_often_is_never_pinged(interval in 2u32..1_000, pong_timeout in 1u32..1_000, pause in 1u32..1_000) {
        let pause = pause % interval.max(2);
        let mut run = Run::new(interval, pong_timeout, 3);
        for count in 0..100 {
            run.until(count * pause);
            run.heard(count * pause);
        }
        prop_assert_eq!(run.pings, Vec::<u32>::new());
    }

    #[test]
    fn a_pause_of_any_length_is_not_counted(
        interval in 1u32..1_000, pong_timeout in 1u32..1_000, missed in 1u32..6,
        from in 0u32..5_000, length in 0u32..100_000,
    ) {
        let mut run = Run::new(interval, pong_timeout, missed);
        run.until(from);
        prop_assume!(run.dead.is_none());
        let pings = run.pings.len();
        run.heartbeat.paused(true, run.at(from));
        run.until(from + length);
        prop_assert_eq!((run.pings.len(), run.dead), (pings, None));
        run.heartbeat.paused(false, run.at(from + length));
        run.until(10_000_000);
        // From then on all counts anew; the first ping may come as late as the deadline that the pause moved.
        let earliest = from + length + interval + missed * pong_timeout;
        prop_assert!(run.dead >= Some(earliest) && run.dead <= Some(earliest + interval), "{:?}", run.dead);
    }
}
