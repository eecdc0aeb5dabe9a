//! Makes a failure smaller: fewer ticks, fewer kinds of faults, fewer clients, as long as the same promise breaks.

use std::time::{Duration, Instant};

use crate::chaos::Fault;
use crate::oracle::Check;
use crate::run::run;
use crate::setup::Setup;
use crate::world::Outcome;

/// The smallest setup found within `patience` that breaks the same promise as `outcome` of `setup` did.
pub fn shrink(setup: &Setup, outcome: &Outcome, patience: Duration) -> Setup {
    let Some(failure) = &outcome.failure else { return setup.clone() };
    let mut shrinker = Shrinker {
        best: setup.clone(),
        ticks: outcome.ticks,
        check: failure.check,
        until: Instant::now() + patience,
    };
    shrinker.ticks();
    shrinker.faults();
    shrinker.clients();
    shrinker.ticks();
    shrinker.best
}

struct Shrinker {
    best: Setup,
    /// When the best one fails.
    ticks: u64,
    check: Check,
    until: Instant,
}

impl Shrinker {
    /// Takes a candidate if it fails alike and no later.
    fn tries(&mut self, candidate: Setup) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        let outcome = run(&candidate, 0);
        // Later would be another failure, and no smaller one.
        let is_alike = outcome.failure.is_some_and(|failure| failure.check == self.check);
        let fails = is_alike && outcome.ticks <= self.ticks;
        if fails {
            self.ticks = outcome.ticks;
            self.best = candidate;
        }
        fails
    }

    /// The end of the run moves to where it fails, and on towards the beginning.
    fn ticks(&mut self) {
        if self.ticks < self.best.ticks {
            let ticks = self.ticks;
            self.tries(Setup { ticks, ..self.best.clone() });
        }
        let mut step = self.best.ticks / 2;
        while step > 0 {
            let ticks = self.best.ticks - step;
            if ticks == 0 || !self.tries(Setup { ticks, ..self.best.clone() }) {
                step /= 2;
            } else {
                step = step.min(self.best.ticks / 2);
            }
        }
    }

    fn faults(&mut self) {
        let mut candidate = self.best.clone();
        Fault::ALL.iter().for_each(|fault| candidate.leave_out(*fault));
        if self.tries(candidate) {
            return;
        }
        for fault in Fault::ALL {
            if self.best.one_in[fault as usize] > 0 {
                let mut candidate = self.best.clone();
                candidate.leave_out(fault);
                self.tries(candidate);
            }
        }
    }

    /// Halves, quarters and so on of those who take part are left out.
    fn clients(&mut self) {
        let mut chunk = self.best.tempers.len().div_ceil(2);
        while chunk > 0 {
            let taking_part = |setup: &Setup| -> Vec<u32> {
                (0..setup.tempers.len() as u32).filter(|index| !setup.without.contains(index)).collect()
            };
            let mut at = 0;
            loop {
                let present = taking_part(&self.best);
                let Some(leaving) =
                    present.get(at..(at + chunk).min(present.len())).filter(|it| !it.is_empty())
                else {
                    break;
                };
                let mut candidate = self.best.clone();
                candidate.without.extend_from_slice(leaving);
                if leaving.len() == present.len() || !self.tries(candidate) {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }
}
