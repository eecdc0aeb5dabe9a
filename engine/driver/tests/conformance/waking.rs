//! When a shard's turn comes: on time, when it is woken, whoever wakes it, and not otherwise.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread::{JoinHandle, spawn, yield_now};
use std::time::{Duration, Instant};

use corecast_driver::{Driver, DriverConfig, Io, Next, Shard, ShardId, WakeHandle, Waker};

use super::client::{Random, read, write};
use super::rig::{PATIENCE, Rig, Setup, Subject, alone};

/// A deadline is kept without a wake-up, and not before its time; the turns in between are few.
pub(crate) fn until<S: Subject>() {
    let rig = Rig::<S>::new();
    for millis in [0, 1, 7, 30] {
        let (done, is_done) = channel();
        rig.run(move |turn| {
            let at = turn.io.now() + Duration::from_millis(millis);
            let mut turns = 0;
            turn.state.routine = Some(Box::new(move |turn| {
                turns += 1;
                if turn.io.now() < at {
                    turn.state.next = Next::Until(at);
                } else if done.send(turns).is_ok() {
                    // Told once; whoever listened has heard it.
                    turn.state.next = Next::Park;
                }
            }));
        });
        let turns = is_done.recv_timeout(PATIENCE).expect("the time comes");
        assert!(turns < 20, "{turns} turns to wait once");
        rig.run(|turn| turn.state.routine = None);
    }
    // A deadline that is far away keeps nobody from being heard before.
    let (client, conn) = rig.client();
    rig.run(|turn| {
        let at = turn.io.now() + 100 * PATIENCE;
        turn.state.routine = Some(Box::new(move |turn| turn.state.next = Next::Until(at)));
    });
    write(&client, b"now");
    assert_eq!(rig.wait_data(conn, 3), b"now");
    rig.assert_asleep("the time is far away");
    rig.end(client);
}

/// A shard with work left gets its next turn at once, and still hears of its sockets.
pub(crate) fn again<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    rig.run(|turn| turn.state.routine = Some(Box::new(|turn| turn.state.next = Next::Again)));
    let before = rig.look(|it| it.ticks);
    rig.wait("many turns", |it| (it.ticks > before + 1000).then_some(()));
    write(&client, b"in between");
    assert_eq!(rig.wait_data(conn, 10), b"in between");
    rig.run(move |turn| turn.send(conn, &[b"noticed"]));
    assert_eq!(read(&client, 7), b"noticed");
    rig.run(|turn| turn.state.routine = None);
    rig.assert_asleep("no work is left");
    rig.end(client);
}

/// Every wake-up from outside is followed by a turn that sees what was there before it.
pub(crate) fn wakers_from_outside<S: Subject>() {
    const ROUNDS: u64 = 2000;
    let rig = Rig::<S>::new();
    let seen: Arc<[AtomicU64; 2]> = Arc::default();
    let said: Arc<[AtomicU64; 2]> = Arc::default();
    let (ear, mouth) = (Arc::clone(&seen), Arc::clone(&said));
    rig.run(move |turn| {
        turn.state.routine = Some(Box::new(move |_| {
            for (seen, said) in ear.iter().zip(mouth.iter()) {
                seen.store(said.load(Ordering::Acquire), Ordering::Release);
            }
        }));
    });
    let threads: Vec<_> = (0..2)
        .map(|index| {
            let (seen, said) = (Arc::clone(&seen), Arc::clone(&said));
            let waker = rig.waker.clone().expect("the rig runs");
            spawn(move || {
                let until = Instant::now() + PATIENCE;
                for round in 1..=ROUNDS {
                    said[index].store(round, Ordering::Release);
                    waker.wake();
                    while seen[index].load(Ordering::Acquire) < round {
                        assert!(Instant::now() < until, "wake-up {round} was lost");
                        yield_now();
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no wake-up was lost");
    }
    rig.assert_asleep("nobody wakes it any more");
    rig.end(());
}

/// A wake-up that the kernel refuses is reported; one to nobody, or to oneself, is none.
pub(crate) fn failed_wakes_are_reported<S: Subject>() {
    let others = || {
        let nothing = File::open("/dev/null").expect("every Linux has it");
        vec![WakeHandle(Arc::new(nothing.into()))]
    };
    let rig = Rig::<S>::with(Setup { others, ..Setup::default() });
    rig.run(|turn| {
        turn.io.wake(ShardId(0));
        turn.io.wake(ShardId(2));
        turn.io.wake(ShardId(9999));
    });
    assert_eq!(rig.stats().wakes, 0);
    for count in 1..=3 {
        let (told, failed) = channel();
        rig.run(move |turn| {
            turn.state.routine = Some(Box::new(move |turn| {
                while let Some(shard) = turn.io.wake_failure() {
                    let _ = told.send(shard);
                }
            }));
            turn.io.wake(ShardId(1));
        });
        assert_eq!(failed.recv_timeout(PATIENCE).expect("the failure is told"), ShardId(1));
        assert!(failed.try_recv().is_err(), "told once");
        let stats = rig.stats();
        assert_eq!((stats.wakes, stats.wake_failures), (count, count));
    }
    let (client, conn) = rig.client();
    write(&client, b"unharmed");
    assert_eq!(rig.wait_data(conn, 8), b"unharmed");
    rig.end(client);
}

/// Whether the kernel notices that the other shard is gone is its affair; the waker must not suffer.
pub(crate) fn waking_a_shard_that_is_gone<S: Subject>() {
    let others = || {
        let gone = spawn(|| S::build(config(0)).expect("the host offers this driver").wake_handle());
        vec![gone.join().expect("it was only built")]
    };
    let rig = Rig::<S>::with(Setup { others, ..Setup::default() });
    let (client, conn) = rig.client();
    for count in 1..=20 {
        rig.run(move |turn| {
            turn.io.wake(ShardId(1));
            turn.send(conn, &[b"x"]);
        });
        assert_eq!(rig.wait_sent(conn, count).last(), Some(&Ok(())));
    }
    assert_eq!(rig.stats().wakes, 20);
    read(&client, 20);
    rig.assert_asleep("the other is gone");
    rig.end(client);
}

fn config(shard: u16) -> DriverConfig {
    DriverConfig {
        shard: ShardId(shard),
        listener: None,
        connections_max: 16,
        recv_buffers: 16,
        recv_buffer_bytes: 1024,
        queue_entries: 64,
    }
}

const SHARDS: usize = 3;

/// What the relaying shards share: tokens in mailboxes, and who sleeps.
#[derive(Default)]
struct Relay {
    mail: [AtomicU64; SHARDS],
    parked: [AtomicBool; SHARDS],
    /// Tokens taken out of mailboxes.
    handled: AtomicU64,
    parks: AtomicU64,
    wakes: AtomicU64,
    /// Tokens die instead of being passed on.
    is_over: AtomicBool,
    is_stopped: AtomicBool,
}

impl Relay {
    /// Puts a token into a mailbox; whether its owner must be woken. The rule of the rings between shards.
    fn put(&self, shard: usize) -> bool {
        self.mail[shard].fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        let flag = &self.parked[shard];
        let must = flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::AcqRel);
        self.wakes.fetch_add(u64::from(must), Ordering::Relaxed);
        must
    }
}

/// A shard that passes tokens on, and sleeps whenever its mailbox is empty.
struct Runner {
    shard: usize,
    relay: Arc<Relay>,
    random: Random,
    wakes: u64,
    failures: u64,
}

impl<I: Io> Shard<I> for Runner {
    fn tick(&mut self, io: &mut I) -> Next {
        let relay = Arc::clone(&self.relay);
        relay.parked[self.shard].store(false, Ordering::Relaxed);
        while io.wake_failure().is_some() {
            self.failures += 1;
        }
        let tokens = relay.mail[self.shard].swap(0, Ordering::Acquire);
        relay.handled.fetch_add(tokens, Ordering::Relaxed);
        if !relay.is_over.load(Ordering::Relaxed) {
            for _ in 0..tokens {
                // To one of the others: their driver is the one under test.
                let next = (self.shard + 1 + self.random.below(SHARDS as u64 - 1) as usize) % SHARDS;
                if relay.put(next) {
                    self.wakes += 1;
                    io.wake(ShardId(next as u16));
                }
            }
        }
        assert_eq!(io.stats().wakes, self.wakes, "each wake-up is counted");
        if relay.is_stopped.load(Ordering::Acquire) {
            return Next::Stop;
        }
        relay.parked[self.shard].swap(true, Ordering::AcqRel);
        relay.parks.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if relay.mail[self.shard].load(Ordering::Acquire) > 0 {
            relay.parked[self.shard].store(false, Ordering::Relaxed);
            return Next::Again;
        }
        Next::Park
    }
}

type Started = (JoinHandle<Runner>, Waker);

/// Starts the shards, each on its own thread, each knowing where the others are woken.
fn start<S: Subject>(relay: &Arc<Relay>) -> Vec<Started> {
    let (ready, readies) = channel();
    let mut threads = Vec::new();
    let mut peers = Vec::new();
    let barrier = Arc::new(Barrier::new(SHARDS));
    for shard in 0..SHARDS {
        let (ready, relay, barrier) = (ready.clone(), Arc::clone(relay), Arc::clone(&barrier));
        let (give, given) = channel::<Vec<WakeHandle>>();
        peers.push(give);
        threads.push(spawn(move || {
            let mut driver = S::build(config(shard as u16)).expect("the host offers this driver");
            ready.send((shard, driver.wake_handle(), driver.waker())).expect("the test waits");
            driver.connect(given.recv().expect("the test sends them"));
            barrier.wait();
            let random = Random(0x5eed + shard as u64);
            driver.run(Runner { shard, relay, random, wakes: 0, failures: 0 }).expect("it runs to its end")
        }));
    }
    drop(ready);
    let mut all: Vec<_> = readies.iter().take(SHARDS).collect();
    all.sort_by_key(|(shard, ..)| *shard);
    let handles: Vec<WakeHandle> = all.iter().map(|(_, handle, _)| handle.clone()).collect();
    for give in peers {
        give.send(handles.clone()).expect("the shard waits");
    }
    threads.into_iter().zip(all).map(|(thread, (_, _, waker))| (thread, waker)).collect()
}

/// Tokens run between several shards, each of which sleeps between any two of them; more come from outside. A lost
/// wake-up would leave a token in a mailbox for ever.
pub(crate) fn no_wake_is_lost<S: Subject>() {
    const HOPS: u64 = 20_000;
    const OUTSIDE: u64 = 1_000;
    let _turn = alone();
    let relay = Arc::new(Relay::default());
    let shards = start::<S>(&relay);
    let until = Instant::now() + PATIENCE;
    let wait = |what: &str, is_there: &dyn Fn() -> bool| {
        while !is_there() {
            assert!(Instant::now() < until, "a wake-up was lost: {what}");
            yield_now();
        }
    };
    let mut put = 0;
    let mut random = Random(0x0e75_1de5);
    for round in 0..OUTSIDE {
        // Each token from outside comes into a different amount of traffic.
        let target = random.below(SHARDS as u64) as usize;
        let is_alone = round % 10 == 9;
        if is_alone {
            relay.is_over.store(true, Ordering::Relaxed);
            wait("all tokens end", &|| relay.mail.iter().all(|mail| mail.load(Ordering::Relaxed) == 0));
        }
        let before = relay.handled.load(Ordering::Relaxed);
        if is_alone {
            relay.is_over.store(false, Ordering::Relaxed);
        }
        put += 1;
        if relay.put(target) {
            shards[target].1.wake();
        }
        wait("the token from outside", &|| relay.handled.load(Ordering::Relaxed) > before);
    }
    wait("the relay", &|| relay.handled.load(Ordering::Relaxed) >= HOPS);
    relay.is_over.store(true, Ordering::Relaxed);
    wait("the end", &|| relay.mail.iter().all(|mail| mail.load(Ordering::Relaxed) == 0));
    relay.is_stopped.store(true, Ordering::Release);
    for (thread, waker) in shards {
        waker.wake();
        let runner = thread.join().expect("its assertions held");
        assert_eq!(runner.failures, 0);
    }
    let (wakes, parks) = (relay.wakes.load(Ordering::Relaxed), relay.parks.load(Ordering::Relaxed));
    assert!(wakes <= parks, "{wakes} wake-ups for {parks} announcements of sleep");
    assert!(wakes > put / 2, "{wakes} wake-ups: hardly anybody slept");
}
