//! Many clients with several subscriptions each, of whom all may be cut off and come back at once, while publishers who
//! stay go on. One reactor for all of it, which sleeps where it has nothing to do.
//!
//! Clients speak JSON. Each channel has one publisher, and its messages are numbered from 1 on both by what the payload
//! says and, where the server keeps a history, by offset.

mod client;
mod hear;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use corecast_protocol::ws::frame::encode_masked;
use mio::{Events, Interest, Poll, Token};

use super::dialect::Dialect;
use super::link::{Link, PUBLISHES_PER_TURN_MAX, READ_BYTES, nap};
use super::message::Composer;
use super::open::{Opened, call, open, request};
use super::worker::{AFTERMATH, GRACE};
use crate::cpu;

use client::{Client, Stage};
use hear::Ears;

pub(crate) use hear::{Heard, Told};

/// Who subscribes to what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    /// So many channels of its own for each client.
    Own(usize),
    /// So many channels for each client, of so many that there are.
    Shared(usize, usize),
}

/// What a crowd is made of.
#[derive(Clone, Debug)]
pub(crate) struct Gathering {
    pub(crate) port: u16,
    pub(crate) clients: usize,
    pub(crate) layout: Layout,
    /// Connections that publish, in turn, and subscribe to nothing.
    pub(crate) publishers: usize,
    /// Clients, from the first one on, that are told who comes and goes.
    pub(crate) watchers: usize,
    /// Prefix of the channels' names.
    pub(crate) name: String,
    /// Publishes per second, over all channels.
    pub(crate) rate: f64,
    pub(crate) size: usize,
    /// Whether messages have offsets of their own.
    pub(crate) is_numbered: bool,
    pub(crate) core: usize,
}

/// How those that were cut off come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Return {
    /// Subscribe anew, each channel from the position that was reached.
    Recover,
    /// Resume the session, with all positions.
    Resume,
}

/// All clients, and what they heard.
pub(crate) struct Crowd {
    job: Gathering,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    clients: Vec<Client>,
    publishers: Vec<(Link, Vec<u8>)>,
    composer: Composer,
    /// Since when there is a schedule, in nanoseconds since the start, and how much had been published.
    schedule: Option<(u64, u64)>,
    /// Clients that were cut off and have not called again.
    absent: VecDeque<usize>,
    ears: Ears,
}

/// Connections that are begun in one turn: between them there is time for what came.
const CALLS_PER_TURN: usize = 64;
/// Clients whose subscriptions are under way at once: their answers fit every buffer.
const SUBSCRIBING_MAX: usize = 64;
/// Nobody waits longer for answers.
const PATIENCE: Duration = Duration::from_secs(120);

impl Layout {
    /// Channels of each client.
    pub(crate) fn each(self) -> usize {
        match self {
            Self::Own(each) | Self::Shared(each, _) => each,
        }
    }

    /// All channels.
    pub(crate) fn channels(self, clients: usize) -> usize {
        match self {
            Self::Own(each) => clients * each,
            Self::Shared(_, channels) => channels,
        }
    }

    fn channel(self, client: usize, seat: usize) -> u64 {
        let channel = match self {
            Self::Own(each) => client * each + seat,
            Self::Shared(each, channels) => (client + seat * (channels / each)) % channels,
        };
        channel as u64
    }
}

impl Crowd {
    /// Connects everybody; `progress` is called after each connection.
    pub(crate) fn open(job: Gathering, mut progress: impl FnMut()) -> Result<Self> {
        let mut it = Self {
            poll: Poll::new().context("no poll")?,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            clients: Vec::with_capacity(job.clients),
            publishers: Vec::new(),
            composer: Composer::new(Dialect::default(), &job.name, false, job.size),
            schedule: None,
            absent: VecDeque::new(),
            ears: Ears::new(&job),
            job,
        };
        for index in 0..it.job.clients + it.job.publishers {
            let Opened { stream, bytes, .. } = open(it.job.port, index, &path(index))?;
            let mut link = Link::new(stream, bytes)?;
            link.register(it.poll.registry(), Token(index), BOTH)?;
            if index < it.job.clients {
                let channels = (0..it.job.layout.each()).map(|seat| it.job.layout.channel(index, seat));
                let mut client = Client::new(link, channels);
                client.watcher = (index < it.job.watchers).then_some(index);
                it.clients.push(client);
            } else {
                it.publishers.push((link, Vec::new()));
            }
            progress();
        }
        Ok(it)
    }

    /// What was heard until now.
    pub(crate) fn heard(&self) -> &Heard {
        &self.ears.heard
    }

    /// How much was published until now.
    pub(crate) fn published(&self) -> u64 {
        self.ears.published
    }

    /// Takes the core, for the thread that runs the crowd from here on.
    pub(crate) fn settle_down(&self) {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.job.core });
        cpu::sleep_exactly();
    }

    /// Subscribes clients `[from, to)` to all of their channels and waits for the answers.
    pub(crate) fn subscribe(&mut self, from: usize, to: usize) -> Result<Duration> {
        let (begin, mut next) = (Instant::now(), from);
        while next < to || self.heard().waiting > 0 {
            while next < to && self.heard().waiting < SUBSCRIBING_MAX {
                let client = &mut self.clients[next];
                client.subscribe(&self.job.name);
                client.send();
                self.ears.heard.waiting += 1;
                next += 1;
            }
            self.turn()?;
            if let Some(error) = &self.heard().first_error {
                bail!("subscribing was refused: {error}");
            }
            if self.heard().closed > 0 {
                bail!("the server closed {} connections that subscribed", self.heard().closed);
            }
            if begin.elapsed() > PATIENCE {
                bail!("{} clients were not answered within {PATIENCE:?}", self.heard().waiting);
            }
        }
        Ok(begin.elapsed())
    }

    /// Has a client say something; answers come as what is told.
    pub(crate) fn say(&mut self, index: usize, command: &str) {
        self.clients[index].say(command);
        self.clients[index].send();
    }

    /// What watchers were told since the last time that this was asked: answers and events, with who and when.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.ears.told)
    }

    /// Goes on until watchers were told something, or for so long.
    pub(crate) fn await_told(&mut self, time: Duration) -> Result<Vec<Told>> {
        let until = Instant::now() + time;
        while self.ears.told.is_empty() && Instant::now() < until {
            self.turn()?;
        }
        Ok(self.told())
    }

    /// Publishes on schedule from here on.
    pub(crate) fn publish(&mut self) {
        self.schedule = Some((self.ears.now(), self.ears.published));
    }

    /// Goes on for so long.
    pub(crate) fn go_on(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    /// Resets every client's connection at once, and has all of them come back at once; returns when all are there with
    /// what they missed, or failed, or the time is up.
    pub(crate) fn cut(&mut self, how: Return, time: Duration) -> Result<()> {
        self.ears.heard.cut_at = self.ears.now();
        for (index, client) in self.clients.iter_mut().enumerate().filter(|(_, it)| it.stage == Stage::Here) {
            client.cut(how);
            self.absent.push_back(index);
        }
        self.ears.heard.pending = self.absent.len();
        let until = Instant::now() + time;
        while self.heard().pending > 0 && Instant::now() < until {
            self.call_back()?;
            self.turn()?;
        }
        Ok(())
    }

    /// Publishes no more, and reads until all has come or nothing does any more. Then what is missing is lost.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.schedule = None;
        let (published, ears) = (self.ears.published, &self.ears);
        let there = || self.clients.iter().filter(|it| it.stage != Stage::Failed).flat_map(|it| &it.seats);
        let expected: u64 = there().map(|it| ears.sent_to(it.channel)).sum();
        let (mut delivered, mut news) = (0, Instant::now());
        let patience = |delivered| if delivered < expected { GRACE } else { AFTERMATH };
        while news.elapsed() < patience(self.ears.heard.audit.delivered) {
            self.turn()?;
            if self.heard().audit.delivered != delivered {
                (delivered, news) = (self.heard().audit.delivered, Instant::now());
            }
        }
        debug_assert_eq!(published, self.ears.published, "nothing is published any more");
        for client in self.clients.iter().filter(|it| it.stage != Stage::Failed) {
            for seat in &client.seats {
                let sent = self.ears.sent_to(seat.channel);
                self.ears.heard.audit.numbered_end(&seat.track, sent);
            }
        }
        Ok(())
    }

    /// Begins the connections of some that were cut off.
    fn call_back(&mut self) -> Result<()> {
        for _ in 0..CALLS_PER_TURN {
            let Some(index) = self.absent.pop_front() else { return Ok(()) };
            let request = request(self.job.port, &path(index), Dialect::default());
            let mut link = Link::new(call(self.job.port, index)?, Vec::new())?;
            // It is told as writable once it stands: then the request goes out.
            link.register(self.poll.registry(), Token(index), BOTH)?;
            self.clients[index].call(link, request);
        }
        Ok(())
    }

    /// Publishes what is due and reads what is there.
    fn turn(&mut self) -> Result<()> {
        let due_in = self.publish_due();
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, Some(Duration::ZERO));
        if let Err(error) = polled
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            self.act(event.token().0, event.is_writable(), event.is_read_closed());
        }
        // Who calls back does not sleep.
        if events.is_empty() && self.absent.is_empty() {
            nap(due_in);
        }
        self.events = events;
        Ok(())
    }

    fn act(&mut self, index: usize, is_writable: bool, is_ended: bool) {
        let Self { poll, buffer, clients, publishers, ears, .. } = self;
        let Some(client) = clients.get_mut(index) else {
            let (link, out) = &mut publishers[index - clients.len()];
            let mut answers = Vec::new();
            link.read(poll.registry(), buffer, is_ended, |bytes| ears.publisher(bytes, &mut answers));
            out.append(&mut answers);
            link.send(out);
            return;
        };
        let Some(mut link) = client.link.take() else { return };
        if is_writable {
            link.send(&mut client.out);
        }
        link.read(poll.registry(), buffer, is_ended, |bytes| ears.hear(client, bytes));
        if link.is_closed {
            ears.heard.closed += 1;
            ears.fail(client);
        } else {
            link.send(&mut client.out);
            client.link = Some(link);
        }
    }

    /// Publishes what is due; how many nanoseconds are left until the next, if there is one.
    fn publish_due(&mut self) -> Option<u64> {
        let (began, before) = self.schedule?;
        let interval = 1e9 / self.job.rate.max(1e-9);
        for _ in 0..PUBLISHES_PER_TURN_MAX {
            let (number, now) = (self.ears.published, self.ears.now());
            let due = began + ((number - before) as f64 * interval) as u64;
            if due > now {
                return Some(due - now);
            }
            let (channel, sequence) = (number % self.ears.channels, number / self.ears.channels);
            let (opcode, message) = self.composer.compose(channel, sequence, due);
            // A channel has one publisher: its messages keep their order.
            let (link, out) = &mut self.publishers[channel as usize % self.job.publishers];
            encode_masked(opcode, message, (number as u32).to_ne_bytes(), out);
            link.send(out);
            self.ears.published += 1;
        }
        Some(0)
    }
}

/// Everybody is somebody else, and the same when coming back.
pub(crate) fn participant(index: usize) -> String {
    format!("bench-{index}")
}

fn path(index: usize) -> String {
    format!("/ws?as={}", participant(index))
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sits_in_different_rooms_and_rooms_are_even() {
        let layout = Layout::Shared(3, 30);
        let mut members = [0; 30];
        for client in 0..100 {
            let rooms: Vec<u64> = (0..3).map(|seat| layout.channel(client, seat)).collect();
            assert!(rooms[0] != rooms[1] && rooms[1] != rooms[2] && rooms[0] != rooms[2], "{rooms:?}");
            rooms.iter().for_each(|room| members[*room as usize] += 1);
        }
        assert!(members.iter().all(|it| (9..=12).contains(it)), "{members:?}");
        let own = Layout::Own(3);
        assert_eq!((own.channel(2, 0), own.channel(2, 2), own.channels(4)), (6, 8, 12));
    }
}
