//! How connections begin and end: handshakes, admission, closing, time-outs.

use corecast_driver::{Close, ConnId, Frame, Io};
use corecast_hub::canary::{self, Canary};
use corecast_hub::{Access, ConnKey, End, Open, Refusal as Limit};
use corecast_protocol::CloseCode;
use corecast_protocol::envelope::{Format, event, name};
use corecast_protocol::ws::deflate::Contexts;
use corecast_protocol::ws::frame::{self, Opcode};
use corecast_protocol::ws::handshake::{
    Endpoint, HttpRequest, Mode, Parsed, Refusal, Route, Upgrade, parse, route, write_accept, write_plain,
};
use corecast_protocol::ws::{self, Verdict};

use crate::conn::{Admission, Client, Closing, Phase, Pings};
use crate::core::{Core, opcode};

/// `/ws/echo` takes what conformance tests send: 65,536 fragments and an empty one that ends them.
const ECHO_LIMITS: ws::Limits = ws::Limits { message_bytes: 16 << 20, fragments: 65_537 };

/// What follows the close frame that this side sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The peer's close frame.
    AwaitsClose,
    /// Our FIN: a peer that broke the protocol is not listened to.
    Violated,
    /// The end: the peer's close frame came first.
    Answered,
}

impl Core {
    /// Bytes of a request; returns how many were taken once it is complete and the connection reads on.
    pub(crate) fn request(&mut self, id: ConnId, bytes: &[u8]) -> Option<usize> {
        let conn = self.conns.find(id)?;
        // A request in pieces is put together in the place for held-back input.
        let mut whole = std::mem::take(&mut conn.held);
        let before = whole.len();
        self.held_bytes -= before;
        let head = if before == 0 {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            &whole
        };
        match parse(head) {
            Ok(Parsed::Partial) => {
                if before == 0 {
                    whole.extend_from_slice(bytes);
                }
                self.held_bytes += whole.len();
                conn.held = whole;
                None
            }
            Ok(Parsed::Complete { request, consumed }) => {
                self.complete_request(id, &request);
                Some(consumed - before)
            }
            Err(refusal) => {
                self.refuse(id, &refusal, None);
                None
            }
        }
    }

    fn complete_request(&mut self, id: ConnId, request: &HttpRequest<'_>) {
        match route(request, &self.config.policy) {
            Ok(Route::Upgrade(upgrade)) => self.upgrade(id, upgrade),
            Ok(Route::Health) => self.respond(id, 200, "OK", "ok\n"),
            Ok(Route::Ready) if self.drain.is_on() => {
                self.respond(id, 503, "Service Unavailable", "draining\n")
            }
            Ok(Route::Ready) => self.respond(id, 200, "OK", "ready\n"),
            Err(refusal) => self.refuse(id, &refusal, None),
        }
    }

    fn upgrade(&mut self, id: ConnId, mut upgrade: Upgrade<'_>) {
        if self.compression.is_on() {
            upgrade.accept_deflate(match upgrade.endpoint {
                Endpoint::Echo => self.compression.contexts_for_echo(),
                _ => Contexts::Shared,
            });
            if let Some(conn) = self.conns.find(id) {
                conn.deflate = upgrade.deflate;
                self.compression.came(upgrade.deflate);
            }
        }
        let accept = self.out.raw(|bytes| write_accept(&upgrade, bytes));
        let browser = upgrade.has_origin.then(|| accept.clone());
        if self.drain.is_on() {
            return self.refuse(id, &Refusal::Draining, browser);
        }
        if let Some(as_name) = &upgrade.as_name
            && name::participant(as_name).is_err()
        {
            let what = "?as= must be 1 to 255 bytes without white space, `*` or control characters";
            return self.refuse(id, &Refusal::BadRequest(what), None);
        }
        let has_place = self.conns.len() <= self.config.limits.connections_here;
        if !has_place || !self.node.admit(self.config.limits.connections) {
            let is_node_full = has_place || self.node.clients() >= self.config.limits.connections;
            let full = if is_node_full { &self.counters.full } else { &self.counters.full_here };
            full.add(1);
            return self.refuse(id, &Refusal::Full, browser);
        }
        if upgrade.endpoint == Endpoint::Echo {
            return self.open_echo(id, accept);
        }
        let until = self.now + self.config.limits.handshake_timeout;
        let Some(conn) = self.conns.find(id) else { return };
        let (key, ip) = (conn.key(), conn.ip);
        conn.phase = Phase::Admission(Box::new(Admission {
            accept,
            is_browser: browser.is_some(),
            pings: match upgrade.pings_as_messages {
                true => Pings::Messages { is_time_iso: upgrade.is_time_iso },
                false => Pings::Frames,
            },
            format: upgrade.format,
            until,
        }));
        let is_named =
            matches!(upgrade.endpoint, Endpoint::Dev) || self.config.policy.mode == Mode::Development;
        let is_demo = upgrade.endpoint == Endpoint::Demo || !is_named;
        let channel = match &upgrade.endpoint {
            Endpoint::Resource { resource, id } => Some(format!("{resource}:{id}")),
            _ => None,
        };
        let open = Open {
            access: if is_demo { Access::Demo } else { Access::Development },
            as_name: upgrade.as_name.as_deref(),
            ip,
            channel: channel.as_deref(),
            is_time_iso: upgrade.is_time_iso,
            format: upgrade.format,
            resume: upgrade.resume.as_deref(),
        };
        let now = self.hub_now();
        self.hub.open(now, key, open, &mut self.fx);
        self.set_timer(id);
        self.carry_out();
    }

    fn open_echo(&mut self, id: ConnId, accept: Frame) {
        let Some(conn) = self.conns.find(id) else { return };
        self.out.reply(conn, accept);
        conn.codec = Some(conn.new_codec(ECHO_LIMITS));
        let mut client = Client::new(true, Pings::Frames, Format::Json, &self.config.limits, self.now);
        client.own_context = conn.deflate.and_then(|negotiated| self.compression.own_context(negotiated));
        conn.phase = Phase::Open(client);
        self.opened(id);
    }

    /// The homes agreed: complete the handshake. What the client sent early is read in the next pass.
    pub(crate) fn admitted(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        let Phase::Admission(admission) = &conn.phase else { return };
        let (accept, pings, format) = (admission.accept.clone(), admission.pings, admission.format);
        self.out.reply(conn, accept);
        let limits = &self.config.limits;
        let message_limits =
            ws::Limits { message_bytes: limits.message_bytes, fragments: limits.message_fragments };
        conn.codec = Some(conn.new_codec(message_limits));
        let mut client = Client::new(false, pings, format, limits, self.now);
        if let Some(heartbeat) = client.heartbeat.as_mut().filter(|_| conn.is_paused) {
            heartbeat.paused(true, self.now);
        }
        conn.phase = Phase::Open(client);
        self.opened(id);
    }

    fn opened(&mut self, id: ConnId) {
        self.counters.clients.add(1);
        let Some(conn) = self.conns.find(id) else { return };
        if conn.is_paused && !conn.is_stalled {
            conn.is_stalled = true;
            self.stalled.push_back(id);
        }
        self.set_timer(id);
    }

    pub(crate) fn set_timer(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        match conn.deadline(self.config.limits.idle_timeout) {
            Some(_) if canary::strikes(Canary::TimerLost) => {}
            Some(deadline) => self.timers.set(id.index, deadline),
            None => self.timers.clear(id.index),
        }
    }

    pub(crate) fn not_admitted(&mut self, id: ConnId, limit: Limit) {
        let Some(conn) = self.conns.find(id) else { return };
        let Phase::Admission(admission) = &conn.phase else { return };
        let upgrade = admission.is_browser.then(|| admission.accept.clone());
        let text = match limit {
            Limit::PerIp { limit } => format!("{limit} connections per address (limits.connections_per_ip)"),
            Limit::PerParticipant { limit } => {
                format!("{limit} connections per participant (limits.connections_per_participant)")
            }
        };
        self.node.leave();
        self.refuse(id, &Refusal::TooMany(text), upgrade);
    }

    /// The homes' answer is not waited for any longer.
    pub(crate) fn give_up_admission(&mut self, id: ConnId, refusal: &Refusal) {
        let Some(conn) = self.conns.find(id) else { return };
        let Phase::Admission(admission) = &conn.phase else { return };
        let upgrade = admission.is_browser.then(|| admission.accept.clone());
        self.forget(id);
        self.refuse(id, refusal, upgrade);
        self.carry_out();
    }

    fn respond(&mut self, id: ConnId, status: u16, reason: &str, body: &str) {
        let response = self.out.raw(|bytes| write_plain(status, reason, "", body, bytes));
        self.last_words(id, &[response], false);
    }

    /// Answers a handshake with a refusal: as HTTP or, for a browser, as an upgrade that closes at once.
    pub(crate) fn refuse(&mut self, id: ConnId, refusal: &Refusal, upgrade: Option<Frame>) {
        self.counters.refused.add(1);
        match (upgrade, refusal.close()) {
            (Some(accept), Some((code, reason))) => {
                let close = self.out.raw(|bytes| frame::encode_close(code, &reason, bytes));
                self.last_words(id, &[accept, close], true);
            }
            _ => {
                let response = self.out.raw(|bytes| refusal.write(bytes));
                self.last_words(id, &[response], false);
            }
        }
    }

    /// What a connection that never became a client hears last.
    fn last_words(&mut self, id: ConnId, frames: &[Frame], awaits_close: bool) {
        let until = self.now + self.config.limits.close_timeout;
        let Some(conn) = self.conns.find(id) else { return };
        for frame in frames {
            self.out.reply(conn, frame.clone());
        }
        if awaits_close {
            let mut codec = conn.new_codec(ws::Limits { message_bytes: 1024, fragments: 16 });
            codec.close_sent();
            conn.codec = Some(codec);
        }
        conn.phase = Phase::Closing(Closing { awaits_close, is_finished: false, is_answered: false, until });
        self.look_again(id);
        self.set_timer(id);
    }

    /// Queues a close frame behind what waits, and forgets the client.
    pub(crate) fn begin_close(&mut self, id: ConnId, code: CloseCode, reason: &str) {
        self.leave(id, code, reason, Ending::AwaitsClose);
    }

    /// The peer broke the protocol: nothing it sends is read any more.
    pub(crate) fn violated(&mut self, id: ConnId, violation: &ws::Violation) {
        self.counters.violations.add(1);
        self.leave(id, violation.code, violation.reason, Ending::Violated);
    }

    /// The peer sent its close frame: answer with the same code.
    pub(crate) fn peer_closed(&mut self, id: ConnId, code: Option<CloseCode>) {
        self.leave(id, code.unwrap_or(CloseCode::Normal), "", Ending::Answered);
    }

    fn leave(&mut self, id: ConnId, code: CloseCode, reason: &str, ending: Ending) {
        let until = self.now + self.config.limits.close_timeout;
        let Some(conn) = self.conns.find(id) else { return };
        let Phase::Open(client) = &conn.phase else { return };
        let (key, is_echo, took_all) = (conn.key(), client.is_echo, conn.outbox.is_idle());
        let close = self.out.raw(|bytes| frame::encode_close(code, reason, bytes));
        self.out.reply(conn, close);
        if canary::strikes(Canary::SentAfterClose) {
            let ping = self.out.encode(Opcode::Ping, b"");
            self.out.reply(conn, ping);
        }
        if let Some(codec) = &mut conn.codec {
            codec.close_sent();
        }
        conn.phase = Phase::Closing(Closing {
            awaits_close: ending == Ending::AwaitsClose,
            is_finished: false,
            is_answered: ending == Ending::Answered,
            until,
        });
        self.look_again(id);
        // Whoever says goodbye means it; whoever is asked to come back finds everything as it was.
        let is_over = match ending {
            Ending::Answered => code == CloseCode::Normal,
            Ending::AwaitsClose | Ending::Violated => !code.reconnect(),
        };
        let end = match is_over {
            true if ending == Ending::Answered && took_all => End::Parted,
            true => End::Ended,
            false => End::Suspended,
        };
        self.left(key, is_echo, end);
        self.set_timer(id);
    }

    /// Who is on the way out is read again: its close frame may wait behind what was held back.
    fn look_again(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        if conn.is_paused && !conn.is_stalled {
            conn.is_stalled = true;
            self.stalled.push_back(id);
        }
    }

    /// A client is no longer one: the hub forgets it, but perhaps for its session.
    fn left(&mut self, key: ConnKey, is_echo: bool, end: End) {
        if !canary::strikes(Canary::ClientUncounted) {
            self.node.leave();
        }
        self.counters.clients.set(self.counters.clients.value() - 1);
        if !is_echo {
            let now = self.hub_now();
            self.hub.close(now, key, end, &mut self.fx);
        }
    }

    pub(crate) fn disconnect_slow(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        if !matches!(conn.phase, Phase::Open(_)) {
            return;
        }
        // What waits can't be sent in time: only the close frame is still worth a place.
        let waiting = conn.outbox.clear(&mut self.out.queues);
        self.counters.dropped.add(waiting as u64);
        if !canary::strikes(Canary::DisconnectUncounted) {
            self.counters.slow_disconnects.add(1);
        }
        let reason = "SLOW_CONSUMER: the outbox was full; reconnect and resume";
        self.begin_close(id, CloseCode::SlowConsumer, reason);
    }

    /// A connection on its way out may be ready for its last step.
    pub(crate) fn try_finish(&mut self, id: ConnId, io: &mut impl Io) {
        let Some(conn) = self.conns.find(id) else { return };
        let is_half_closed = conn.is_half_closed;
        let Phase::Closing(closing) = &mut conn.phase else { return };
        if !conn.outbox.is_idle() {
            return;
        }
        if closing.is_answered || is_half_closed {
            conn.phase = Phase::Gone;
            self.timers.clear(id.index);
            io.close(id, Close::Graceful);
        } else if !closing.awaits_close && !closing.is_finished {
            // The FIN tells the peer; reading on keeps the kernel from answering what still arrives with a reset,
            // which would destroy our last words on their way.
            closing.is_finished = true;
            io.finish(id);
        }
    }

    /// The peer sends no more.
    pub(crate) fn half_closed(&mut self, id: ConnId, io: &mut impl Io) {
        let Some(conn) = self.conns.find(id) else { return };
        conn.is_half_closed = true;
        if canary::strikes(Canary::FinForgotten) {
            return;
        }
        if conn.is_stalled || conn.is_paused {
            // What it sent before is acted on first.
            return;
        }
        match conn.phase {
            Phase::Closing(_) => self.try_finish(id, io),
            Phase::Gone => {}
            _ => self.let_go(id, io),
        }
    }

    /// The peer will say nothing more: what waits for it leaves, as long as it reads.
    fn let_go(&mut self, id: ConnId, io: &mut impl Io) {
        self.forget(id);
        let until = self.now + self.config.limits.close_timeout;
        if let Some(conn) = self.conns.find(id) {
            let closing = Closing { awaits_close: false, is_finished: true, is_answered: true, until };
            conn.phase = Phase::Closing(closing);
        }
        self.set_timer(id);
        self.try_finish(id, io);
        self.carry_out();
    }

    /// Ends a connection without further words.
    pub(crate) fn abandon(&mut self, id: ConnId, io: &mut impl Io) {
        self.forget(id);
        if let Some(conn) = self.conns.find(id) {
            conn.phase = Phase::Gone;
            conn.outbox.clear(&mut self.out.queues);
            self.timers.clear(id.index);
            io.close(id, Close::Reset);
        }
        self.carry_out();
    }

    /// Takes a connection that was lost out of the hub, whatever it was there.
    fn forget(&mut self, id: ConnId) {
        let Some(conn) = self.conns.find(id) else { return };
        let key = conn.key();
        match &conn.phase {
            Phase::Open(client) => {
                let is_echo = client.is_echo;
                self.counters.ended_abnormally.add(1);
                self.left(key, is_echo, End::Suspended);
            }
            Phase::Admission(_) => {
                self.node.leave();
                let now = self.hub_now();
                self.hub.close(now, key, End::Ended, &mut self.fx);
            }
            _ => {}
        }
    }

    /// The driver is done with a connection.
    pub(crate) fn closed(&mut self, id: ConnId, assembly: &mut ws::AssemblyPool) {
        self.forget(id);
        if let Some(mut conn) = self.conns.remove(id) {
            self.held_bytes -= conn.held.len();
            self.compression.left(conn.deflate);
            conn.outbox.clear(&mut self.out.queues);
            if let Some(codec) = &mut conn.codec
                && !canary::strikes(Canary::AssemblyLeaked)
            {
                codec.release(assembly);
            }
            self.timers.clear(id.index);
        }
        self.carry_out();
    }

    /// A connection's deadline has passed.
    pub(crate) fn expired(&mut self, index: u32, io: &mut impl Io) {
        let Some(conn) = self.conns.at(index) else { return };
        let id = conn.id;
        match &mut conn.phase {
            Phase::Handshake { .. } => {
                self.counters.timeouts.add(1);
                self.refuse(id, &Refusal::Timeout, None);
            }
            Phase::Admission(_) => {
                self.counters.timeouts.add(1);
                self.give_up_admission(id, &Refusal::Full);
            }
            Phase::Closing(_) => {
                self.counters.timeouts.add(1);
                self.abandon(id, io);
            }
            Phase::Open(_) => self.client_expired(id),
            Phase::Gone => {}
        }
    }

    fn client_expired(&mut self, id: ConnId) {
        let (now, unix_ms, idle_timeout) = (self.now, self.unix_ms, self.config.limits.idle_timeout);
        let Some(conn) = self.conns.find(id) else { return };
        let is_paused = conn.is_paused;
        conn.blame(self.config.limits.outbox, now);
        let Some(client) = conn.client() else { return };
        if is_paused {
            // What it may be saying is not read: that is not being idle.
            client.last_message = now;
        }
        if !idle_timeout.is_zero() && now >= client.last_message + idle_timeout {
            self.counters.timeouts.add(1);
            return self.close_and_carry_out(id, CloseCode::Idle, "TIMEOUT: idle (limits.idle_timeout_ms)");
        }
        let (pings, format) = (client.pings, client.format);
        match client.heartbeat.as_mut().map(|it| it.on_deadline(now)) {
            Some(Verdict::Dead) if is_paused => {
                // Only who does not read its own replies misses pongs while it is paused.
                self.disconnect_slow(id);
                return self.carry_out();
            }
            Some(Verdict::Dead) => {
                self.counters.timeouts.add(1);
                let reason = "TIMEOUT: no answer to pings (limits.missed_pongs)";
                return self.close_and_carry_out(id, CloseCode::NoPong, reason);
            }
            Some(Verdict::SendPing) => {
                let ping = match pings {
                    Pings::Frames => self.out.encode(Opcode::Ping, b""),
                    Pings::Messages { is_time_iso } => {
                        let mut message = Vec::new();
                        event::ping(&mut message, format, unix_ms, is_time_iso);
                        self.out.encode(opcode(format), &message)
                    }
                };
                self.out.reply(conn, ping);
            }
            Some(Verdict::Nothing) | None => {}
        }
        self.set_timer(id);
    }

    fn close_and_carry_out(&mut self, id: ConnId, code: CloseCode, reason: &str) {
        self.begin_close(id, code, reason);
        self.carry_out();
    }
}
