//! Figures that only one scenario has, with their targets.

use std::fmt;

use hdrhistogram::Histogram;

/// A figure and what it is to be.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The target, where there is one. Missing it is no failure of the run: it may be the machine's.
    pub(crate) at_most: Option<f64>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, at_most: None }
    }

    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { at_most: Some(most), ..self }
    }

    /// Percentiles of what was timed in nanoseconds, in milliseconds; `p99_max` is the target of one.
    pub(crate) fn percentiles(name: &str, times: &Histogram<u64>, p99_max: Option<f64>) -> Vec<Self> {
        let of = |what: &str, ns: u64| Self::new(format!("{name} {what}"), ns as f64 / 1e6, "ms");
        let at = |quantile| times.value_at_quantile(quantile);
        let p99 = Self { at_most: p99_max, ..of("p99", at(0.99)) };
        vec![of("p50", at(0.5)), of("p95", at(0.95)), p99, of("max", times.max())]
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit, .. } = self;
        // Counts are told in full, measures with two digits.
        if value.fract() == 0.0 {
            write!(f, "{name}: {value:.0} {unit}")?;
        } else {
            write!(f, "{name}: {value:.2} {unit}")?;
        }
        match self.at_most {
            Some(most) => write!(f, " (at most {most}: {})", if *value <= most { "met" } else { "MISSED" }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_told_with_its_target() {
        let it = Figure::new("all recovered after", 2.5, "s").at_most(10.0);
        assert_eq!(it.to_string(), "all recovered after: 2.50 s (at most 10: met)");
        assert!(Figure { value: 10.5, ..it }.to_string().ends_with("(at most 10: MISSED)"));
        assert_eq!(Figure::new("lost", 3.0, "messages").to_string(), "lost: 3 messages");
    }

    #[test]
    fn percentiles_are_milliseconds() {
        let mut times = crate::client::histogram();
        times.record(2_000_000).expect("within the bounds");
        let all = Figure::percentiles("bystander", &times, Some(5.0));
        assert_eq!((all.len(), all[2].name.as_str(), all[2].at_most), (4, "bystander p99", Some(5.0)));
        assert!((all[2].value - 2.0).abs() < 0.01);
    }
}
