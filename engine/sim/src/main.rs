//! `corecast-sim`: runs seeds of the simulation, makes failures smaller, and plants bugs to see whether they are
//! caught.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use corecast_sim::campaign::{Campaign, Failed, Totals};
use corecast_sim::chaos::Fault;
use corecast_sim::run::run;
use corecast_sim::setup::Setup;
use corecast_sim::shrink::shrink;

/// A hundred years.
const SECONDS_MAX: u64 = 3_153_600_000;

/// Runs the real protocol, hub and shards on a simulated driver, clock and network, and checks every promise.
///
/// Equal seeds make equal runs: the hash that is printed says so. Exit codes: 0 clean (with --canary: caught), 1 a
/// promise was broken (with --canary: not caught), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "corecast-sim", version)]
struct Args {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Ticks of a run; a tick is one loop of one shard. Without --seed most runs have a fifth or a thirtieth of them.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    ticks: u64,
    /// Without --seed: the first of many.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Without --seed: how many at most.
    #[arg(long, default_value_t = u64::MAX, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Without --seed: begin no run after so many seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX), conflicts_with = "seed")]
    seconds: u64,
    /// The same in hours, for a soak.
    #[arg(long, conflicts_with_all = ["seconds", "seed"])]
    hours: Option<f64>,
    /// Runs at the same time; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Clients that take no part, as a failure's report names them.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    without: Vec<u32>,
    /// Faults that do not strike, likewise.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    calm: Vec<String>,
    /// Lines of the trace that are printed at the end of one run, or of a failure (40 where nothing is said).
    #[arg(long)]
    trace: Option<usize>,
    /// Seconds spent on making a failure smaller.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Name the bugs that can be planted.
    #[arg(long)]
    list_canaries: bool,
    /// Plant a bug in the hub or the shard and run seeds until it is caught; `all` for one after the other.
    #[arg(long, value_name = "NAME", conflicts_with = "seed")]
    canary: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match (&args.canary, args.list_canaries, args.seed) {
        (_, true, _) => canaries::list(),
        (Some(name), _, _) => canaries::hunt(name, &args),
        (_, _, Some(seed)) => one(seed, &args),
        _ => many(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(wrong) => {
            eprintln!("corecast-sim: {wrong}");
            ExitCode::from(2)
        }
    }
}

/// The setup of a seed, less what is left out.
fn setup(seed: u64, args: &Args) -> Result<Setup, String> {
    let mut setup = Setup::of(seed, args.ticks);
    setup.without.clone_from(&args.without);
    for name in &args.calm {
        let fault = Fault::ALL.iter().find(|fault| fault.name() == name);
        let names = || Fault::ALL.map(Fault::name).join(", ");
        let fault = fault.ok_or_else(|| format!("--calm {name}: the faults are {}", names()))?;
        setup.leave_out(*fault);
    }
    if let Some(nobody) = args.without.iter().find(|index| **index as usize >= setup.tempers.len()) {
        return Err(format!(
            "--without {nobody}: seed {seed} has {} clients, from 0 on",
            setup.tempers.len()
        ));
    }
    Ok(setup)
}

fn one(seed: u64, args: &Args) -> Result<bool, String> {
    let setup = setup(seed, args)?;
    let outcome = run(&setup, args.trace.unwrap_or(0));
    let mut totals = Totals::default();
    totals.add(&outcome);
    println!("seed {seed}: trace hash {:016x}\n{}", outcome.hash, totals.report());
    if outcome.failure.is_none() {
        outcome_lines(&outcome.lines);
        return Ok(true);
    }
    explain(&setup, &outcome, args);
    Ok(false)
}

fn many(args: &Args) -> Result<bool, String> {
    let started = Instant::now();
    let (totals, failed) = campaign(args)?.run(|| ());
    println!("{}\nfrom seed {} on, in {:.1} s", totals.report(), args.from, started.elapsed().as_secs_f64());
    let Some(Failed { seed, ticks, outcome }) = failed else { return Ok(true) };
    explain(&Setup::of(seed, ticks), &outcome, args);
    Ok(false)
}

fn campaign(args: &Args) -> Result<Campaign, String> {
    let seconds = args.hours.map_or(args.seconds as f64, |hours| hours * 3_600.0);
    if !(seconds > 0.0 && seconds <= SECONDS_MAX as f64) {
        return Err("--hours: more than 0, and at most 876,000 (a hundred years)".to_owned());
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Campaign {
        from: args.from,
        seeds: args.seeds,
        ticks: args.ticks,
        patience: Duration::from_secs_f64(seconds),
        threads: if args.threads == 0 { cores } else { args.threads },
    })
}

/// Makes a failure smaller, and prints how to see it again.
fn explain(setup: &Setup, outcome: &corecast_sim::world::Outcome, args: &Args) {
    let Some(failure) = &outcome.failure else { return };
    println!("seed {}: FAILED at tick {}: {:?}: {}", setup.seed, outcome.ticks, failure.check, failure.what);
    let smaller = shrink(setup, outcome, Duration::from_secs(args.shrink));
    let again = run(&smaller, args.trace.unwrap_or(40));
    outcome_lines(&again.lines);
    let what = again.failure.map(|failure| failure.what).unwrap_or_default();
    let taking_part = smaller.tempers.len() - smaller.without.len();
    println!("smallest: {taking_part} clients, {} shards, tick {}: {what}", smaller.shards, again.ticks);
    let without: Vec<String> = smaller.without.iter().map(u32::to_string).collect();
    let calm = |fault: &Fault| smaller.one_in[*fault as usize] == 0;
    let calm: Vec<&str> = Fault::ALL.iter().filter(|it| calm(it)).map(|fault| fault.name()).collect();
    let mut again = format!("corecast-sim --seed {} --ticks {}", smaller.seed, smaller.ticks);
    for (flag, left_out) in [("--without", without.join(",")), ("--calm", calm.join(","))] {
        if !left_out.is_empty() {
            again = format!("{again} {flag} {left_out}");
        }
    }
    println!("again: {again}");
}

fn outcome_lines(lines: &[String]) {
    for line in lines {
        let short: String = line.chars().take(300).collect();
        println!("  {short}");
    }
}

#[cfg(feature = "canaries")]
mod canaries {
    //! Bugs on purpose.

    use corecast_shard::canary::{Canary, plant, struck};

    use super::{Args, Failed, Setup, campaign, run};

    /// What is said of bugs that only the tests of the hub look for.
    const ELSEWHERE: &str = "tests: ";

    /// Seeds in which a bug must be caught.
    const SEEDS_MAX: u64 = 1_000;

    pub(super) fn list() -> Result<bool, String> {
        for canary in Canary::ALL {
            println!("{:28} {} [{}]", canary.name(), canary.what(), canary.caught_by());
        }
        Ok(true)
    }

    pub(super) fn hunt(name: &str, args: &Args) -> Result<bool, String> {
        let wanted: Vec<Canary> =
            Canary::ALL.iter().filter(|it| name == "all" || it.name() == name).copied().collect();
        if wanted.is_empty() {
            return Err(format!("--canary {name}: there is no such bug, see --list-canaries"));
        }
        let mut missed = Vec::new();
        for canary in &wanted {
            if name == "all" && canary.caught_by().starts_with(ELSEWHERE) {
                println!("{:28} not tried: the simulator has no check for it yet", canary.name());
                continue;
            }
            let (runs, failed) = catch(*canary, args)?;
            match failed {
                Some(Failed { seed, ticks, outcome }) => {
                    let failure = outcome.failure.expect("it failed");
                    // Once more alone, to say how often the bug struck.
                    plant(Some(*canary));
                    run(&Setup::of(seed, ticks), 0);
                    let strikes = struck();
                    plant(None);
                    println!(
                        "{:28} caught: {:?} at seed {seed} of {ticks} ticks, tick {} (struck {strikes} times): {}",
                        canary.name(),
                        failure.check,
                        outcome.ticks,
                        failure.what.chars().take(120).collect::<String>()
                    );
                }
                None => {
                    println!("{:28} NOT CAUGHT in {runs} runs", canary.name());
                    missed.push(canary.name());
                }
            }
        }
        println!("{} passed, {} failed", wanted.len() - missed.len(), missed.len());
        Ok(missed.is_empty())
    }

    /// Runs seeds until the bug is caught: how many, and the one with its ticks.
    fn catch(canary: Canary, args: &Args) -> Result<(u64, Option<Failed>), String> {
        let mut campaign = campaign(args)?;
        campaign.seeds = campaign.seeds.min(SEEDS_MAX);
        let (totals, failed) = campaign.run(|| plant(Some(canary)));
        // What fails without the bug as well is another one.
        let is_caught = |it: &Failed| run(&Setup::of(it.seed, it.ticks), 0).failure.is_none();
        Ok((totals.runs, failed.filter(is_caught)))
    }
}

#[cfg(not(feature = "canaries"))]
mod canaries {
    //! This build has none.

    use super::Args;

    const NONE: &str = "this build has no bugs to plant: build with --features canaries";

    pub(super) fn list() -> Result<bool, String> {
        Err(NONE.to_owned())
    }

    pub(super) fn hunt(_: &str, _: &Args) -> Result<bool, String> {
        Err(NONE.to_owned())
    }
}
