//! `corecast-sim`: runs seeds of the simulation, makes failures smaller, and plants bugs to see whether they are
//! caught.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use corecast_sim::campaign::{Campaign, Totals};
use corecast_sim::chaos::Fault;
use corecast_sim::run::run;
use corecast_sim::setup::Setup;
use corecast_sim::shrink::shrink;

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
    /// Ticks of each run; a tick is one loop of one shard.
    #[arg(long, default_value_t = 20_000)]
    ticks: u64,
    /// Without --seed: the first of many.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Without --seed: how many at most.
    #[arg(long, default_value_t = u64::MAX)]
    seeds: u64,
    /// Without --seed: begin no run after so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same in hours, for a soak.
    #[arg(long, conflicts_with = "seconds")]
    hours: Option<f64>,
    /// Runs at the same time; 0 for one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Clients that take no part, as a failure's report names them.
    #[arg(long, value_delimiter = ',')]
    without: Vec<u32>,
    /// Faults that do not strike, likewise.
    #[arg(long, value_delimiter = ',')]
    calm: Vec<String>,
    /// Lines of the trace that are printed at the end of one run, or of a failure.
    #[arg(long, default_value_t = 40)]
    trace: usize,
    /// Seconds spent on making a failure smaller.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Name the bugs that can be planted.
    #[arg(long)]
    list_canaries: bool,
    /// Plant a bug in the hub or the shard and run seeds until it is caught; `all` for one after the other.
    #[arg(long, value_name = "NAME")]
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
        setup.one_in[*fault as usize] = 0;
    }
    Ok(setup)
}

fn one(seed: u64, args: &Args) -> Result<bool, String> {
    let setup = setup(seed, args)?;
    let outcome = run(&setup, 0);
    let mut totals = Totals::default();
    totals.add(&outcome);
    println!("seed {seed}: trace hash {:016x}\n{}", outcome.hash, totals.report());
    if outcome.failure.is_none() {
        return Ok(true);
    }
    explain(&setup, &outcome, args);
    Ok(false)
}

fn many(args: &Args) -> Result<bool, String> {
    let started = Instant::now();
    let (totals, failed) = campaign(args).run(|| ());
    println!("{}\nfrom seed {} on, in {:.1} s", totals.report(), args.from, started.elapsed().as_secs_f64());
    let Some((seed, outcome)) = failed else { return Ok(true) };
    explain(&setup(seed, args)?, &outcome, args);
    Ok(false)
}

fn campaign(args: &Args) -> Campaign {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Campaign {
        from: args.from,
        seeds: args.seeds,
        ticks: args.ticks,
        patience: args
            .hours
            .map_or(Duration::from_secs(args.seconds), |hours| Duration::from_secs_f64(hours * 3_600.0)),
        threads: if args.threads == 0 { cores } else { args.threads },
    }
}

/// Makes a failure smaller, and prints how to see it again.
fn explain(setup: &Setup, outcome: &corecast_sim::world::Outcome, args: &Args) {
    let Some(failure) = &outcome.failure else { return };
    println!("seed {}: FAILED at tick {}: {:?}: {}", setup.seed, outcome.ticks, failure.check, failure.what);
    let smaller = shrink(setup, outcome, Duration::from_secs(args.shrink));
    let again = run(&smaller, args.trace);
    outcome_lines(&again.lines);
    let what = again.failure.map(|failure| failure.what).unwrap_or_default();
    let taking_part = smaller.tempers.len() - smaller.without.len();
    println!("smallest: {taking_part} clients, {} shards, tick {}: {what}", smaller.shards, again.ticks);
    let without: Vec<String> = smaller.without.iter().map(u32::to_string).collect();
    let calm = |fault: &Fault| smaller.one_in[*fault as usize] == 0;
    let calm: Vec<&str> = Fault::ALL.iter().filter(|it| calm(it)).map(|fault| fault.name()).collect();
    println!(
        "again: corecast-sim --seed {} --ticks {} --without '{}' --calm '{}'",
        smaller.seed,
        smaller.ticks,
        without.join(","),
        calm.join(",")
    );
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

    use std::time::Instant;

    use corecast_sim::world::Outcome;

    use super::{Args, Setup, campaign, run};

    /// Seeds in which a bug must be caught.
    const SEEDS_MAX: u64 = 1_000;

    /// Of so many runs in a row, each has a part of the ticks; then so many have all of them.
    const SHORT_SEEDS: u64 = 24;
    const SHORT_PART: u64 = 5;
    const LONG_SEEDS: u64 = 4;

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
            let (runs, failed) = catch(*canary, args);
            match failed {
                Some((seed, ticks, outcome)) => {
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

    /// Runs seeds until the bug is caught: how many, and the one with its ticks. Most runs are short, because they come
    /// to their end and its checks more often; some are as long as asked for, because some bugs take their time.
    fn catch(canary: Canary, args: &Args) -> (u64, Option<(u64, u64, Outcome)>) {
        let mut campaign = campaign(args);
        let until = Instant::now() + campaign.patience;
        let end = campaign.from + campaign.seeds.min(SEEDS_MAX);
        let mut runs = 0;
        for (seeds, part) in [(SHORT_SEEDS, SHORT_PART), (LONG_SEEDS, 1)].into_iter().cycle() {
            campaign.ticks = args.ticks / part;
            campaign.seeds = seeds.min(end - campaign.from);
            campaign.patience = until.saturating_duration_since(Instant::now());
            let (totals, failed) = campaign.run(|| plant(Some(canary)));
            runs += totals.runs;
            if let Some((seed, outcome)) = failed {
                return (runs, Some((seed, campaign.ticks, outcome)));
            }
            campaign.from += campaign.seeds;
            if campaign.from == end || Instant::now() >= until {
                break;
            }
        }
        (runs, None)
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
