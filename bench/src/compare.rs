//! Several servers in one run: interleaved rounds on the same cores, the first against each of the others as ratios
//! with an interval.

mod ratio;

use std::fmt;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::hiccup::{self, Hiccups};
use crate::machine::Machine;
use crate::progress;
use crate::report::RunResult;
use crate::scenario::Scenario;

use ratio::{MEASURES, middle, ratio};

pub(crate) use ratio::{Ratio, interval, median};

/// One of the servers, and how the first compares with it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Contender {
    pub(crate) letter: char,
    pub(crate) server: String,
    /// The first over this one; none of the first.
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) runs: Vec<RunResult>,
}

/// All of a comparison.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Comparison {
    pub(crate) scenario: &'static str,
    pub(crate) rounds: usize,
    /// Of all rounds.
    pub(crate) seconds: f64,
    /// Why the ratios are not to be believed, or the servers are not to be compared.
    pub(crate) failures: Vec<String>,
    /// What to keep in mind.
    pub(crate) caveats: Vec<String>,
    pub(crate) machine: Machine,
    pub(crate) hiccups_before: Hiccups,
    pub(crate) hiccups_after: Hiccups,
    pub(crate) contenders: Vec<Contender>,
}

/// Servers whose messages differ by more are not compared: half a byte is what rounding may do.
const BYTES_APART_MAX: f64 = 0.5;

/// Runs the rounds, a line for each run.
pub(crate) fn run(scenario: &Scenario, servers: Vec<String>, rounds: usize) -> Result<Comparison> {
    if servers.len() > 26 {
        bail!("at most 26 servers are compared: there are no more letters");
    }
    let hiccups_before = hiccup::measure(1);
    let mut contenders: Vec<Contender> = ('A'..='Z')
        .zip(servers)
        .map(|(letter, server)| Contender { letter, server, ratios: Vec::new(), runs: Vec::new() })
        .collect();
    let begin = Instant::now();
    play(scenario, &mut contenders, rounds)?;
    let seconds = begin.elapsed().as_secs_f64();
    let (failures, caveats) = verdict(scenario, &contenders);
    if let Some((first, others)) = contenders.split_first_mut() {
        for other in others {
            other.ratios = ratios(&first.runs, &other.runs);
        }
    }
    Ok(Comparison {
        scenario: scenario.name,
        rounds,
        seconds,
        failures,
        caveats,
        machine: Machine::here(),
        hiccups_before,
        hiccups_after: hiccup::measure(1),
        contenders,
    })
}

/// All figures of the first over the other's, round by round.
pub(crate) fn ratios(first: &[RunResult], other: &[RunResult]) -> Vec<Ratio> {
    MEASURES.iter().filter_map(|measure| ratio(measure, first, other)).collect()
}

impl Comparison {
    /// Whether nothing forbids it.
    pub(crate) fn is_believable(&self) -> bool {
        self.failures.is_empty()
    }
}

fn play(scenario: &Scenario, contenders: &mut [Contender], rounds: usize) -> Result<()> {
    let bar = progress::bar(contenders.len() * rounds, scenario.name);
    for round in 0..rounds {
        let begin = Instant::now();
        for index in order(round, contenders.len()) {
            let it = &mut contenders[index];
            let result = scenario.run(&it.server)?;
            bar.suspend(|| println!("{} {}", it.letter, result.line()));
            bar.inc(1);
            it.runs.push(result);
        }
        if round == 0 && rounds > 1 {
            let seconds = begin.elapsed().as_secs_f64();
            let all = seconds * rounds as f64;
            bar.suspend(|| println!("a round takes {seconds:.1} s, all {rounds} about {all:.0} s"));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Who runs when: everybody is in every place equally often, and behind either neighbour, so that a drift of the
/// machine and what a server leaves behind hit all alike. Of two servers it is A B, B A, B A, A B.
pub(crate) fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    let is_backwards = round / count % 2 == 1;
    (0..count).map(move |place| {
        let index = (place + round) % count;
        if is_backwards { count - 1 - index } else { index }
    })
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rounds on {}, {:.1} s each",
            self.rounds,
            self.scenario,
            self.seconds / self.rounds as f64
        )?;
        for it in &self.contenders {
            writeln!(f, "{} is {}", it.letter, it.server)?;
        }
        for it in &self.contenders {
            for ratio in &it.ratios {
                writeln!(
                    f,
                    "{:28} A/{} {:.2} ({:.2} to {:.2}, {:.0}%)   medians {:.2} / {:.2}",
                    ratio.what,
                    it.letter,
                    ratio.median,
                    ratio.low,
                    ratio.high,
                    ratio.certainty * 100.0,
                    ratio.first_median,
                    ratio.other_median
                )?;
            }
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
fn verdict(scenario: &Scenario, contenders: &[Contender]) -> (Vec<String>, Vec<String>) {
    let (mut failures, mut caveats) = (Vec::new(), Vec::new());
    for Contender { letter, runs, .. } in contenders {
        let failed = runs.iter().filter(|it| !it.is_clean()).count();
        if failed > 0 {
            failures.push(format!(
                "{failed} of {} runs of {letter} lost messages or failed; the ratios hold them",
                runs.len()
            ));
        }
        let bound = runs.iter().filter(|it| it.is_client_bound).count();
        if bound > 0 {
            caveats
                .push(format!("the client was the bottleneck in {bound} of {} runs of {letter}", runs.len()));
        }
    }
    let Some((first, others)) = contenders.split_first() else { return (failures, caveats) };
    for other in others {
        let [a, b] = [first, other].map(|it| middle(&it.runs, |it| it.bytes_per_delivery));
        if (a - b).abs() > BYTES_APART_MAX {
            let apart = format!("A sends {a:.1} bytes per delivery, {} {b:.1}", other.letter);
            if scenario.is_same_protocol([&first.server, &other.server]) {
                failures.push(apart)
            } else {
                caveats.push(apart)
            }
        }
    }
    (failures, caveats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(letter: char, server: &str, bytes_per_delivery: f64) -> Contender {
        let runs = vec![RunResult { bytes_per_delivery, ..RunResult::default() }; 3];
        Contender { letter, server: server.to_owned(), ratios: Vec::new(), runs }
    }

    fn judged(all: &[Contender]) -> (Vec<String>, Vec<String>) {
        verdict(&Scenario::find("rooms-1k").expect("it is there"), all)
    }

    fn three() -> Vec<Contender> {
        ["corecast", "corecast --driver epoll", "floor"]
            .into_iter()
            .zip('A'..)
            .map(|(server, letter)| contender(letter, server, 200.0))
            .collect()
    }

    #[test]
    fn a_lossy_run_forbids_the_comparison() {
        let mut all = three();
        assert_eq!(judged(&all), (vec![], vec![]));
        all[2].runs[1].audit.lost = 1;
        let (failures, _) = judged(&all);
        assert!(failures.len() == 1 && failures[0].contains("1 of 3 runs of C"), "{failures:?}");
    }

    #[test]
    fn servers_that_send_more_are_not_compared() {
        let mut all = three();
        all[1] = contender('B', "corecast --driver epoll", 206.0);
        assert_eq!(judged(&all).0, ["A sends 200.0 bytes per delivery, B 206.0"]);
        all[1] = contender('B', "hub {port}", 206.0);
        let (failures, caveats) = judged(&all);
        assert_eq!((failures.len(), caveats.len()), (0, 1), "another protocol has other messages");
        for words in ["corecast @msgpack", "corecast @deflate"] {
            all[1] = contender('B', words, 106.0);
            assert_eq!(judged(&all).0.len(), 0, "{words}");
        }
    }

    #[test]
    fn a_client_that_limited_a_run_is_told() {
        let mut all = three();
        all[0].runs[0].is_client_bound = true;
        let (failures, caveats) = judged(&all);
        assert!(failures.is_empty() && caveats[0].contains("1 of 3 runs of A"), "{caveats:?}");
    }

    #[test]
    fn everybody_is_everywhere_and_behind_both_neighbours() {
        for count in 2..5 {
            let rounds: Vec<Vec<usize>> = (0..2 * count).map(|it| order(it, count).collect()).collect();
            for server in 0..count {
                for place in 0..count {
                    let times = rounds.iter().filter(|it| it[place] == server).count();
                    assert_eq!(times, 2, "{server} in place {place} of {count}: {rounds:?}");
                }
                let next = (server + 1) % count;
                for pair in [[server, next], [next, server]] {
                    let is_there = rounds.iter().any(|it| it.windows(2).any(|two| two == pair));
                    assert!(is_there, "{pair:?} of {count}: {rounds:?}");
                }
            }
        }
    }
}
