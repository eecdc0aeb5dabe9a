//! The log: one line per event, never per message.
//!
//! Lines go to standard error through a bounded queue and a thread of its own: whoever logs never waits for a disk
//! or for the reader of a pipe. What can't be written is dropped and counted. Why the process ends by itself (a panic,
//! an error) passes every filter and has a place of its own: these last words come behind all other lines, or instead
//! of them where nobody takes those in time. A crash without a panic (a signal such as SIGKILL or SIGSEGV, memory that
//! is refused) has no last words, and loses what waits: nothing while the log is read, else up to [`WAITING_MAX`] lines.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use corecast_server::config::{LogFormat, Settings};

/// Lines that may wait to be written, and bytes of each: some hundred kilobytes at most.
const WAITING_MAX: usize = 1024;
const LINE_BYTES: usize = 512;

/// Bytes of last words: a panic's backtrace is long.
const LAST_BYTES: usize = 64 << 10;

/// Stands in place of what a line is too long by.
const CUT: &[u8] = b" [cut]\n";

/// How long the end of the process waits for the log's reader: half of it for all lines, the rest for last words.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries meanwhile.
const RETRY_EVERY: Duration = Duration::from_millis(1);

/// Events with this target are last words.
const LAST_WORDS: &str = "corecast::last_words";

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

/// What the writer's thread is told.
enum Item {
    Line(Box<[u8]>),
    /// Write the last words, and answer: all that came before is written, or lost.
    Flush(SyncSender<()>),
}

/// What loggers and the writer's thread share.
struct Log {
    queue: SyncSender<Item>,
    lost: AtomicU64,
    /// Only last words are still written: patience with the reader is running out.
    is_hurried: AtomicBool,
    last_words: Mutex<Vec<u8>>,
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
    let filter = filter.add_directive(format!("{LAST_WORDS}=warn").parse()?);
    let (log, items) = Log::new();
    let written = Arc::clone(&log);
    let writer =
        thread::Builder::new().name("log".to_owned()).spawn(move || written.write(&items, io::stderr()));
    writer.context("the log's thread can't be started")?;
    // There is one log per process.
    let _ = LOG.set(Arc::clone(&log));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let builder = builder.with_writer(Writers(log));
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    std::panic::set_hook(Box::new(|info| {
        // The default hook would write by itself, and where nobody takes what it writes it would never end.
        last_words(&format!("{info}\n{}", std::backtrace::Backtrace::capture()));
        finish();
    }));
    Ok(())
}

/// Says why the process ends, whatever is filtered out; written by [`finish`].
pub(crate) fn last_words(why: &str) {
    tracing::error!(target: LAST_WORDS, "{why}");
}

/// Waits until all lines so far are written, or at least the last words, unless nobody takes them.
pub(crate) fn finish() {
    if let Some(log) = LOG.get() {
        log.finish();
    }
}

/// Lines that could not be written: the disk was full, the reader was gone, or too slow.
pub(crate) fn lines_lost() -> u64 {
    LOG.get().map_or(0, |log| log.lost.load(Ordering::Relaxed))
}

/// Tells whoever started the program something that is no event. Where that fails nobody is left to be told.
pub(crate) fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

impl Log {
    fn new() -> (Arc<Self>, Receiver<Item>) {
        let (queue, items) = sync_channel(WAITING_MAX);
        let log = Self {
            queue,
            lost: AtomicU64::new(0),
            is_hurried: AtomicBool::new(false),
            last_words: Mutex::new(Vec::new()),
        };
        (Arc::new(log), items)
    }

    fn last_words(&self) -> MutexGuard<'_, Vec<u8>> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn finish(&self) {
        let since = Instant::now();
        let (done, is_done) = sync_channel(1);
        let mut flush = Some(Item::Flush(done));
        while since.elapsed() < END_PATIENCE {
            if since.elapsed() >= END_PATIENCE / 2 {
                self.is_hurried.store(true, Ordering::Relaxed);
            }
            flush = flush.take().and_then(|flush| match self.queue.try_send(flush) {
                Err(TrySendError::Full(flush)) => Some(flush),
                _ => None,
            });
            if is_done.recv_timeout(RETRY_EVERY) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        self.is_hurried.store(false, Ordering::Relaxed);
    }

    /// The writer's thread.
    fn write(&self, items: &Receiver<Item>, mut out: impl Write) {
        let mut told = 0;
        // What was lost since it was last told.
        let mut news = || {
            let lost = self.lost.load(Ordering::Relaxed);
            (lost > told).then(|| lost - std::mem::replace(&mut told, lost))
        };
        for item in items {
            match item {
                Item::Line(_) if self.is_hurried.load(Ordering::Relaxed) => self.lose(),
                Item::Line(line) => {
                    if out.write_all(&line).is_err() {
                        self.lose();
                    } else if let Some(lost) = news() {
                        // It queues like every other line.
                        tracing::warn!("{lost} lines of this log were lost: nobody took them in time");
                    }
                }
                Item::Flush(done) => {
                    if let Some(lost) = news() {
                        tracing::warn!(
                            target: LAST_WORDS,
                            "{lost} lines of this log were lost: nobody took them in time"
                        );
                    }
                    let last_words = std::mem::take(&mut *self.last_words());
                    if out.write_all(&last_words).is_err() {
                        self.lose();
                    }
                    // Whoever asked may have lost patience.
                    let _ = done.try_send(());
                }
            }
        }
    }
}

/// The line as far as `most` bytes go, with a mark where it is cut. It is no JSON then.
fn cut(line: &[u8], most: usize) -> Vec<u8> {
    if line.len() <= most {
        return line.to_vec();
    }
    let mut end = most - CUT.len();
    // Not within a character.
    while end > 0 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    [&line[..end], CUT].concat()
}

/// Gives each event its way out.
struct Writers(Arc<Log>);

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines { log: &self.0, are_last: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Lines<'a> {
        Lines { log: &self.0, are_last: event.target() == LAST_WORDS }
    }
}

/// Takes lines without ever waiting.
struct Lines<'a> {
    log: &'a Log,
    are_last: bool,
}

impl Write for Lines<'_> {
    /// One line: the formatter hands over each event as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.are_last {
            self.log.last_words().append(&mut cut(line, LAST_BYTES));
        } else if self.log.queue.try_send(Item::Line(cut(line, LINE_BYTES).into())).is_err() {
            self.log.lose();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use corecast_server::config::Sources;

    use super::*;

    fn lost(log: &Log) -> u64 {
        log.lost.load(Ordering::Relaxed)
    }

    #[test]
    fn what_nobody_writes_is_dropped_and_counted() {
        let (log, items) = Log::new();
        let mut lines = Lines { log: &log, are_last: false };
        for _ in 0..WAITING_MAX + 7 {
            lines.write_all(b"a line\n").expect("it never fails");
        }
        assert_eq!(lost(&log), 7);
        assert_eq!(items.try_iter().count(), WAITING_MAX);
        lines.write_all(b"a line\n").expect("it never fails");
        assert_eq!((lost(&log), items.try_iter().count()), (7, 1), "there is room again");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let fits = "x".repeat(LINE_BYTES - 1) + "\n";
        assert_eq!(cut(fits.as_bytes(), LINE_BYTES), fits.as_bytes());
        for shift in 0..4 {
            let long = "x".repeat(shift) + &"\u{1f600}".repeat(LINE_BYTES);
            let line = String::from_utf8(cut(long.as_bytes(), LINE_BYTES)).expect("whole characters");
            let rest = line.strip_suffix(" [cut]\n").expect("a mark");
            assert!(long.starts_with(rest) && line.len() <= LINE_BYTES && line.len() > LINE_BYTES - 4);
        }
    }

    /// What is written to it, and how it keeps whoever writes waiting.
    #[derive(Clone)]
    struct Out<W>(Arc<Mutex<Vec<u8>>>, W);

    impl<W: FnMut()> Out<W> {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no writer fails").clone()).expect("lines are text")
        }
    }

    impl<W: FnMut()> Write for Out<W> {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.1();
            self.0.lock().expect("no reader fails").extend(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer's thread whose queue is full: it waits, with the first line in its hands; and all lines.
    fn full<W: FnMut() + Clone + Send + 'static>(
        wait: impl FnOnce(Arc<Log>) -> W,
    ) -> (Arc<Log>, Out<W>, String) {
        let (log, items) = Log::new();
        let out = Out(Arc::default(), wait(Arc::clone(&log)));
        let (written, mut into) = (Arc::clone(&log), out.clone());
        thread::spawn(move || written.write(&items, &mut into));
        let mut all = String::new();
        while all.lines().count() <= WAITING_MAX {
            let line = format!("{}\n", all.lines().count());
            if log.queue.try_send(Item::Line(line.as_bytes().into())).is_ok() {
                all += &line;
            }
        }
        (log, out, all)
    }

    #[test]
    fn the_end_waits_for_a_full_queue() {
        const PER_LINE: Duration = Duration::from_micros(20);
        let go = Arc::new(AtomicBool::new(false));
        let (log, out, all) = full(|_| {
            let go = Arc::clone(&go);
            move || {
                while !go.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                thread::sleep(PER_LINE);
            }
        });
        go.store(true, Ordering::Relaxed);
        log.finish();
        assert!(all.starts_with(&out.text()));
        let written = out.text().lines().count() as u64;
        assert_eq!(written + lost(&log), WAITING_MAX as u64 + 1, "each is written, or counted");
    }

    #[test]
    fn last_words_do_not_wait_for_a_thousand_lines() {
        let (log, out, _) = full(|log| {
            move || {
                while !log.is_hurried.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            }
        });
        writeln!(Lines { log: &log, are_last: true }, "why").expect("it never fails");
        log.finish();
        assert_eq!(out.text(), "0\nwhy\n");
        assert_eq!(lost(&log), WAITING_MAX as u64);
    }

    #[test]
    fn a_panic_is_told_whatever_is_filtered_out() {
        const CHILD: &str = "THE_LOG_OF_A_PANIC";
        if std::env::var_os(CHILD).is_some() {
            let sources = Sources { file: None, environment: Vec::new(), flags: Vec::new() };
            start(&Settings::load(&sources).expect("defaults are valid")).expect("a thread");
            panic!("this is why");
        }
        for filter in ["off", "hyper=info", "corecast::last_words=off", "info"] {
            let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
            child.args([
                "--exact",
                "logging::tests::a_panic_is_told_whatever_is_filtered_out",
                "--nocapture",
            ]);
            let output = child.env(CHILD, "1").env("RUST_LOG", filter).output().expect("it can be started");
            let log = String::from_utf8_lossy(&output.stderr);
            assert!(log.contains("ERROR") && log.contains("this is why"), "{filter}: {log}");
        }
    }
}
