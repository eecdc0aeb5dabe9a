//! How a client connects: every endpoint, option and header of the contract's section 1, and handshakes that are none.

use super::deeds::Deed;
use super::ledger::{Ask, Fate, Topic};
use super::session::{Session, Stage};
use super::{Client, Temper, Town};
use crate::chaos::Fault;
use crate::names::ChannelIndex;

/// What kind of connection it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    pub(super) is_echo: bool,
    pub(super) is_demo: bool,
    /// It named itself.
    pub(super) is_named: bool,
    pub(super) is_browser: bool,
    pub(super) is_time_iso: bool,
    pub(super) takes_ping_messages: bool,
    pub(super) offers_protocol: bool,
    /// It is sent MessagePack.
    pub(super) is_binary: bool,
    /// No WebSocket: this is asked for.
    pub(super) probe: Option<&'static str>,
}

impl Kind {
    /// The subprotocol that it offers behind one that nobody knows.
    fn protocol(&self) -> Option<&'static str> {
        match (self.is_binary, self.offers_protocol) {
            (true, _) => Some("agent-protocol-v1.msgpack"),
            (false, true) => Some("agent-protocol-v1"),
            (false, false) => None,
        }
    }
}

/// The same for all: what must come back for it is known from RFC 6455, section 1.3.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

impl Client {
    /// Writes the request, and perhaps what a hasty client sends right behind it.
    pub(super) fn ask_handshake(&mut self, session: &mut Session, town: &mut Town) {
        if self.temper == Temper::Rude && town.chaos.strikes(Fault::BadHandshake) {
            return self.bad_handshake(session, town);
        }
        let kind = self.kind(town);
        session.kind = kind.clone();
        if let Some(path) = kind.probe {
            let method = if self.rng.bool() { "GET" } else { "HEAD" };
            let request = format!("{method} {path} HTTP/1.1\r\nHost: sim\r\n\r\n");
            return session.outbox.extend_from_slice(request.as_bytes());
        }
        let mut path = if kind.is_echo {
            town.deeds.did(Deed::Echo);
            "/ws/echo".to_owned()
        } else if kind.is_demo {
            town.deeds.did(Deed::Demo);
            "/ws/demo".to_owned()
        } else {
            self.path(session, town)
        };
        self.options(&mut path, session, town);
        self.request(&path, session, town);
        if self.rng.u32(..8) == 0 && kind.is_named && !kind.is_echo && session.plan.is_none() {
            self.send_early(session, town);
        }
    }

    fn kind(&mut self, town: &mut Town) -> Kind {
        let mut one_in = |chances: u32| self.rng.u32(..chances) == 0;
        if one_in(24) {
            let probe = if one_in(2) { "/health" } else { "/ready" };
            return Kind { probe: Some(probe), ..Kind::default() };
        }
        let is_demo = one_in(6);
        let kind = Kind {
            is_echo: town.habits.has_echo && one_in(6),
            is_demo,
            is_named: !one_in(12),
            is_browser: one_in(4),
            is_time_iso: one_in(6),
            takes_ping_messages: one_in(4),
            offers_protocol: one_in(4),
            is_binary: one_in(4),
            probe: None,
        };
        // An echo is nobody in particular.
        Kind { is_demo: is_demo && !kind.is_echo, ..kind }
    }

    /// `/ws`, `/ws/dev`, or a channel's path.
    fn path(&mut self, session: &mut Session, town: &mut Town) -> String {
        match self.rng.u32(..8) {
            0..3 => return "/ws".to_owned(),
            3..5 => return "/ws/dev".to_owned(),
            5 => {
                town.deeds.did(Deed::PathRefused);
                let (path, channel, code) = [
                    ("/ws/user/somebody", "user:somebody", "FORBIDDEN"),
                    ("/ws/nowhere/x", "nowhere:x", "INVALID_CHANNEL"),
                    ("/ws/conversation/a%20b", "conversation:a b", "INVALID_CHANNEL"),
                    ("/ws/Room/1", "Room:1", "INVALID_CHANNEL"),
                ][self.rng.usize(..4)];
                session.ledger.ask_nameless(Ask::Refused { code, channel: Some(channel.to_owned()) });
                return path.to_owned();
            }
            _ => {}
        }
        town.deeds.did(Deed::Path);
        let channel = loop {
            let channel = self.rng.usize(..town.names.open) as ChannelIndex;
            if town.names.channels[usize::from(channel)].name.starts_with(['c', 'm']) {
                break channel;
            }
        };
        let names = std::rc::Rc::clone(&town.names);
        let limit = town.habits.subscriptions_limit;
        let ask = session.ledger.subscribe(&names, Topic::Channel(channel), Fate::Answered, limit);
        session.ledger.ask_nameless(ask);
        let (space, rest) = names.channels[usize::from(channel)].name.split_once(':').unwrap_or_default();
        if self.rng.bool() {
            return format!("/ws/{space}/{rest}");
        }
        let escaped: String = rest.bytes().map(|byte| format!("%{byte:02x}")).collect();
        format!("/ws/{space}/{escaped}")
    }

    fn options(&mut self, path: &mut String, session: &mut Session, town: &mut Town) {
        let kind = &session.kind;
        let mut options = vec!["unknown=1".to_owned()];
        if kind.is_named {
            let name = match kind.is_demo {
                true => town.names.participants[town.names.developers..][self.demo_number(town)].as_str(),
                false => town.names.participants[self.participant].as_str(),
            };
            let own = name.strip_prefix("demo:").filter(|_| kind.is_demo).unwrap_or(name);
            options.push(format!("as={own}"));
            session.name = name.to_owned();
            session.participant = town.names.participants.iter().position(|it| it == name);
        } else if !kind.is_echo {
            town.deeds.did(Deed::Anonymous);
        }
        if kind.is_time_iso {
            town.deeds.did(Deed::TimeIso);
            options.push("time=iso".to_owned());
        }
        if kind.takes_ping_messages && !kind.is_echo {
            town.deeds.did(Deed::PingMessages);
            options.push("heartbeat=message".to_owned());
        }
        town.oracle.comes(&session.name);
        options.extend(self.plan_resumption(session, town));
        self.rng.shuffle(&mut options);
        path.push('?');
        path.push_str(&options.join("&"));
    }

    fn demo_number(&self, town: &Town) -> usize {
        self.index as usize % (town.names.participants.len() - town.names.developers)
    }

    fn request(&mut self, path: &str, session: &mut Session, town: &mut Town) {
        let mut fields = vec![
            "Host: sim".to_owned(),
            "Upgrade: websocket".to_owned(),
            "Connection: keep-alive, Upgrade".to_owned(),
            "Sec-WebSocket-Version: 13".to_owned(),
            format!("Sec-WebSocket-Key: {KEY}"),
        ];
        if session.kind.is_browser {
            town.deeds.did(Deed::Browser);
            fields.push("Origin: http://sim:3000".to_owned());
        }
        if session.kind.is_binary {
            town.deeds.did(Deed::Binary);
        } else if session.kind.offers_protocol {
            town.deeds.did(Deed::Subprotocol);
        }
        if let Some(protocol) = session.kind.protocol() {
            fields.push(format!("Sec-WebSocket-Protocol: chat, {protocol}"));
        }
        fields.extend(session.offer_deflate(town));
        self.rng.shuffle(&mut fields);
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
        session.outbox.extend_from_slice(request.as_bytes());
    }

    /// What does not wait for the handshake's response.
    fn send_early(&mut self, session: &mut Session, town: &mut Town) {
        town.deeds.did(Deed::Pipelined);
        session.is_pipelined = true;
        for _ in 0..self.rng.u32(1..4) {
            self.request_or_publish(session, town);
        }
        if self.temper == Temper::Flighty && self.rng.u32(..3) == 0 {
            town.deeds.did(Deed::CloseInAdmission);
            session.say_close(Some(1000), "", &mut self.rng);
        }
    }

    fn bad_handshake(&mut self, session: &mut Session, town: &mut Town) {
        let name = &town.names.participants[self.participant];
        let path = format!("/ws/dev?as={name}");
        let rest = format!(
            "Host: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}"
        );
        let (status, request) = match self.rng.u32(..14) {
            0 => (404, "GET /nowhere HTTP/1.1\r\nHost: sim\r\n\r\n".to_owned()),
            1 => (400, format!("GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\r\n")),
            2 => (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".to_owned()),
            3 => (431, "x".repeat(40_000)),
            4 => (400, format!("GET {path} HTTP/1.0\r\n{rest}\r\n\r\n")),
            5 => (405, format!("POST {path} HTTP/1.1\r\n{rest}\r\n\r\n")),
            6 => (426, format!("GET {path} HTTP/1.1\r\n{}\r\n\r\n", rest.replace(": 13", ": 12"))),
            7 => (403, format!("GET /ws HTTP/1.1\r\n{rest}\r\nOrigin: http://elsewhere\r\n\r\n")),
            8 => (400, format!("GET {path} HTTP/1.1\r\n{rest}\r\nSec-WebSocket-Protocol: chat\r\n\r\n")),
            9 => (400, format!("GET {path}%20x HTTP/1.1\r\n{rest}\r\n\r\n")),
            10 => (400, format!("GET {path} HTTP/1.1\r\n{rest}\r\nSec-WebSocket-Key: {KEY}\r\n\r\n")),
            11 => (404, format!("GET /ws/conversation/ HTTP/1.1\r\n{rest}\r\n\r\n")),
            12 => (405, "DELETE /health HTTP/1.1\r\nHost: sim\r\n\r\n".to_owned()),
            _ => (408, format!("GET {path} HTTP/1.1\r\nHost: si")),
        };
        session.status_due = Some(status);
        session.outbox.extend_from_slice(request.as_bytes());
    }

    /// Ends a connection before it is one.
    pub(super) fn leave_early(&mut self, session: &mut Session, town: &mut Town) {
        town.deeds.did(Deed::GoneInAdmission);
        session.fin_follows = true;
        session.stage = Stage::Silent;
        session.ledger.clear();
    }

    /// Whether a response to the handshake says what it must; what is wrong with it otherwise.
    pub(super) fn check_response(session: &Session, status: u16, head: &str) -> Result<(), String> {
        let value = |name: &str| {
            let field = |line: &str| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            head.lines().find_map(field)
        };
        let must = |name: &str, right: Option<&str>| match value(name) {
            is if is.as_deref() == right => Ok(()),
            is => Err(format!("{status} with {name} {is:?} instead of {right:?}")),
        };
        match status {
            101 => {
                must("Sec-WebSocket-Accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))?;
                must("Sec-WebSocket-Protocol", session.kind.protocol())
            }
            429 | 503 if session.kind.probe.is_none() && value("Retry-After").is_none() => {
                Err(format!("{status} without Retry-After"))
            }
            _ => Ok(()),
        }
    }
}
