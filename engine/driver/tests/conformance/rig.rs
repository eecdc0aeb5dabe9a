//! One driver with a scripted shard on its own thread, and what every case demands of it at the end.
//!
//! Cases run one at a time: the descriptors of the process are counted before and after each.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use corecast_driver::ConnId;
use corecast_driver::listener::{ListenOptions, listen};
use corecast_driver::{
    Close, Driver, DriverConfig, Io, IoStats, Next, ShardId, WakeHandle, Waker, limits::raise_descriptors,
};

use super::client::connect;
use super::faulty::{Fault, Faulty};
use super::recorder::{Life, Recorder};
use super::script::{Happened, Order, Scripted, Shared, Turn};

/// Until then something that must happen has happened; no case takes a hundredth of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A driver under test.
pub(crate) trait Subject: 'static {
    type Driver: Driver;

    /// Entries of the submission queue: few of them let everything overflow all the time.
    const QUEUE_ENTRIES: u32;

    /// Why this host does not offer the driver: a container may refuse io_uring, and then the server uses epoll.
    fn refusal() -> Option<io::Error> {
        None
    }

    /// Descriptors that each driver leaves open for good once it has run, by a known fault of what it is built on.
    const DESCRIPTORS_LOST: usize = 0;

    fn build(config: DriverConfig) -> io::Result<Self::Driver>;
}

/// What a subject lends received bytes as.
pub(crate) type LeaseOf<S> = <<<S as Subject>::Driver as Driver>::Io as Io>::Lease;

/// What a case wants different.
pub(crate) struct Setup {
    pub(crate) address: SocketAddr,
    pub(crate) options: ListenOptions,
    pub(crate) connections_max: u32,
    pub(crate) recv_buffers: u16,
    pub(crate) recv_buffer_bytes: u32,
    /// Wake-up targets of shards 1 and on; the rig's own shard is 0.
    pub(crate) others: fn() -> Vec<WakeHandle>,
    pub(crate) fault: Option<Fault>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            options: ListenOptions::default(),
            connections_max: 64,
            recv_buffers: 16,
            recv_buffer_bytes: 1024,
            others: Vec::new,
            fault: None,
        }
    }
}

/// A running driver.
pub(crate) struct Rig<S: Subject> {
    orders: Option<Sender<Order<LeaseOf<S>>>>,
    shared: Arc<Shared>,
    pub(crate) waker: Option<Waker>,
    pub(crate) wake_handle: Option<WakeHandle>,
    pub(crate) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    recv_buffers: usize,
    is_faulty: bool,
    descriptors: usize,
    _turn: MutexGuard<'static, ()>,
}

/// One case at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    raise_descriptors().expect("the limit can be read");
    turn
}

/// Open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    // The directory itself is open while it is read: the same one more every time.
    std::fs::read_dir("/proc/self/fd").expect("Linux has it").count()
}

/// What the open descriptors are, for whoever looks for one too many.
fn targets_of_descriptors() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("Linux has it");
    entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

impl<S: Subject> Rig<S> {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        Self::begin(setup, |_| {})
    }

    /// Starts the driver; `first` is done by the shard in its first tick, before the driver does anything.
    pub(crate) fn begin(
        setup: Setup,
        first: impl FnOnce(&mut Turn<'_, LeaseOf<S>>) + Send + 'static,
    ) -> Self {
        let listener = |setup: &Setup| listen(setup.address, &setup.options).expect("a free port");
        Self::listening(setup, listener, first)
    }

    /// As [`Self::begin`], on a listener that may have clients already.
    pub(crate) fn listening(
        setup: Setup,
        listener: impl FnOnce(&Setup) -> TcpListener,
        first: impl FnOnce(&mut Turn<'_, LeaseOf<S>>) + Send + 'static,
    ) -> Self {
        let turn = alone();
        let descriptors = descriptors();
        let listener = listener(&setup);
        let address = listener.local_addr().expect("it listens");
        let (orders, orders_out) = channel::<Order<LeaseOf<S>>>();
        let shared = Shared::new(setup.connections_max);
        let (ready, ready_out) = sync_channel(1);
        orders.send(Box::new(first)).expect("the receiver is here");
        let others = (setup.others)();
        let is_faulty = setup.fault.is_some();
        let recv_buffers = usize::from(setup.recv_buffers);
        let thread = {
            let shared = Arc::clone(&shared);
            spawn(move || {
                let config = DriverConfig {
                    shard: ShardId(0),
                    listener: Some(listener),
                    connections_max: setup.connections_max,
                    recv_buffers: setup.recv_buffers,
                    recv_buffer_bytes: setup.recv_buffer_bytes,
                    queue_entries: S::QUEUE_ENTRIES,
                };
                let mut driver = S::build(config).expect("the host offers this driver");
                let own = driver.wake_handle();
                driver.connect([vec![own.clone()], others].concat());
                ready.send((own, driver.waker())).expect("the test waits");
                drop(ready);
                let scripted = Scripted::new(orders_out, shared);
                let mut scripted = match setup.fault {
                    None => driver.run(scripted).expect("the driver runs to its end"),
                    Some(fault) => driver.run(Faulty::new(scripted, fault)).expect("the driver runs").inner,
                };
                scripted.state.release();
                assert_eq!(scripted.state.frames.in_use(), 0, "the driver kept frames");
            })
        };
        let (wake_handle, waker) = ready_out.recv().expect("the driver starts");
        Self {
            orders: Some(orders),
            shared,
            waker: Some(waker),
            wake_handle: Some(wake_handle),
            address,
            thread: Some(thread),
            recv_buffers,
            is_faulty,
            descriptors,
            _turn: turn,
        }
    }

    /// Has the shard do something in its next tick; does not wait for it.
    pub(crate) fn post(&self, order: impl FnOnce(&mut Turn<'_, LeaseOf<S>>) + Send + 'static) {
        // A shard that has ended needs no orders; whoever waits for it will tell.
        let _ = self.orders.as_ref().expect("it was not ended").send(Box::new(order));
        self.waker.as_ref().expect("it was not ended").wake();
    }

    /// Has the shard do something in its next tick; the answer.
    pub(crate) fn run<R: Send + 'static>(
        &self,
        order: impl FnOnce(&mut Turn<'_, LeaseOf<S>>) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = sync_channel(1);
        self.post(move |turn| {
            let _ = answer.send(order(turn));
        });
        answered.recv_timeout(PATIENCE).expect("the shard ticks when it is woken")
    }

    /// What the shard does by itself from now on.
    pub(crate) fn react(&self, reaction: impl FnMut(&mut Turn<'_, LeaseOf<S>>, &Happened) + Send + 'static) {
        self.run(move |turn| turn.state.reaction = Some(Box::new(reaction)));
    }

    /// Waits until the recorder shows something.
    pub(crate) fn wait<R>(&self, what: &str, mut look: impl FnMut(&mut Recorder) -> Option<R>) -> R {
        let until = Instant::now() + PATIENCE;
        let mut recorder = self.shared.lock();
        loop {
            if let Some(found) = look(&mut recorder) {
                return found;
            }
            let has_ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if has_ended || Instant::now() >= until {
                let (live, broken) = (recorder.live(), recorder.violations.clone());
                drop(recorder);
                panic!("never came: {what} (shard ended: {has_ended}, live: {live}, violations: {broken:?})");
            }
            // Looks up now and then, for a thread that panics notifies nobody.
            let waited = self.shared.changed.wait_timeout(recorder, Duration::from_millis(200));
            recorder = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until one connection shows something.
    pub(crate) fn wait_for<R>(
        &self,
        conn: ConnId,
        what: &str,
        mut look: impl FnMut(&Life) -> Option<R>,
    ) -> R {
        self.wait(what, |recorder| recorder.lives.get(&conn).and_then(&mut look))
    }

    pub(crate) fn wait_data(&self, conn: ConnId, length: usize) -> Vec<u8> {
        self.wait_for(conn, &format!("{length} bytes"), |it| {
            (it.data.len() >= length).then(|| it.data.clone())
        })
    }

    pub(crate) fn wait_sent(&self, conn: ConnId, count: usize) -> Vec<Result<(), i32>> {
        self.wait_for(conn, &format!("{count} Sent"), |it| (it.sent.len() >= count).then(|| it.sent.clone()))
    }

    pub(crate) fn wait_closed(&self, conn: ConnId) -> corecast_driver::CloseCause {
        self.wait_for(conn, "Closed", |it| it.closed)
    }

    pub(crate) fn wait_paused(&self, conn: ConnId) {
        self.wait_for(conn, "Paused", |it| it.is_paused.then_some(()));
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Recorder) -> R) -> R {
        look(&mut self.shared.lock())
    }

    /// A new client and its connection, which has the client's address.
    pub(crate) fn client(&self) -> (TcpStream, ConnId) {
        let stream = connect(self.address);
        let conn = self.accepted(&stream);
        (stream, conn)
    }

    /// The connection of a client.
    pub(crate) fn accepted(&self, stream: &TcpStream) -> ConnId {
        let peer = stream.local_addr().expect("it is connected");
        self.wait("Accepted", |recorder| {
            // Of the living: ports are used again.
            let is_it = |life: &Life| life.peer == peer && life.closed.is_none();
            recorder.order.iter().rev().find(|conn| is_it(&recorder.lives[conn])).copied()
        })
    }

    pub(crate) fn stats(&self) -> IoStats {
        self.run(|turn| turn.io.stats())
    }

    /// Closes a connection, and waits for it.
    pub(crate) fn close(&self, conn: ConnId, how: Close) {
        self.run(move |turn| turn.close(conn, how));
        self.wait_closed(conn);
    }

    pub(crate) fn close_all(&self) {
        let all = self.look(|recorder| recorder.order.clone());
        self.run(move |turn| {
            for conn in all {
                turn.close(conn, Close::Reset);
            }
        });
        self.wait("Closed of all", |recorder| (recorder.live() == 0).then_some(()));
    }

    /// That the loop sleeps although nothing changed: counted, not timed.
    pub(crate) fn assert_asleep(&self, why: &str) {
        let before = self.stats().enters;
        sleep(Duration::from_millis(30));
        let calls = self.stats().enters - before;
        assert!(calls < 40, "{calls} system calls while nothing could be done: {why}");
    }

    /// That every receive buffer can be lent: as many single bytes are held at once, and one more is not.
    pub(crate) fn assert_all_buffers(&self) {
        let (client, conn) = self.client();
        self.run(|turn| turn.state.is_holding = true);
        for count in 1..=self.recv_buffers {
            io::Write::write_all(&mut &client, b"x").expect("the connection is open");
            self.wait_data(conn, count);
        }
        self.run(|turn| turn.state.release());
        self.close(conn, Close::Reset);
    }

    /// Ends a case: nothing is left of any connection, all buffers are back, nothing is left of the driver.
    pub(crate) fn end<C>(mut self, clients: C) {
        drop(clients);
        self.run(|turn| {
            turn.state.reaction = None;
            turn.state.routine = None;
            turn.state.release();
        });
        self.close_all();
        self.assert_all_buffers();
        self.look(Recorder::settled);
        self.stop();
        self.assert_nothing_left();
    }

    /// Stops the driver with whatever is open; the violations where they are wanted.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        self.post(|turn| turn.state.next = Next::Stop);
        self.join()
    }

    /// As [`Self::stop`] for a shard that stops by itself.
    pub(crate) fn join(&mut self) -> Vec<String> {
        let thread = self.thread.take().expect("it is joined once");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        (self.orders, self.waker, self.wake_handle) = (None, None, None);
        let violations = std::mem::take(&mut self.shared.lock().violations);
        assert!(self.is_faulty || violations.is_empty(), "{violations:#?}");
        violations
    }

    /// That the process has as many descriptors as before the driver was built, but for those that it is known to
    /// lose. Clients must be gone.
    pub(crate) fn assert_nothing_left(&self) {
        let (wanted, open) = (self.descriptors + S::DESCRIPTORS_LOST, descriptors());
        assert_eq!(open, wanted, "descriptors are left over, or lost: {:?}", targets_of_descriptors());
    }
}

impl<S: Subject> Drop for Rig<S> {
    fn drop(&mut self) {
        // Only after a failure: the next case finds no thread of this one.
        drop(self.orders.take());
        if let (Some(waker), Some(thread)) = (self.waker.take(), self.thread.take()) {
            waker.wake();
            let _ = thread.join();
        }
    }
}
