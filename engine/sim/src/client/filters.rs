//! Subscribing to less than all of a channel: to some events, or to so many messages per second.

use super::deeds::Deed;
use super::ledger::{Ask, Topic};
use super::session::Session;
use super::{Client, Town, acks};
use crate::chaos::Fault;
use crate::oracle::{Sieve, Subject};

/// Events that clients publish, and one that nobody does.
const EVENTS: [&str; 8] =
    ["e0", "e1", "e2", "chat_message", "user_typing", "chat_message_chunk", "agent_status_update", "none"];

/// Messages per second: of a few a run has more, and of many it has not.
const RATES: [u64; 6] = [1, 3, 10, 50, 300, 1_000];

impl Client {
    /// The members of a request to subscribe that ask for less than all, now and then; its answers are to follow them.
    pub(super) fn filter(
        &self,
        topics: &[Topic],
        asks: &mut [Ask],
        session: &Session,
        town: &mut Town,
    ) -> String {
        if acks::are_unclear(session, topics) || !town.chaos.strikes(Fault::Filters) {
            return String::new();
        }
        let mut below = |bound: usize| town.chaos.below(Fault::Filters, bound);
        let (first, count, which) = (below(EVENTS.len()), 1 + below(4), below(4));
        let max_rate = Some(RATES[below(RATES.len())]).filter(|_| which < 2);
        let count = if which == 1 { 0 } else { count };
        let events: Vec<&str> = (first..first + count).map(|at| EVENTS[at % EVENTS.len()]).collect();
        let sieve = Sieve::new(&events, max_rate);
        let system = Topic::Channel(town.names.system());
        for (topic, ask) in topics.iter().zip(asks) {
            if *topic == system {
                town.deeds.did(Deed::FilterRefused);
                *ask = Ask::Refused { code: "INVALID_MESSAGE", channel: Some("system".to_owned()) };
            } else if let (Topic::Channel(channel), Ask::Subscribe { .. }) = (topic, &*ask)
                && session.acking.contains_key(channel)
            {
                // An acknowledgement is of all messages.
                town.deeds.did(Deed::FilterRefused);
                *ask = Ask::Refused { code: "INVALID_MESSAGE", channel: Some(topic.text(&town.names)) };
            } else if let Ask::Subscribe { sieve: of, .. } = ask {
                town.deeds.did(Deed::Filtered);
                *of = Some(Box::new(sieve.clone()));
            }
        }
        let events: Vec<String> = events.iter().map(|event| format!("\"{event}\"")).collect();
        let events =
            if events.is_empty() { String::new() } else { format!(r#""events":[{}],"#, events.join(",")) };
        let max_rate = max_rate.map_or(String::new(), |rate| format!(r#""max_rate":{rate},"#));
        format!("{events}{max_rate}")
    }
}

/// `subscribed` was read for a request: what it asked for holds from here on, if it is the last one.
pub(super) fn holds(session: &Session, town: &mut Town, topic: Topic, sieve: Option<&Sieve>) {
    let subject = match topic {
        Topic::Channel(channel) => Subject::Channel(channel),
        Topic::Prefix(prefix) => Subject::Prefix(prefix),
    };
    let is_unclear = town.chaos.is_on(Fault::Filters) && session.ledger.is_due(topic);
    town.oracle.sieved(session.serial, subject, sieve, is_unclear);
}
