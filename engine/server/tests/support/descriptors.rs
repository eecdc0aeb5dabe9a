//! Descriptors for tests with thousands of sockets.

use std::process::Command;

/// Raises the soft limit of this process to the hard one: other tests may run in it at the same time. Fails where
/// fewer than the `needed` ones of this test are allowed.
#[track_caller]
pub(crate) fn need_descriptors(needed: usize) {
    let pid = std::process::id().to_string();
    let (soft, hard) = limits();
    if soft == hard {
        return assert_enough(needed);
    }
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={hard}:{hard}")]).status();
    assert!(status.is_ok_and(|it| it.success()), "prlimit (util-linux) can be run");
    assert_enough(needed);
}

#[track_caller]
fn assert_enough(needed: usize) {
    assert!(soft_limit() >= needed, "{needed} descriptors are needed: raise the hard limit (ulimit -Hn)");
}

fn soft_limit() -> usize {
    // `unlimited` is enough.
    limits().0.parse().unwrap_or(usize::MAX)
}

/// As the kernel prints them: soft, hard.
fn limits() -> (String, String) {
    let text = std::fs::read_to_string("/proc/self/limits").expect("Linux tells limits");
    let line =
        text.lines().find_map(|line| line.strip_prefix("Max open files")).expect("there is such a limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().expect("a soft limit"), words.next().expect("a hard limit"))
}
