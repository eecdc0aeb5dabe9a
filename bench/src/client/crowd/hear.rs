//! What the clients of a crowd hear: messages audited by their payload's number and their offset, answers checked, and
//! whoever has all again timed. No sockets: bytes come in.

use std::time::Instant;

use corecast_protocol::envelope::Format;
use corecast_protocol::ws::frame::Reserved;
use memchr::memmem;
use serde_json::Value;

use super::client::{Client, Stage};
use super::{Gathering, Return};
use crate::audit::Audit;
use crate::client::dialect::Dialect;
use crate::client::frames::{self, Came};
use crate::client::message::Composer;
use crate::client::open::answered;
use crate::client::wire;
use crate::client::worker::sent_to;

/// What all clients heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) audit: Audit,
    /// Messages that carried another offset than their number.
    pub(crate) misnumbered: u64,
    /// `error` messages and answers with an error, and the first of them.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) unreadable: u64,
    /// Since the cut, in nanoseconds, of each client that has everything again.
    pub(crate) recovered_ns: Vec<u64>,
    /// Clients that were refused or could not get all they missed.
    pub(crate) failed: usize,
    /// Connections that the server closed.
    pub(crate) closed: usize,
    /// Messages that clients had to be sent again, or late.
    pub(crate) missed: u64,
    /// All messages of whatever kind, and the bytes of their frames.
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// Clients that wait for answers to their subscriptions.
    pub(crate) waiting: usize,
    /// Clients that were cut off and have neither recovered nor failed.
    pub(crate) pending: usize,
    pub(crate) cut_at: u64,
}

/// Something that a watcher was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) watcher: usize,
    pub(crate) value: Value,
}

/// What is known while listening.
pub(super) struct Ears {
    pub(super) heard: Heard,
    pub(super) told: Vec<Told>,
    pub(super) published: u64,
    /// How many there are.
    pub(super) channels: u64,
    start: Instant,
    /// Prefix of the channels' names.
    name: String,
    /// What stands before a channel's number and before a payload's.
    channel: Vec<u8>,
    payload: Vec<u8>,
    is_numbered: bool,
}

impl Ears {
    pub(super) fn new(job: &Gathering) -> Self {
        Self {
            heard: Heard::default(),
            told: Vec::new(),
            published: 0,
            channels: job.layout.channels(job.clients) as u64,
            start: Instant::now(),
            name: job.name.clone(),
            channel: format!("\"channel\":\"{}", job.name).into_bytes(),
            payload: Composer::mark(Dialect::default()),
            is_numbered: job.is_numbered,
        }
    }

    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// How much was published on a channel until now.
    pub(super) fn sent_to(&self, channel: u64) -> u64 {
        sent_to(channel, self.published, self.channels)
    }

    /// Acts on what came; returns how many bytes of it were whole.
    pub(super) fn hear(&mut self, client: &mut Client, bytes: &[u8]) -> usize {
        match client.stage {
            Stage::Here => self.frames(client, bytes),
            Stage::Failed => bytes.len(),
            Stage::Opening(how) => match answered(bytes) {
                Ok(Some(head)) => {
                    self.came_back(client, how);
                    head + self.frames(client, &bytes[head..])
                }
                Ok(None) => 0,
                Err(error) => {
                    self.heard.first_error.get_or_insert_with(|| format!("{error:#}"));
                    self.fail(client);
                    bytes.len()
                }
            },
        }
    }

    fn came_back(&mut self, client: &mut Client, how: Return) {
        let (published, channels) = (self.published, self.channels);
        self.heard.missed += client.come_back(&self.name, how, |it| sent_to(it, published, channels));
    }

    /// The client is of no use any more.
    pub(super) fn fail(&mut self, client: &mut Client) {
        if client.stage != Stage::Failed {
            client.stage = Stage::Failed;
            self.heard.failed += 1;
            self.heard.pending -= usize::from(!client.is_whole);
        }
    }

    /// Acts on whole frames behind the handshake; returns how many bytes they were.
    fn frames(&mut self, client: &mut Client, bytes: &[u8]) -> usize {
        frames::take(bytes, Reserved::Unused, |came| match came {
            Came::Data(header, frame, text)
                if header.is_final && header.opcode == wire::opcode(Format::Json) =>
            {
                self.heard.messages += 1;
                self.heard.bytes += frame.len() as u64;
                self.text(client, text);
            }
            Came::Ping(payload) => frames::pong(payload, 0, &mut client.out),
            // What the end of the connection says will say it too.
            Came::Close(code) => {
                self.heard.first_error.get_or_insert_with(|| format!("closed with {code}"));
            }
            Came::Data(..) | Came::Unreadable => self.heard.unreadable += 1,
        })
    }

    /// What a publisher hears is nothing but errors.
    pub(super) fn publisher(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        frames::take(bytes, Reserved::Unused, |came| match came {
            Came::Ping(payload) => frames::pong(payload, 0, out),
            Came::Data(_, _, text) if memmem::find(text, b"\"type\":\"error\"").is_some() => {
                self.error(&String::from_utf8_lossy(text));
            }
            Came::Data(..) => {}
            Came::Close(code) => self.error(&format!("a publisher was closed with {code}")),
            Came::Unreadable => self.heard.unreadable += 1,
        })
    }

    fn error(&mut self, text: &str) {
        self.heard.errors += 1;
        self.heard.first_error.get_or_insert_with(|| text.to_owned());
    }

    fn text(&mut self, client: &mut Client, text: &[u8]) {
        if !text.starts_with(b"{\"type\":\"message\"") {
            return match serde_json::from_slice(text) {
                Ok(value) => self.other(client, value),
                Err(_) => self.heard.unreadable += 1,
            };
        }
        let number_behind = |mark: &[u8]| {
            let at = memmem::find(text, mark)? + mark.len();
            Some(wire::number(Format::Json, &text[at..]).0)
        };
        let found = (number_behind(&self.channel), number_behind(&self.payload));
        let (Some(channel), Some(sequence)) = found else {
            self.heard.audit.misdelivered += 1;
            return;
        };
        self.message(client, channel, sequence, number_behind(b"\"offset\":"));
    }

    /// The message with this number of its channel; numbers begin with 0 and offsets with 1.
    fn message(&mut self, client: &mut Client, channel: u64, sequence: u64, offset: Option<u64>) {
        let Some(seat) = client.seat(channel) else {
            self.heard.audit.misdelivered += 1;
            return;
        };
        let was_behind = seat.track.last() < seat.owed;
        self.heard.audit.numbered(&mut seat.track, sequence + 1);
        self.heard.misnumbered += u64::from(self.is_numbered && offset != Some(sequence + 1));
        if was_behind {
            self.is_whole(client);
        }
    }

    /// Whether the client has recovered by now.
    fn is_whole(&mut self, client: &mut Client) {
        if !client.is_whole && client.stage == Stage::Here && client.has_all() {
            client.is_whole = true;
            self.heard.pending -= 1;
            self.heard.recovered_ns.push(self.now() - self.heard.cut_at);
        }
    }

    /// Everything that is no message.
    fn other(&mut self, client: &mut Client, value: Value) {
        match value["type"].as_str() {
            Some("connection_established" | "authenticated") => token(client, &value),
            Some("subscribed") => self.subscribed(client, &value),
            Some("resumed") => self.resumed(client, &value),
            Some("error") => self.refused(client, &value),
            Some("response") if !value["error"].is_null() => self.refused(client, &value),
            Some("event" | "response") => {
                let at = Instant::now();
                self.told.extend(client.watcher.map(|watcher| Told { at, watcher, value }));
            }
            _ => {}
        }
    }

    fn refused(&mut self, client: &mut Client, value: &Value) {
        self.error(&value.to_string());
        if !client.is_whole {
            self.fail(client);
        }
    }

    fn subscribed(&mut self, client: &mut Client, value: &Value) {
        let is_asked = client.answers > 0;
        client.answers = client.answers.saturating_sub(1);
        if client.is_whole && is_asked {
            // At the beginning: there is nothing that could be missed.
            if let Some(seat) = self.channel_of(value).and_then(|it| client.seat(it)) {
                seat.epoch = value["epoch"].as_str().unwrap_or_default().into();
            }
            self.heard.waiting -= usize::from(client.answers == 0);
            return;
        }
        if !is_asked || !self.is_recovered(client, value) {
            // Unasked it says that what comes next does not follow on what came before.
            return self.refused(client, value);
        }
        for message in value["messages"].as_array().into_iter().flatten() {
            let number = message["payload"]["s"].as_u64();
            if let (Some(channel), Some(sequence)) = (self.channel_of(value), number) {
                self.message(client, channel, sequence, message["offset"].as_u64());
            }
        }
        self.is_whole(client);
    }

    fn resumed(&mut self, client: &mut Client, value: &Value) {
        token(client, value);
        client.answers = 0;
        let all = value["subscriptions"].as_array().map_or(&[][..], Vec::as_slice);
        let recovered = all.iter().filter(|it| self.is_recovered(client, it)).count();
        if recovered != client.seats.len() {
            return self.refused(client, value);
        }
        self.is_whole(client);
    }

    fn channel_of(&self, value: &Value) -> Option<u64> {
        value["channel"].as_str()?.strip_prefix(&self.name)?.parse().ok()
    }

    /// Whether everything behind the client's position follows.
    fn is_recovered(&self, client: &mut Client, value: &Value) -> bool {
        let Some(seat) = self.channel_of(value).and_then(|it| client.seat(it)) else { return false };
        let follows = value["offset"].as_u64().is_some_and(|it| it <= seat.track.last());
        value["epoch"] == *seat.epoch && (value["recovered"] == true || follows)
    }
}

fn token(client: &mut Client, value: &Value) {
    if let Some(token) = value["resume_token"].as_str() {
        client.token = Some(token.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Layout;
    use crate::client::link::Link;
    use serde_json::json;

    fn job() -> Gathering {
        Gathering {
            port: 0,
            clients: 1,
            layout: Layout::Own(2),
            publishers: 1,
            watchers: 0,
            name: "conversation:r".to_owned(),
            rate: 1.0,
            size: 64,
            is_numbered: true,
            core: 0,
        }
    }

    /// A client that is connected to nobody, subscribed to channels 0 and 1.
    fn both() -> (Ears, Client) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let mut client = Client::new(Link::new(stream, Vec::new()).expect("a socket"), [0, 1].into_iter());
        let mut ears = Ears::new(&job());
        client.subscribe("conversation:r");
        ears.heard.waiting = 1;
        say(&mut ears, &mut client, &json!({"type": "connection_established", "resume_token": "abc"}));
        for channel in ["conversation:r0", "conversation:r1"] {
            let answer = json!({"type": "subscribed", "channel": channel, "epoch": "e", "offset": 0});
            say(&mut ears, &mut client, &answer);
        }
        assert_eq!(ears.heard.waiting, 0);
        (ears, client)
    }

    fn say(ears: &mut Ears, client: &mut Client, value: &Value) {
        let mut frame = Vec::new();
        // The order of members is that of the server's messages: `type` first.
        let text = match value["type"].as_str() {
            Some("message") => format!(
                "{{\"type\":\"message\",\"channel\":{},\"payload\":{{\"s\":{},\"t\":1}},\"epoch\":\"e\",\"offset\":{}}}",
                value["channel"], value["s"], value["offset"]
            ),
            _ => value.to_string(),
        };
        corecast_protocol::ws::frame::encode(wire::opcode(Format::Json), text.as_bytes(), &mut frame);
        assert_eq!(ears.hear(client, &frame), frame.len());
    }

    fn message(channel: u64, number: u64) -> Value {
        let channel = format!("conversation:r{channel}");
        json!({"type": "message", "channel": channel, "s": number - 1, "offset": number})
    }

    fn back(ears: &mut Ears, client: &mut Client, how: Return) {
        client.cut(how);
        ears.heard.pending = 1;
        ears.came_back(client, how);
    }

    fn said(client: &Client) -> String {
        let mut bytes = client.out.clone();
        let mut text = String::new();
        while !bytes.is_empty() {
            let (header, length) =
                corecast_protocol::ws::frame::Header::parse(&bytes).expect("a frame").expect("whole");
            let end = length + header.length as usize;
            let mask = header.mask.expect("clients mask");
            let payload = bytes[length..end].iter().zip(mask.iter().cycle());
            text.extend(payload.map(|(byte, mask)| char::from(byte ^ mask)));
            bytes.drain(..end);
        }
        text
    }

    #[test]
    fn a_client_has_recovered_when_it_has_what_there_was_at_its_return() {
        let (mut ears, mut client) = both();
        say(&mut ears, &mut client, &message(0, 1));
        // Two for channel 0, one for channel 1.
        ears.published = 3;
        client.out.clear();
        back(&mut ears, &mut client, Return::Recover);
        assert!(said(&client).contains(r#""recover":{"epoch":"e","offset":1}"#), "{}", said(&client));
        assert_eq!(ears.heard.missed, 2);
        for (channel, offset) in [("conversation:r0", 1), ("conversation:r1", 0)] {
            let answer = json!({"type": "subscribed", "channel": channel, "epoch": "e", "offset": offset, "recovered": true});
            say(&mut ears, &mut client, &answer);
        }
        say(&mut ears, &mut client, &message(0, 2));
        assert!(ears.heard.recovered_ns.is_empty(), "one is missing");
        say(&mut ears, &mut client, &message(1, 1));
        assert_eq!((ears.heard.recovered_ns.len(), ears.heard.failed), (1, 0));
        assert!(ears.heard.audit.is_clean() && ears.heard.misnumbered == 0, "{:?}", ears.heard);
        say(&mut ears, &mut client, &message(1, 1));
        assert_eq!((ears.heard.audit.repeated, ears.heard.recovered_ns.len()), (1, 1));
    }

    #[test]
    fn a_session_is_resumed_with_its_token_and_all_positions() {
        let (mut ears, mut client) = both();
        say(&mut ears, &mut client, &message(1, 1));
        client.out.clear();
        back(&mut ears, &mut client, Return::Resume);
        let expected = r#""token":"abc","positions":{"conversation:r0":["e",0],"conversation:r1":["e",1]}"#;
        assert!(said(&client).contains(expected), "{}", said(&client));
        let of = |channel: &str, offset| json!({"channel": channel, "epoch": "e", "offset": offset, "recovered": true});
        let all = [of("conversation:r0", 0), of("conversation:r1", 1)];
        say(&mut ears, &mut client, &json!({"type": "resumed", "resume_token": "def", "subscriptions": all}));
        assert_eq!((client.token.as_deref(), ears.heard.recovered_ns.len()), (Some("def"), 1));
    }

    #[test]
    fn whoever_is_refused_has_failed() {
        let lost = json!({"type": "subscribed", "channel": "conversation:r0", "epoch": "f", "offset": 5, "recovered": false});
        let refused = json!({"type": "error", "code": "UNRECOVERABLE"});
        let half = json!({"type": "resumed", "resume_token": "x", "subscriptions": [
            {"channel": "conversation:r0", "epoch": "e", "offset": 0, "recovered": true},
            {"channel": "conversation:r1", "epoch": "g", "offset": 0, "recovered": false}]});
        for (how, answer) in [(Return::Recover, lost), (Return::Resume, refused), (Return::Resume, half)] {
            let (mut ears, mut client) = both();
            ears.published = 2;
            back(&mut ears, &mut client, how);
            say(&mut ears, &mut client, &answer);
            assert_eq!((ears.heard.failed, client.stage), (1, Stage::Failed), "{answer}");
            assert!(ears.heard.first_error.is_some());
        }
    }

    #[test]
    fn strangers_and_wrong_offsets_are_seen() {
        let (mut ears, mut client) = both();
        say(&mut ears, &mut client, &message(7, 1));
        assert_eq!(ears.heard.audit.misdelivered, 1);
        let channel = "conversation:r0";
        say(&mut ears, &mut client, &json!({"type": "message", "channel": channel, "s": 0, "offset": 2}));
        assert_eq!((ears.heard.misnumbered, ears.heard.audit.delivered), (1, 1));
    }
}
