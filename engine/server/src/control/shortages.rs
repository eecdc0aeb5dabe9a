//! Tells the operator what is short and what would help: once while it lasts, not once per client.

use std::io;
use std::time::Duration;

use corecast_shard::Counters;
use tokio::time::{Instant, interval};

use crate::node::Running;

/// Between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long nothing more is said of a shortage that goes on or comes back.
const SILENCE: Duration = Duration::from_secs(60);

/// Looks at the counters until the process ends.
pub(super) async fn watch(running: &Running) {
    let (mut full, mut refusals) = (Shortage::default(), Shortage::default());
    let mut looks = interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        if let Some(count) = full.grew(total(running, |it| it.full.value()), Instant::now()) {
            let (most, bound) = (running.capacity.connections, running.capacity.bound);
            tracing::warn!(
                "the node is full: {count} handshakes were refused with 503; up to {most} connections ({bound}): \
                 raise limits.connections, ulimit -n or memory"
            );
        }
        if let Some(count) = refusals.grew(total(running, |it| it.accept_refusals.value()), Instant::now()) {
            let errno = running.counters.iter().map(|it| it.accept_errno.value()).find(|errno| *errno != 0);
            let why = io::Error::from_raw_os_error(errno.unwrap_or(0) as i32);
            tracing::warn!(
                "clients wait to be accepted: the kernel refused {count} times ({why}); raise ulimit -n or the \
                 host's fs.file-max, or lower limits.connections"
            );
        }
    }
}

fn total(running: &Running, value: impl Fn(&Counters) -> u64) -> u64 {
    running.counters.iter().map(|it| value(it)).sum()
}

/// A counter of things that should not happen.
#[derive(Debug, Default)]
struct Shortage {
    told: u64,
    silent_until: Option<Instant>,
}

impl Shortage {
    /// How much was added since it was last told, if it is to be told now.
    fn grew(&mut self, value: u64, now: Instant) -> Option<u64> {
        let added = value - self.told;
        if added == 0 || self.silent_until.is_some_and(|until| now < until) {
            return None;
        }
        self.told = value;
        self.silent_until = Some(now + SILENCE);
        Some(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_at_most_and_only_if_there_is_something_new() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut shortage = Shortage::default();
        assert_eq!(shortage.grew(0, start), None);
        assert_eq!(shortage.grew(3, start + second), Some(3));
        for seconds in 2..61 {
            assert_eq!(shortage.grew(3 + u64::from(seconds), start + seconds * second), None);
        }
        assert_eq!(shortage.grew(100, start + 61 * second), Some(97));
        assert_eq!(shortage.grew(100, start + 500 * second), None);
        assert_eq!(shortage.grew(101, start + 501 * second), Some(1));
    }
}
