//! One worker of the load generator: its share of the connections, an open-loop schedule, and what came back.
//!
//! Latency is the time of receipt minus the time at which the message was due to be sent. The worker spins while
//! it has a schedule, for a sleep would be up to a millisecond late; unless it shares a core with the server, from
//! which spinning would take that core.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use corecast_protocol::ws::frame::{self, Opcode};
use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::dialect::Dialect;
use super::effort::Effort;
use super::inbox::{Inbox, Tally, histogram};
use super::link::{Link, PUBLISHES_PER_TURN_MAX, READ_BYTES, nap};
use super::message::Composer;
use super::open::{Opened, await_text, open_as};
use super::unpack::Unpacker;
use super::wire;
use crate::cpu;

/// What a worker does.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) port: u16,
    /// The first connection's number, for source addresses.
    pub(crate) first: usize,
    pub(crate) connections: usize,
    /// Members of one room; the first one publishes.
    pub(crate) room: usize,
    /// Prefix of the rooms' names.
    pub(crate) name: String,
    /// Publishes per second of this worker, over all its rooms.
    pub(crate) rate: f64,
    pub(crate) size: usize,
    pub(crate) dialect: Dialect,
    pub(crate) warmup: Duration,
    pub(crate) time: Duration,
    /// `/ws/echo`: each connection sends and hears itself.
    pub(crate) is_echo: bool,
    /// Members, from the last one on, that never read.
    pub(crate) deaf: usize,
    /// Subscribers acknowledge every so many-th message.
    pub(crate) acks_every: Option<u64>,
    /// Ends the schedule early, and has each message's latency kept.
    pub(crate) stop: Option<Arc<AtomicBool>>,
    pub(crate) core: usize,
    /// Whether a server runs on its core too: then it sleeps where it would spin.
    pub(crate) shares_core: bool,
}

/// What a worker found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// How late messages were sent.
    pub(crate) slip_ns: Histogram<u64>,
    /// What one turn's reading took.
    pub(crate) reading_ns: Histogram<u64>,
    pub(crate) published: u64,
    /// Bytes of their frames.
    pub(crate) published_bytes: u64,
    /// Deliveries that were still to come when the schedule ended.
    pub(crate) backlog: u64,
    /// Connections that the server closed.
    pub(crate) closed: usize,
    /// Of the measured time, the share in which there was nothing to do.
    pub(crate) idle_share: f64,
    /// Of the schedule's time, the share in which other programs were on its core when it could have run.
    pub(crate) delayed_share: f64,
}

struct Conn {
    link: Link,
    inbox: Inbox,
    is_deaf: bool,
}

/// The connections of a worker.
pub(crate) struct Worker {
    job: Job,
    poll: Poll,
    conns: Vec<Conn>,
    /// Connections whose socket did not take all.
    unsent: Vec<usize>,
    buffer: Vec<u8>,
    composer: Composer,
    published_bytes: u64,
}

/// What is known during a run.
struct Run {
    start: Instant,
    total: u64,
    rooms: u64,
    expected: u64,
    published: u64,
    /// Nanoseconds between two publishes.
    interval: f64,
    slip_ns: Histogram<u64>,
    tally: Tally,
    effort: Effort,
}

/// The code of an end that was wanted.
const GOODBYE: u16 = 1000;
/// After the last message, how long one that should not come is waited for.
pub(super) const AFTERMATH: Duration = Duration::from_millis(100);
/// Without any news, how long messages that should come are waited for.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// A deaf member's `SO_RCVBUF`: so small that the kernel does not hide that nobody reads.
const DEAF_BUFFER_BYTES: usize = 4096;

impl Worker {
    /// Connects and subscribes everything; `progress` is called after each connection.
    pub(crate) fn connect(job: Job, mut progress: impl FnMut()) -> Result<Self> {
        let poll = Poll::new().context("no poll")?;
        let mut conns = Vec::with_capacity(job.connections);
        let (format, mut common) = (job.dialect.format(), None);
        let answer = wire::member(format, "type", "subscribed");
        for index in 0..job.connections {
            let is_deaf = index + job.deaf >= job.connections;
            let channel = format!("{}{}", job.name, index / job.members());
            let path = if job.is_echo { "/ws/echo" } else { "/ws" };
            let recv_buffer = is_deaf.then_some(DEAF_BUFFER_BYTES);
            let Opened { mut stream, bytes: mut partial, negotiated } =
                open_as(job.port, job.first + index, path, recv_buffer, job.dialect)?;
            let unpacker = negotiated.map(|it| Unpacker::of(it, &mut common));
            if !job.is_echo {
                let acks = if job.acks_every.is_some() { ",\"ack\":true" } else { "" };
                let text = format!("{{\"type\":\"subscribe\",\"id\":1,\"channel\":\"{channel}\"{acks}}}");
                let (mut out, command) = (Vec::new(), wire::value(format, &text));
                frame::encode_masked(wire::opcode(format), &command, [1, 2, 3, 4], &mut out);
                stream.write_all(&out).context("subscribing")?;
                await_text(&mut stream, &mut partial, &answer, unpacker.as_deref())?;
            }
            let mut link = Link::new(stream, partial)?;
            if !is_deaf {
                link.register(poll.registry(), Token(index), Interest::READABLE)?;
            }
            let inbox = Inbox::new(&channel, job.dialect, unpacker, job.acks_every);
            conns.push(Conn { link, inbox, is_deaf });
            progress();
        }
        let buffer = vec![0; READ_BYTES];
        let composer = Composer::new(job.dialect, &job.name, job.is_echo, job.size);
        Ok(Self { job, poll, conns, unsent: Vec::new(), buffer, composer, published_bytes: 0 })
    }

    /// Publishes on schedule from `start` on and reads until everything has arrived or the time is up. The
    /// connections stay open, for the server to be looked at with them.
    pub(crate) fn run(&mut self, start: Instant) -> Result<Outcome> {
        core_affinity::set_for_current(core_affinity::CoreId { id: self.job.core });
        if self.job.shares_core {
            cpu::sleep_exactly();
        }
        let mut it = self.prepare(start);
        let mut events = Events::with_capacity(1024);
        let (mut last_news, mut backlog) = (Instant::now(), None);
        let (delayed, mut delayed_share) = (cpu::thread().delayed, 0.0);
        let end = (self.job.warmup + self.job.time).as_nanos() as u64;
        loop {
            let now = it.now();
            it.effort.turn(now);
            if self.job.stop.as_ref().is_some_and(|it| it.load(Ordering::Relaxed)) {
                it.stop(|total, rooms| self.expected(total, rooms));
            }
            self.publish_due(&mut it, now);
            self.flush();
            let left = it.expected.saturating_sub(it.tally.audit.delivered);
            if backlog.is_none() && now >= end {
                backlog = Some(left);
                delayed_share = (cpu::thread().delayed - delayed) * 1e9 / now as f64;
            }
            self.wait(&mut events, &mut it)?;
            if !events.is_empty() {
                last_news = Instant::now();
                let now = it.now();
                it.effort.reads(now);
                for event in &events {
                    self.read(event.token().0, event.is_read_closed(), &mut it);
                }
            }
            if it.published == it.total {
                let patience = if left == 0 { AFTERMATH } else { GRACE };
                let is_hopeless = start.elapsed() > self.job.warmup + self.job.time + 4 * GRACE;
                if last_news.elapsed() > patience || is_hopeless {
                    break;
                }
            }
        }
        self.finish(&mut it);
        Ok(Outcome {
            delayed_share,
            idle_share: it.effort.idle_share(),
            reading_ns: it.effort.reading_ns,
            tally: it.tally,
            slip_ns: it.slip_ns,
            published: it.published,
            published_bytes: self.published_bytes,
            backlog: backlog.unwrap_or(0),
            closed: self.conns.iter().filter(|conn| conn.link.is_closed).count(),
        })
    }

    /// Says goodbye on every connection: whoever only goes is kept a session for a while, which the next run would
    /// find on the server.
    pub(crate) fn leave(mut self) {
        for conn in &mut self.conns {
            frame::encode_masked(Opcode::Close, &GOODBYE.to_be_bytes(), [1, 2, 3, 4], &mut conn.inbox.out);
            conn.send();
        }
    }

    fn prepare(&self, start: Instant) -> Run {
        let rooms = (self.conns.len() / self.job.members()) as u64;
        let (from, time) = (self.job.warmup.as_nanos() as u64, self.job.time.as_nanos() as u64);
        let total = ((self.job.warmup + self.job.time).as_secs_f64() * self.job.rate) as u64;
        let mut tally = Tally::new(from, from + time, self.job.dialect);
        tally.each = self.job.stop.is_some().then(Vec::new);
        Run {
            start,
            total,
            rooms,
            expected: self.expected(total, rooms),
            published: 0,
            interval: 1e9 / self.job.rate.max(1e-9),
            slip_ns: histogram(),
            tally,
            effort: Effort::new(from, from + time),
        }
    }

    /// Deliveries of so many publishes.
    fn expected(&self, total: u64, rooms: u64) -> u64 {
        (0..rooms).map(|room| sent_to(room, total, rooms) * self.listeners(room).count() as u64).sum()
    }

    fn listeners(&self, room: u64) -> impl Iterator<Item = &Conn> {
        let members = self.job.members();
        let first = room as usize * members;
        self.conns[first..first + members].iter().filter(|conn| !conn.is_deaf)
    }

    fn finish(&self, it: &mut Run) {
        for room in 0..it.rooms {
            let sent = sent_to(room, it.total, it.rooms);
            for conn in self.listeners(room) {
                it.tally.audit.end(&conn.inbox.seen, sent);
            }
        }
    }

    /// Not all at once after a hold-up: who only sends fills buffers with what nobody reads.
    fn publish_due(&mut self, it: &mut Run, now: u64) {
        for _ in 0..PUBLISHES_PER_TURN_MAX {
            if it.published == it.total || it.due() > now {
                return;
            }
            let due = it.due();
            it.effort.is_busy();
            it.slip_ns.saturating_record((now - due).max(1));
            self.publish(it.published, it.rooms, due);
            it.published += 1;
        }
    }

    fn publish(&mut self, number: u64, rooms: u64, due: u64) {
        let (room, sequence) = (number % rooms, number / rooms);
        let (opcode, message) = self.composer.compose(room, sequence, due);
        let index = room as usize * self.job.members();
        let conn = &mut self.conns[index];
        let before = conn.inbox.out.len();
        frame::encode_masked(opcode, message, (number as u32).to_ne_bytes(), &mut conn.inbox.out);
        self.published_bytes += (conn.inbox.out.len() - before) as u64;
        if !conn.send() {
            self.unsent.push(index);
        }
    }

    /// Sends what sockets did not take before.
    fn flush(&mut self) {
        let conns = &mut self.conns;
        self.unsent.retain(|index| !conns[*index].send());
    }

    fn wait(&mut self, events: &mut Events, it: &mut Run) -> Result<()> {
        let is_over = it.published == it.total;
        let mut timeout = Duration::ZERO;
        if is_over && self.unsent.is_empty() {
            timeout = Duration::from_millis(20);
        } else if self.job.shares_core {
            let now = it.now();
            nap((!is_over).then(|| it.due().saturating_sub(now)));
            it.effort.waited(it.now() - now);
        }
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn read(&mut self, index: usize, is_ended: bool, it: &mut Run) {
        let Conn { link, inbox, .. } = &mut self.conns[index];
        let (start, tally) = (it.start, &mut it.tally);
        link.read(self.poll.registry(), &mut self.buffer, is_ended, |bytes| {
            tally.frames(bytes, inbox, start.elapsed().as_nanos() as u64)
        });
        if !self.conns[index].send() {
            self.unsent.push(index);
        }
    }
}

impl Job {
    fn members(&self) -> usize {
        if self.is_echo { 1 } else { self.room }
    }
}

impl Conn {
    /// Whether all is sent, or never will be: then what is lost shows at its subscribers.
    fn send(&mut self) -> bool {
        self.link.send(&mut self.inbox.out)
    }
}

impl Run {
    /// What was published is all.
    fn stop(&mut self, expected: impl Fn(u64, u64) -> u64) {
        if self.total != self.published {
            self.total = self.published;
            self.expected = expected(self.total, self.rooms);
        }
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// When the next message is to be sent.
    fn due(&self) -> u64 {
        (self.published as f64 * self.interval) as u64
    }
}

/// How many of `total` publishes go to a room.
pub(super) fn sent_to(room: u64, total: u64, rooms: u64) -> u64 {
    total / rooms + u64::from(room < total % rooms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_go_round() {
        let shares: Vec<u64> = (0..3).map(|room| sent_to(room, 11, 3)).collect();
        assert_eq!(shares, [4, 4, 3]);
    }
}
