//! The servers that Corecast is measured against, driven by the same load.

mod floor;
mod hold;
mod keep;
mod raw;
mod rooms;
mod tungstenite;
mod tungstenite_tuned;

use anyhow::{Result, bail};

/// Runs one until it is killed.
pub(crate) fn run(kind: &str, port: u16, cpu: Option<usize>) -> Result<()> {
    if let Some(id) = cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    match kind {
        "floor" => floor::run(port),
        "raw" => raw::run(port),
        "keep" => keep::run(port),
        "tungstenite" => tungstenite::run(port),
        "tungstenite-tuned" => tungstenite_tuned::run(port),
        _ => match kind.strip_prefix("hold:").and_then(|rest| rest.split_once(':')) {
            Some((first, count)) => hold::run(port, first.parse()?, count.parse()?),
            None => bail!("no reference {kind}: there are floor, raw, tungstenite and tungstenite-tuned"),
        },
    }
}
