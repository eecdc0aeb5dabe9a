//! What the rounds of a comparison say: medians of one server, and the first server's ratio to another with its
//! interval. It knows no scenarios.

use crate::report::RunResult;

/// The first server over another, by the rounds.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Ratio {
    pub(crate) what: &'static str,
    pub(crate) median: f64,
    /// The interval that covers the median with this certainty, by the order of the rounds alone.
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) certainty: f64,
    pub(crate) first_median: f64,
    pub(crate) other_median: f64,
}

/// A figure of a run, and its name.
pub(super) type Measure = (&'static str, fn(&RunResult) -> f64);

/// What a run does not tell is not a number.
pub(super) const MEASURES: &[Measure] = &[
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

/// Round by round.
pub(super) fn ratio(measure: &Measure, first: &[RunResult], other: &[RunResult]) -> Option<Ratio> {
    let (what, of) = *measure;
    let mut ratios: Vec<f64> =
        first.iter().zip(other).map(|(a, b)| of(a) / of(b)).filter(|it| it.is_finite()).collect();
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
        first_median: middle(first, of),
        other_median: middle(other, of),
    })
}

/// The median of one server's runs.
pub(super) fn middle(all: &[RunResult], of: fn(&RunResult) -> f64) -> f64 {
    let mut values: Vec<f64> = all.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    median(&values)
}

/// Of at least one value, in order.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The ranks between which the median lies with at least 95% certainty (sign test), or all there are; and how certain
/// that is.
pub(crate) fn interval(count: usize) -> (usize, usize, f64) {
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
        // P(all 10 rounds on one side) and P(9 or more): 2 * 11 / 1024 = 2.1%; with 2 it would be 11%.
        let (low, high, certainty) = interval(10);
        assert_eq!((low, high), (1, 8));
        assert!((certainty - 0.979).abs() < 0.001, "{certainty}");
        assert_eq!(interval(3), (0, 2, 0.75), "three rounds are not enough for more");
        assert_eq!(interval(1), (0, 0, 0.0));
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn what_is_not_told_has_no_ratio() {
        let core = MEASURES.iter().find(|it| it.0.starts_with("core cpu")).expect("a measure");
        let runs = vec![RunResult { bytes_per_delivery: 1.0, ..RunResult::default() }; 3];
        assert!(ratio(core, &runs, &runs).is_none());
    }

    #[test]
    fn the_first_is_told_over_the_other() {
        let of = |values: [f64; 3]| values.map(|p50_us| RunResult { p50_us, ..RunResult::default() });
        let it = ratio(&MEASURES[0], &of([1.0, 2.0, 3.0]), &of([2.0, 4.0, 12.0])).expect("numbers");
        assert_eq!((it.median, it.low, it.high), (0.5, 0.25, 0.5));
        assert_eq!((it.first_median, it.other_median), (2.0, 4.0));
    }
}
