//! The log: one line per event, never per message.
//!
//! Lines go to standard error through a bounded queue and a thread of its own: whoever logs never waits for a disk
//! or for the reader of a pipe. What can't be written is dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use corecast_server::config::{LogFormat, Settings};

/// Lines that may wait to be written: some hundred kilobytes at most.
const WAITING_MAX: usize = 1024;

/// How long the end of the process waits for lines that nobody takes.
const END_PATIENCE: Duration = Duration::from_millis(500);

static LINES_LOST: AtomicU64 = AtomicU64::new(0);
static QUEUE: OnceLock<SyncSender<Item>> = OnceLock::new();

/// What the writer's thread is told.
enum Item {
    Line(Box<[u8]>),
    /// Answer: all that came before is written, or lost.
    Flush(SyncSender<()>),
}

/// Starts logging to standard error. `RUST_LOG` holds where nobody chose `log.level`.
///
/// # Errors
/// If there can be no further thread.
pub(crate) fn start(settings: &Settings) -> Result<()> {
    let filter = match &settings.log_level {
        Some(level) => EnvFilter::new(level),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let (queue, items) = sync_channel(WAITING_MAX);
    let writer = thread::Builder::new().name("log".to_owned()).spawn(move || write(&items));
    writer.context("the log's thread can't be started")?;
    // There is one log per process.
    let _ = QUEUE.set(queue.clone());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let builder = builder.with_writer(move || Lines(queue.clone()));
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|info| {
        // The default hook would write by itself, and where nobody takes what it writes it would never end.
        tracing::error!("{info}\n{}", std::backtrace::Backtrace::capture());
        finish();
    }));
    Ok(())
}

/// Waits until all lines so far are written, unless nobody takes them.
pub(crate) fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, is_done) = sync_channel(1);
    if queue.try_send(Item::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(END_PATIENCE);
    }
}

/// Lines that could not be written: the disk was full, the reader was gone, or too slow.
pub(crate) fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Tells whoever started the program something that is no event. Where that fails nobody is left to be told.
pub(crate) fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// Takes lines without ever waiting.
struct Lines(SyncSender<Item>);

impl Write for Lines {
    /// One line: the formatter hands over each event as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Item::Line(line.into())).is_err() {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer's thread.
fn write(items: &Receiver<Item>) {
    let mut told = 0;
    for item in items {
        match item {
            Item::Line(line) => {
                if io::stderr().write_all(&line).is_err() {
                    LINES_LOST.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let lost = lines_lost();
                if lost > told {
                    // It queues like every other line.
                    tracing::warn!("{} lines of this log were lost: nobody took them in time", lost - told);
                    told = lost;
                }
            }
            // Whoever asked may have lost patience.
            Item::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_writes_is_dropped_and_counted() {
        let (queue, items) = sync_channel(WAITING_MAX);
        let mut lines = Lines(queue);
        for _ in 0..WAITING_MAX + 7 {
            lines.write_all(b"a line\n").expect("it never fails");
        }
        assert_eq!(lines_lost(), 7);
        assert_eq!(items.try_iter().count(), WAITING_MAX);
        lines.write_all(b"a line\n").expect("it never fails");
        assert_eq!((lines_lost(), items.try_iter().count()), (7, 1), "there is room again");
    }
}
