//! What a run ran on, and how it was asked for: figures without it say little.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, the moment and the command.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Machine {
    /// When the run ended, in UTC.
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) version: &'static str,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    /// Descriptors that one process may have.
    pub(crate) descriptors_max: Option<u64>,
    /// What else ran while it was asked: the load average of the last minute, our own included.
    pub(crate) load: f64,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        let words = std::iter::once("corecast-bench".to_owned()).chain(std::env::args().skip(1).map(quoted));
        let value = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        Self {
            date: date(seconds),
            command: words.collect::<Vec<_>>().join(" "),
            version: env!("CARGO_PKG_VERSION"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: value(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.split(' ').next().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) / 1024,
            descriptors_max: crate::memory::descriptors_max(std::process::id()),
            load: read("/proc/loadavg").split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// As a shell would take it.
fn quoted(word: String) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_=./,:".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Seconds since 1970 as `2026-11-21 09:13:27 UTC`; the days as in Howard Hinnant's "chrono-compatible low-level date
/// algorithms".
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_795_252_407), "2026-11-21 09:13:27 UTC");
    }

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("--rate=5".to_owned()), "--rate=5");
        assert_eq!(quoted("corecast --driver epoll".to_owned()), "'corecast --driver epoll'");
        assert_eq!(quoted("it's".to_owned()), r"'it'\''s'");
    }

    #[test]
    fn this_machine_is_told() {
        let it = Machine::here();
        assert!(it.memory_mib > 0 && it.cores > 0 && !it.kernel.is_empty(), "{it:?}");
    }
}
