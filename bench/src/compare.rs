//! Two servers in one run: interleaved pairs on the same cores, as ratios with an interval.

use std::path::Path;

use anyhow::Result;
use indicatif::ProgressBar;

use crate::report::{RunResult, write_json};
use crate::scenario::Scenario;

/// A ratio A / B over all pairs.
#[derive(Clone, Debug, serde::Serialize)]
struct Ratio {
    what: &'static str,
    median: f64,
    /// The interval that covers the median with 95% certainty, by the order of the pairs alone.
    low: f64,
    high: f64,
    a_median: f64,
    b_median: f64,
}

type Measure = (&'static str, fn(&RunResult) -> f64);

const MEASURES: &[Measure] = &[
    ("p50 us", |it| it.p50_us),
    ("p95 us", |it| it.p95_us),
    ("p99 us", |it| it.p99_us),
    ("core cpu us per delivery", RunResult::core_us_per_delivery),
    ("process cpu us per delivery", RunResult::process_us_per_delivery),
    ("connect s", |it| it.connect_seconds),
];

/// Runs the pairs and prints the ratios; whether every run was clean.
pub(crate) fn run(scenario: &Scenario, a: &str, b: &str, pairs: usize, json: Option<&Path>) -> Result<bool> {
    let bar = ProgressBar::new(2 * pairs as u64);
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
    let ratios: Vec<Ratio> = MEASURES.iter().filter_map(|measure| ratio(measure, &all_a, &all_b)).collect();
    println!("{} pairs of {a} (A) and {b} (B) on {}", pairs, scenario.name);
    for it in &ratios {
        println!(
            "{:28} A/B {:.2} ({:.2} to {:.2})   medians {:.2} / {:.2}",
            it.what, it.median, it.low, it.high, it.a_median, it.b_median
        );
    }
    write_json(json, &(&ratios, &all_a, &all_b))?;
    let is_clean = |all: &[RunResult]| all.iter().all(RunResult::is_clean);
    Ok(is_clean(&all_a) && is_clean(&all_b))
}

fn ratio(measure: &Measure, a: &[RunResult], b: &[RunResult]) -> Option<Ratio> {
    let (what, of) = *measure;
    let mut ratios: Vec<f64> =
        a.iter().zip(b).map(|(a, b)| of(a) / of(b)).filter(|it| it.is_finite()).collect();
    if ratios.is_empty() {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let (low, high) = interval(ratios.len());
    let middle = |all: &[RunResult]| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        median(&values)
    };
    Some(Ratio {
        what,
        median: median(&ratios),
        low: ratios[low],
        high: ratios[high],
        a_median: middle(a),
        b_median: middle(b),
    })
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The ranks between which the median lies with at least 95% certainty (sign test), or all there are.
fn interval(count: usize) -> (usize, usize) {
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
    (low, count - 1 - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // P(all 10 pairs on one side) and P(9 or more): 2 * 11 / 1024 = 2.1%; with 2 it would be 11%.
        assert_eq!(interval(10), (1, 8));
        assert_eq!(interval(3), (0, 2));
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
