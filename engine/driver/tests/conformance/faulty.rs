//! The canary: a driver that breaks one promise. The recorder must notice each of them.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::ops::Deref;
use std::time::Instant;

use corecast_driver::{Batch, Close, ConnId, Event, Io, IoStats, Next, Shard, ShardId};

use super::client::{connect, pattern, read, write};
use super::recorder::Recorder;
use super::rig::{Rig, Setup, Subject};
use super::script::Scripted;

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing: the same scenario passes.
    None,
    SwallowsAccepted,
    AcceptedTwice,
    DataAfterPaused,
    SwallowsPaused,
    EofTwice,
    SwallowsSent,
    ClosedBeforeSent,
    SwallowsClosed,
    ClosedTwice,
    /// Every connection of a slot has the same identity.
    OneGeneration,
}

/// A shard that is told of a broken driver.
pub(crate) struct Faulty<L> {
    pub(crate) inner: Scripted<L>,
    broken: Broken<L>,
}

struct Broken<L> {
    fault: Fault,
    taken: VecDeque<Event<L>>,
    /// An event that comes too late.
    late: Option<Event<L>>,
}

impl<L> Faulty<L> {
    pub(crate) fn new(inner: Scripted<L>, fault: Fault) -> Self {
        Self { inner, broken: Broken { fault, taken: VecDeque::new(), late: None } }
    }
}

impl<I: Io> Shard<I> for Faulty<I::Lease> {
    fn tick(&mut self, io: &mut I) -> Next {
        let mut io = FaultyIo { io, broken: &mut self.broken };
        self.inner.tick(&mut io)
    }
}

struct FaultyIo<'a, I: Io> {
    io: &'a mut I,
    broken: &'a mut Broken<I::Lease>,
}

impl<L: Deref<Target = [u8]>> Broken<L> {
    /// Passes an event on, or what the fault makes of it.
    fn pass(&mut self, event: Event<L>, out: &mut VecDeque<Event<L>>) {
        match (self.fault, event) {
            (Fault::SwallowsAccepted, Event::Accepted { .. })
            | (Fault::SwallowsSent, Event::Sent { .. })
            | (Fault::SwallowsPaused, Event::Paused { .. })
            | (Fault::SwallowsClosed, Event::Closed { .. }) => {}
            (Fault::DataAfterPaused, Event::Data { conn, bytes }) if bytes.starts_with(LATE) => {
                out.extend(self.late.replace(Event::Data { conn, bytes }));
            }
            (Fault::ClosedBeforeSent, event @ Event::Sent { .. }) => self.late = Some(event),
            (Fault::DataAfterPaused, event @ Event::Paused { .. })
            | (Fault::ClosedBeforeSent, event @ Event::Closed { .. }) => {
                out.push_back(event);
                out.extend(self.late.take());
            }
            (Fault::EofTwice, Event::Eof { conn }) => {
                out.extend([Event::Eof { conn }, Event::Eof { conn }]);
            }
            (Fault::AcceptedTwice, Event::Accepted { conn, peer }) => {
                out.extend([Event::Accepted { conn, peer }, Event::Accepted { conn, peer }]);
            }
            (Fault::ClosedTwice, Event::Closed { conn, why }) => {
                out.extend([Event::Closed { conn, why }, Event::Closed { conn, why }]);
            }
            (Fault::OneGeneration, Event::Accepted { conn, peer }) => {
                out.push_back(Event::Accepted { conn: ConnId { generation: 0, ..conn }, peer });
            }
            (_, event) => out.push_back(event),
        }
    }
}

impl<I: Io> Io for FaultyIo<'_, I> {
    type Lease = I::Lease;

    fn now(&self) -> Instant {
        self.io.now()
    }

    fn unix_ms(&self) -> u64 {
        self.io.unix_ms()
    }

    fn take(&mut self, out: &mut VecDeque<Event<I::Lease>>) {
        let mut taken = std::mem::take(&mut self.broken.taken);
        self.io.take(&mut taken);
        for event in taken.drain(..) {
            self.broken.pass(event, out);
        }
        self.broken.taken = taken;
    }

    fn send(&mut self, conn: ConnId, batch: Batch) {
        self.io.send(conn, batch);
    }

    fn pause(&mut self, conn: ConnId) {
        self.io.pause(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        self.io.resume(conn);
    }

    fn finish(&mut self, conn: ConnId) {
        self.io.finish(conn);
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        self.io.close(conn, how);
    }

    fn wake(&mut self, shard: ShardId) {
        self.io.wake(shard);
    }

    fn accepting(&mut self, on: bool) {
        self.io.accepting(on);
    }

    fn wake_failure(&mut self) -> Option<ShardId> {
        self.io.wake_failure()
    }

    fn stats(&self) -> IoStats {
        self.io.stats()
    }
}

/// How bytes begin that the fault withholds.
const LATE: &[u8] = b"late";

/// Waits for something, or `None` once the recorder has noticed a violation.
fn step<S: Subject, R>(rig: &Rig<S>, what: &str, mut look: impl FnMut(&Recorder) -> Option<R>) -> Option<R> {
    rig.wait(
        what,
        |recorder| {
            if recorder.violations.is_empty() { look(recorder).map(Some) } else { Some(None) }
        },
    )
}

/// Everything that a fault could break, up to the first violation.
fn scenario<S: Subject>(rig: &Rig<S>, fault: Fault) -> Option<()> {
    let first = connect(rig.address);
    write(&first, b"first");
    let conn = step(rig, "Accepted", |it| it.order.first().copied())?;
    step(rig, "Data", |it| (it.lives[&conn].data.len() >= 5).then_some(()))?;
    for _ in 0..20 {
        write(&first, LATE);
        // Two turns of the loop: the bytes are there.
        rig.run(|_| {});
        rig.run(|_| {});
        rig.run(move |turn| turn.pause(conn));
        if fault == Fault::SwallowsPaused {
            rig.look(Recorder::settled);
        }
        step(rig, "Paused", |it| it.lives[&conn].is_paused.then_some(()))?;
        rig.run(move |turn| turn.resume(conn));
    }
    rig.run(move |turn| {
        turn.send(conn, &[&pattern(1, 100_000)]);
        turn.close(conn, Close::Graceful);
    });
    read(&first, 100_000);
    let second = connect(rig.address);
    let conn = step(rig, "Accepted", |it| it.order.get(1).copied())?;
    second.shutdown(Shutdown::Write).expect("it is connected");
    step(rig, "Eof", |it| it.lives[&conn].is_eof.then_some(()))?;
    rig.run(move |turn| turn.close(conn, Close::Graceful));
    step(rig, "Closed", |it| it.lives[&conn].closed.map(|_| ()))
}

/// The recorder notices each fault, and nothing where there is none.
pub(crate) fn canary<S: Subject>() {
    for (fault, wanted) in [
        (Fault::None, None),
        (Fault::SwallowsAccepted, Some("Data before Accepted")),
        (Fault::AcceptedTwice, Some("Accepted twice")),
        (Fault::DataAfterPaused, Some("Data after Paused")),
        (Fault::SwallowsPaused, Some("pause without Paused")),
        (Fault::EofTwice, Some("Eof twice")),
        (Fault::SwallowsSent, Some("Closed before the batch was handed back")),
        (Fault::ClosedBeforeSent, Some("Closed before the batch was handed back")),
        (Fault::SwallowsClosed, Some("a slot reused before Closed")),
        (Fault::ClosedTwice, Some("Closed after Closed")),
        (Fault::OneGeneration, Some("Accepted twice")),
    ] {
        let setup = Setup { connections_max: 1, fault: Some(fault), ..Setup::default() };
        let mut rig = Rig::<S>::with(setup);
        let _noticed = scenario(&rig, fault);
        let violations = rig.stop();
        match wanted {
            None => assert!(violations.is_empty(), "without a fault: {violations:?}"),
            Some(wanted) => {
                assert!(violations.iter().any(|it| it.starts_with(wanted)), "{fault:?}: {violations:?}");
            }
        }
    }
}
