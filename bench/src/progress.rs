//! Progress bars: on a terminal only, and never where output is read by programs.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// A run's bar stands below that of the comparison or ramp that it is a part of.
static ALL: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar of so many things; silent where standard error is no terminal.
pub(crate) fn bar(length: usize, what: &str) -> ProgressBar {
    let bar = ALL.add(ProgressBar::new(length as u64)).with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{msg:14} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar
}

/// Sleeps until then, with a bar that fills.
pub(crate) fn sleep_until(until: Instant, what: &str) {
    let bar = bar(until.saturating_duration_since(Instant::now()).as_millis() as usize, what);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        bar.set_position(bar.length().unwrap_or(0).saturating_sub(left.as_millis() as u64));
        if left.is_zero() {
            break;
        }
        // Seldom: this thread runs on cores that are measured.
        let step = if bar.is_hidden() { left } else { Duration::from_millis(250) };
        std::thread::sleep(left.min(step));
    }
    bar.finish_and_clear();
}
