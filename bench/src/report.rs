//! What a run found, for people and for programs, and whether the client was what limited it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::audit::Audit;
use crate::client::Dialect;
use crate::figure::Figure;
use crate::hiccup::Hiccups;
use crate::machine::Machine;
use crate::memory::Memory;

/// A run, where it ran, and what the machine did by itself before and after.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Measured {
    pub(crate) machine: Machine,
    pub(crate) hiccups_before: Hiccups,
    pub(crate) result: RunResult,
    pub(crate) hiccups_after: Hiccups,
}

/// One run's result.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct RunResult {
    pub(crate) scenario: String,
    pub(crate) server: String,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    /// Publishes per second that were offered.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p95_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Percentiles and their latencies in us, ten for each further nine.
    pub(crate) latency_curve: Vec<(f64, f64)>,
    /// Of those that came in the measured window.
    pub(crate) deliveries_per_second: f64,
    /// Deliveries in the measured window, over which processor times are told.
    pub(crate) measured: u64,
    /// Deliveries that were still to come when the schedule ended.
    pub(crate) backlog: u64,
    pub(crate) published: u64,
    pub(crate) audit: Audit,
    /// On the wire, with the frame's head.
    pub(crate) bytes_per_delivery: f64,
    pub(crate) bytes_per_publish: f64,
    /// Of the deliveries.
    pub(crate) compressed_share: f64,
    /// How clients talked.
    pub(crate) dialect: Dialect,
    pub(crate) server_cpu_seconds: f64,
    /// Of the server's cores, interrupts and kernel threads included; none where the client runs there too.
    pub(crate) core_busy_seconds: Option<f64>,
    /// Of the time that connecting took, where that is what is measured.
    pub(crate) server_busy_share: Option<f64>,
    pub(crate) slip_p99_us: f64,
    pub(crate) reading_p99_us: f64,
    pub(crate) client_idle_share: f64,
    /// Of the time, the share in which other programs were on a core when the client, or a thread of the server,
    /// could have run.
    pub(crate) client_delayed_share: f64,
    pub(crate) server_delayed_share: f64,
    pub(crate) is_client_bound: bool,
    /// Why.
    pub(crate) client_bound: Option<String>,
    /// Connections that the server closed.
    pub(crate) closed: usize,
    /// Its close frames, by code.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// `error` messages.
    pub(crate) errors: u64,
    pub(crate) resident_kib: u64,
    pub(crate) kib_per_connection: f64,
    /// Of idle connections.
    pub(crate) memory: Option<Memory>,
    pub(crate) descriptors: usize,
    pub(crate) connect_seconds: f64,
    /// By how much the server's counters rose in the measured window.
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) ratios: BTreeMap<String, f64>,
    /// What only this scenario tells.
    pub(crate) figures: Vec<Figure>,
    /// The server's counters at the end.
    #[serde(skip)]
    pub(crate) totals: BTreeMap<String, u64>,
    /// What went wrong, but for what the audit says.
    pub(crate) failures: Vec<String>,
    pub(crate) note: String,
    /// Of a scenario that is several runs.
    pub(crate) parts: Vec<RunResult>,
}

/// The client sends later than this: it is behind its schedule.
const SLIP_MAX_US: f64 = 200.0;
/// A client with less time left than this may have kept messages waiting.
const IDLE_SHARE_MIN: f64 = 0.15;
/// A client that other programs keep off its core for longer is late by what they take.
const DELAYED_SHARE_MAX: f64 = 0.02;
/// One turn's reading may take so long before it shows in latencies, and this share of the 99th percentile.
const READING_MAX_US: f64 = 200.0;
const READING_SHARE_MAX: f64 = 0.5;
/// A server that handshakes for less of the time was kept waiting.
const BUSY_SHARE_MIN: f64 = 0.7;

impl RunResult {
    pub(crate) fn new(scenario: &str, server: &str, connections: usize, size: usize) -> Self {
        let (scenario, server) = (scenario.to_owned(), server.to_owned());
        Self { scenario, server, connections, size, client_idle_share: 1.0, ..Self::default() }
    }

    pub(crate) fn latency(&mut self, latency_ns: &Histogram<u64>) {
        let at = |quantile: f64| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        (self.p50_us, self.p95_us, self.p99_us, self.p999_us) = (at(0.5), at(0.95), at(0.99), at(0.999));
        self.max_us = latency_ns.max() as f64 / 1e3;
        let parts = (0..).map(|step| 10f64.powf(-f64::from(step) / 10.0));
        // A percentile that fewer messages than one lie beyond would only repeat the last.
        let told = parts.take_while(|part| part * latency_ns.len() as f64 >= 1.0);
        self.latency_curve = told.map(|part| (100.0 * (1.0 - part), at(1.0 - part))).collect();
    }

    /// Decides whether publishing and reading was what limited this run.
    pub(crate) fn judge_load(&mut self) {
        let reading = self.reading_p99_us;
        let why = if self.client_delayed_share > DELAYED_SHARE_MAX {
            let share = self.client_delayed_share * 100.0;
            Some(format!("others kept it off its core {share:.0}% of the time"))
        } else if self.client_idle_share < IDLE_SHARE_MIN {
            Some(format!("it had {:.0}% of its time left", self.client_idle_share * 100.0))
        } else if self.slip_p99_us > SLIP_MAX_US {
            Some(format!("it sent {:.0} us late", self.slip_p99_us))
        } else if reading > READING_MAX_US && reading > READING_SHARE_MAX * self.p99_us {
            Some(format!("reading what came at once took it {reading:.0} us"))
        } else {
            None
        };
        self.bound_by_client(why);
    }

    /// Decides whether opening connections was what limited this run.
    pub(crate) fn judge_connect(&mut self, cores: usize) {
        let share = self.server_cpu_seconds / (self.connect_seconds * cores as f64).max(1e-9);
        self.server_busy_share = Some(share);
        let why = (share < BUSY_SHARE_MIN)
            .then(|| format!("the server was busy {:.0}% of the time", share * 100.0));
        self.bound_by_client(why);
    }

    fn bound_by_client(&mut self, why: Option<String>) {
        self.is_client_bound = why.is_some();
        self.client_bound = why;
    }

    /// Of several runs the slowest, with every failure and the audit of all.
    pub(crate) fn worst_of(parts: Vec<Self>) -> Self {
        let slowest = parts.iter().max_by(|a, b| a.p99_us.total_cmp(&b.p99_us));
        let mut worst = slowest.cloned().unwrap_or_default();
        worst.note = format!("the slowest of {} runs; the audit is of all", parts.len());
        worst.audit = Audit::default();
        worst.failures.clear();
        for part in &parts {
            worst.audit.add(part.audit);
            worst.failures.extend(part.failures.iter().cloned());
        }
        worst.parts = parts;
        worst
    }

    /// Whether all that was to be delivered was, and nothing else went wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.audit.is_clean() && self.failures.is_empty()
    }

    /// Whole-core time per delivery in microseconds: interrupts and kernel threads included.
    pub(crate) fn core_us_per_delivery(&self) -> Option<f64> {
        self.core_busy_seconds.filter(|_| self.measured > 0).map(|it| it * 1e6 / self.measured as f64)
    }

    /// The server process's own time per delivery in microseconds.
    pub(crate) fn process_us_per_delivery(&self) -> Option<f64> {
        (self.measured > 0).then(|| self.server_cpu_seconds * 1e6 / self.measured as f64)
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!(
            "{:14} {:12} {:>6} conns  p50 {:>7.0} p95 {:>7.0} p99 {:>7.0} us  {:>9.0}/s  lost {} repeated {}  {}",
            self.scenario,
            self.server.split('/').next_back().unwrap_or_default(),
            self.connections,
            self.p50_us,
            self.p95_us,
            self.p99_us,
            self.deliveries_per_second,
            self.audit.lost,
            self.audit.repeated,
            self.note
        );
        if self.audit.reordered > 0 {
            let _ = write!(line, "  reordered {}", self.audit.reordered);
        }
        if self.audit.misdelivered > 0 {
            let _ = write!(line, "  misdelivered {}", self.audit.misdelivered);
        }
        if self.is_client_bound {
            line.push_str("  CLIENT-BOUND");
        }
        if !self.failures.is_empty() {
            line.push_str("  FAILED");
        }
        line
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        let mut text = self.line();
        text.push('\n');
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "memory {} KiB; {} descriptors; connected in {:.2} s; closed by the server: {} {:?}",
            self.resident_kib, self.descriptors, self.connect_seconds, self.closed, self.closes
        );
        if self.published > 0 {
            self.load_text(&mut text);
        }
        if !self.counters.is_empty() {
            let _ = writeln!(text, "server counters in the window: {:?}", self.counters);
        }
        if !self.ratios.is_empty() {
            let ratios: Vec<String> =
                self.ratios.iter().map(|(name, it)| format!("{name} {it:.3}")).collect();
            let _ = writeln!(text, "{}", ratios.join(", "));
        }
        for figure in &self.figures {
            let _ = writeln!(text, "{figure}");
        }
        if let Some(memory) = &self.memory {
            let _ = write!(text, "{memory}");
        }
        if let Some(why) = &self.client_bound {
            let _ = writeln!(
                text,
                "THE CLIENT WAS THE BOTTLENECK ({why}): times say more about it than about the server"
            );
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        for part in &self.parts {
            let _ = writeln!(text, "  {}", part.line());
        }
        text
    }

    fn load_text(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "p99.9 {:.0} us, max {:.0} us; published {}, delivered {} of {:.1} bytes; backlog at the end {}; errors {}",
            self.p999_us,
            self.max_us,
            self.published,
            self.audit.delivered,
            self.bytes_per_delivery,
            self.backlog,
            self.errors
        );
        let _ = writeln!(
            text,
            "messages: {:?} in {:?}; on the wire {:.1} bytes a publish, {:.1} a delivery, {:.0}% of them compressed",
            self.dialect.payload,
            self.dialect.format,
            self.bytes_per_publish,
            self.bytes_per_delivery,
            self.compressed_share * 100.0
        );
        let told = |it: Option<f64>| it.map_or("not told".to_owned(), |it| format!("{it:.2} us"));
        let _ = writeln!(
            text,
            "cpu per delivery: whole core {}, process {}",
            told(self.core_us_per_delivery()),
            told(self.process_us_per_delivery())
        );
        let _ = writeln!(
            text,
            "client: schedule slip p99 {:.0} us, reading p99 {:.0} us a turn, {:.0}% of its time left; kept off their \
             cores by others: client {:.1}%, server {:.1}% of the time",
            self.slip_p99_us,
            self.reading_p99_us,
            self.client_idle_share * 100.0,
            self.client_delayed_share * 100.0,
            self.server_delayed_share * 100.0
        );
    }
}

/// Writes a result where the user wants one.
pub(crate) fn write_json(path: Option<&Path>, result: &impl serde::Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(result).context("the result is JSON")?;
    std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(change: impl FnOnce(&mut RunResult)) -> RunResult {
        let mut it = RunResult { client_idle_share: 0.6, p99_us: 300.0, ..RunResult::default() };
        change(&mut it);
        it.judge_load();
        it
    }

    #[test]
    fn a_client_without_time_is_named_in_every_output() {
        assert!(!judged(|_| {}).is_client_bound);
        let it = judged(|it| it.client_idle_share = 0.1);
        assert!(it.is_client_bound && it.line().contains("CLIENT-BOUND"));
        assert!(it.text().contains("10% of its time left"), "{}", it.text());
        let json = serde_json::to_value(&it).expect("it is JSON");
        assert_eq!(json["is_client_bound"], true);
    }

    #[test]
    fn a_late_client_and_a_slow_reader_are_named() {
        assert!(judged(|it| it.slip_p99_us = 201.0).is_client_bound);
        assert!(judged(|it| it.client_delayed_share = 0.05).is_client_bound);
        assert!(judged(|it| it.reading_p99_us = 250.0).is_client_bound);
        assert!(!judged(|it| (it.reading_p99_us, it.p99_us) = (250.0, 2000.0)).is_client_bound);
    }

    #[test]
    fn a_server_that_waits_for_handshakes_is_not_measured() {
        let mut it = RunResult { connect_seconds: 2.0, server_cpu_seconds: 1.0, ..RunResult::default() };
        it.judge_connect(1);
        assert_eq!((it.server_busy_share, it.is_client_bound), (Some(0.5), true));
        it.server_cpu_seconds = 1.9;
        it.judge_connect(1);
        assert!(!it.is_client_bound);
    }

    #[test]
    fn processor_time_is_of_what_came_in_the_window() {
        let mut it = RunResult { measured: 100, server_cpu_seconds: 0.001, ..RunResult::default() };
        it.audit.delivered = 1000;
        assert_eq!((it.process_us_per_delivery(), it.core_us_per_delivery()), (Some(10.0), None));
        it.measured = 0;
        assert_eq!(it.process_us_per_delivery(), None);
    }

    #[test]
    fn any_failure_is_not_clean() {
        let mut it = RunResult::default();
        assert!(it.is_clean());
        it.failures.push("somebody is gone".to_owned());
        assert!(!it.is_clean());
    }
}
