//! Everybody is cut off at once and comes back at once, while publishers go on and a bystander on channels of its own
//! measures what it feels of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;

use super::{Scenario, client_core, cores};
use crate::client::{Crowd, Gathering, Heard, Job, Layout, Outcome, Return, Worker, histogram};
use crate::figure::Figure;
use crate::report::RunResult;
use crate::server::Server;
use crate::{cpu, progress};

/// Channels of each client.
const EACH: usize = 3;
/// Connections that publish.
const PUBLISHERS: usize = 10;
/// Publisher and subscriber.
const BYSTANDERS: usize = 2;
/// Messages of the bystander per second.
const BYSTANDER_RATE: f64 = 200.0;
/// Whoever is not back by then has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const RECOVERED_S_MAX: f64 = 10.0;
const BYSTANDER_P99_MS_MAX: f64 = 5.0;

/// The bystander's thread.
struct Bystander {
    stop: Arc<AtomicBool>,
    start: Instant,
    thread: JoinHandle<(Result<Outcome>, bool)>,
}

impl Scenario {
    /// Before, during and after are equally much of the bystander's time, but for what the recovery takes.
    pub(super) fn run_cut(&self, what: &str, how: Return) -> Result<RunResult> {
        let server = Server::start(what, self.placement())?;
        let begin = Instant::now();
        let mut crowd = self.gather(&server)?;
        crowd.settle_down();
        crowd.subscribe(0, self.connections)?;
        let connect_seconds = begin.elapsed().as_secs_f64();
        let bystander = self.bystander(&server)?;
        crowd.publish();
        crowd.go_on(self.warmup())?;
        let before = Instant::now();
        crowd.go_on(self.time())?;
        let (cut, cpu_before) = (Instant::now(), cpu::process(server.pid()));
        crowd.cut(how, PATIENCE)?;
        let (back, cpu_after) = (Instant::now(), cpu::process(server.pid()));
        crowd.go_on(self.time())?;
        let after = Instant::now();
        bystander.stop.store(true, Ordering::Relaxed);
        crowd.finish()?;
        let connections = self.connections + PUBLISHERS + BYSTANDERS;
        let mut result = RunResult::new(self.name, what, connections, self.size);
        result.rate = self.rate;
        result.connect_seconds = connect_seconds;
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.server_cpu_seconds = cpu_after.ran - cpu_before.ran;
        result.server_delayed_share = (cpu_after.delayed - cpu_before.delayed) / (back - cut).as_secs_f64();
        result.totals = server.counters();
        result.tell_crowd(&crowd);
        result.tell_recovery(crowd.heard(), self.connections);
        let (outcome, has_priority) =
            bystander.thread.join().map_err(|_| anyhow!("the bystander panicked"))?;
        let outcome = outcome.context("the bystander")?;
        let phases = [before, cut, back, after].map(|it| (it - bystander.start).as_nanos() as u64);
        result.tell_bystander(&outcome, phases, has_priority);
        Ok(result)
    }

    fn gather(&self, server: &Server) -> Result<Crowd> {
        let channels = (self.connections * EACH / self.room).max(EACH);
        let job = Gathering {
            port: server.port,
            clients: self.connections,
            layout: Layout::Shared(EACH, channels),
            publishers: PUBLISHERS,
            watchers: 0,
            name: format!("{}room-", self.namespace),
            rate: self.rate,
            size: self.size,
            is_numbered: true,
            core: client_core(self.placement(), 0, cores()),
        };
        let bar = progress::bar(self.connections + PUBLISHERS, "connecting");
        let crowd = Crowd::open(job, || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(crowd)
    }

    /// Two who talk while the others come back, from a thread that goes before the crowd's on the core they share.
    fn bystander(&self, server: &Server) -> Result<Bystander> {
        let stop = Arc::new(AtomicBool::new(false));
        let most = 3 * self.time() + 2 * PATIENCE;
        let job = Job {
            port: server.port,
            first: self.connections + PUBLISHERS,
            connections: BYSTANDERS,
            room: BYSTANDERS,
            name: format!("{}bystander-", self.namespace),
            rate: BYSTANDER_RATE,
            size: self.size,
            dialect: self.dialect,
            warmup: Duration::ZERO,
            time: most,
            is_echo: false,
            deaf: 0,
            acks_every: None,
            stop: Some(Arc::clone(&stop)),
            core: client_core(self.placement(), 0, cores()),
            shares_core: true,
        };
        let mut worker = Worker::connect(job, || {})?;
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            let has_priority = cpu::go_first();
            (worker.run(start), has_priority)
        });
        Ok(Bystander { stop, start, thread })
    }
}

impl RunResult {
    /// What any crowd heard.
    pub(super) fn tell_crowd(&mut self, crowd: &Crowd) {
        let heard = crowd.heard();
        for (name, count) in [("published", crowd.published()), ("delivered", heard.audit.delivered)] {
            self.figures.push(Figure::new(name, count as f64, "messages"));
        }
        self.audit.add(heard.audit);
        self.errors = heard.errors;
        self.closed = heard.closed;
        for (count, what) in [
            (heard.misnumbered, "messages carried another offset than their number"),
            (heard.unreadable, "frames can't be read"),
            (heard.closed as u64, "connections were closed by the server"),
            (heard.errors, "errors were answered"),
        ] {
            if count > 0 {
                let first = heard.first_error.as_deref().unwrap_or("nothing was said");
                self.failures.push(format!("{count} {what}; first: {first}"));
            }
        }
    }

    fn tell_recovery(&mut self, heard: &Heard, clients: usize) {
        let mut times = histogram();
        heard.recovered_ns.iter().for_each(|it| times.saturating_record(*it));
        let recovered = heard.recovered_ns.len();
        let seconds = times.max() as f64 / 1e9;
        if recovered == clients {
            self.figures.push(Figure::new("all recovered after", seconds, "s").at_most(RECOVERED_S_MAX));
        }
        self.figures.extend(Figure::percentiles("a client recovered after", &times, None));
        let counts = [
            ("recovered", recovered as u64, "clients"),
            ("failed", heard.failed as u64, "clients"),
            ("not back in time", heard.pending as u64, "clients"),
            ("missed meanwhile", heard.missed, "messages"),
        ];
        self.figures.extend(counts.map(|(name, count, unit)| Figure::new(name, count as f64, unit)));
        let faults = [
            ("lost", heard.audit.lost),
            ("doubled", heard.audit.repeated),
            ("reordered", heard.audit.reordered),
        ];
        self.figures.extend(faults.map(|(name, it)| Figure::new(name, it as f64, "messages").at_most(0.0)));
        let each = self.server_cpu_seconds * 1e6 / clients as f64;
        self.figures.push(Figure::new("server cpu per client that came back", each, "us"));
        self.figures.push(Figure::new("server cpu meanwhile", self.server_cpu_seconds, "s"));
        let delayed = self.server_delayed_share * 100.0;
        self.figures.push(Figure::new(
            "server kept off its core by others meanwhile",
            delayed,
            "% of the time",
        ));
        if heard.failed + heard.pending > 0 {
            let (failed, pending) = (heard.failed, heard.pending);
            self.failures
                .push(format!("of {clients} clients {failed} were refused and {pending} are not back"));
        }
        self.note = format!("{recovered} of {clients} recovered in {seconds:.2} s");
    }

    /// `phases` are the ends of warming up, of the time before the cut, of the recovery, and of the time after.
    fn tell_bystander(&mut self, outcome: &Outcome, phases: [u64; 4], has_priority: bool) {
        let each = outcome.tally.each.as_deref().unwrap_or_default();
        let mut all = histogram();
        for (window, name) in phases.windows(2).zip(["before", "during", "after"]) {
            let times = within(each, window[0]..window[1]);
            all.add(&times).expect("the same bounds");
            let name = format!("bystander {name}");
            self.figures.push(Figure::new(format!("{name}: messages"), times.len() as f64, ""));
            self.figures.extend(Figure::percentiles(&name, &times, Some(BYSTANDER_P99_MS_MAX)));
        }
        self.latency(&all);
        self.audit.add(outcome.tally.audit);
        self.slip_p99_us = outcome.slip_ns.value_at_quantile(0.99) as f64 / 1e3;
        self.figures.push(Figure::new("bystander sent late, p99", self.slip_p99_us / 1e3, "ms"));
        if !has_priority {
            self.note.push_str("; the bystander waits for its core (chrt is not allowed)");
        }
        if outcome.closed > 0 {
            self.failures.push("the server closed a bystander".to_owned());
        }
    }
}

/// Latencies of what was due then.
fn within(each: &[(u64, u64)], when: std::ops::Range<u64>) -> Histogram<u64> {
    let mut times = histogram();
    for (_, latency) in each.iter().filter(|(due, _)| when.contains(due)) {
        times.saturating_record((*latency).max(1));
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_what_was_due_in_it() {
        let each = [(5, 100), (10, 200), (19, 300), (20, 400)];
        let times = within(&each, 10..20);
        assert_eq!((times.len(), times.min(), times.max()), (2, 200, 300));
    }

    #[test]
    fn whoever_is_not_back_fails_the_run() {
        let mut result = RunResult::default();
        let heard = Heard { recovered_ns: vec![2_000_000_000], ..Heard::default() };
        result.tell_recovery(&heard, 1);
        assert!(result.is_clean() && result.note.contains("1 of 1 recovered in 2.0"), "{}", result.note);
        result.tell_recovery(&Heard { failed: 1, ..heard }, 2);
        assert!(!result.is_clean());
    }
}
