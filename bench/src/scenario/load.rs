//! A run of publishes on schedule: the server is looked at where the measured window begins and ends, while every
//! connection is open.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::Scenario;
use crate::client::{Dialect, Outcome, Tally, Worker, histogram};
use crate::report::RunResult;
use crate::server::{Placement, Server};
use crate::{cpu, progress};

/// Counters whose change in the window is told.
const COUNTERS: [&str; 12] = [
    "messages_in",
    "deliveries",
    "sends",
    "ticks",
    "kernel_entries",
    "parks",
    "wakes",
    "spills",
    "stalls",
    "dropped",
    "conflated",
    "slow_disconnects",
];

/// What the server had used at some moment.
struct Sample {
    at: Instant,
    process: cpu::Scheduled,
    idle_seconds: f64,
}

impl Sample {
    fn take(server: &Server, placement: Placement) -> Self {
        Self {
            at: Instant::now(),
            process: cpu::process(server.pid()),
            idle_seconds: (0..placement.cores).map(cpu::core_idle_seconds).sum(),
        }
    }
}

impl Scenario {
    /// One run; the counters of the whole run are in `totals`.
    pub(super) fn run_load(&self, what: &str) -> Result<RunResult> {
        self.run_load_on(&Server::start(what, self.placement())?, what)
    }

    /// One run with a server that is there.
    pub(super) fn run_load_on(&self, server: &Server, what: &str) -> Result<RunResult> {
        let placement = self.placement();
        let jobs = self.jobs(server.port);
        let is_shared = jobs.iter().any(|job| job.shares_core);
        let connections = jobs.iter().map(|job| job.connections).sum();
        let begin = Instant::now();
        let bar = progress::bar(connections, "connecting");
        let workers =
            jobs.into_iter().map(|job| Worker::connect(job, || bar.inc(1))).collect::<Result<Vec<_>>>()?;
        bar.finish_and_clear();
        let connect_seconds = begin.elapsed().as_secs_f64();
        let start = Instant::now() + std::time::Duration::from_millis(200);
        let threads: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                std::thread::spawn(move || {
                    std::thread::sleep(start.saturating_duration_since(Instant::now()));
                    worker.run(start).map(|outcome| (outcome, worker))
                })
            })
            .collect();
        std::thread::sleep((start + self.warmup()).saturating_duration_since(Instant::now()));
        // The processor's times innermost: asking for counters is work too.
        let counters = server.counters();
        let before = Sample::take(server, placement);
        progress::sleep_until(start + self.warmup() + self.time(), self.name);
        let after = Sample::take(server, placement);
        let counters = difference(&counters, &server.counters());
        // The workers hold their connections until the server was looked at.
        let (mut outcomes, mut workers) = (Vec::new(), Vec::new());
        for thread in threads {
            let (outcome, worker) = thread.join().map_err(|_| anyhow!("a worker panicked"))??;
            outcomes.push(outcome);
            workers.push(worker);
        }
        let mut result = RunResult::new(self.name, what, connections, self.size);
        result.rate = self.rate;
        result.dialect = self.dialect;
        result.collect(outcomes, self.seconds);
        result.server_cpu_seconds = after.process.ran - before.process.ran;
        let span = (after.at - before.at).as_secs_f64();
        result.server_delayed_share = (after.process.delayed - before.process.delayed) / span;
        if is_shared {
            result.note = "client and server share a core: only the process's time is told".to_owned();
        } else {
            let span = span * placement.cores as f64;
            result.core_busy_seconds = Some((span - (after.idle_seconds - before.idle_seconds)).max(0.0));
        }
        result.count(counters);
        result.totals = server.counters();
        result.tell_dropped();
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.connect_seconds = connect_seconds;
        workers.into_iter().for_each(Worker::leave);
        Ok(result)
    }
}

impl RunResult {
    /// What the workers found.
    fn collect(&mut self, outcomes: Vec<Outcome>, seconds: f64) {
        let mut published_bytes = 0;
        let (mut slip, mut reading, mut tally) =
            (histogram(), histogram(), Tally::new(0, 0, Dialect::default()));
        for outcome in outcomes {
            slip.add(&outcome.slip_ns).expect("the same bounds");
            reading.add(&outcome.reading_ns).expect("the same bounds");
            tally.add(&outcome.tally);
            self.published += outcome.published;
            published_bytes += outcome.published_bytes;
            self.backlog += outcome.backlog;
            self.client_idle_share = self.client_idle_share.min(outcome.idle_share);
            self.client_delayed_share = self.client_delayed_share.max(outcome.delayed_share);
            self.closed += outcome.closed;
        }
        self.latency(&tally.latency_ns);
        self.slip_p99_us = slip.value_at_quantile(0.99) as f64 / 1e3;
        self.reading_p99_us = reading.value_at_quantile(0.99) as f64 / 1e3;
        self.audit = tally.audit;
        self.measured = tally.measured;
        self.deliveries_per_second = tally.measured as f64 / seconds;
        self.bytes_per_delivery = tally.bytes as f64 / tally.audit.delivered.max(1) as f64;
        self.bytes_per_publish = published_bytes as f64 / self.published.max(1) as f64;
        self.compressed_share = tally.compressed as f64 / tally.audit.delivered.max(1) as f64;
        self.errors = tally.errors;
        self.closes = tally.closes;
        if self.closed > 0 {
            let closed =
                format!("the server closed {} connections, with codes {:?}", self.closed, self.closes);
            self.failures.push(closed);
        }
        if let Some(first) = tally.first_error {
            self.failures.push(format!("{} errors were answered; the first: {first}", tally.errors));
        }
        if tally.unreadable > 0 {
            self.failures.push(format!("{} frames can't be read", tally.unreadable));
        }
        self.judge_load();
    }

    /// Whether what is missing was left out for members that were behind, as a policy says, or is lost for no reason.
    fn tell_dropped(&mut self) {
        let dropped = self.totals.get("dropped").copied().unwrap_or(0);
        if self.audit.lost > 0 && dropped > 0 {
            let lost = self.audit.lost;
            self.failures
                .push(format!("of {lost} lost messages the server dropped {dropped} for slow consumers"));
        }
    }

    /// What the server counted in the window.
    fn count(&mut self, counters: BTreeMap<String, u64>) {
        let of = |name: &str| counters.get(name).map(|it| *it as f64);
        for (name, over, under) in [
            ("kernel_entries_per_delivery", "kernel_entries", "deliveries"),
            ("sends_per_delivery", "sends", "deliveries"),
            ("wakes_per_publish", "wakes", "messages_in"),
            ("wakes_per_park", "wakes", "parks"),
        ] {
            if let (Some(over), Some(under)) = (of(over), of(under))
                && under > 0.0
            {
                self.ratios.insert(name.to_owned(), over / under);
            }
        }
        self.counters = counters;
    }
}

/// By how much the counters that are told rose.
fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    COUNTERS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), after.get(*name)?.saturating_sub(*before.get(*name)?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_dropped_is_told_from_what_is_lost() {
        let mut result = RunResult::default();
        result.totals.insert("dropped".to_owned(), 7);
        result.tell_dropped();
        assert!(result.failures.is_empty(), "slow-consumer's deaf member misses them");
        result.audit.lost = 9;
        result.tell_dropped();
        assert!(
            result.failures[0].contains("of 9 lost messages the server dropped 7"),
            "{:?}",
            result.failures
        );
    }

    #[test]
    fn counters_become_ratios() {
        let of = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, it)| ((*name).to_owned(), *it)).collect();
        let before =
            of(&[("kernel_entries", 10), ("deliveries", 100), ("wakes", 5), ("parks", 7), ("other", 1)]);
        let after =
            of(&[("kernel_entries", 60), ("deliveries", 300), ("wakes", 5), ("parks", 7), ("other", 9)]);
        let mut result = RunResult::default();
        result.count(difference(&before, &after));
        assert_eq!(result.ratios, BTreeMap::from([("kernel_entries_per_delivery".to_owned(), 0.25)]));
        assert!(!result.counters.contains_key("other"));
    }
}
