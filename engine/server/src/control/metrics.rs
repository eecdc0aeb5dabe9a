//! The shards' counters as JSON and as Prometheus text.

use std::fmt::Write;

use crate::logging;
use crate::node::Running;

/// All counters, per shard.
pub(super) fn json(running: &Running) -> serde_json::Value {
    let shards: Vec<serde_json::Value> = running
        .counters
        .iter()
        .map(|counters| {
            counters
                .each()
                .map(|(name, _, _, value)| (name.to_owned(), value.into()))
                .collect::<serde_json::Map<_, _>>()
        })
        .map(Into::into)
        .collect();
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "driver": running.driver,
        "uptime_ms": running.started.elapsed().as_millis() as u64,
        "clients": running.node.clients(),
        "log_lines_lost": logging::lines_lost(),
        "shards": shards,
    })
}

/// Text format 0.0.4.
pub(super) fn prometheus(running: &Running) -> String {
    let mut text = String::new();
    let Some(first) = running.counters.first() else { return text };
    for (name, kind, about, _) in first.each() {
        let suffix = if kind == "counter" { "_total" } else { "" };
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "# HELP corecast_{name}{suffix} {}\n# TYPE corecast_{name}{suffix} {kind}",
            about.trim()
        );
        for (shard, counters) in running.counters.iter().enumerate() {
            let value = counters.each().find(|it| it.0 == name).map_or(0, |it| it.3);
            let _ = writeln!(text, "corecast_{name}{suffix}{{shard=\"{shard}\"}} {value}");
        }
    }
    let _ = writeln!(
        text,
        "# HELP corecast_log_lines_lost_total Lines of the log that nobody took.\n\
         # TYPE corecast_log_lines_lost_total counter\n\
         corecast_log_lines_lost_total {}",
        logging::lines_lost()
    );
    text
}
