//! Many seeds, on all cores, and what they came to in all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::chaos::{Fault, FaultCounts};
use crate::client::deeds::DeedCounts;
use crate::run::run;
use crate::setup::Setup;
use crate::world::Outcome;

/// Which seeds are run, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub from: u64,
    /// How many at most.
    pub seeds: u64,
    /// Ticks of the longest runs; most have a part of them, for they come to their end and its checks more often.
    pub ticks: u64,
    /// No new run begins after this.
    pub patience: Duration,
    /// Runs at the same time.
    pub threads: usize,
}

/// Of so many runs in a row, each has this part of the ticks.
const PARTS: [u64; 10] = [30, 5, 30, 1, 30, 5, 30, 30, 5, 30];

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// Its ticks.
    pub ticks: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// What all runs came to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs that ended.
    pub runs: u64,
    /// The sum of their ticks.
    pub ticks: u64,
    /// Messages that clients read.
    pub deliveries: u64,
    /// Publishes that were answered.
    pub accepted: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Times at which everything rested and was checked.
    pub settled: u64,
    /// How often each fault struck.
    pub faults: FaultCounts,
    /// How often clients did what they can do.
    pub deeds: DeedCounts,
}

impl Campaign {
    /// Runs seeds until one fails: the totals, and the seed that failed first with its outcome. `prepare` is called on
    /// each thread before its first run.
    pub fn run(&self, prepare: impl Fn() + Sync) -> (Totals, Option<Failed>) {
        let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        let shared = Mutex::new((Totals::default(), None::<Failed>));
        let until = Instant::now() + self.patience;
        thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    prepare();
                    while Instant::now() < until && !is_over.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= self.seeds {
                            break;
                        }
                        let seed = self.from + index;
                        let ticks = self.ticks_of(seed);
                        let outcome = run(&Setup::of(seed, ticks), 0);
                        let mut shared = shared.lock().expect("nobody panics while holding it");
                        shared.0.add(&outcome);
                        if outcome.failure.is_some() {
                            is_over.store(true, Ordering::Relaxed);
                            if shared.1.as_ref().is_none_or(|earlier| seed < earlier.seed) {
                                shared.1 = Some(Failed { seed, ticks, outcome });
                            }
                        }
                    }
                });
            }
        });
        shared.into_inner().expect("nobody panics while holding it")
    }

    /// How long the run of a seed is: its own, wherever the campaign begins.
    fn ticks_of(&self, seed: u64) -> u64 {
        (self.ticks / PARTS[(seed % PARTS.len() as u64) as usize]).max(1)
    }
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.ticks += outcome.ticks;
        self.deliveries += outcome.deliveries;
        self.accepted += outcome.accepted;
        self.connections += outcome.connections;
        self.settled += outcome.settled;
        self.deeds.add(&outcome.deeds);
        for (sum, count) in self.faults.iter_mut().zip(outcome.faults) {
            *sum += count;
        }
    }

    /// One line for the whole, and one for the faults.
    pub fn report(&self) -> String {
        let faults: Vec<String> = Fault::ALL
            .iter()
            .map(|fault| format!("{} {}", fault.name(), self.faults[*fault as usize]))
            .collect();
        format!(
            "{} runs, {} ticks, {} deliveries, {} publishes answered, {} connections, all checked {} times\nfaults: {}\ndeeds: {}",
            self.runs,
            self.ticks,
            self.deliveries,
            self.accepted,
            self.connections,
            self.settled,
            faults.join(", "),
            self.deeds.report()
        )
    }
}
