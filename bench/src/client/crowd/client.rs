//! One client of a crowd: its connection, its channels with what it has of each, and what it waits for.

use super::Return;
use crate::audit::Track;
use crate::client::link::Link;
use crate::client::wire;
use corecast_protocol::envelope::Format;
use corecast_protocol::ws::frame::encode_masked;

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Connected.
    Here,
    /// Connecting, to say this then.
    Opening(Return),
    /// Was refused, or can't get what it missed.
    Failed,
}

/// A channel of a client.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) channel: u64,
    pub(super) track: Track,
    pub(super) epoch: Box<str>,
    /// How many messages there were when the client had come back: it has recovered with all of them.
    pub(super) owed: u64,
}

/// A client.
pub(super) struct Client {
    pub(super) link: Option<Link>,
    /// To be sent.
    pub(super) out: Vec<u8>,
    pub(super) seats: Box<[Seat]>,
    pub(super) token: Option<Box<str>>,
    pub(super) stage: Stage,
    /// Answers that it waits for.
    pub(super) answers: usize,
    /// Whether it has all that it missed, or never was away.
    pub(super) is_whole: bool,
    /// Its number, if it is told who comes and goes.
    pub(super) watcher: Option<usize>,
}

impl Client {
    pub(super) fn new(link: Link, channels: impl Iterator<Item = u64>) -> Self {
        let seats =
            channels.map(|channel| Seat { channel, track: Track::default(), epoch: Box::default(), owed: 0 });
        Self {
            link: Some(link),
            out: Vec::new(),
            seats: seats.collect(),
            token: None,
            stage: Stage::Here,
            answers: 0,
            is_whole: true,
            watcher: None,
        }
    }

    pub(super) fn seat(&mut self, channel: u64) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|it| it.channel == channel)
    }

    /// Sends what the socket takes; the rest goes when there is room again.
    pub(super) fn send(&mut self) {
        if let Some(link) = &mut self.link {
            link.send(&mut self.out);
        }
    }

    /// Asks for all of its channels, whose names begin with `name`.
    pub(super) fn subscribe(&mut self, name: &str) {
        let names: Vec<String> = self.seats.iter().map(|it| format!("\"{name}{}\"", it.channel)).collect();
        self.answers = self.seats.len();
        let presence = if self.watcher.is_some() { ",\"presence\":true" } else { "" };
        let names = names.join(",");
        self.say(&format!("{{\"type\":\"subscribe\",\"id\":1,\"channels\":[{names}]{presence}}}"));
    }

    /// Loses its connection by a reset.
    pub(super) fn cut(&mut self, how: Return) {
        if let Some(link) = self.link.take() {
            link.cut();
        }
        self.out.clear();
        self.stage = Stage::Opening(how);
        self.is_whole = false;
    }

    /// Comes back with a connection that is only begun.
    pub(super) fn call(&mut self, link: Link, request: Vec<u8>) {
        (self.link, self.out) = (Some(link), request);
    }

    /// It is connected again and asks for what it missed; `sent_to` says how much each channel has by now. How many
    /// messages it missed.
    pub(super) fn come_back(&mut self, name: &str, how: Return, sent_to: impl Fn(u64) -> u64) -> u64 {
        let mut missed = 0;
        for seat in &mut self.seats {
            seat.owed = sent_to(seat.channel);
            missed += seat.owed.saturating_sub(seat.track.last());
        }
        match how {
            Return::Recover => {
                self.answers = self.seats.len();
                let commands: Vec<String> = self.seats.iter().map(|it| recover(name, it)).collect();
                commands.iter().for_each(|it| self.say(it));
            }
            Return::Resume => {
                self.answers = 1;
                let positions: Vec<String> = self.seats.iter().map(|it| position(name, it)).collect();
                let token = self.token.as_deref().unwrap_or_default();
                self.say(&format!(
                    "{{\"type\":\"resume\",\"id\":1,\"token\":\"{token}\",\"positions\":{{{}}}}}",
                    positions.join(",")
                ));
            }
        }
        self.stage = Stage::Here;
        missed
    }

    /// Whether all is there that there was when it came back.
    pub(super) fn has_all(&self) -> bool {
        self.answers == 0 && self.seats.iter().all(|it| it.track.last() >= it.owed)
    }

    /// Queues a command.
    pub(super) fn say(&mut self, command: &str) {
        let mask = (command.len() as u32).to_ne_bytes();
        encode_masked(wire::opcode(Format::Json), command.as_bytes(), mask, &mut self.out);
    }
}

fn recover(name: &str, seat: &Seat) -> String {
    let Seat { channel, epoch, .. } = seat;
    let offset = seat.track.last();
    format!(
        "{{\"type\":\"subscribe\",\"id\":1,\"channel\":\"{name}{channel}\",\"recover\":{{\"epoch\":\"{epoch}\",\"offset\":{offset}}}}}"
    )
}

fn position(name: &str, seat: &Seat) -> String {
    format!("\"{name}{}\":[\"{}\",{}]", seat.channel, seat.epoch, seat.track.last())
}
