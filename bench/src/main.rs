//! `corecast-bench`: the load generator of Corecast, its reference servers, and comparisons of servers.

#![forbid(unsafe_code)]

mod audit;
mod client;
mod compare;
mod cpu;
mod figure;
mod hiccup;
mod json_cost;
mod machine;
mod memory;
mod page;
mod progress;
mod reference;
mod report;
mod scenario;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use machine::Machine;
use page::Pictures;
use report::Measured;
use scenario::{Overrides, Scenario};

/// Load generator and comparison runs of Corecast.
#[derive(Debug, Parser)]
#[command(name = "corecast-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario: fanout-1k, rooms-1k, rooms-5k, rooms-10k, burst, idle-20k, idle-40k, connect, two-shards,
    /// echo, slow-consumer, ramp, recover-10k, resume-10k, channels-1m, presence-10k,
    /// modes, json-cost
    Run {
        scenario: String,
        /// corecast (the binary beside this one; the default) or the path of another one, with more of its flags; floor,
        /// raw, tungstenite, tungstenite-tuned; or a command line that is pinned to the server's cores, with {port},
        /// {admin_port}, {cpus} and {shards}
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        overrides: Overrides,
        /// Write the result as JSON
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        pictures: Pictures,
    },
    /// Every scenario, tiny: fails on any loss, duplicate or disorder
    Smoke,
    /// Several servers on one scenario, taking turns, as ratios A / B, A / C, and so on
    Compare {
        scenario: String,
        /// The first server, in the words of `run --server`
        #[arg(long, default_value = "corecast")]
        a: String,
        /// What it is compared with; any number of them, as --b Y --c Z or --b Y --b Z
        #[arg(long, required = true, aliases = ["c", "d", "e", "f"])]
        b: Vec<String>,
        /// Rounds, in each of which every server runs once
        #[arg(long, default_value_t = 10, alias = "rounds", value_parser = clap::value_parser!(u64).range(1..))]
        pairs: u64,
        #[command(flatten)]
        overrides: Overrides,
        #[arg(long)]
        json: Option<PathBuf>,
        #[command(flatten)]
        pictures: Pictures,
    },
    /// Run a reference server: floor, raw, tungstenite or tungstenite-tuned
    Reference {
        kind: String,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// What json-cost counts
    #[command(hide = true)]
    JsonCostWork { channel: String, recipients: u32, publishes: u32 },
    /// How long this machine holds up an idle loop, per core
    Hiccup {
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("corecast-bench: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Whether everything that was promised arrived.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Run { scenario, server, overrides, json, pictures } if scenario == "json-cost" => {
            if server.is_some() || overrides != Overrides::default() || pictures != Pictures::default() {
                bail!(
                    "json-cost counts instructions in this very program: it takes no --server, no numbers and no pictures"
                );
            }
            json_cost::run(json.as_deref())
        }
        Command::JsonCostWork { channel, recipients, publishes } => {
            json_cost::work(&channel, recipients, publishes).map(|()| true)
        }
        Command::Run { scenario, server, overrides, json, pictures } => {
            let scenario = Scenario::find(&scenario)?.with(&overrides)?;
            let server = server.unwrap_or_else(|| "corecast".to_owned());
            let hiccups_before = hiccup::measure(1);
            let result = scenario.run(&server)?;
            let hiccups_after = hiccup::measure(1);
            let it = Measured { machine: Machine::here(), hiccups_before, result, hiccups_after };
            print!("{}", it.result.text());
            println!("hiccups before: {}\nhiccups after:  {}", it.hiccups_before, it.hiccups_after);
            report::write_json(json.as_deref(), &it)?;
            pictures.of_run(&it)?;
            Ok(it.result.is_clean())
        }
        Command::Smoke => scenario::smoke(),
        Command::Compare { scenario, a, b, pairs, overrides, json, pictures } => {
            let scenario = Scenario::find(&scenario)?.with(&overrides)?;
            let servers = std::iter::once(a).chain(b).collect();
            let it = compare::run(&scenario, servers, pairs as usize)?;
            print!("{it}");
            report::write_json(json.as_deref(), &it)?;
            pictures.of_comparison(&it)?;
            Ok(it.is_believable())
        }
        Command::Reference { kind, port, cpu } => reference::run(&kind, port, cpu).map(|()| true),
        Command::Hiccup { seconds, json } => {
            let hiccups = hiccup::measure(seconds);
            println!("{hiccups}");
            report::write_json(json.as_deref(), &hiccups)?;
            Ok(true)
        }
    }
}
