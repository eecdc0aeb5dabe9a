//! What a client hears: the handshake's response, frames, messages.

use std::borrow::Cow;

use serde::Deserialize;

use super::act::{checksum, pad_of};
use super::session::{Ask, Session, Stage};
use super::{Client, End, Town, wire};
use crate::oracle::{Check, Checked, Failure, Seen};

/// Any message of the server.
#[derive(Debug, Deserialize)]
struct Heard<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: Option<u64>,
    channel: Option<&'a str>,
    pattern: Option<&'a str>,
    to: Option<&'a str>,
    epoch: Option<&'a str>,
    offset: Option<u64>,
    payload: Option<Payload<'a>>,
    #[serde(borrow)]
    result: Option<Position<'a>>,
    code: Option<&'a str>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct Position<'a> {
    epoch: &'a str,
    offset: u64,
}

/// What clients publish.
#[derive(Debug, Deserialize)]
struct Payload<'a> {
    /// The publisher's connection.
    by: u32,
    /// Its message's number on this channel.
    n: u32,
    /// Whether it has no offset of its own.
    e: bool,
    /// A checksum of the two.
    sum: u32,
    pad: Option<&'a str>,
}

impl Client {
    /// Takes all that is complete.
    pub(super) fn hear(&mut self, session: &mut Session, town: &mut Town) -> Result<Option<End>, Failure> {
        if session.stage == Stage::Handshake
            || session.heard == 0 && !session.inbox.is_empty() && is_http(session)
        {
            return handshake(session);
        }
        let inbox = std::mem::take(&mut session.inbox);
        let mut at = session.heard;
        let mut end = None;
        while end.is_none() {
            let wrong =
                |what: String| Failure::new(Check::Steps, format!("connection {}: {what}", session.serial));
            let Some(frame) = wire::next(&inbox, at).map_err(wrong)? else { break };
            at = frame.payload.end;
            if session.closed_by.is_some() {
                return Err(wrong("a frame follows the close frame".to_owned()));
            }
            end = self.frame(session, town, frame.opcode, &inbox[frame.payload])?;
        }
        session.inbox = inbox;
        session.heard = at;
        Ok(end)
    }

    fn frame(
        &mut self,
        session: &mut Session,
        town: &mut Town,
        opcode: u8,
        payload: &[u8],
    ) -> Result<Option<End>, Failure> {
        match opcode {
            wire::PING if session.stage != Stage::Silent => {
                wire::write(&mut session.outbox, true, wire::PONG, payload, self.rng.u32(..));
            }
            wire::PING => {}
            wire::PONG => {
                let Some(at) = session.pongs_due.iter().position(|due| due == payload) else {
                    return Err(Failure::new(Check::Answers, "a pong that answers no ping"));
                };
                session.pongs_due.drain(..=at);
            }
            wire::CLOSE => {
                let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                session.close_reason =
                    String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                session.closed_by = Some(code);
                if !session.has_said_close {
                    session.say_close(code, &mut self.rng);
                    session.write(town, &mut self.rng);
                }
            }
            _ => {
                let text = std::str::from_utf8(payload)
                    .map_err(|_| Failure::new(Check::Content, "a text frame that is not UTF-8"))?;
                self.text(session, town, text).map_err(|failure| Failure {
                    what: format!("connection {}: {}, in {}", session.serial, failure.what, shortened(text)),
                    ..failure
                })?;
            }
        }
        Ok(None)
    }

    fn text(&mut self, session: &mut Session, town: &mut Town, text: &str) -> Checked {
        let heard: Heard<'_> = serde_json::from_str(text)
            .map_err(|error| Failure::new(Check::Content, format!("no message of the contract: {error}")))?;
        let is_copy =
            matches!(heard.kind, "message" | "broadcast") || heard.kind == "subscribed" && heard.id.is_none();
        town.books[session.shard].copies += u64::from(is_copy);
        if session.stage == Stage::Greeting {
            if heard.kind != "connection_established" {
                return Err(Failure::new(Check::Steps, "connection_established comes first"));
            }
            session.stage = Stage::Open;
            session.is_established = true;
            town.books[session.shard].open += 1;
            town.oracle.established(session.serial, session.participant);
            return Ok(());
        }
        if session.stage == Stage::Silent {
            // It keeps no books any more; what is on its way still comes.
            session.is_deaf = true;
            return Ok(());
        }
        match heard.kind {
            "message" | "broadcast" => message(session, town, &heard),
            "subscribed" if heard.id.is_none() => announced(session, town, &heard),
            "subscribed" | "unsubscribed" | "response" | "pong" => answer(session, town, &heard),
            "error" => error(session, &heard),
            "ping" | "reconnect" => Ok(()),
            other => Err(Failure::new(Check::Answers, format!("nobody asked for {other}"))),
        }
    }
}

fn is_http(session: &Session) -> bool {
    session.stage == Stage::Closing && session.inbox.starts_with(b"HTTP/1.1 ")
}

fn handshake(session: &mut Session) -> Result<Option<End>, Failure> {
    let Some(length) = session.inbox.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = &session.inbox[..length];
    let status = head.get(9..12).and_then(|it| std::str::from_utf8(it).ok()).and_then(|it| it.parse().ok());
    match status {
        Some(101) => {
            session.heard = length + 4;
            session.stage = if session.stage == Stage::Handshake { Stage::Greeting } else { session.stage };
            Ok(None)
        }
        Some(status) => Ok(Some(End::Refused(status))),
        None => Err(Failure::new(Check::Steps, "the handshake's response is no HTTP")),
    }
}

fn message(session: &Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let (Some(channel), Some(epoch), Some(offset), Some(payload)) =
        (heard.channel, heard.epoch, heard.offset, &heard.payload)
    else {
        return Err(Failure::new(Check::Content, "a message lacks a field"));
    };
    let channel = if channel == "@me" {
        if heard.to != Some(&town.names.participants[session.participant]) {
            return Err(Failure::new(Check::Subscription, "a message to somebody else"));
        }
        town.names.inbox(session.participant)
    } else {
        let unknown = || Failure::new(Check::Subscription, "a channel that nobody knows");
        town.names.find(channel).ok_or_else(unknown)?
    };
    let is_whole = payload.sum == checksum(payload.by, payload.n)
        && payload.pad.is_none_or(|pad| pad_of(payload.by, payload.n, pad.len()) == pad);
    if !is_whole {
        return Err(Failure::new(Check::Content, "the payload is not what was published"));
    }
    let pattern = match heard.pattern {
        None => None,
        Some(text) => {
            let prefix = town.names.prefixes.iter().position(|it| text.strip_suffix('*') == Some(it));
            Some(prefix.ok_or_else(|| Failure::new(Check::Subscription, "a pattern that nobody knows"))?)
        }
    };
    let seen = Seen {
        channel,
        pattern,
        position: (epoch, offset),
        from: (payload.by, payload.n),
        is_ephemeral: payload.e,
    };
    town.oracle.message(session.serial, &seen)
}

/// `subscribed` that nobody asked for: a new epoch.
fn announced(session: &Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let channel = heard.channel.and_then(|name| town.names.find(name));
    match (channel, heard.epoch, heard.offset) {
        (Some(channel), Some(epoch), Some(offset)) => {
            town.oracle.announced(session.serial, channel, (epoch, offset))
        }
        _ => Err(Failure::new(Check::Answers, "subscribed without a channel and a position")),
    }
}

fn answer(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let wrong = |what: &str| Err(Failure::new(Check::Answers, what));
    let Some(ask) = heard.id.and_then(|id| session.asks.remove(&id)) else {
        return wrong("an answer to nothing that was asked");
    };
    let serial = session.serial;
    match (heard.kind, ask) {
        ("response", Ask::Publish { channel, number, is_ephemeral }) => {
            let Some(position) = &heard.result else { return wrong("a response without a result") };
            let position = (position.epoch, position.offset);
            town.oracle.accepted((serial, number), channel, position, is_ephemeral)
        }
        ("subscribed", Ask::Subscribe { channel }) => {
            session.busy[usize::from(channel)] = false;
            if heard.channel != Some(&town.names.channels[usize::from(channel)].name) {
                return wrong("another channel was asked for");
            }
            if !session.subscribed.contains(&channel) && channel != town.names.system() {
                session.subscribed.push(channel);
            }
            match (heard.epoch, heard.offset) {
                (Some(epoch), Some(offset)) => town.oracle.subscribed(serial, channel, (epoch, offset)),
                _ => wrong("subscribed without a position"),
            }
        }
        ("subscribed", Ask::SubscribePattern { prefix }) => {
            session.busy_prefixes[prefix] = false;
            if !session.patterns.contains(&prefix) {
                session.patterns.push(prefix);
            }
            town.oracle.pattern_subscribed(serial, prefix);
            Ok(())
        }
        ("unsubscribed", Ask::Unsubscribe { channel }) => {
            session.busy[usize::from(channel)] = false;
            session.subscribed.retain(|it| *it != channel);
            town.oracle.unsubscribed(serial, channel);
            Ok(())
        }
        ("unsubscribed", Ask::UnsubscribePattern { prefix }) => {
            session.busy_prefixes[prefix] = false;
            session.patterns.retain(|it| *it != prefix);
            town.oracle.pattern_unsubscribed(serial, prefix);
            Ok(())
        }
        ("pong", Ask::Ping) => Ok(()),
        (_, ask) => Err(Failure::new(Check::Answers, format!("this does not answer {ask:?}"))),
    }
}

fn error(session: &mut Session, heard: &Heard<'_>) -> Checked {
    let ask = heard.id.and_then(|id| session.asks.remove(&id));
    let code = heard.code.unwrap_or_default();
    match ask {
        Some(Ask::Wrong) => Ok(()),
        // Direct messages to who is not there.
        Some(Ask::Publish { .. }) if code == "NOT_FOUND" => Ok(()),
        None if heard.id.is_none() && code == "NOT_FOUND" => Ok(()),
        None if heard.id.is_none() && session.errors_due > 0 => {
            session.errors_due -= 1;
            Ok(())
        }
        ask => {
            let why = heard.message.as_deref().unwrap_or_default();
            Err(Failure::new(Check::Answers, format!("{ask:?} was refused: {code}, {why}")))
        }
    }
}

fn shortened(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}
