//! What a promise costs: the same load on a channel of each mode, taking turns on one server.

use anyhow::Result;

use super::Scenario;
use crate::compare;
use crate::figure::Figure;
use crate::progress;
use crate::report::RunResult;
use crate::server::Server;

/// Names of equal length, so that messages differ in nothing but their positions; and how many messages subscribers
/// acknowledge at once.
const MODES: [(&str, &str, &str, Option<u64>); 4] = [
    ("best_effort", "keep0:", "best_effort", None),
    ("ordered", "keep1:", "ordered", None),
    ("reliable", "keep2:", "reliable", None),
    ("reliable, acks", "keep3:", "reliable", Some(10)),
];

/// What is compared.
const COMPARED: [&str; 2] = ["process cpu us per delivery", "core cpu us per delivery"];

impl Scenario {
    /// Every mode once in each round.
    pub(super) fn run_modes(&self, what: &str) -> Result<RunResult> {
        let settings: String = MODES
            .iter()
            .map(|(_, namespace, mode, _)| {
                format!(" --set namespaces.{}.mode={mode}", namespace.trim_end_matches(':'))
            })
            .collect();
        let server = Server::start(&format!("{what}{settings}"), self.placement())?;
        let mut runs: Vec<Vec<RunResult>> = MODES.iter().map(|_| Vec::new()).collect();
        let bar = progress::bar(MODES.len() * self.rounds, self.name);
        for round in 0..self.rounds {
            for index in compare::order(round, MODES.len()) {
                let (name, namespace, _, acks_every) = MODES[index];
                let mut run = Self { namespace, acks_every, ..self.clone() }.run_load_on(&server, what)?;
                name.clone_into(&mut run.note);
                bar.inc(1);
                runs[index].push(run);
            }
        }
        bar.finish_and_clear();
        Ok(summary(runs))
    }
}

/// The run of the slowest, with figures of all modes against the first, and every failure.
fn summary(runs: Vec<Vec<RunResult>>) -> RunResult {
    let parts: Vec<RunResult> = runs.iter().flatten().cloned().collect();
    let mut all = RunResult::worst_of(parts);
    let mut told = Vec::new();
    for ((name, ..), of_mode) in MODES.iter().zip(&runs) {
        // Of the first mode against itself the medians are what there is to tell.
        for ratio in compare::ratios(of_mode, &runs[0]).into_iter().filter(|it| COMPARED.contains(&it.what)) {
            all.figures.push(Figure::new(format!("{name} {}", ratio.what), ratio.first_median, "us"));
            if *name != MODES[0].0 {
                let (median, low, high) = (ratio.median, ratio.low, ratio.high);
                all.figures.push(Figure::new(
                    format!("{name} / {} {}", MODES[0].0, ratio.what),
                    median,
                    "times",
                ));
                if ratio.what == COMPARED[0] {
                    told.push(format!("{name} {median:.2}x ({low:.2} to {high:.2})"));
                }
            }
        }
    }
    all.note = format!("process cpu per delivery against {}: {}", MODES[0].0, told.join(", "));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_told_against_the_first() {
        let run =
            |cpu: f64| RunResult { measured: 1_000_000, server_cpu_seconds: cpu, ..RunResult::default() };
        let mut runs: Vec<Vec<RunResult>> = [2.0, 3.0, 4.0, 5.0].map(|cpu| vec![run(cpu), run(cpu)]).into();
        runs[2][1].audit.lost = 1;
        let all = summary(runs);
        let value = |name: &str| all.figures.iter().find(|it| it.name == name).map(|it| it.value);
        assert_eq!(value("best_effort process cpu us per delivery"), Some(2.0));
        assert_eq!(value("ordered / best_effort process cpu us per delivery"), Some(1.5));
        assert!(all.note.contains("reliable 2.00x"), "{}", all.note);
        assert_eq!((all.audit.lost, all.parts.len(), all.is_clean()), (1, 8, false));
    }
}
