//! Every interleaving of the wake rule, small enough to try them all: no wake-up is lost, nobody waits for ever.
//!
//! A lost wake-up leaves a thread waiting on its bell, which loom reports as a deadlock. The canaries prove that.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use corecast_hub::{Class, ShardSet};

use super::sync::Ordering;
use super::{Inbox, Links, RingConfig, mesh};

/// What a driver's wake-up is to a sleeping shard: it stays until it is heard.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.has_rung.lock().expect("nobody panics with the lock") = true;
        self.heard.notify_one();
    }

    fn wait(&self) {
        let mut has_rung = self.has_rung.lock().expect("nobody panics with the lock");
        while !*has_rung {
            has_rung = self.heard.wait(has_rung).expect("nobody panics with the lock");
        }
        *has_rung = false;
    }
}

type Bells = Arc<[Bell; 2]>;

/// One ring holds one record of four bytes.
const TINY: RingConfig =
    RingConfig { request_bytes: 32, deliver_bytes: 32, spill_bytes: 1 << 10, inline_bytes: 4 };

fn pair() -> (Links, Links, Bells) {
    let mut links = mesh(2, TINY);
    let second = links.pop().expect("two shards");
    let first = links.pop().expect("two shards");
    (first, second, Arc::new([Bell::default(), Bell::default()]))
}

fn publish(links: &mut Links, bells: &Bells) {
    for shard in links.publish().iter() {
        bells[usize::from(shard)].ring();
    }
}

fn to(shard: u16) -> ShardSet {
    let mut set = ShardSet::EMPTY;
    set.insert(shard);
    set
}

/// Takes `count` records as a shard's loop does, telling producers of the room made.
fn consume(links: &mut Links, bells: &Bells, own: usize, mut count: usize, sleep: fn(&mut Links) -> bool) {
    let mut inbox = Inbox::default();
    while count > 0 {
        links.unpark();
        while links.refill(Class::Deliver, &mut inbox) {
            while inbox.next().is_some() {
                count -= 1;
            }
        }
        publish(links, bells);
        if count > 0 && sleep(links) {
            bells[own].wait();
        }
    }
}

fn deliver_one(sleep: fn(&mut Links) -> bool) {
    loom::model(move || {
        let (mut first, mut second, bells) = pair();
        let theirs = Arc::clone(&bells);
        let consumer = thread::spawn(move || consume(&mut second, &theirs, 1, 1, sleep));
        first.push_all(to(1), Class::Deliver, b"a");
        publish(&mut first, &bells);
        consumer.join().expect("the consumer ends");
    });
}

#[test]
fn loom_a_parked_consumer_is_woken() {
    deliver_one(Links::park);
}

/// Looks before it announces its sleep: the record that comes in between wakes nobody.
fn park_too_late(links: &mut Links) -> bool {
    if links.has_work() {
        return false;
    }
    links.parked[usize::from(links.shard)].store(true, Ordering::SeqCst);
    true
}

#[test]
#[ignore = "fails by design: run by `loom_canaries_are_caught`"]
fn planted_looking_before_announcing() {
    deliver_one(park_too_late);
}

/// Announces with no fence: the announcement may become visible after the look.
fn park_without_fence(links: &mut Links) -> bool {
    let own = usize::from(links.shard);
    links.parked[own].store(true, Ordering::Relaxed);
    if links.has_work() {
        links.parked[own].store(false, Ordering::Relaxed);
        return false;
    }
    true
}

#[test]
#[ignore = "fails by design: run by `loom_canaries_are_caught`"]
fn planted_announcing_without_a_fence() {
    deliver_one(park_without_fence);
}

/// Each planted fault, in a process of its own: after a deadlock loom can't unwind.
#[test]
fn loom_canaries_are_caught() {
    for planted in ["planted_looking_before_announcing", "planted_announcing_without_a_fence"] {
        let test = format!("rings::tests_loom::{planted}");
        let binary = std::env::current_exe().expect("a test has a binary");
        let ran =
            std::process::Command::new(binary).args(["--exact", &test, "--ignored", "--nocapture"]).output();
        let ran = ran.expect("the test binary can be started again");
        let text = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && text.contains("deadlock"), "{planted} was not caught:\n{text}");
    }
}

/// Pushes more than the ring holds, and sleeps until the rest has found room.
fn produce(links: &mut Links, bells: &Bells, own: usize) {
    for _ in 0..5 {
        links.push_all(to(1), Class::Deliver, b"abcd");
    }
    loop {
        links.unpark();
        publish(links, bells);
        if links.delivers.staged.is_empty() {
            return;
        }
        if links.park() {
            bells[own].wait();
        }
    }
}

#[test]
fn loom_a_blocked_producer_is_woken_by_the_room_it_waits_for() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (mut first, mut second, bells) = pair();
        let theirs = Arc::clone(&bells);
        let consumer = thread::spawn(move || consume(&mut second, &theirs, 1, 5, Links::park));
        produce(&mut first, &bells, 0);
        consumer.join().expect("the consumer ends");
    });
}
