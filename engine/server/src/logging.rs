//! The log: one line per event, never per message.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};

/// Starts logging to standard error. `RUST_LOG` holds where nobody chose `log.level`.
pub(crate) fn start(settings: &Settings) {
    let filter = match &settings.log_level {
        Some(level) => EnvFilter::new(level),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
