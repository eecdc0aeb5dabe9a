//! One worker of the load generator: its share of the connections, an open-loop schedule, and what came back.
//!
//! Latency is the time of receipt minus the time at which the message was due to be sent. The worker spins while
//! it has a schedule, for a sleep would be up to a millisecond late.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use corecast_protocol::ws::frame::{self, Header, Opcode};
use corecast_protocol::ws::handshake::{parse_client_response, write_client_request};
use hdrhistogram::Histogram;
use memchr::memmem;
use mio::{Events, Interest, Poll, Token};

use crate::audit::{Audit, Seen};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a worker does.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) port: u16,
    /// The first connection's number, for names and source addresses.
    pub(crate) first: usize,
    pub(crate) connections: usize,
    /// Members of one room; the first one publishes.
    pub(crate) room: usize,
    /// Prefix of the rooms' names.
    pub(crate) name: String,
    /// Publishes per second of this worker, over all its rooms.
    pub(crate) rate: f64,
    pub(crate) size: usize,
    pub(crate) warmup: Duration,
    pub(crate) time: Duration,
    /// `/ws/echo`: each connection sends and hears itself.
    pub(crate) is_echo: bool,
    /// Members, from the last one on, that never read.
    pub(crate) deaf: usize,
    pub(crate) core: Option<usize>,
}

/// What a worker found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) latency_ns: Histogram<u64>,
    pub(crate) slip_ns: Histogram<u64>,
    pub(crate) audit: Audit,
    pub(crate) published: u64,
    /// Deliveries after the warm-up, and the time they took.
    pub(crate) measured: u64,
    /// Connections that the server closed.
    pub(crate) closed: usize,
    /// Of all turns of the loop, how many found nothing to do.
    pub(crate) idle_share: f64,
}

struct Conn {
    stream: mio::net::TcpStream,
    partial: Vec<u8>,
    out: Vec<u8>,
    seen: Seen,
    is_deaf: bool,
    is_closed: bool,
}

/// The connections of a worker, ready to start.
pub(crate) struct Worker {
    job: Job,
    poll: Poll,
    conns: Vec<Conn>,
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}

impl Worker {
    /// Connects and subscribes everything.
    pub(crate) fn connect(job: Job) -> Result<Self> {
        let poll = Poll::new().context("no poll")?;
        let mut conns = Vec::with_capacity(job.connections);
        for index in 0..job.connections {
            let number = job.first + index;
            let mut stream = open(job.port, number, if job.is_echo { "/ws/echo" } else { "/ws" })?;
            let mut partial = Vec::new();
            if !job.is_echo {
                let room = index / job.room;
                let text = format!("{{\"type\":\"subscribe\",\"id\":1,\"channel\":\"{}{room}\"}}", job.name);
                let mut out = Vec::new();
                frame::encode_masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4], &mut out);
                stream.write_all(&out).context("subscribing")?;
                partial = await_text(&mut stream, b"\"subscribed\"")?;
            }
            stream.set_nonblocking(true).context("nonblocking")?;
            let mut stream = mio::net::TcpStream::from_std(stream);
            let is_deaf = index + job.deaf >= job.connections;
            if !is_deaf {
                poll.registry()
                    .register(&mut stream, Token(index), Interest::READABLE)
                    .context("register")?;
            }
            conns.push(Conn {
                stream,
                partial,
                out: Vec::new(),
                seen: Seen::default(),
                is_deaf,
                is_closed: false,
            });
        }
        Ok(Self { job, poll, conns })
    }

    /// Publishes on schedule from `start` on and reads until everything has arrived or the time is up.
    pub(crate) fn run(mut self, start: Instant) -> Result<Outcome> {
        if let Some(core) = self.job.core {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        let rooms = if self.job.is_echo { self.conns.len() } else { self.conns.len() / self.job.room };
        let total = ((self.job.warmup + self.job.time).as_secs_f64() * self.job.rate) as u64;
        let interval = 1e9 / self.job.rate.max(1e-9);
        let mut it = Run {
            start,
            warmup: self.job.warmup.as_nanos() as u64,
            outcome: Outcome {
                latency_ns: histogram(),
                slip_ns: histogram(),
                audit: Audit::default(),
                published: 0,
                measured: 0,
                closed: 0,
                idle_share: 0.0,
            },
        };
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 256 << 10];
        let (mut turns, mut idle) = (0u64, 0u64);
        let grace = Duration::from_secs(5);
        let mut last_news = Instant::now();
        let expected = self.expected(total, rooms as u64);
        loop {
            let now = start.elapsed().as_nanos() as u64;
            let mut is_idle = true;
            while it.outcome.published < total && (it.outcome.published as f64 * interval) as u64 <= now {
                let due = (it.outcome.published as f64 * interval) as u64;
                it.outcome.slip_ns.saturating_record((now - due).max(1));
                self.publish(it.outcome.published, rooms as u64, due)?;
                it.outcome.published += 1;
                is_idle = false;
            }
            let timeout =
                if it.outcome.published < total { Duration::ZERO } else { Duration::from_millis(20) };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                is_idle = false;
                last_news = Instant::now();
                self.read(event.token().0, &mut buffer, &mut it);
            }
            turns += 1;
            idle += u64::from(is_idle);
            let is_complete = it.outcome.published == total && it.outcome.audit.delivered >= expected;
            let is_over = it.outcome.published == total && last_news.elapsed() > grace;
            if is_complete || is_over || (start.elapsed() > self.job.warmup + self.job.time + 4 * grace) {
                break;
            }
        }
        self.finish(&mut it.outcome, total, rooms as u64);
        it.outcome.idle_share = idle as f64 / turns.max(1) as f64;
        Ok(it.outcome)
    }

    fn listeners(&self, room: u64) -> impl Iterator<Item = &Conn> {
        let members = if self.job.is_echo { 1 } else { self.job.room };
        let first = room as usize * members;
        self.conns[first..first + members].iter().filter(|conn| !conn.is_deaf)
    }

    /// How many messages all listeners are to get.
    fn expected(&self, total: u64, rooms: u64) -> u64 {
        (0..rooms).map(|room| sent_to(room, total, rooms) * self.listeners(room).count() as u64).sum()
    }

    fn finish(&self, outcome: &mut Outcome, total: u64, rooms: u64) {
        for room in 0..rooms {
            let sent = sent_to(room, total, rooms);
            for conn in self.listeners(room) {
                outcome.audit.end(&conn.seen, sent);
            }
        }
        outcome.closed = self.conns.iter().filter(|conn| conn.is_closed).count();
    }

    fn publish(&mut self, number: u64, rooms: u64, due: u64) -> Result<()> {
        let (room, sequence) = (number % rooms, number / rooms);
        let mut payload = format!("{{\"s\":{sequence},\"t\":{due},\"x\":\"");
        let pad = self.job.size.saturating_sub(payload.len() + 2);
        payload.extend(std::iter::repeat_n('x', pad));
        payload.push_str("\"}");
        let text = if self.job.is_echo {
            format!("{{\"payload\":{payload}}}")
        } else {
            format!("{{\"type\":\"publish\",\"channel\":\"{}{room}\",\"payload\":{payload}}}", self.job.name)
        };
        let members = if self.job.is_echo { 1 } else { self.job.room };
        let conn = &mut self.conns[room as usize * members];
        frame::encode_masked(Opcode::Text, text.as_bytes(), (number as u32).to_ne_bytes(), &mut conn.out);
        match conn.stream.write(&conn.out) {
            Ok(written) => {
                conn.out.drain(..written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => bail!("the publisher's connection broke: {error}"),
        }
        Ok(())
    }

    fn read(&mut self, index: usize, buffer: &mut [u8], it: &mut Run) {
        let conn = &mut self.conns[index];
        if !conn.out.is_empty()
            && let Ok(written) = conn.stream.write(&conn.out)
        {
            conn.out.drain(..written);
        }
        loop {
            let kept = conn.partial.len();
            buffer[..kept].copy_from_slice(&conn.partial);
            let length = match conn.stream.read(&mut buffer[kept..]) {
                Ok(0) => {
                    conn.is_closed = true;
                    let _ = self.poll.registry().deregister(&mut conn.stream);
                    return;
                }
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    conn.is_closed = true;
                    let _ = self.poll.registry().deregister(&mut conn.stream);
                    return;
                }
            };
            let all = kept + length;
            let now = it.start.elapsed().as_nanos() as u64;
            let used = it.frames(&buffer[..all], &mut conn.seen, now);
            conn.partial.clear();
            conn.partial.extend_from_slice(&buffer[used..all]);
            if all < buffer.len() {
                return;
            }
        }
    }
}

/// How many of `total` publishes go to a room.
fn sent_to(room: u64, total: u64, rooms: u64) -> u64 {
    total / rooms + u64::from(room < total % rooms)
}

struct Run {
    start: Instant,
    warmup: u64,
    outcome: Outcome,
}

impl Run {
    /// Acts on the whole frames; returns how many bytes they were.
    fn frames(&mut self, bytes: &[u8], seen: &mut Seen, now: u64) -> usize {
        let mut at = 0;
        while let Ok(Some((header, length))) = Header::parse(&bytes[at..]) {
            let (start, end) = (at + length, at + length + header.length as usize);
            let Some(payload) = bytes.get(start..end) else { break };
            at = end;
            if header.opcode == Opcode::Text {
                self.message(payload, seen, now);
            }
        }
        at
    }

    fn message(&mut self, text: &[u8], seen: &mut Seen, now: u64) {
        const MARK: &[u8] = b"\"payload\":{\"s\":";
        let Some(at) = memmem::find(text, MARK) else { return };
        let (sequence, rest) = number(&text[at + MARK.len()..]);
        // Behind the number: ,"t":
        let (due, _) = number(rest.get(5..).unwrap_or_default());
        self.outcome.audit.message(seen, sequence);
        if due >= self.warmup {
            self.outcome.measured += 1;
            self.outcome.latency_ns.saturating_record(now.saturating_sub(due).max(1));
        }
    }
}

fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if !byte.is_ascii_digit() {
            return (value, &bytes[index..]);
        }
        value = value * 10 + u64::from(byte - b'0');
    }
    (value, &[])
}

/// A connection behind its handshake, from an address of its own share of 127.0.0.0/8.
pub(crate) fn open(port: u16, number: usize, path: &str) -> Result<TcpStream> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).context("no socket")?;
    let source =
        Ipv4Addr::new(127, 1 + (number / 65_000) as u8, (number / 250 % 250) as u8, (number % 250 + 1) as u8);
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).context("source address")?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).context("connecting")?;
    socket.set_tcp_nodelay(true).context("nodelay")?;
    let mut stream = TcpStream::from(socket);
    let mut request = Vec::new();
    write_client_request(&format!("127.0.0.1:{port}"), path, KEY, "", &mut request);
    stream.write_all(&request).context("handshake")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the head belongs to the frames.
    loop {
        stream.read_exact(&mut byte).context("handshake")?;
        answer.push(byte[0]);
        if answer.ends_with(b"\r\n\r\n") {
            match parse_client_response(&answer, KEY) {
                Ok(Some(_)) => return Ok(stream),
                other => bail!("the handshake was refused: {other:?}"),
            }
        }
    }
}

/// Reads until a frame holds `mark`; returns the bytes behind that frame.
fn await_text(stream: &mut TcpStream, mark: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        while let Ok(Some((header, length))) = Header::parse(&bytes) {
            let end = length + header.length as usize;
            if bytes.len() < end {
                break;
            }
            let is_it = memmem::find(&bytes[length..end], mark).is_some();
            bytes.drain(..end);
            if is_it {
                return Ok(bytes);
            }
        }
        let length = stream.read(&mut piece).context("waiting for an answer")?;
        if length == 0 {
            bail!("the server closed the connection");
        }
        bytes.extend_from_slice(&piece[..length]);
    }
}
