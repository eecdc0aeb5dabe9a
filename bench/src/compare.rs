//! Two servers in one run: interleaved pairs on the same cores, as ratios with an interval.

use std::fmt;
use std::path::Path;

use anyhow::Result;

use crate::hiccup::{self, Hiccups};
use crate::progress;
use crate::report::{RunResult, write_json};
use crate::scenario::Scenario;
use crate::server::is_bundled;

/// A ratio A / B over all pairs.
#[derive(Clone, Debug, serde::Serialize)]
struct Ratio {
    what: &'static str,
    median: f64,
    /// The interval that covers the median with this certainty, by the order of the pairs alone.
    low: f64,
    high: f64,
    certainty: f64,
    a_median: f64,
    b_median: f64,
}

/// All of a comparison.
#[derive(Debug, serde::Serialize)]
struct Comparison<'a> {
    scenario: &'a str,
    a: &'a str,
    b: &'a str,
    /// Why the ratios are not to be believed, or the servers are not to be compared.
    failures: Vec<String>,
    /// What to keep in mind.
    caveats: Vec<String>,
    ratios: Vec<Ratio>,
    hiccups_before: Hiccups,
    hiccups_after: Hiccups,
    a_runs: &'a [RunResult],
    b_runs: &'a [RunResult],
}

type Measure = (&'static str, fn(&RunResult) -> f64);

/// What a run does not tell is not a number.
const MEASURES: &[Measure] = &[
    ("p50 us", |it| it.p50_us),
    ("p95 us", |it| it.p95_us),
    ("p99 us", |it| it.p99_us),
    ("deliveries per second", |it| it.deliveries_per_second),
    ("core cpu us per delivery", |it| it.core_us_per_delivery().unwrap_or(f64::NAN)),
    ("process cpu us per delivery", |it| it.process_us_per_delivery().unwrap_or(f64::NAN)),
    ("bytes per delivery", |it| it.bytes_per_delivery),
    ("connect s", |it| it.connect_seconds),
    ("resident KiB", |it| it.resident_kib as f64),
];

/// Servers whose messages differ by more are not compared: half a byte is what rounding may do.
const BYTES_APART_MAX: f64 = 0.5;

/// Runs the pairs and prints the ratios; whether they are to be believed.
pub(crate) fn run(scenario: &Scenario, a: &str, b: &str, pairs: usize, json: Option<&Path>) -> Result<bool> {
    let hiccups_before = hiccup::measure(1);
    let bar = progress::bar(2 * pairs, scenario.name);
    let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // ABBA: a drift of the machine hits both alike.
        let order = if pair % 2 == 0 { [(a, true), (b, false)] } else { [(b, false), (a, true)] };
        for (server, is_a) in order {
            let result = scenario.run(server)?;
            bar.suspend(|| println!("{}", result.line()));
            bar.inc(1);
            if is_a { all_a.push(result) } else { all_b.push(result) }
        }
    }
    bar.finish_and_clear();
    let (failures, caveats) = verdict(&all_a, &all_b, is_bundled(a) && is_bundled(b));
    let it = Comparison {
        scenario: scenario.name,
        a,
        b,
        failures,
        caveats,
        ratios: MEASURES.iter().filter_map(|measure| ratio(measure, &all_a, &all_b)).collect(),
        hiccups_before,
        hiccups_after: hiccup::measure(1),
        a_runs: &all_a,
        b_runs: &all_b,
    };
    print!("{it}");
    write_json(json, &it)?;
    Ok(it.failures.is_empty())
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} pairs of {} (A) and {} (B) on {}", self.a_runs.len(), self.a, self.b, self.scenario)?;
        for it in &self.ratios {
            writeln!(
                f,
                "{:28} A/B {:.2} ({:.2} to {:.2}, {:.0}%)   medians {:.2} / {:.2}",
                it.what,
                it.median,
                it.low,
                it.high,
                it.certainty * 100.0,
                it.a_median,
                it.b_median
            )?;
        }
        writeln!(f, "hiccups before: {}\nhiccups after:  {}", self.hiccups_before, self.hiccups_after)?;
        for caveat in &self.caveats {
            writeln!(f, "but: {caveat}")?;
        }
        for failure in &self.failures {
            writeln!(f, "NO COMPARISON: {failure}")?;
        }
        Ok(())
    }
}

/// What forbids a comparison, and what to keep in mind.
fn verdict(a: &[RunResult], b: &[RunResult], is_same_protocol: bool) -> (Vec<String>, Vec<String>) {
    let (mut failures, mut caveats) = (Vec::new(), Vec::new());
    for (name, all) in [("A", a), ("B", b)] {
        let failed = all.iter().filter(|it| !it.is_clean()).count();
        if failed > 0 {
            failures.push(format!(
                "{failed} of {} runs of {name} lost messages or failed; the ratios hold them",
                all.len()
            ));
        }
        let bound = all.iter().filter(|it| it.is_client_bound).count();
        if bound > 0 {
            caveats.push(format!("the client was the bottleneck in {bound} of {} runs of {name}", all.len()));
        }
    }
    let (a_bytes, b_bytes) = (middle(a, |it| it.bytes_per_delivery), middle(b, |it| it.bytes_per_delivery));
    if (a_bytes - b_bytes).abs() > BYTES_APART_MAX {
        let apart = format!("A sends {a_bytes:.1} bytes per delivery, B {b_bytes:.1}");
        if is_same_protocol { failures.push(apart) } else { caveats.push(apart) }
    }
    (failures, caveats)
}

fn ratio(measure: &Measure, a: &[RunResult], b: &[RunResult]) -> Option<Ratio> {
    let (what, of) = *measure;
    let mut ratios: Vec<f64> =
        a.iter().zip(b).map(|(a, b)| of(a) / of(b)).filter(|it| it.is_finite()).collect();
    if ratios.is_empty() {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let (low, high, certainty) = interval(ratios.len());
    Some(Ratio {
        what,
        median: median(&ratios),
        low: ratios[low],
        high: ratios[high],
        certainty,
        a_median: middle(a, of),
        b_median: middle(b, of),
    })
}

fn middle(all: &[RunResult], of: fn(&RunResult) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    median(&values)
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The ranks between which the median lies with at least 95% certainty (sign test), or all there are; and how certain
/// that is.
fn interval(count: usize) -> (usize, usize, f64) {
    let mut tail = 0.5f64.powi(count as i32);
    let mut term = tail;
    let mut low = 0;
    while low + 1 < count / 2 {
        term *= (count - low) as f64 / (low + 1) as f64;
        if tail + term > 0.025 {
            break;
        }
        tail += term;
        low += 1;
    }
    (low, count - 1 - low, 1.0 - 2.0 * tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // P(all 10 pairs on one side) and P(9 or more): 2 * 11 / 1024 = 2.1%; with 2 it would be 11%.
        let (low, high, certainty) = interval(10);
        assert_eq!((low, high), (1, 8));
        assert!((certainty - 0.979).abs() < 0.001, "{certainty}");
        assert_eq!(interval(3), (0, 2, 0.75), "three pairs are not enough for more");
        assert_eq!(interval(1), (0, 0, 0.0));
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    fn runs(bytes_per_delivery: f64) -> Vec<RunResult> {
        vec![RunResult { bytes_per_delivery, ..RunResult::default() }; 3]
    }

    #[test]
    fn a_lossy_run_forbids_the_comparison() {
        let (good, mut bad) = (runs(200.0), runs(200.0));
        assert_eq!(verdict(&good, &good, true), (vec![], vec![]));
        bad[1].audit.lost = 1;
        let (failures, _) = verdict(&good, &bad, true);
        assert!(failures.len() == 1 && failures[0].contains("1 of 3 runs of B"), "{failures:?}");
    }

    #[test]
    fn servers_that_send_more_are_not_compared() {
        assert_eq!(verdict(&runs(200.0), &runs(206.0), true).0.len(), 1);
        let (failures, caveats) = verdict(&runs(200.0), &runs(206.0), false);
        assert_eq!((failures.len(), caveats.len()), (0, 1), "another protocol has other messages");
    }

    #[test]
    fn a_client_that_limited_a_run_is_told() {
        let mut bound = runs(200.0);
        bound[0].is_client_bound = true;
        let (failures, caveats) = verdict(&bound, &runs(200.0), true);
        assert!(failures.is_empty() && caveats[0].contains("1 of 3 runs of A"), "{caveats:?}");
    }

    #[test]
    fn what_is_not_told_has_no_ratio() {
        let core = MEASURES.iter().find(|it| it.0.starts_with("core cpu")).expect("a measure");
        assert!(ratio(core, &runs(1.0), &runs(1.0)).is_none());
    }
}
