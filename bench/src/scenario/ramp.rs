//! The knee: the highest rate whose 99th percentile stays under a millisecond, and what broke beyond it.

use anyhow::Result;

use super::{Kind, Scenario};
use crate::progress;
use crate::report::RunResult;

const P99_MAX_US: f64 = 1000.0;
const RATE_MAX: f64 = 1e6;
const STEP: f64 = 1.3;

impl Scenario {
    /// Raises the rate until the 99th percentile passes a millisecond or something is lost.
    pub(super) fn run_ramp(&self, what: &str) -> Result<RunResult> {
        let mut step = Self { kind: Kind::Load, ..self.clone() };
        let mut steps = Vec::new();
        let bar = progress::bar(0, self.name);
        bar.unset_length();
        while step.rate <= RATE_MAX {
            let result = step.run_load(what)?;
            bar.suspend(|| eprintln!("{:>8.0} publishes/s: {}", step.rate, result.line()));
            bar.inc(1);
            let is_over = is_over(&result);
            steps.push(result);
            if is_over {
                break;
            }
            step.rate *= STEP;
        }
        bar.finish_and_clear();
        Ok(knee(steps))
    }
}

fn is_over(step: &RunResult) -> bool {
    step.p99_us > P99_MAX_US || !step.is_clean()
}

/// The last step that was good, with what the one behind it lost.
fn knee(steps: Vec<RunResult>) -> RunResult {
    let best = steps.iter().rev().find(|step| !is_over(step));
    let broken = steps.last().filter(|step| is_over(step));
    let mut knee = best.or(broken).cloned().unwrap_or_default();
    knee.note = match (best, broken) {
        (Some(best), Some(_)) => {
            format!("the knee: {:.0} deliveries/s with p99 under 1 ms", best.deliveries_per_second)
        }
        (Some(best), None) => format!("no knee up to {:.0} deliveries/s", best.deliveries_per_second),
        _ => "no rate met it".to_owned(),
    };
    if let Some(broken) = broken {
        let (rate, p99) = (broken.rate, broken.p99_us);
        knee.note.push_str(&format!("; {rate:.0} publishes/s had p99 {p99:.0} us"));
        if let Some(why) = &broken.client_bound {
            knee.note.push_str(&format!(", limited by the client ({why})"));
        }
        if !broken.is_clean() {
            knee.audit = broken.audit;
            knee.failures = broken.failures.clone();
            knee.failures
                .push(format!("{rate:.0} publishes/s: what was sent did not all arrive as it should"));
        }
    }
    knee.parts = steps;
    knee
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rate: f64, p99_us: f64) -> RunResult {
        RunResult { rate, p99_us, deliveries_per_second: rate * 10.0, ..RunResult::default() }
    }

    #[test]
    fn the_last_good_step_is_the_knee() {
        let knee = knee(vec![step(100.0, 50.0), step(130.0, 60.0), step(169.0, 2000.0)]);
        assert_eq!((knee.rate, knee.is_clean(), knee.parts.len()), (130.0, true, 3));
        assert!(knee.note.contains("1300 deliveries/s"), "{}", knee.note);
        assert!(!knee.note.contains("client"), "{}", knee.note);
    }

    #[test]
    fn loss_beyond_the_knee_fails() {
        let mut lossy = step(130.0, 60.0);
        lossy.audit.lost = 3;
        let knee = knee(vec![step(100.0, 50.0), lossy]);
        assert_eq!((knee.rate, knee.audit.lost, knee.is_clean()), (100.0, 3, false));
    }

    #[test]
    fn a_client_that_broke_it_is_named() {
        let mut broken = step(130.0, 5000.0);
        broken.client_bound = Some("it sent late".to_owned());
        let knee = knee(vec![step(100.0, 50.0), broken]);
        assert!(knee.note.contains("limited by the client"), "{}", knee.note);
    }

    #[test]
    fn it_says_where_there_is_no_knee() {
        assert!(knee(vec![step(100.0, 1500.0)]).note.starts_with("no rate met it"));
        assert!(knee(vec![step(100.0, 10.0)]).note.starts_with("no knee"));
    }
}
