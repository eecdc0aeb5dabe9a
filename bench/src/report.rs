//! What a run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::audit::Audit;

/// One run's result.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct RunResult {
    pub(crate) scenario: String,
    pub(crate) server: String,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) p50_us: f64,
    pub(crate) p95_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) published: u64,
    pub(crate) audit: Audit,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) core_busy_seconds: f64,
    pub(crate) slip_p99_us: f64,
    pub(crate) client_idle_share: f64,
    pub(crate) closed: usize,
    pub(crate) resident_kib: u64,
    pub(crate) kib_per_connection: f64,
    pub(crate) descriptors: usize,
    pub(crate) connect_seconds: f64,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) note: String,
}

impl RunResult {
    pub(crate) fn new(scenario: &str, server: &str, connections: usize, size: usize) -> Self {
        let (scenario, server) = (scenario.to_owned(), server.to_owned());
        Self { scenario, server, connections, size, client_idle_share: 1.0, ..Self::default() }
    }

    pub(crate) fn latency(&mut self, latency_ns: &Histogram<u64>) {
        let at = |quantile: f64| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        (self.p50_us, self.p95_us, self.p99_us, self.p999_us) = (at(0.5), at(0.95), at(0.99), at(0.999));
        self.max_us = latency_ns.max() as f64 / 1e3;
    }

    /// Whether all that was to be delivered was.
    pub(crate) fn is_clean(&self) -> bool {
        self.audit.is_clean()
    }

    /// Whole-core time per delivery in microseconds: interrupts and kernel threads included.
    pub(crate) fn core_us_per_delivery(&self) -> f64 {
        self.core_busy_seconds * 1e6 / self.audit.delivered.max(1) as f64
    }

    /// The server process's own time per delivery in microseconds.
    pub(crate) fn process_us_per_delivery(&self) -> f64 {
        self.server_cpu_seconds * 1e6 / self.audit.delivered.max(1) as f64
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        format!(
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
        )
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        let mut text = self.line();
        text.push('\n');
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "p99.9 {:.0} us, max {:.0} us; published {}, delivered {}; connected in {:.2} s; closed by the server: {}",
            self.p999_us,
            self.max_us,
            self.published,
            self.audit.delivered,
            self.connect_seconds,
            self.closed
        );
        if self.audit.delivered > 0 {
            let _ = writeln!(
                text,
                "cpu per delivery: {:.2} us whole core, {:.2} us process; memory {} KiB; {} descriptors",
                self.core_us_per_delivery(),
                self.process_us_per_delivery(),
                self.resident_kib,
                self.descriptors
            );
        } else {
            let _ = writeln!(
                text,
                "server cpu {:.2} s; memory {} KiB; {} descriptors",
                self.server_cpu_seconds, self.resident_kib, self.descriptors
            );
        }
        if !self.counters.is_empty() {
            let _ = writeln!(text, "server counters during the run: {:?}", self.counters);
        }
        if self.published > 0 {
            let _ = writeln!(
                text,
                "client: schedule slip p99 {:.0} us, idle turns {:.0}%",
                self.slip_p99_us,
                self.client_idle_share * 100.0
            );
            if self.slip_p99_us > 200.0 || self.client_idle_share < 0.15 {
                text.push_str(
                    "THE CLIENT WAS THE BOTTLENECK: latency says more about it than about the server\n",
                );
            }
        }
        text
    }
}

/// Writes a result where the user wants one.
pub(crate) fn write_json(path: Option<&Path>, result: &impl serde::Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(result).context("the result is JSON")?;
    std::fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}
