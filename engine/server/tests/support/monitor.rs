//! Metrics over a connection that stays open: for servers that have no descriptor left for another one.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::raw::Raw;

/// A connection to the admin port.
pub(crate) struct Monitor(Raw);

impl Monitor {
    /// Opens it and makes sure that it is served.
    #[track_caller]
    pub(crate) fn new(admin: SocketAddr) -> Self {
        let mut monitor = Self(Raw::connect(admin));
        monitor.page();
        monitor
    }

    /// A counter or gauge, summed over all shards.
    #[track_caller]
    pub(crate) fn metric(&mut self, name: &str) -> u64 {
        let prefix = format!("corecast_{name}{{");
        let page = self.page();
        let values: Vec<u64> = page
            .lines()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("a value"))
            .collect();
        assert!(!values.is_empty(), "there is no metric {name} in:\n{page}");
        values.iter().sum()
    }

    /// Waits until a metric has a wanted value.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, name: &str, is_wanted: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + DEADLINE;
        loop {
            let value = self.metric(name);
            if is_wanted(value) {
                return value;
            }
            assert!(Instant::now() < until, "{name} stays {value}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn page(&mut self) -> String {
        self.0.send(b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n");
        let head = self.0.read_head().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|it| it.parse().ok()).expect("its length is known");
        String::from_utf8(self.0.bytes(length)).expect("UTF-8")
    }
}
