//! What a client does: publish, subscribe, misbehave, leave.

use std::fmt::Write;

use super::session::{Ask, Reading, Session, Stage};
use super::{BATCH_MESSAGES_MAX, Client, End, Temper, Town, wire};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class};

/// What a payload's numbers add up to.
pub(super) fn checksum(by: u32, n: u32) -> u32 {
    by.wrapping_mul(0x9e37_79b1) ^ n.wrapping_mul(0x85eb_ca6b).rotate_left(13)
}

/// What fills a large payload.
pub(super) fn pad_of(by: u32, n: u32, bytes: usize) -> String {
    let letter = char::from(b'a' + (checksum(by, n) % 26) as u8);
    letter.to_string().repeat(bytes)
}

impl Client {
    /// Does something; the end of the connection if that was it.
    pub(super) fn act(&mut self, session: &mut Session, town: &mut Town) -> Option<End> {
        if (!town.is_steady || self.temper == Temper::SlowReader)
            && let Some(end) = self.misbehave(session, town)
        {
            return end;
        }
        match self.rng.u32(if town.is_steady { 38..100 } else { 0..100 }) {
            0..30 => self.subscribe(session, town),
            30..38 => self.unsubscribe(session, town),
            38..41 => {
                let id = session.ask(Ask::Ping);
                session.message(&format!(r#"{{"type":"ping","id":{id}}}"#), &mut self.rng);
            }
            41..44 => session.ping(&mut self.rng),
            44..50 => self.batch(session, town),
            _ => {
                for _ in 0..self.rng.u32(1..=town.habits.burst) {
                    let text = self.publish(session, town);
                    session.message(&text, &mut self.rng);
                }
            }
        }
        None
    }

    /// What the temper brings: `Some` if it did something, with the end that this was.
    fn misbehave(&mut self, session: &mut Session, town: &mut Town) -> Option<Option<End>> {
        match self.temper {
            Temper::Good | Temper::SlowWriter => return None,
            Temper::SlowReader => {
                if town.chaos.strikes(Fault::ReadingStops) {
                    session.reading = Reading::StoppedUntil(town.now_us + self.rng.u64(100..200_000));
                    session.was_slow = true;
                } else if town.chaos.would_strike(Fault::SlowReading) {
                    session.reading = Reading::Slowly;
                    session.was_slow = true;
                }
                return None;
            }
            Temper::Flighty => return self.leave(session, town),
            Temper::Rude => {
                if town.chaos.strikes(Fault::BadFrame) {
                    wire::bad(self.rng.usize(..6), self.rng.u32(..), &mut session.outbox);
                    session.did_wrong = true;
                    session.stage = Stage::Silent;
                    session.asks.clear();
                } else if town.chaos.strikes(Fault::BadMessage) {
                    self.bad_message(session);
                } else {
                    return None;
                }
            }
            Temper::Vanishing => {
                if !town.chaos.strikes(Fault::HalfOpen) {
                    return None;
                }
                town.net.at(session.link).has_vanished = true;
                session.has_vanished = true;
                return Some(Some(End::Own));
            }
        }
        Some(None)
    }

    fn leave(&mut self, session: &mut Session, town: &mut Town) -> Option<Option<End>> {
        if town.chaos.strikes(Fault::PeerReset) {
            let link = town.net.at(session.link);
            link.up.reset = true;
            // What was under way may be lost with it.
            let kept = self.rng.usize(..=link.up.len());
            link.up.truncate(kept);
            return Some(Some(End::Own));
        }
        if town.chaos.strikes(Fault::TornFrame) {
            let text = self.publish(session, town);
            session.message(&text, &mut self.rng);
            session.outbox.truncate(session.outbox.len() - self.rng.usize(1..8));
            session.write(town, &mut self.rng);
            town.net.at(session.link).up.fin = true;
            session.stage = Stage::Silent;
            session.outbox.clear();
            session.asks.clear();
            return Some(None);
        }
        if self.rng.u32(..40) == 0 {
            session.say_close(1000, &mut self.rng);
            return Some(None);
        }
        None
    }

    fn bad_message(&mut self, session: &mut Session) {
        let id = session.next_id + 1;
        let text = match self.rng.u32(..6) {
            0 => "nonsense".to_owned(),
            1 => r#"{"type":"publish","channel":"room","payload":{}"#.to_owned(),
            2 => format!(r#"{{"type":"dance","id":{id}}}"#),
            3 => format!(r#"{{"type":"publish","id":{id},"channel":"nowhere:x","payload":1}}"#),
            4 => format!(r#"{{"type":"subscribe","id":{id},"channel":"user:somebody"}}"#),
            _ => format!(r#"{{"type":"unsubscribe","id":{id},"channel":"conversation:never"}}"#),
        };
        if text.contains("\"id\"") {
            session.ask(Ask::Wrong);
        } else {
            session.errors_due += 1;
        }
        // Ten of these in a row end a connection.
        session.did_wrong = true;
        session.message(&text, &mut self.rng);
    }

    fn subscribe(&mut self, session: &mut Session, town: &Town) {
        let names = &town.names;
        if self.rng.u32(..6) == 0 {
            let prefix = self.rng.usize(..names.prefixes.len());
            if session.busy_prefixes[prefix]
                || self.has_enough(session, town) && !session.patterns.contains(&prefix)
            {
                return;
            }
            session.busy_prefixes[prefix] = true;
            let id = session.ask(Ask::SubscribePattern { prefix });
            let text = format!(r#"{{"type":"subscribe","id":{id},"channel":"{}*"}}"#, names.prefixes[prefix]);
            return session.message(&text, &mut self.rng);
        }
        let channel = self.rng.usize(..=names.open) as ChannelIndex;
        let is_new = !session.subscribed.contains(&channel);
        if session.busy[usize::from(channel)] || is_new && self.has_enough(session, town) {
            return;
        }
        session.busy[usize::from(channel)] = true;
        let id = session.ask(Ask::Subscribe { channel });
        let name = &names.channels[usize::from(channel)].name;
        session.message(&format!(r#"{{"type":"subscribe","id":{id},"channel":"{name}"}}"#), &mut self.rng);
    }

    fn has_enough(&self, session: &Session, town: &Town) -> bool {
        let under_way = session.busy.iter().chain(&session.busy_prefixes).filter(|it| **it).count();
        session.subscribed.len() + session.patterns.len() + under_way >= town.habits.subscriptions_max
    }

    fn unsubscribe(&mut self, session: &mut Session, town: &Town) {
        if self.rng.bool()
            && let Some(prefix) = self.rng.choice(session.patterns.clone())
            && !session.busy_prefixes[prefix]
        {
            session.busy_prefixes[prefix] = true;
            let id = session.ask(Ask::UnsubscribePattern { prefix });
            let prefix = &town.names.prefixes[prefix];
            return session.message(
                &format!(r#"{{"type":"unsubscribe","id":{id},"channel":"{prefix}*"}}"#),
                &mut self.rng,
            );
        }
        let Some(channel) = self.rng.choice(session.subscribed.clone()) else { return };
        if session.busy[usize::from(channel)] {
            return;
        }
        session.busy[usize::from(channel)] = true;
        let id = session.ask(Ask::Unsubscribe { channel });
        let name = &town.names.channels[usize::from(channel)].name;
        session.message(&format!(r#"{{"type":"unsubscribe","id":{id},"channel":"{name}"}}"#), &mut self.rng);
    }

    fn batch(&mut self, session: &mut Session, town: &mut Town) {
        let count = self.rng.usize(1..=BATCH_MESSAGES_MAX);
        let messages: Vec<String> = (0..count).map(|_| self.publish(session, town)).collect();
        let text = format!(r#"{{"type":"batch","messages":[{}]}}"#, messages.join(","));
        session.message(&text, &mut self.rng);
    }

    /// A publish to a channel or a participant.
    fn publish(&mut self, session: &mut Session, town: &mut Town) -> String {
        let channel = match self.rng.u32(..100) {
            // What is slow to leave must not end connections while none are to end.
            _ if town.is_steady && town.habits.is_tight => {
                let may_drop = |it: &ChannelIndex| {
                    let class = town.names.channels[usize::from(*it)].class;
                    matches!(class, Class::Dropping | Class::Conflating)
                };
                let droppable: Vec<_> = (0..town.names.open as ChannelIndex).filter(may_drop).collect();
                self.rng.choice(droppable).unwrap_or_default()
            }
            0 => town.names.system(),
            1..6 => town.names.inbox(self.rng.usize(..town.names.participants.len())),
            _ => self.rng.usize(..town.names.open) as ChannelIndex,
        };
        let names = std::rc::Rc::clone(&town.names);
        let target = &names.channels[usize::from(channel)];
        let is_numbered = matches!(target.class, Class::Numbered | Class::Inbox);
        let is_ephemeral = is_numbered && self.rng.u32(..8) == 0;
        // Without an echo, an own message leaves no trace on channels without offsets.
        let echoes = !is_numbered || is_ephemeral || self.rng.u32(..10) > 0;
        let number = town.oracle.publishes(session.serial, channel, echoes);
        let mut text = String::from(r#"{"type":"publish""#);
        if self.rng.bool() {
            let id = session.ask(Ask::Publish { channel, number, is_ephemeral });
            let _ = write!(text, r#","id":{id}"#);
        }
        let key = if target.class == Class::Inbox { "to" } else { "channel" };
        let _ = write!(text, r#","{key}":"{}""#, target.name);
        match self.rng.u32(..12) {
            0 => text.push_str(r#","priority":"high""#),
            1 => text.push_str(r#","priority":"low""#),
            2 => text.push_str(r#","priority":"critical""#),
            _ => {}
        }
        if is_ephemeral {
            text.push_str(r#","store":false"#);
        }
        if !echoes {
            text.push_str(r#","echo":false"#);
        }
        let sum = checksum(session.serial, number);
        let _ = write!(
            text,
            r#","event":"e{}","payload":{{"by":{},"n":{number},"e":{is_ephemeral},"sum":{sum}"#,
            self.rng.u32(..3),
            session.serial
        );
        if self.rng.u32(..30) == 0 {
            let bytes = self.rng.usize(..=town.habits.large_bytes);
            let _ = write!(text, r#","pad":"{}""#, pad_of(session.serial, number, bytes));
        }
        text.push_str("}}");
        text
    }
}
