//! Processor time, as the kernel accounts it: of a process, and of whole cores with their interrupts.

use std::fs;
use std::process::{Command, Stdio};

/// The kernel's unit of processor time: 100 per second on every Linux this runs on (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What the scheduler counted of some threads: exact, where the figures of `/proc/PID/stat` are samples that short
/// bursts escape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Scheduled {
    /// Seconds on a core.
    pub(crate) ran: f64,
    /// Seconds that they could have run, had nobody else been on their core.
    pub(crate) delayed: f64,
}

/// Of all threads of a process.
pub(crate) fn process(pid: u32) -> Scheduled {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Scheduled::default() };
    threads.flatten().fold(Scheduled::default(), |sum, thread| {
        let it = scheduled(&fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default());
        Scheduled { ran: sum.ran + it.ran, delayed: sum.delayed + it.delayed }
    })
}

/// Of the calling thread.
pub(crate) fn thread() -> Scheduled {
    scheduled(&fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default())
}

/// `schedstat`: nanoseconds on a core, nanoseconds in its queue, turns.
fn scheduled(text: &str) -> Scheduled {
    let mut seconds = text.split_whitespace().map(|it| it.parse().unwrap_or(0.0) / 1e9);
    Scheduled { ran: seconds.next().unwrap_or(0.0), delayed: seconds.next().unwrap_or(0.0) }
}

/// Seconds that a core was idle, or not ours because the host gave it to somebody else. What is left of a span of
/// time is all that was done on it: interrupts and kernel threads included.
pub(crate) fn core_idle_seconds(core: usize) -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = stat.lines().find(|line| line.starts_with(&format!("cpu{core} "))) else { return 0.0 };
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|it| it.parse().ok()).collect();
    let of = |at: usize| ticks.get(at).copied().unwrap_or(0.0);
    let (idle, waiting, stolen) = (of(3), of(4), of(7));
    (idle + waiting + stolen) / TICKS_PER_SECOND
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// Open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Makes sleeps of the calling thread end when they should, not up to 50 us later. Where the kernel does not let us,
/// they are late.
pub(crate) fn sleep_exactly() {
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    if let Some(id) = thread.file_name() {
        let _ = fs::write(std::path::Path::new("/proc").join(id).join("timerslack_ns"), "1");
    }
}

/// Has the calling thread run before all others of its core whenever it can; whether the kernel lets us.
pub(crate) fn go_first() -> bool {
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    let Some(id) = thread.file_name() else { return false };
    let done = Command::new("chrt").args(["--fifo", "--pid", "1"]).arg(id).stderr(Stdio::null()).status();
    done.is_ok_and(|it| it.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_is_read() {
        assert_eq!(scheduled("1500000000 250000000 7\n"), Scheduled { ran: 1.5, delayed: 0.25 });
        assert_eq!(scheduled(""), Scheduled::default(), "a thread that ended meanwhile");
        assert!(process(std::process::id()).ran > 0.0 && resident_kib(std::process::id()) > 0);
    }
}
