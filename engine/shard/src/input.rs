//! From received bytes to the hub: requests, frames, messages.
//!
//! Bytes that can't be acted on yet (the rings are full, or the client does not read its own replies) are held
//! back and the socket is paused, so that TCP carries the pressure to the one who caused it.

use corecast_driver::{ConnId, Io};
use corecast_hub::canary::{self, Canary};
use corecast_protocol::envelope::command::{Command, Request};
use corecast_protocol::envelope::{self, Format, Rejection, Scanner};
use corecast_protocol::ws::frame::Opcode;
use corecast_protocol::ws::{AssemblyPool, Event};

use crate::compression::Kind;
use crate::conn::Phase;
use crate::core::{Core, reply_frame};

/// What compressed messages may become per tick and shard, together; one message more gets through, as the last one is
/// not known before. Unpacking and reading a MiB takes 1 to 3 ms, so that whoever sends small messages that become large
/// ones keeps others waiting some milliseconds at a time, however many came at once.
pub(crate) const INFLATED_PER_TICK: u64 = 2 << 20;

/// What the messages of one connection may become before it is another's turn.
const INFLATED_PER_TURN: u64 = 256 << 10;

/// What bytes are held back for.
#[derive(Clone, Copy)]
enum Wait {
    /// Room: for the effects, in the outbox, or for the connection itself.
    Room,
    /// Its turn among those whose messages are compressed.
    Turn,
}

/// A message as its frame carried it: on any connection, text is JSON and binary MessagePack.
#[derive(Clone, Copy)]
enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    fn parse(self, scanner: &'a mut Scanner) -> Result<Request<'a>, Rejection> {
        match self {
            Self::Text(text) => envelope::parse(text, scanner),
            Self::Binary(bytes) => envelope::parse_msgpack(bytes, scanner),
        }
    }
}

impl Core {
    /// Bytes arrived: act on them, or keep them for later.
    pub(crate) fn received(
        &mut self,
        io: &mut impl Io,
        assembly: &mut AssemblyPool,
        id: ConnId,
        bytes: &mut [u8],
    ) {
        self.counters.bytes_in.add(bytes.len() as u64);
        let now = self.now;
        let Some(conn) = self.conns.find(id) else { return };
        let wait = if conn.is_stalled || conn.is_paused {
            Some(Wait::Room)
        } else if conn.deflate.is_some() && !self.inflating.is_empty() {
            // Those before it did not get their turn yet.
            Some(Wait::Turn)
        } else {
            None
        };
        if let Some(heartbeat) = conn.client().and_then(|client| client.heartbeat.as_mut())
            && !canary::strikes(Canary::PongIgnored)
            && heartbeat.heard(now)
        {
            self.set_timer(id);
        }
        match wait {
            Some(wait) => self.hold(io, id, bytes, wait),
            None => self.act(io, assembly, id, bytes),
        }
    }

    /// Acts on bytes as the connection's phase says; what can't be acted on is held.
    fn act(&mut self, io: &mut impl Io, assembly: &mut AssemblyPool, id: ConnId, bytes: &mut [u8]) {
        let mut at = 0;
        // A request may be followed by the first frames in the same bytes.
        while at < bytes.len() {
            let Some(conn) = self.conns.find(id) else { return };
            match conn.phase {
                Phase::Handshake { .. } => match self.request(id, &bytes[at..]) {
                    Some(taken) => at += taken,
                    None => return,
                },
                Phase::Admission(_) => return self.hold(io, id, &bytes[at..], Wait::Room),
                Phase::Open(_) => return self.frames(io, assembly, id, &mut bytes[at..]),
                Phase::Closing(_) => return self.last_frames(io, assembly, id, &mut bytes[at..]),
                Phase::Gone => return,
            }
        }
    }

    /// Keeps bytes for later and stops reading.
    fn hold(&mut self, io: &mut impl Io, id: ConnId, bytes: &[u8], wait: Wait) {
        let (now, limits) = (self.now, self.config.limits.outbox);
        let Some(conn) = self.conns.find(id) else { return };
        conn.held.extend_from_slice(bytes);
        self.held_bytes += bytes.len();
        let is_admission = matches!(conn.phase, Phase::Admission(_));
        // Whoever does not read its own replies is held back by nobody else: its pongs are still missed.
        let is_own_fault = conn.outbox.is_half_full(limits);
        if !conn.is_paused {
            conn.is_paused = true;
            io.pause(id);
            self.counters.stalls.add(u64::from(!is_admission));
            if let Some(heartbeat) = conn.client().and_then(|client| client.heartbeat.as_mut())
                && !is_own_fault
            {
                heartbeat.paused(true, now);
            }
        }
        // The end of an admission looks at its connection by itself; every other reason is tried each tick.
        if !conn.is_stalled && !is_admission {
            conn.is_stalled = true;
            match wait {
                Wait::Room => self.stalled.push_back(id),
                Wait::Turn => self.inflating.push_back(id),
            }
        }
    }

    /// Tries the connections that were held back, each once; whether any of them got on, or will in the next tick.
    pub(crate) fn retry_stalled(&mut self, io: &mut impl Io, assembly: &mut AssemblyPool) -> bool {
        let mut got_on = false;
        // Whoever had its turn goes to the end of the queue, so that all get one in the order in which they came.
        for _ in 0..self.inflating.len() {
            if assembly.inflated_bytes() >= self.inflated_until {
                break;
            }
            let Some(id) = self.inflating.pop_front() else { break };
            got_on |= self.go_on(io, assembly, id);
        }
        for _ in 0..self.stalled.len() {
            let Some(id) = self.stalled.pop_front() else { break };
            if canary::strikes(Canary::PausedForEver) {
                continue;
            }
            got_on |= self.go_on(io, assembly, id);
        }
        got_on || !self.inflating.is_empty()
    }

    /// Acts on what was held back, if there is room for it; whether there was.
    fn go_on(&mut self, io: &mut impl Io, assembly: &mut AssemblyPool, id: ConnId) -> bool {
        let may_go_on = self.may_read(id);
        let Some(conn) = self.conns.find(id) else { return false };
        if !may_go_on {
            self.stalled.push_back(id);
            return false;
        }
        conn.is_stalled = false;
        let mut held = std::mem::take(&mut conn.held);
        self.held_bytes -= held.len();
        if !held.is_empty() && canary::strikes(Canary::InputLost) {
            held.clear();
        }
        self.act(io, assembly, id, &mut held);
        self.read_on(io, id);
        true
    }

    /// Nothing is held back any more: read again, or act on the end that came meanwhile.
    fn read_on(&mut self, io: &mut impl Io, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.find(id) else { return };
        if conn.is_stalled || !conn.is_paused || (self.drain.is_on() && conn.client().is_some()) {
            return;
        }
        conn.is_paused = false;
        let is_half_closed = conn.is_half_closed;
        if let Some(heartbeat) = conn.client().and_then(|client| client.heartbeat.as_mut())
            && heartbeat.paused(false, now)
        {
            self.set_timer(id);
        }
        io.resume(id);
        if is_half_closed {
            self.half_closed(id, io);
        }
    }

    /// Whether the next message of this connection can be acted on: its effects find room everywhere, and the
    /// client reads what it asked for.
    fn may_read(&mut self, id: ConnId) -> bool {
        let limits = self.config.limits.outbox;
        // Behind the marker of a drain it is too late: nothing of it would be promised to anybody.
        let has_room = self.has_room() && !self.out.is_pressed && !self.drain.is_silent();
        self.conns.find(id).is_none_or(|conn| {
            // Who is on the way out causes nothing any more.
            matches!(conn.phase, Phase::Closing(_) | Phase::Gone)
                || has_room && !conn.is_held && !conn.outbox.is_half_full(limits)
        })
    }

    fn is_open(&mut self, id: ConnId) -> bool {
        self.conns.find(id).is_some_and(|conn| matches!(conn.phase, Phase::Open(_)))
    }

    fn frames(&mut self, io: &mut impl Io, assembly: &mut AssemblyPool, id: ConnId, bytes: &mut [u8]) {
        let Some(conn) = self.conns.find(id) else { return };
        // Only what is compressed becomes more than was received.
        let turn_ends = match conn.deflate {
            Some(_) => self.inflated_until.min(assembly.inflated_bytes() + INFLATED_PER_TURN),
            None => u64::MAX,
        };
        let Some(mut codec) = conn.codec.take() else { return };
        let length = bytes.len();
        let mut reader = codec.receive(bytes, assembly);
        let mut wait = Wait::Room;
        while self.is_open(id) && reader.consumed() < length && self.may_read(id) {
            if reader.inflated_bytes() >= turn_ends {
                wait = Wait::Turn;
                break;
            }
            match reader.next() {
                None => break,
                Some(Ok(event)) => self.event(id, event),
                Some(Err(violation)) => {
                    self.violated(id, &violation);
                    self.carry_out();
                }
            }
        }
        let consumed = reader.consumed();
        drop(reader);
        let Some(conn) = self.conns.find(id) else {
            codec.release(assembly);
            return;
        };
        let is_open = matches!(conn.phase, Phase::Open(_));
        if !is_open {
            codec.close_sent();
        }
        conn.codec = Some(codec);
        let rest = &mut bytes[consumed..];
        if is_open && !rest.is_empty() {
            self.hold(io, id, rest, wait);
        } else if !is_open {
            self.last_frames(io, assembly, id, rest);
        }
    }

    /// On the way out only the peer's close frame matters.
    fn last_frames(&mut self, io: &mut impl Io, assembly: &mut AssemblyPool, id: ConnId, bytes: &mut [u8]) {
        let Some(conn) = self.conns.find(id) else { return };
        if let (Phase::Closing(closing), Some(codec)) = (&mut conn.phase, &mut conn.codec)
            && closing.awaits_close
        {
            let mut reader = codec.receive(bytes, assembly);
            while let Some(event) = reader.next() {
                // A peer that breaks the protocol now will not send a close frame either.
                closing.is_answered |= matches!(event, Ok(Event::Close(_)) | Err(_));
            }
        }
        self.try_finish(id, io);
    }

    fn event(&mut self, id: ConnId, event: Event<'_>) {
        match event {
            Event::Text(text) => self.message(id, Message::Text(text)),
            Event::Binary(bytes) => self.message(id, Message::Binary(bytes)),
            Event::Ping(payload) => {
                let pong = self.out.encode(Opcode::Pong, payload);
                if let Some(conn) = self.conns.find(id) {
                    self.out.reply(conn, pong);
                }
            }
            Event::Pong(_) => {}
            Event::Close(close) => {
                self.peer_closed(id, close.map(|(code, _)| code));
                self.carry_out();
            }
        }
    }

    /// Notes that the client said something; whether it is on `/ws/echo`.
    fn spoke(&mut self, id: ConnId) -> Option<bool> {
        self.counters.messages_in.add(1);
        let now = self.now;
        let client = self.conns.find(id)?.client()?;
        client.last_message = now;
        Some(client.is_echo)
    }

    /// A message: to the hub, or back to where it came from.
    fn message(&mut self, id: ConnId, message: Message<'_>) {
        match (self.spoke(id), message) {
            (Some(true), Message::Text(text)) => self.echo(id, Opcode::Text, text.as_bytes()),
            (Some(true), Message::Binary(bytes)) => self.echo(id, Opcode::Binary, bytes),
            (Some(false), _) => self.request_of(id, message),
            (None, _) => {}
        }
    }

    fn echo(&mut self, id: ConnId, opcode: Opcode, payload: &[u8]) {
        let Some(conn) = self.conns.find(id) else { return };
        let own = conn.client().and_then(|client| client.own_context.as_mut());
        let frame = match own {
            Some(own) if own.packs(payload.len()) => {
                self.compression.pack_own(own, (opcode, payload), &self.out, &self.counters)
            }
            Some(_) => self.out.encode(opcode, payload),
            None => {
                let message = (opcode, payload, Kind::Reply);
                reply_frame(&mut self.compression, message, conn, &self.out, &self.counters)
            }
        };
        self.out.reply(conn, frame);
    }

    fn request_of(&mut self, id: ConnId, message: Message<'_>) {
        let key = crate::conn::key_of(id);
        let now = self.hub_now();
        match message.parse(&mut self.scanner) {
            Ok(Request { command: Command::Batch { messages }, .. }) => {
                return match message {
                    Message::Text(text) => {
                        self.hub.begin_batch(Format::Json, messages.len());
                        self.batch(id, envelope::batch_messages(&text[messages]).map(Message::Text));
                    }
                    Message::Binary(bytes) => {
                        self.hub.begin_batch(Format::MessagePack, messages.len());
                        let messages = envelope::batch_messages_msgpack(&bytes[messages]);
                        self.batch(id, messages.map(Message::Binary));
                    }
                };
            }
            Ok(request) => self.hub.apply(now, key, &request, &mut self.fx),
            Err(rejection) => self.hub.reject(key, &rejection, &mut self.fx),
        }
        self.carry_out();
    }

    /// Each message of the batch that was begun as if it came alone, in order. Batches hold no batches.
    fn batch<'a>(&mut self, id: ConnId, mut messages: impl Iterator<Item = Message<'a>>) {
        let key = crate::conn::key_of(id);
        let now = self.hub_now();
        let late = if canary::strikes(Canary::PublishesSwapped) { messages.next() } else { None };
        for message in messages.chain(late) {
            if !self.is_open(id) {
                break;
            }
            match message.parse(&mut self.batch_scanner) {
                // A batch in a batch is the hub's to refuse.
                Ok(request) => self.hub.apply(now, key, &request, &mut self.fx),
                Err(rejection) => self.hub.reject(key, &rejection, &mut self.fx),
            }
            self.carry_out();
        }
        self.hub.end_batch();
    }
}
