//! Every scenario, tiny: shows that all of it works and that nothing is lost, not how fast anything is.

use anyhow::{Context, Result};

use super::{ALL, Kind, Scenario};
use crate::client::{Dialect, Payload};
use crate::page::Pictures;
use crate::{compare, json_cost};

/// Compresses every message, however short.
const COMPRESSING: &str =
    "corecast --set compression.mode=standard --set compression.threshold_bytes=0 @deflate";

/// Whether all was clean.
pub(crate) fn smoke() -> Result<bool> {
    let mut is_clean = true;
    let mut run = |scenario: &Scenario, server: &str| -> Result<()> {
        let mut result = scenario.run(server).with_context(|| format!("{} of {server}", scenario.name))?;
        // In MessagePack some messages are no smaller when they are compressed, and are sent as they are.
        if server == COMPRESSING && result.compressed_share < 1.0 {
            result.failures.push(format!("{:.3} of the messages came compressed", result.compressed_share));
        }
        println!("{}", result.line());
        for failure in &result.failures {
            println!("    {failure}");
        }
        is_clean &= result.is_clean();
        Ok(())
    };
    for scenario in ALL {
        run(&tiny(scenario), "corecast")?;
    }
    let rooms = tiny(&ALL[1]);
    run(&Scenario { workers: 2, ..rooms.clone() }, "corecast")?;
    for payload in [Payload::Chat, Payload::Metrics, Payload::Random] {
        let dialect = Dialect { payload, ..rooms.dialect };
        run(&Scenario { dialect, ..rooms.clone() }, "corecast")?;
        for server in ["corecast @msgpack", COMPRESSING, &format!("{COMPRESSING} @msgpack")] {
            run(&Scenario { dialect, ..rooms.clone() }, server)?;
        }
    }
    for server in ["corecast @msgpack", COMPRESSING] {
        run(&Scenario { kind: Kind::Echo, ..rooms.clone() }, server)?;
    }
    for reference in ["floor", "raw", "tungstenite", "tungstenite-tuned"] {
        run(&rooms, reference)?;
    }
    let comparison = compare::run(&rooms, ["corecast", "floor", "raw"].map(str::to_owned).to_vec(), 2)?;
    print!("{comparison}");
    is_clean &= comparison.is_believable();
    println!("a page of it has {} bytes", Pictures::page_of(&comparison).len());
    match json_cost::smoke()? {
        Some(line) => println!("json-cost      {line}"),
        None => println!("json-cost      left out: there is no valgrind"),
    }
    Ok(is_clean)
}

fn tiny(scenario: &Scenario) -> Scenario {
    let mut tiny = scenario.clone();
    tiny.connections = scenario.connections.min(match scenario.kind {
        Kind::Idle | Kind::Connect => 300,
        _ => 100,
    });
    tiny.room = scenario.room.min(tiny.connections);
    tiny.seconds = 0.5;
    tiny.rounds = scenario.rounds.min(2);
    // A slow consumer needs something to be slow with, and a ramp ends at a knee that smoke has no time to find.
    tiny.rate = scenario.rate.min(if scenario.kind == Kind::Slow { 2000.0 } else { 500.0 });
    if scenario.kind == Kind::Ramp {
        tiny.kind = Kind::Load;
    }
    tiny
}
