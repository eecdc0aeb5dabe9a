//! A shard that does what the test tells it: closures from the test's thread, run in its ticks.

use std::collections::VecDeque;
use std::ops::DerefMut;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use corecast_driver::{BatchPool, Close, ConnId, Event, Frame, FramePool, Io, Next, Shard};

use super::recorder::Recorder;

/// What the test wants done in the shard's next tick.
pub(crate) type Order<L> = Box<dyn FnOnce(&mut Turn<'_, L>) + Send>;

/// What the shard does by itself when something happens.
pub(crate) type Reaction<L> = Box<dyn FnMut(&mut Turn<'_, L>, &Happened) + Send>;

/// What the shard does by itself in every turn.
pub(crate) type Routine<L> = Box<dyn FnMut(&mut Turn<'_, L>) + Send>;

/// An event without its bytes, which the recorder has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Happened {
    Accepted(ConnId),
    Data(ConnId),
    Eof(ConnId),
    Paused(ConnId),
    Sent(ConnId, Result<(), i32>),
    Closed(ConnId),
}

/// The recorder between the shard's thread and the test's.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    recorder: Mutex<Recorder>,
    pub(crate) changed: Condvar,
}

impl Shared {
    pub(crate) fn new(connections_max: u32) -> Arc<Self> {
        Arc::new(Self { recorder: Mutex::new(Recorder::new(connections_max)), changed: Condvar::new() })
    }

    /// A failed case must not hide why it failed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scripted shard. `L` is what the driver lends bytes as.
pub(crate) struct Scripted<L> {
    orders: Receiver<Order<L>>,
    shared: Arc<Shared>,
    events: VecDeque<Event<L>>,
    pub(crate) state: State<L>,
}

/// What orders may change.
pub(crate) struct State<L> {
    pub(crate) frames: FramePool,
    batches: BatchPool,
    /// Received bytes that are kept instead of given back.
    pub(crate) held: Vec<(ConnId, L)>,
    pub(crate) is_holding: bool,
    pub(crate) reaction: Option<Reaction<L>>,
    /// What it does in every turn, after events and orders.
    pub(crate) routine: Option<Routine<L>>,
    pub(crate) next: Next,
}

/// One tick, as orders and reactions see it.
pub(crate) struct Turn<'a, L> {
    pub(crate) io: &'a mut (dyn Io<Lease = L> + 'a),
    pub(crate) state: &'a mut State<L>,
    shared: &'a Shared,
}

impl<L> Scripted<L> {
    pub(crate) fn new(orders: Receiver<Order<L>>, shared: Arc<Shared>) -> Self {
        let state = State {
            frames: FramePool::new(64),
            batches: BatchPool::new(64),
            held: Vec::new(),
            is_holding: false,
            reaction: None,
            routine: None,
            next: Next::Park,
        };
        Self { orders, shared, events: VecDeque::new(), state }
    }
}

impl<I: Io> Shard<I> for Scripted<I::Lease> {
    fn tick(&mut self, io: &mut I) -> Next {
        io.take(&mut self.events);
        let Self { orders, shared, events, state } = self;
        // All of them before the first reaction: what the shard then asks for came after what it had taken.
        for event in &*events {
            shared.lock().takes(event);
        }
        // Once only, whatever an order said before.
        state.next = Next::Park;
        let mut turn = Turn { io, state, shared };
        for event in events.drain(..) {
            turn.event(event);
        }
        loop {
            match orders.try_recv() {
                Ok(order) => order(&mut turn),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    turn.state.next = Next::Stop;
                    break;
                }
            }
        }
        if let Some(mut routine) = turn.state.routine.take() {
            routine(&mut turn);
            turn.state.routine = Some(routine);
        }
        let stats = turn.io.stats();
        let mut recorder = shared.lock();
        recorder.ticks += 1;
        recorder.stats = stats;
        drop(recorder);
        shared.changed.notify_all();
        self.state.next
    }
}

impl<L: DerefMut<Target = [u8]>> Turn<'_, L> {
    fn event(&mut self, event: Event<L>) {
        let happened = match event {
            Event::Accepted { conn, .. } => Happened::Accepted(conn),
            Event::Data { conn, bytes } => {
                if self.state.is_holding {
                    self.state.held.push((conn, bytes));
                }
                Happened::Data(conn)
            }
            Event::Eof { conn } => Happened::Eof(conn),
            Event::Paused { conn } => Happened::Paused(conn),
            Event::Sent { conn, batch, result } => {
                self.state.batches.recycle(batch);
                Happened::Sent(conn, result)
            }
            Event::Closed { conn, .. } => Happened::Closed(conn),
        };
        if let Some(mut reaction) = self.state.reaction.take() {
            reaction(self, &happened);
            self.state.reaction.get_or_insert(reaction);
        }
    }
}

impl<L: DerefMut<Target = [u8]>> Turn<'_, L> {
    fn frame(&self, bytes: &[u8]) -> Frame {
        let mut builder = self.state.frames.build();
        builder.bytes().extend_from_slice(bytes);
        builder.finish(0)
    }

    /// Sends frames as one batch. They must fit into one.
    pub(crate) fn send(&mut self, conn: ConnId, frames: &[&[u8]]) {
        let mut queue: VecDeque<Frame> = frames.iter().map(|bytes| self.frame(bytes)).collect();
        let first = self.state.batches.fill(|room| match queue.front() {
            Some(frame) if frame.len() <= room => queue.pop_front(),
            _ => None,
        });
        let batch = first.expect("a script sends at least one frame");
        assert!(queue.is_empty(), "a script's frames fit into one batch");
        self.shared.lock().sends(conn, &batch);
        self.io.send(conn, batch);
    }

    pub(crate) fn pause(&mut self, conn: ConnId) {
        self.shared.lock().pauses(conn);
        self.io.pause(conn);
    }

    pub(crate) fn resume(&mut self, conn: ConnId) {
        self.shared.lock().resumes(conn);
        self.io.resume(conn);
    }

    pub(crate) fn finish(&mut self, conn: ConnId) {
        self.io.finish(conn);
    }

    pub(crate) fn close(&mut self, conn: ConnId, how: Close) {
        self.shared.lock().closes(conn);
        self.io.close(conn, how);
    }
}

impl<L: DerefMut<Target = [u8]>> State<L> {
    /// Gives back all received bytes that were kept.
    pub(crate) fn release(&mut self) {
        self.is_holding = false;
        self.held.clear();
    }
}
