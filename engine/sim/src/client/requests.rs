//! Subscribing and unsubscribing: one name or lists of them, also while earlier requests for them are under way.

use std::rc::Rc;

use super::deeds::Deed;
use super::ledger::{Ask, Fate, Topic, id_text};
use super::presence::{forget, watch};
use super::session::Session;
use super::{Client, Town, acks};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class};

/// Which of the refused requests it is.
const RESUMPTION: usize = 9;

impl Client {
    /// Any request or publish, as a message of its own.
    pub(super) fn request_or_publish(&mut self, session: &mut Session, town: &mut Town) {
        let large_bytes = town.habits.large_bytes;
        let text = self.item(session, town, large_bytes);
        session.message(town, &text, &mut self.rng);
    }

    /// The text of any message that can be understood.
    pub(super) fn item(&mut self, session: &mut Session, town: &mut Town, pad_max: usize) -> String {
        match self.rng.u32(if town.is_steady { 42..100 } else { 0..100 }) {
            0..30 => self.subscribe(session, town),
            30..42 => self.unsubscribe(session, town),
            42..46 => self.ask_ping(session, town),
            46..50 => self.refused_request(session, town),
            _ => self.publish(session, town, pad_max),
        }
    }

    fn ask_ping(&mut self, session: &mut Session, town: &mut Town) -> String {
        let id = session.ledger.ask(vec![Ask::Ping]);
        let kind = if self.rng.bool() { "ping" } else { "connection_heartbeat" };
        format!(r#"{{"type":"{kind}","id":{}}}"#, noted(id, town))
    }

    pub(super) fn subscribe(&mut self, session: &mut Session, town: &mut Town) -> String {
        if town.chaos.strikes(Fault::Recovery) {
            let text = match town.chaos.below(Fault::Recovery, 4) {
                0 => Some(self.ask_history(session, town)),
                _ => self.subscribe_from(session, town),
            };
            if let Some(text) = text {
                return text;
            }
        }
        let mut topics = Vec::new();
        let watched = self.wants_to_watch(session, town);
        for _ in 0..if watched.is_some() { 0 } else { self.count() } {
            topics.extend(self.wanted(session, town));
        }
        topics.extend(watched);
        self.repeat_one(&mut topics, town);
        if topics.is_empty() {
            return self.ask_ping(session, town);
        }
        let names = Rc::clone(&town.names);
        let mut asks: Vec<Ask> = topics.iter().map(|topic| asked(*topic, session, town)).collect();
        // Of a channel that no pattern covers, an answer without an id is no news of an epoch.
        let is_room = |topic: &Topic| matches!(*topic, Topic::Channel(it) if names.channels[usize::from(it)].class == Class::Dropping);
        if topics.len() == 1 && is_room(&topics[0]) && self.rng.u32(..6) == 0 {
            town.deeds.did(Deed::WithoutId);
            session.ledger.ask_nameless(asks.remove(0));
            return format!(r#"{{"type":"subscribe",{}}}"#, self.listed(&topics, town));
        }
        forget(&topics, session);
        let presence = if watched.is_some() && watch(&topics, &asks, session, town) {
            r#""presence":true,"#
        } else {
            ""
        };
        let filter = match self.acks(&topics, &mut asks, session, town) {
            "" if watched.is_none() => self.filter(&topics, &mut asks, session, town),
            acks => acks.to_owned(),
        };
        let id = session.ledger.ask(asks);
        let listed = self.listed(&topics, town);
        format!(r#"{{"type":"subscribe","id":{},{presence}{filter}{listed}}}"#, noted(id, town))
    }

    pub(super) fn unsubscribe(&mut self, session: &mut Session, town: &mut Town) -> String {
        let mut topics = Vec::new();
        for _ in 0..self.count() {
            match self.rng.choice(&session.ledger.held) {
                Some(topic) if self.rng.u32(..10) > 0 => topics.push(*topic),
                _ if self.rng.u32(..3) == 0 => topics.push(self.topic(town)),
                _ => {}
            }
        }
        self.repeat_one(&mut topics, town);
        if topics.is_empty() {
            return self.ask_ping(session, town);
        }
        let names = Rc::clone(&town.names);
        forget(&topics, session);
        acks::ends(session, &topics);
        let mut asks = Vec::new();
        for topic in &topics {
            if session.ledger.is_due(*topic) {
                town.deeds.did(Deed::Overlapping);
            }
            asks.push(session.ledger.unsubscribe(&names, *topic));
        }
        let id = session.ledger.ask(asks);
        format!(r#"{{"type":"unsubscribe","id":{},{}}}"#, noted(id, town), self.listed(&topics, town))
    }

    /// How many names a request has.
    fn count(&mut self) -> usize {
        if self.rng.u32(..5) == 0 { self.rng.usize(2..7) } else { 1 }
    }

    pub(super) fn topic(&mut self, town: &Town) -> Topic {
        match self.rng.u32(..6) {
            0 if town.habits.has_patterns => Topic::Prefix(self.rng.usize(..town.names.prefixes.len())),
            _ => Topic::Channel(self.rng.usize(..=town.names.open) as ChannelIndex),
        }
    }

    /// A topic that may be subscribed to now, as far as this client's modesty goes.
    fn wanted(&mut self, session: &Session, town: &Town) -> Option<Topic> {
        let topic = match self.rng.choice(&session.ledger.held) {
            // Again, or while the first request is under way.
            Some(held) if self.rng.u32(..8) == 0 => *held,
            _ => self.topic(town),
        };
        let held = &session.ledger.held;
        let has_enough = held.len() >= town.habits.subscriptions_max && !held.contains(&topic);
        // A path's answer has no id, as news of an epoch have none: no pattern before it.
        let is_unclear = matches!(topic, Topic::Prefix(_)) && session.ledger.awaits_path();
        (!has_enough && !is_unclear).then_some(topic)
    }

    fn repeat_one(&mut self, topics: &mut Vec<Topic>, town: &mut Town) {
        if topics.len() > 1 && self.rng.u32(..3) == 0 {
            town.deeds.did(Deed::TwiceInList);
            topics.insert(self.rng.usize(..=topics.len()), topics[0]);
        }
    }

    /// `channel` or `channels`.
    pub(super) fn listed(&mut self, topics: &[Topic], town: &mut Town) -> String {
        let names = Rc::clone(&town.names);
        let texts: Vec<String> = topics.iter().map(|topic| self.escaped(&topic.text(&names), town)).collect();
        match &texts[..] {
            [one] if self.rng.u32(..8) > 0 => format!(r#""channel":{one}"#),
            list => {
                town.deeds.did(Deed::List);
                if topics.iter().any(|topic| matches!(topic, Topic::Prefix(_))) {
                    town.deeds.did(Deed::MixedList);
                }
                format!(r#""channels":[{}]"#, list.join(", "))
            }
        }
    }

    /// A name as a JSON string, now and then with characters escaped that need not be.
    pub(super) fn escaped(&mut self, name: &str, town: &mut Town) -> String {
        if self.rng.u32(..12) > 0 {
            return format!("\"{name}\"");
        }
        town.deeds.did(Deed::EscapedName);
        let at = self.rng.usize(..name.len());
        let escaped: String = name
            .bytes()
            .enumerate()
            .map(|(index, byte)| match index == at {
                true => format!("\\u{byte:04X}"),
                false => char::from(byte).to_string(),
            })
            .collect();
        format!("\"{escaped}\"")
    }

    /// What is understood, and refused all the same: it counts as nobody's mistake.
    fn refused_request(&mut self, session: &mut Session, town: &mut Town) -> String {
        // In a batch, which a resumption is too much for, another one takes its place.
        let at = match self.rng.usize(..15) {
            RESUMPTION if session.nesting > 0 => 0,
            at => at,
        };
        let (code, channel, rest) = [
            ("INVALID_CHANNEL", Some("nowhere:x"), r#""type":"publish","channel":"nowhere:x","payload":1"#),
            ("INVALID_CHANNEL", Some("a:*b"), r#""type":"subscribe","channels":["a:*b"]"#),
            ("INVALID_CHANNEL", Some("metrics:"), r#""type":"publish","channel":"metrics:","n":1"#),
            ("FORBIDDEN", Some("user:somebody"), r#""type":"subscribe","channel":"user:somebody""#),
            (
                "NOT_SUBSCRIBED",
                Some("conversation:never"),
                r#""type":"unsubscribe","channel":"conversation:never""#,
            ),
            ("NOT_SUBSCRIBED", Some("roomz"), r#""type":"ack","channel":"roomz","epoch":"e","offset":1"#),
            ("FORBIDDEN", None, r#""type":"authenticate","token":"t""#),
            ("FORBIDDEN", None, r#""type":"refresh","token":"t""#),
            ("FORBIDDEN", None, r#""type":"register","capabilities":["c"]"#),
            ("UNRECOVERABLE", None, r#""type":"resume","token":"t","positions":{"system":["e",1]}"#),
            ("NOT_FOUND", None, r#""type":"cancel""#),
            ("NOT_FOUND", None, r#""type":"response","call":"c","result":1"#),
            ("NOT_FOUND", None, r#""type":"publish","to":["p0","group:g"],"payload":1"#),
            ("NO_HANDLER", None, r#""type":"query","method":"nothing","params":[1]"#),
            ("NO_HANDLER", None, r#""type":"command","method":"nothing","capability":"c""#),
        ][at];
        // What a demo participant may not do at all, it may not do to groups either.
        let code = if session.kind.is_demo && rest.contains("group:") { "FORBIDDEN" } else { code };
        if code == "FORBIDDEN" {
            town.deeds.did(Deed::Forbidden);
        }
        let channel = channel.map(str::to_owned);
        let id = session.ledger.ask(vec![Ask::Refused { code, channel }]);
        format!(r#"{{{rest},"id":{}}}"#, noted(id, town))
    }
}

/// What a request to subscribe to a topic that is sent now must be answered.
pub(super) fn asked(topic: Topic, session: &mut Session, town: &mut Town) -> Ask {
    if session.ledger.is_due(topic) {
        town.deeds.did(Deed::Overlapping);
    }
    let names = &town.names;
    let may = match topic {
        Topic::Channel(channel) => names.may_subscribe(session.who(), channel),
        Topic::Prefix(prefix) => names.may_subscribe_prefix(session.who(), prefix),
    };
    let fate = if may { Fate::Answered } else { Fate::Refused("FORBIDDEN") };
    let limit = town.habits.subscriptions_limit;
    session.ledger.subscribe(&Rc::clone(&town.names), topic, fate, limit)
}

/// An id as it is written, and counted by how it looks.
pub(super) fn noted(id: u64, town: &mut Town) -> String {
    let text = id_text(id);
    if text.starts_with('"') {
        town.deeds.did(Deed::TextId);
    } else if text.len() > 15 {
        town.deeds.did(Deed::LargestId);
    }
    text
}
