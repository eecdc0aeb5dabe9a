//! The command line. Flags become configuration values like any other; nothing is decided here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A self-hosted real-time WebSocket hub.
#[derive(Debug, Parser)]
#[command(name = "corecast", about, disable_version_flag = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Print the version, the drivers and the kernel's features
    #[arg(long, short = 'V')]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the hub (the default: demo mode on 127.0.0.1:8080, admin and demo page on 127.0.0.1:8081)
    Serve(ServeArgs),
    /// Check a configuration and print everything that is wrong with it
    CheckConfig(ServeArgs),
}

/// Flags; each wins over the environment, which wins over the file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// demo, development or production
    #[arg(long)]
    mode: Option<String>,
    /// Where clients connect, as ADDRESS:PORT
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where operators connect, as ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Shards, one thread each; 0 for one per core
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Cores to pin shards to, as 0,2,4-7
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// uring, epoll or glommio
    #[arg(long)]
    driver: Option<String>,
    /// Offer /ws/echo
    #[arg(long)]
    echo: bool,
    /// Lift rates and counts, never sizes or time-outs
    #[arg(long)]
    no_limits: bool,
    /// Any other value, as section.key=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<String>,
}

fn assignment(text: &str) -> Result<String, String> {
    if text.contains('=') { Ok(text.to_owned()) } else { Err("it must be KEY=VALUE".to_owned()) }
}

impl ServeArgs {
    /// The flags as configuration values: what to name in an error, the key, and the text.
    pub(crate) fn values(&self) -> Vec<(String, String, String)> {
        let mut values = Vec::new();
        for (flag, value) in [
            ("mode", &self.mode),
            ("listen", &self.listen),
            ("admin", &self.admin),
            ("shards", &self.shards),
            ("cpus", &self.cpus),
            ("driver", &self.driver),
        ] {
            values.extend(value.as_ref().map(|value| (format!("--{flag}"), flag.to_owned(), value.clone())));
        }
        for (flag, key, is_set) in
            [("--echo", "echo", self.echo), ("--no-limits", "no_limits", self.no_limits)]
        {
            if is_set {
                values.push((flag.to_owned(), key.to_owned(), "true".to_owned()));
            }
        }
        for set in &self.set {
            let (key, value) = set.split_once('=').unwrap_or((set, ""));
            values.push((format!("--set {set}"), key.trim().to_owned(), value.trim().to_owned()));
        }
        values
    }
}
