//! Tells the operator what is short and what would help: once while it lasts, not once per client.

use std::io;
use std::time::Duration;

use corecast_shard::{Counter, Counters};
use tokio::time::{Instant, interval};

use crate::node::Running;

/// Between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long nothing more is said of a shortage that goes on or comes back.
const SILENCE: Duration = Duration::from_secs(60);

/// Looks at the counters until the process ends.
pub(super) async fn watch(running: &Running) {
    let [mut full, mut full_here, mut refusals, mut keys] = [(); 4].map(|()| Shortage::default());
    let mut looks = interval(LOOK_EVERY);
    let capacity = &running.capacity;
    let (most, bound) = (capacity.connections, capacity.bound);
    loop {
        looks.tick().await;
        if let Some(Growth { count, .. }) = full.grew(&values(running, |it| &it.full), Instant::now()) {
            tracing::warn!(
                "the node is full: {count} handshakes were refused with 503; up to {most} connections ({bound}): \
                 raise limits.connections, ulimit -n or memory"
            );
        }
        if let Some(Growth { count, shard }) =
            full_here.grew(&values(running, |it| &it.full_here), Instant::now())
        {
            let here = capacity.table - capacity.margin;
            tracing::warn!(
                "shard {shard} is full, the node is not: {count} handshakes were refused with 503; the kernel gave it \
                 more than its share, and it takes {here} connections: raise limits.connections, ulimit -n or memory"
            );
        }
        let counts = values(running, |it| &it.idempotency_keys_forgotten);
        if let Some(Growth { count, .. }) = keys.grew(&counts, Instant::now()) {
            tracing::warn!(
                "{count} idempotency keys were forgotten before their five minutes were over: raise \
                 limits.idempotency_keys, at up to 100 bytes each"
            );
        }
        let counts = values(running, |it| &it.accept_refusals);
        if let Some(Growth { count, shard }) = refusals.grew(&counts, Instant::now()) {
            let errno = running.counters[shard].accept_errno.value();
            let why = io::Error::from_raw_os_error(errno as i32);
            tracing::warn!(
                "clients wait to be accepted: the kernel refused {count} times ({why}); raise ulimit -n or the \
                 host's fs.file-max, or lower limits.connections"
            );
        }
    }
}

fn values(running: &Running, counter: impl Fn(&Counters) -> &Counter) -> Vec<u64> {
    running.counters.iter().map(|it| counter(it).value()).collect()
}

/// A counter of things that should not happen, for each shard.
#[derive(Debug, Default)]
struct Shortage {
    told: Vec<u64>,
    silent_until: Option<Instant>,
}

/// What was added to a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Growth {
    /// By all shards.
    count: u64,
    /// The one that added most.
    shard: usize,
}

impl Shortage {
    /// How much was added since it was last told, if it is to be told now.
    fn grew(&mut self, values: &[u64], now: Instant) -> Option<Growth> {
        self.told.resize(values.len(), 0);
        let added = || values.iter().zip(&self.told).map(|(value, told)| value - told);
        let (count, most) = (added().sum(), added().enumerate().max_by_key(|&(_, added)| added));
        if count == 0 || self.silent_until.is_some_and(|until| now < until) {
            return None;
        }
        self.told.copy_from_slice(values);
        self.silent_until = Some(now + SILENCE);
        most.map(|(shard, _)| Growth { count, shard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_told_once_a_minute_at_most_and_only_if_there_is_something_new() {
        let start = Instant::now();
        let mut shortage = Shortage::default();
        let mut grew = |value, seconds: u32| {
            shortage.grew(&[value], start + seconds * SECOND).map(|growth| growth.count)
        };
        assert_eq!(grew(0, 0), None);
        assert_eq!(grew(3, 1), Some(3));
        for seconds in 2..61 {
            assert_eq!(grew(3 + u64::from(seconds), seconds), None);
        }
        assert_eq!(grew(100, 61), Some(97));
        assert_eq!(grew(100, 500), None);
        assert_eq!(grew(101, 501), Some(1));
    }

    /// The reason that is told is one of now, not of a shard that had trouble long ago.
    #[test]
    fn it_is_told_of_the_shard_that_has_it() {
        let start = Instant::now();
        let mut shortage = Shortage::default();
        assert_eq!(shortage.grew(&[1000, 0, 0], start), Some(Growth { count: 1000, shard: 0 }));
        let later = start + 100 * SECOND;
        assert_eq!(shortage.grew(&[1001, 7, 2], later), Some(Growth { count: 10, shard: 1 }));
    }
}
