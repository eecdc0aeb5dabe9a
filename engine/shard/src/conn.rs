//! One connection of a shard: which part of its life it is in, and what belongs to it.
//!
//! Only data and small transitions; who acts on them is the run loop.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use corecast_driver::{ConnId, Frame};
use corecast_hub::{ConnKey, Format};
use corecast_protocol::ws::deflate::Negotiated;
use corecast_protocol::ws::{self, Heartbeat};

use crate::compression::OwnContext;
use crate::config::ShardLimits;
use crate::outbox::{Outbox, OutboxLimits};

/// A connection and all that it owns. An idle one owns no heap.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) ip: IpAddr,
    pub(crate) phase: Phase,
    /// The codec, from the handshake on; taken out while it reads.
    pub(crate) codec: Option<ws::Connection>,
    pub(crate) outbox: Outbox,
    /// What was agreed about compression.
    pub(crate) deflate: Option<Negotiated>,
    /// In the list of outboxes to flush.
    pub(crate) is_dirty: bool,
    /// In the list of connections with held-back input.
    pub(crate) is_stalled: bool,
    /// The hub acts on nothing of it for the time being.
    pub(crate) is_held: bool,
    /// Reading was stopped with the driver.
    pub(crate) is_paused: bool,
    /// The peer sent FIN.
    pub(crate) is_half_closed: bool,
    /// The hub waits for room in the outbox.
    pub(crate) is_awaited: bool,
    /// The hub is to be told when nothing waits for it and nothing is in flight, with this serial.
    pub(crate) awaits_idle: Option<u32>,
    /// Input that could not be acted on yet; almost always empty and without memory.
    pub(crate) held: Vec<u8>,
}

/// Where in its life a connection is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waiting for a complete request.
    Handshake {
        /// When the request must be complete.
        until: Instant,
    },
    /// The request is complete; the homes are asked for admission.
    Admission(Box<Admission>),
    /// Past the handshake.
    Open(Client),
    /// A close frame or a refusal is queued as the last output.
    Closing(Closing),
    /// The driver was told to close; only `Closed` is awaited.
    Gone,
}

/// A complete handshake that waits for its admission.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The 101 response.
    pub(crate) accept: Frame,
    /// Refusals are told by an upgrade that closes.
    pub(crate) is_browser: bool,
    pub(crate) pings: Pings,
    /// What it is to be sent.
    pub(crate) format: Format,
    /// When to give up.
    pub(crate) until: Instant,
}

/// What this client's heartbeats look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pings {
    /// Ping frames.
    Frames,
    /// `ping` messages, for clients that can't see frames.
    Messages {
        /// Whether their time is ISO 8601.
        is_time_iso: bool,
    },
}

/// A connection past its handshake.
#[derive(Debug)]
pub(crate) struct Client {
    /// `/ws/echo`: no hub, only the codec.
    pub(crate) is_echo: bool,
    pub(crate) pings: Pings,
    /// What it is sent: of use where the hub is not asked.
    pub(crate) format: Format,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) last_message: Instant,
    /// What compressed messages to `/ws/echo` refer to.
    pub(crate) own_context: Option<Box<OwnContext>>,
}

/// A connection on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    /// Whether the peer's close frame is awaited; otherwise our FIN follows our last words.
    pub(crate) awaits_close: bool,
    /// FIN was sent.
    pub(crate) is_finished: bool,
    /// The peer may be let go as soon as all is sent.
    pub(crate) is_answered: bool,
    /// When patience ends: then the connection is reset.
    pub(crate) until: Instant,
}

impl Conn {
    pub(crate) fn new(id: ConnId, ip: IpAddr, until: Instant) -> Self {
        Self {
            id,
            ip,
            phase: Phase::Handshake { until },
            codec: None,
            outbox: Outbox::default(),
            deflate: None,
            is_dirty: false,
            is_stalled: false,
            is_held: false,
            is_paused: false,
            is_half_closed: false,
            is_awaited: false,
            awaits_idle: None,
            held: Vec::new(),
        }
    }

    pub(crate) fn key(&self) -> ConnKey {
        ConnKey { index: self.id.index, generation: self.id.generation }
    }

    /// A codec for what was agreed.
    pub(crate) fn new_codec(&self, limits: ws::Limits) -> ws::Connection {
        match self.deflate {
            None => ws::Connection::new(ws::Role::Server, limits),
            Some(negotiated) => ws::Connection::with_deflate(ws::Role::Server, limits, negotiated),
        }
    }

    pub(crate) fn client(&mut self) -> Option<&mut Client> {
        match &mut self.phase {
            Phase::Open(client) => Some(client),
            _ => None,
        }
    }

    /// Who is not read from misses no pongs, unless it does not read its own replies: then nobody else holds it back,
    /// and if it is gone, nothing else would ever tell. Which of the two it is may change while it is held back.
    pub(crate) fn blame(&mut self, limits: OutboxLimits, now: Instant) {
        let is_own_fault = self.outbox.is_half_full(limits);
        if self.is_paused
            && let Some(heartbeat) = self.client().and_then(|client| client.heartbeat.as_mut())
            && heartbeat.is_paused() == is_own_fault
        {
            heartbeat.paused(!is_own_fault, now);
        }
    }

    /// When this connection is to be looked at without an event.
    pub(crate) fn deadline(&self, idle_timeout: Duration) -> Option<Instant> {
        match &self.phase {
            Phase::Handshake { until } => Some(*until),
            Phase::Admission(admission) => Some(admission.until),
            Phase::Closing(closing) => Some(closing.until),
            Phase::Gone => None,
            Phase::Open(client) => {
                let heartbeat = client.heartbeat.as_ref().and_then(Heartbeat::deadline);
                let idle = (!idle_timeout.is_zero()).then(|| client.last_message + idle_timeout);
                heartbeat.into_iter().chain(idle).min()
            }
        }
    }
}

impl Client {
    pub(crate) fn new(
        is_echo: bool,
        pings: Pings,
        format: Format,
        limits: &ShardLimits,
        now: Instant,
    ) -> Self {
        let heartbeat = (!limits.heartbeat_interval.is_zero()).then(|| {
            Heartbeat::new(limits.heartbeat_interval, limits.pong_timeout, limits.missed_pongs, now)
        });
        Self { is_echo, pings, format, heartbeat, last_message: now, own_context: None }
    }
}

/// The driver's name for a hub's connection.
pub(crate) fn id_of(key: ConnKey) -> ConnId {
    ConnId { index: key.index, generation: key.generation }
}

/// The hub's name for a driver's connection.
pub(crate) fn key_of(id: ConnId) -> ConnKey {
    ConnKey { index: id.index, generation: id.generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::QueuePool;
    use corecast_driver::{BatchPool, FramePool};
    use corecast_hub::Place;
    use corecast_protocol::ws::Verdict;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const LIMITS: OutboxLimits = OutboxLimits { messages: 4, bytes: 1_000 };

    fn heartbeat(conn: &mut Conn) -> &mut Heartbeat {
        conn.client().and_then(|client| client.heartbeat.as_mut()).expect("it is open and has one")
    }

    #[test]
    fn who_is_held_back_and_stops_reading_then_is_given_up() {
        let start = Instant::now();
        let id = ConnId { index: 0, generation: 1 };
        let mut conn = Conn::new(id, IpAddr::V4(Ipv4Addr::LOCALHOST), start);
        conn.phase =
            Phase::Open(Client::new(false, Pings::Frames, Format::Json, &ShardLimits::default(), start));
        let (frames, mut queues, mut batches) = (FramePool::new(8), QueuePool::new(2), BatchPool::new(2));
        // The rings are full, and it has read all that there is: it misses no pongs.
        conn.is_paused = true;
        heartbeat(&mut conn).paused(true, start);
        conn.blame(LIMITS, start);
        assert!(heartbeat(&mut conn).is_paused());
        // Others publish what it subscribed to, and it does not read any more.
        for _ in 0..3 {
            conn.outbox.push_reply(&mut queues, frames.build().finish(0), Place::Liftable);
        }
        let mut now = start;
        let mut pings = 0;
        loop {
            now += Duration::from_secs(60);
            assert!(now < start + Duration::from_secs(3_600), "it is never given up");
            conn.blame(LIMITS, now);
            match heartbeat(&mut conn).on_deadline(now) {
                Verdict::Nothing => {}
                Verdict::SendPing => pings += 1,
                Verdict::Dead => break,
            }
        }
        assert_eq!(pings, ShardLimits::default().missed_pongs, "each miss asks once more");
        // Once it reads again, it is others who hold it back.
        let batch = conn.outbox.next_batch(&mut queues, &mut batches).expect("something waits");
        batches.recycle(batch);
        conn.outbox.sent();
        conn.blame(LIMITS, now);
        assert!(heartbeat(&mut conn).is_paused());
    }
}
