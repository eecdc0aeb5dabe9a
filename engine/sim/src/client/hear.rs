//! What a client hears: the handshake's response, frames, messages.

use std::borrow::Cow;

use corecast_protocol::ws::handshake::parse_client_answer;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connect::KEY;
use super::content::{Payload, check_time, message};
use super::deeds::Deed;
use super::session::{Session, Stage};
use super::{Client, End, Town, answer, lacking, packed, presence, receipts, resume, wire};
use crate::oracle::{Check, Checked, Failure};

/// Any message of the server.
#[derive(Debug, Deserialize)]
pub(super) struct Heard<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) channel: Option<Cow<'a, str>>,
    pub(super) pattern: Option<&'a str>,
    pub(super) to: Option<&'a str>,
    pub(super) event: Option<&'a str>,
    pub(super) publisher: Option<&'a str>,
    pub(super) priority: Option<&'a str>,
    #[serde(borrow)]
    pub(super) timestamp: Option<&'a RawValue>,
    pub(super) epoch: Option<&'a str>,
    pub(super) offset: Option<u64>,
    pub(super) skipped: Option<u64>,
    pub(super) attempt: Option<u32>,
    pub(super) recovered: Option<bool>,
    #[serde(borrow)]
    pub(super) messages: Option<Vec<Self>>,
    pub(super) more: Option<bool>,
    pub(super) payload: Option<Payload<'a>>,
    #[serde(borrow)]
    pub(super) result: Option<Answered<'a>>,
    /// Of an event that the hub makes.
    pub(super) name: Option<&'a str>,
    /// Of a receipt.
    pub(super) of: Option<u64>,
    pub(super) delivered: Option<u64>,
    pub(super) failed: Option<u64>,
    #[serde(borrow)]
    pub(super) participants: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    pub(super) error: Option<Refusal<'a>>,
    pub(super) code: Option<&'a str>,
    #[serde(borrow)]
    pub(super) message: Option<Cow<'a, str>>,
    /// Of a session that begins or goes on.
    pub(super) resume_token: Option<&'a str>,
    #[serde(borrow)]
    pub(super) subscriptions: Option<Vec<Resumed<'a>>>,
    participant: Option<&'a str>,
    resume_window_ms: Option<u64>,
    max_message_bytes: Option<usize>,
}

/// A subscription of a session that goes on.
#[derive(Debug, Deserialize)]
pub(super) struct Resumed<'a> {
    #[serde(borrow)]
    pub(super) channel: Cow<'a, str>,
    pub(super) epoch: Option<&'a str>,
    pub(super) offset: Option<u64>,
    pub(super) recovered: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Answered<'a> {
    epoch: Option<&'a str>,
    offset: Option<u64>,
    #[serde(borrow)]
    pub(super) participants: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    pub(super) channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) messages: Option<Vec<Heard<'a>>>,
    /// Of a session.
    pub(super) participant: Option<&'a str>,
    pub(super) state: Option<&'a str>,
    #[serde(borrow)]
    pub(super) subscriptions: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    pub(super) more: bool,
    #[serde(default)]
    pub(super) duplicate: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refusal<'a> {
    pub(super) code: &'a str,
}

impl<'a> Answered<'a> {
    /// Where something is.
    pub(super) fn position(&self) -> Option<(&'a str, u64)> {
        Some((self.epoch?, self.offset?))
    }
}

impl Client {
    /// Takes all that is complete.
    pub(super) fn hear(&mut self, session: &mut Session, town: &mut Town) -> Result<Option<End>, Failure> {
        if !session.is_upgraded {
            let end = handshake(session, town)?;
            if end.is_some() || !session.is_upgraded {
                return Ok(end);
            }
        }
        let inbox = std::mem::take(&mut session.inbox);
        let mut at = session.heard;
        let mut end = None;
        while end.is_none() {
            let wrong =
                |what: String| Failure::new(Check::Steps, format!("connection {}: {what}", session.serial));
            let Some(frame) = wire::next(&inbox, at).map_err(wrong)? else { break };
            if session.closed_by.is_some() {
                return Err(wrong("a frame follows the close frame".to_owned()));
            }
            let unpacked;
            let payload = if frame.is_packed {
                unpacked = session.unpacked(&frame, &inbox, at, town)?;
                &unpacked
            } else {
                &inbox[frame.payload.clone()]
            };
            at = frame.payload.end;
            end = self.frame(session, town, frame.opcode, payload)?;
            if !frame.is_packed {
                session.note_plain(payload, town);
            }
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
        let keeps_books = session.stage != Stage::Silent;
        match opcode {
            wire::PING if session.kind.takes_ping_messages && !session.kind.is_echo => {
                return Err(Failure::new(Check::Answers, "a ping frame for who wants ping messages"));
            }
            wire::PING if keeps_books && session.said_close.is_none() => {
                wire::write(&mut session.outbox, true, wire::PONG, payload, self.rng.u32(..));
            }
            wire::PING => {}
            wire::PONG => {
                // Each is answered, in the order in which they were sent.
                if session.pongs_due.front().is_none_or(|due| due != payload) {
                    return Err(Failure::new(Check::Answers, "a pong that does not answer the next ping"));
                }
                session.pongs_due.pop_front();
            }
            wire::CLOSE => self.closed(session, town, payload),
            _ if session.kind.is_echo => echoed(session, town, opcode, payload)?,
            _ if session.kind.is_binary != (opcode == wire::BINARY) => {
                return Err(Failure::new(Check::Content, "a message in the encoding that was not agreed on"));
            }
            _ => {
                let unpacked;
                let text = if opcode == wire::BINARY {
                    unpacked = packed::to_text(payload).map_err(|what| Failure::new(Check::Content, what))?;
                    &unpacked
                } else {
                    std::str::from_utf8(payload)
                        .map_err(|_| Failure::new(Check::Content, "a text frame that is not UTF-8"))?
                };
                // Only from JSON to JSON an id keeps its escapes: elsewhere they are put back, as it was written.
                let with_escapes;
                let text = if session.is_mixed || opcode == wire::BINARY {
                    with_escapes = text.replace(r#""id":"id\""#, r#""id":"\u0069d\""#);
                    &with_escapes
                } else {
                    text
                };
                self.heard_text(session, town, text).map_err(|failure| Failure {
                    what: format!("connection {}: {}, in {}", session.serial, failure.what, shortened(text)),
                    ..failure
                })?;
            }
        }
        Ok(None)
    }

    /// The server closes, or answers a close frame.
    fn closed(&mut self, session: &mut Session, town: &mut Town, payload: &[u8]) {
        let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
        session.close_reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
        if session.said_close == Some(code) {
            town.deeds.did(Deed::CloseAnswered);
        }
        if session.close_due == Some(code) {
            town.deeds.did(Deed::ClosedForCause);
        }
        if matches!(code, 1013 | 4501) {
            town.deeds.did(Deed::BrowserRefused);
        }
        session.closed_by = Some(code);
        let has_ended = session.fin_follows || town.net.at(session.link).up.fin;
        if session.said_close.is_none() && !has_ended {
            wire::write(&mut session.outbox, true, wire::CLOSE, &code.to_be_bytes(), self.rng.u32(..));
            session.write(town, &mut self.rng);
            if session.stage != Stage::Silent {
                session.stage = Stage::Closing;
            }
        }
    }

    fn heard_text(&mut self, session: &mut Session, town: &mut Town, text: &str) -> Checked {
        let heard: Heard<'_> = serde_json::from_str(text)
            .map_err(|error| Failure::new(Check::Content, format!("no message of the contract: {error}")))?;
        let is_message = matches!(heard.kind, "message" | "broadcast")
            || heard.kind == "event" && presence::is_copy(&heard);
        let is_news = session.stage == Stage::Silent && heard.kind == "subscribed" && heard.id.is_none();
        let is_copy = !session.is_deaf && (is_message || is_news && !session.ledger.lost_count);
        let book = &mut town.books[session.shard];
        if is_news && session.ledger.has_wanted_past {
            book.doubtful += u64::from(is_copy);
        } else {
            book.copies += u64::from(is_copy);
        }
        if !session.is_established {
            return established(session, town, &heard);
        }
        if session.stage == Stage::Silent {
            // It keeps no books any more; what is on its way still comes.
            session.is_unheard = true;
            return Ok(());
        }
        if heard.kind == "unsubscribed" && heard.code.is_some() {
            return lacking::found_no_room(session, town, &heard);
        }
        lacking::told_all(session, town)?;
        match heard.kind {
            "message" | "broadcast" => {
                message(session, town, &heard, false)?;
                self.acknowledge(session, town, &heard);
                if let Some(channel) = heard.channel.as_deref().and_then(|it| town.names.find(it)) {
                    presence::typed(session, town, &heard, channel);
                }
                Ok(())
            }
            "subscribed" => answer::subscribed(session, town, &heard),
            "resumed" => resume::resumed(session, town, &heard),
            "unsubscribed" => answer::unsubscribed(session, town, &heard),
            "response" => answer::response(session, town, &heard),
            "pong" => {
                check_time(session, town, &heard, None)?;
                answer::pong(session, &heard)
            }
            "error" => answer::error(session, town, &heard),
            "event" if heard.name == Some("receipt") => receipts::came(session, town, &heard),
            "event" => presence::changed(session, town, &heard),
            "ping" => self.ping_message(session, town, &heard),
            "reconnect" if town.is_draining && !session.was_told_to_go => {
                session.was_told_to_go = true;
                Ok(())
            }
            other => Err(Failure::new(Check::Answers, format!("nobody asked for {other}"))),
        }
    }

    fn ping_message(&mut self, session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
        if !session.kind.takes_ping_messages {
            return Err(Failure::new(Check::Answers, "a ping message for who wants ping frames"));
        }
        check_time(session, town, heard, None)?;
        if session.said_close.is_none() {
            town.deeds.did(Deed::PingMessageAnswered);
            let text = [r#"{"type":"pong"}"#, r#"{"type":"pong","timestamp":1}"#][self.rng.usize(..2)];
            session.message(town, text, &mut self.rng);
        }
        Ok(())
    }
}

fn handshake(session: &mut Session, town: &mut Town) -> Result<Option<End>, Failure> {
    let Some(length) = session.inbox.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let serial = session.serial;
    let wrong = |what: String| Failure::new(Check::Steps, format!("connection {serial}: {what}"));
    let head = std::str::from_utf8(&session.inbox[..length])
        .map_err(|_| wrong("the handshake's response is no text".to_owned()))?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let Some(status) = status else {
        return Err(wrong("the handshake's response is no HTTP".to_owned()));
    };
    Client::check_response(session, status, head).map_err(wrong)?;
    if status != 101 {
        return Ok(Some(End::Refused(status)));
    }
    session.heard = length + 4;
    let answer = parse_client_answer(&session.inbox[..length + 4], KEY, session.offer.as_ref());
    let agreed = match answer {
        Ok(Some((_, agreed))) => agreed,
        unusable => return Err(wrong(format!("the handshake's response is {unusable:?}"))),
    };
    session.agree_on_deflate(agreed, town).map_err(wrong)?;
    session.is_upgraded = true;
    if session.kind.is_echo && session.stage == Stage::Opening {
        session.stage = Stage::Open;
    }
    Ok(None)
}

fn established(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    if heard.kind != "connection_established" {
        return Err(Failure::new(Check::Steps, "connection_established comes first"));
    }
    let Some(name) = heard.participant else {
        return Err(Failure::new(Check::Content, "connection_established without a participant"));
    };
    let is_right = if session.kind.is_named {
        name == session.name
    } else {
        name.starts_with("demo:") == session.kind.is_demo
    };
    if !is_right || heard.max_message_bytes != Some(town.habits.message_bytes) {
        return Err(Failure::new(Check::Content, "connection_established for somebody else"));
    }
    name.clone_into(&mut session.name);
    session.is_established = true;
    town.books[session.shard].open += 1;
    if session.stage == Stage::Opening {
        session.stage = Stage::Open;
    }
    if heard.resume_window_ms != Some(town.habits.sessions.window_ms) {
        return Err(Failure::new(Check::Content, "connection_established with another window"));
    }
    town.oracle.session_begins(session.serial, &session.name, heard.resume_token.unwrap_or_default())?;
    if session.stage != Stage::Silent {
        town.oracle.established(session.serial, session.participant, &session.name);
    }
    Ok(())
}

fn echoed(session: &mut Session, town: &mut Town, opcode: u8, payload: &[u8]) -> Checked {
    if session.stage == Stage::Silent {
        return Ok(());
    }
    match session.echoes_due.pop_front() {
        Some((sent, bytes)) if sent == opcode && bytes == payload => {
            town.deeds.did(Deed::Echoed);
            // Until then it may have been a browser that was refused.
            if !std::mem::replace(&mut session.is_established, true) {
                town.books[session.shard].open += 1;
            }
            Ok(())
        }
        due => {
            let due = due.map_or(0, |(_, bytes)| bytes.len());
            let what = format!(
                "connection {}: {} bytes came back where {due} others were due",
                session.serial,
                payload.len()
            );
            Err(Failure::new(Check::Content, what))
        }
    }
}

fn shortened(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}
