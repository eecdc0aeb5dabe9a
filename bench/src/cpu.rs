//! Processor time, as the kernel accounts it: of a process, and of whole cores with their interrupts.

use std::fs;

/// The kernel's unit of processor time: 100 per second on every Linux this runs on (`getconf CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that the threads of a process were on a core, as the scheduler counts them: exact, where the figures of
/// `/proc/PID/stat` are samples that short bursts escape.
pub(crate) fn process_seconds(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
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
