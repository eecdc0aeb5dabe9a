//! Whole runs of the simulation: equal seeds, clean seeds, and a failure that is made smaller.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use corecast_sim::chaos::Fault;
use corecast_sim::run::run;
use corecast_sim::setup::Setup;

const TICKS: u64 = 3_000;

#[test]
fn equal_seeds_make_equal_runs() {
    for seed in [3, 10, 17] {
        let (first, second) = (run(&Setup::of(seed, TICKS), 0), run(&Setup::of(seed, TICKS), 10));
        assert_eq!(
            (first.hash, first.deliveries, first.ticks),
            (second.hash, second.deliveries, second.ticks)
        );
        assert!(first.deliveries > 0 && second.lines.len() == 10, "seed {seed}: something happens");
    }
    assert_ne!(run(&Setup::of(3, TICKS), 0).hash, run(&Setup::of(4, TICKS), 0).hash);
}

#[test]
fn seeds_are_clean() {
    for seed in 100..112 {
        let outcome = run(&Setup::of(seed, TICKS), 0);
        assert_eq!(outcome.failure, None, "corecast-sim --seed {seed} --ticks {TICKS}");
        assert!(outcome.settled > 0 || outcome.deliveries > 0, "seed {seed}: something is checked");
    }
}

#[test]
fn a_fault_that_is_off_never_strikes() {
    let mut setup = Setup::of(5, TICKS);
    setup.one_in = [0; Fault::ALL.len()];
    let outcome = run(&setup, 0);
    assert_eq!(outcome.failure, None);
    let decided = [Fault::ShortRead, Fault::ShortWrite, Fault::ClockJump, Fault::PeerReset, Fault::HalfOpen];
    assert!(decided.iter().all(|fault| outcome.faults[*fault as usize] == 0), "{:?}", outcome.faults);
}

/// Needs a bug, and so `--features canaries`.
#[cfg(feature = "canaries")]
#[test]
fn a_failure_is_made_smaller_and_stays_the_same() {
    use std::time::Duration;

    use corecast_shard::canary::{Canary, plant};
    use corecast_sim::shrink::shrink;

    plant(Some(Canary::OffsetSkipped));
    let (setup, outcome) = (1..)
        .map(|seed| Setup::of(seed, TICKS))
        .map(|setup| (setup.clone(), run(&setup, 0)))
        .find(|(_, outcome)| outcome.failure.is_some())
        .unwrap();
    let smaller = shrink(&setup, &outcome, Duration::from_secs(300));
    let again = run(&smaller, 0);
    plant(None);
    assert_eq!(again.failure.unwrap().check, outcome.failure.unwrap().check);
    assert!(again.ticks <= outcome.ticks);
    let size = |setup: &Setup| {
        let faults = setup.one_in.iter().filter(|one_in| **one_in > 0).count();
        (setup.tempers.len() - setup.without.len(), faults)
    };
    let (before, after) = (size(&setup), size(&smaller));
    assert!(after.0 <= before.0 && after.1 <= before.1 && after != before, "{before:?} became {after:?}");
}
