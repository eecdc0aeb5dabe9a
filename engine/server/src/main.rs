//! The binary `corecast`: command line, threads and control plane around the shards.

#![forbid(unsafe_code)]

mod capacity;
mod cli;
mod control;
mod logging;
mod memory;
mod node;
mod version;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use corecast_server::config::{ConfigFile, Settings, Sources};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.version {
        logging::say(io::stdout(), &version::text());
        return ExitCode::SUCCESS;
    }
    match cli.command {
        None => serve(&cli::ServeArgs::default()),
        Some(Command::Serve(args)) => serve(&args),
        Some(Command::CheckConfig(args)) => match load(&args) {
            Ok(settings) => {
                let (mode, listen) = (settings.mode_name(), settings.listen);
                let verdict = format!("the configuration is valid: mode {mode}, listening on {listen}\n");
                logging::say(io::stdout(), &verdict);
                ExitCode::SUCCESS
            }
            Err(code) => code,
        },
    }
}

fn serve(args: &cli::ServeArgs) -> ExitCode {
    let settings = match load(args) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    if let Err(error) = logging::start(&settings) {
        logging::say(io::stderr(), &format!("corecast: {error:#}\n"));
        return ExitCode::from(1);
    }
    let code = match node::run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::last_words(&format!("{error:#}"));
            ExitCode::from(1)
        }
    };
    logging::finish();
    code
}

/// All variables. What is not UTF-8 is no name of ours; as a value it is refused where its key is, or made readable.
fn environment() -> Vec<(String, String)> {
    let named = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect()
}

/// The validated settings; or all that is wrong with them, on standard error, and exit code 2.
fn load(args: &cli::ServeArgs) -> Result<Settings, ExitCode> {
    let sources = Sources {
        file: args.config.as_deref().map(ConfigFile::read),
        environment: environment(),
        flags: args.values(),
    };
    Settings::load(&sources).map_err(|problems| {
        for problem in &problems {
            logging::say(io::stderr(), &format!("corecast: {problem}\n"));
        }
        ExitCode::from(2)
    })
}
