//! The rings under threads: every pair of shards, both classes, rings so small that everything spills.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

use corecast_hub::{Class, ShardSet};

use super::{Inbox, Links, RingConfig, mesh};

const SHARDS: usize = 4;

/// How many requests each shard sends; each causes one delivery to every other shard.
const REQUESTS: u64 = 20_000;

fn record(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(8 + size, number as u8);
    bytes
}

fn number(record: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*record.first_chunk().expect("a record begins with its number"));
    assert!(record[8..].iter().all(|byte| *byte == number as u8), "a record arrives as it was sent");
    number
}

/// Sizes from nothing to beyond what travels inline; not random, but without a period the rings share.
fn size(number: u64) -> usize {
    if number.is_multiple_of(97) { 300 } else { (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize }
}

struct Shard {
    links: Links,
    threads: Arc<std::sync::OnceLock<Vec<Thread>>>,
    sent: u64,
    requests_seen: Vec<u64>,
    delivers_seen: Vec<u64>,
    delivers_sent: u64,
    requests: Inbox,
    delivers: Inbox,
}

impl Shard {
    fn is_done(&self, own: usize) -> bool {
        let others = (SHARDS - 1) as u64;
        let is_all = |seen: &[u64], each: u64| (0..SHARDS).all(|from| from == own || seen[from] == each);
        self.sent == REQUESTS
            && is_all(&self.requests_seen, REQUESTS)
            && is_all(&self.delivers_seen, REQUESTS * others)
            && !self.links.has_staged()
    }

    fn tick(&mut self) {
        self.links.unpark();
        while self.links.refill(Class::Deliver, &mut self.delivers) {
            while let Some((from, record)) = self.delivers.next() {
                let seen = &mut self.delivers_seen[usize::from(from)];
                assert_eq!(number(record), *seen, "deliveries come in order, each once");
                *seen += 1;
            }
        }
        while self.links.deliver_room() {
            let Some((from, record)) = self.requests.next() else {
                if self.links.refill(Class::Request, &mut self.requests) {
                    continue;
                }
                break;
            };
            let seen = &mut self.requests_seen[usize::from(from)];
            assert_eq!(number(record), *seen, "requests come in order, each once");
            *seen += 1;
            let delivery = record_for(self.delivers_sent);
            self.delivers_sent += 1;
            self.links.push_others(Class::Deliver, &delivery);
        }
        while self.sent < REQUESTS && self.links.request_room() {
            self.links.push_others(Class::Request, &record_for(self.sent));
            self.sent += 1;
        }
        let threads = self.threads.wait();
        for shard in self.links.publish().iter() {
            threads[usize::from(shard)].unpark();
        }
    }
}

fn record_for(sequence: u64) -> Vec<u8> {
    record(sequence, size(sequence))
}

#[test]
fn nothing_is_lost_doubled_or_swapped_and_nobody_waits_for_ever() {
    let config =
        RingConfig { request_bytes: 1024, deliver_bytes: 1024, spill_bytes: 2048, inline_bytes: 200 };
    let threads = Arc::new(std::sync::OnceLock::new());
    let mut handles = Vec::new();
    for (own, links) in mesh(SHARDS, config).into_iter().enumerate() {
        let mut shard = Shard {
            links,
            threads: Arc::clone(&threads),
            sent: 0,
            requests_seen: vec![0; SHARDS],
            delivers_seen: vec![0; SHARDS],
            delivers_sent: 0,
            requests: Inbox::default(),
            delivers: Inbox::default(),
        };
        handles.push(thread::spawn(move || {
            let mut is_late = 0;
            while !shard.is_done(own) {
                shard.tick();
                if !shard.is_done(own) && shard.links.park() {
                    // A wake-up that never comes would park for ever: this is the watchdog, not the rule.
                    let before = std::time::Instant::now();
                    thread::park_timeout(Duration::from_secs(20));
                    is_late += u32::from(before.elapsed() >= Duration::from_secs(20));
                    assert_eq!(is_late, 0, "shard {own} waited for a wake-up that did not come");
                }
            }
            shard.links.counters()
        }));
    }
    let all = handles.iter().map(|handle| handle.thread().clone()).collect();
    threads.set(all).expect("set once");
    let mut total = super::RingCounters::default();
    for handle in handles {
        let counters = handle.join().expect("a shard that panicked says why");
        total.wakes += counters.wakes;
        total.parks += counters.parks;
        total.spills += counters.spills;
    }
    assert!(total.spills > 1000, "the rings were small enough to spill: {total:?}");
    assert!(total.wakes <= total.parks, "one wake-up per sleep at most: {total:?}");
}

#[test]
fn a_single_shard_has_nobody_to_wait_for() {
    let mut links = mesh(1, RingConfig::default()).pop().expect("one shard");
    links.push_others(Class::Deliver, b"nobody");
    assert_eq!(links.publish(), ShardSet::EMPTY);
    assert!(links.park());
    assert!(!links.refill(Class::Request, &mut Inbox::default()));
}

#[test]
fn room_ends_at_the_bound_and_comes_back() {
    let config =
        RingConfig { request_bytes: 1024, deliver_bytes: 1024, spill_bytes: 4096, inline_bytes: 200 };
    let mut links = mesh(2, config);
    let mut second = links.pop().expect("two shards");
    let mut first = links.pop().expect("two shards");
    let mut pushed = 0u64;
    while first.deliver_room() {
        first.push_others(Class::Deliver, &record(pushed, 100));
        let staged = first.spilled_bytes();
        first.publish();
        assert!(pushed >= 9 || (staged, first.spilled_bytes()) == (112, 0), "nine records of 112 bytes fit");
        pushed += 1;
    }
    assert!(
        (45..50).contains(&pushed),
        "a ring of 1 KiB and a spill of 4 KiB hold {pushed} records of 112 bytes"
    );
    assert_eq!(first.spilled_bytes() as u64, (pushed - 9) * 112, "the rest waits for room");
    let mut inbox = Inbox::default();
    let mut taken = 0;
    while taken < pushed {
        assert!(second.refill(Class::Deliver, &mut inbox), "what was published is there");
        while let Some((_, record)) = inbox.next() {
            assert_eq!(number(record), taken);
            taken += 1;
        }
        second.publish();
        first.publish();
    }
    assert!(first.deliver_room() && !first.has_staged());
    assert_eq!(first.spilled_bytes(), 0);
}

#[cfg(feature = "canaries")]
mod planted {
    use super::*;
    use corecast_hub::canary::{Canary, plant};

    /// What arrives of 120 deliveries, 30 a tick, of which the ring holds 19.
    fn arrivals(canary: Option<Canary>) -> Vec<u64> {
        plant(canary);
        let config =
            RingConfig { request_bytes: 1024, deliver_bytes: 1024, spill_bytes: 4096, inline_bytes: 200 };
        let mut links = mesh(2, config);
        let (mut second, mut first) = (links.remove(1), links.remove(0));
        let mut arrived = Vec::new();
        let mut inbox = Inbox::default();
        for tick in 0..12 {
            for sequence in (0..30).filter(|_| tick < 4) {
                first.push_others(Class::Deliver, &record(tick * 30 + sequence, 40));
            }
            first.publish();
            while second.refill(Class::Deliver, &mut inbox) {
                while let Some((_, record)) = inbox.next() {
                    arrived.push(number(record));
                }
            }
        }
        plant(None);
        arrived
    }

    #[test]
    fn records_pass_each_other_only_if_that_is_planted() {
        let in_order: Vec<u64> = (0..120).collect();
        assert_eq!(arrivals(None), in_order);
        for canary in [Canary::SpillOvertaken, Canary::RecordsSwapped] {
            let mut arrived = arrivals(Some(canary));
            assert_ne!(arrived, in_order, "{}", canary.name());
            arrived.sort_unstable();
            assert_eq!(arrived, in_order, "{}: none is lost", canary.name());
        }
    }

    #[test]
    fn a_sleeper_is_forgotten_only_if_that_is_planted() {
        for (canary, wakes_max) in [(None, 12), (Some(Canary::LostWakeUp), 8)] {
            plant(canary);
            let mut links = mesh(2, RingConfig::default());
            let (mut second, mut first) = (links.remove(1), links.remove(0));
            let mut inbox = Inbox::default();
            let mut wakes = 0;
            for sequence in 0..12 {
                assert!(second.park());
                first.push_others(Class::Deliver, &record(sequence, 40));
                wakes += first.publish().iter().count();
                second.unpark();
                while second.refill(Class::Deliver, &mut inbox) {
                    while inbox.next().is_some() {}
                }
            }
            assert_eq!(wakes, wakes_max);
            plant(None);
        }
    }
}
