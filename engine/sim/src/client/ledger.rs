//! What one connection has asked for, and which answer each request must get.
//!
//! Requests are acted on in the order in which they were sent, so the sender can tell what is subscribed when each of
//! them arrives. An answer of a subscription may come after later requests: what was taken back meanwhile must not
//! become active any more.

use std::collections::BTreeMap;

use crate::names::{ChannelIndex, Names};
use crate::oracle::{Check, Failure, HistoryQuery, Serial, Sieve, Wanted};

/// What can be subscribed to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Topic {
    Channel(ChannelIndex),
    Prefix(usize),
}

impl Topic {
    /// As it is written in requests.
    pub(super) fn text(self, names: &Names) -> String {
        match self {
            Self::Channel(channel) => names.channels[usize::from(channel)].name.clone(),
            Self::Prefix(prefix) => format!("{}*", names.prefixes[prefix]),
        }
    }
}

/// What a client waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Publish {
        channel: ChannelIndex,
        number: u32,
        is_ephemeral: bool,
    },
    Subscribe {
        topic: Topic,
        order: u64,
        /// What of its past is wanted.
        past: Option<Box<Wanted>>,
        /// What alone is wanted of it.
        sieve: Option<Box<Sieve>>,
        /// It promises to acknowledge.
        acks: bool,
    },
    Unsubscribe {
        topic: Topic,
        order: u64,
    },
    /// What is kept of a channel.
    History {
        channel: ChannelIndex,
        query: Box<HistoryQuery>,
    },
    /// A publish with an idempotency key once more.
    Repetition {
        channel: ChannelIndex,
        from: (Serial, u32),
        /// The first one had certainly arrived.
        is_late: bool,
    },
    /// Who is there, while nobody comes or goes.
    Attendance {
        channel: ChannelIndex,
    },
    /// What its session is, while all rests.
    Session,
    /// To go on with a session.
    Resume,
    Ping,
    /// Must be refused with this code, and this channel named.
    Refused {
        code: &'static str,
        channel: Option<String>,
    },
}

/// What is to become of a request for a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Answered,
    Refused(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Unanswered requests by id.
    asks: BTreeMap<u64, Vec<Ask>>,
    /// Those without an id that are answered all the same.
    nameless: Vec<Ask>,
    last_id: u64,
    /// Topics that are subscribed to once everything sent so far was acted on.
    pub(super) held: Vec<Topic>,
    orders: u64,
    /// Books ended while answers without an id were due, which look like news of an epoch.
    pub(super) lost_count: bool,
    /// The latest unsubscribe of each topic whose answer was read.
    ended: BTreeMap<Topic, u64>,
    /// Channels of whose past something was wanted, once for each answer that is due.
    pasts: Vec<ChannelIndex>,
    /// Topics of requests whose answers nobody waits for any more.
    unknown: Vec<Topic>,
    /// Whether anything of any past was ever wanted.
    pub(super) has_wanted_past: bool,
}

impl Ledger {
    pub(super) fn len(&self) -> usize {
        self.asks.len() + self.nameless.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some that are due, for reports.
    pub(super) fn examples(&self) -> Vec<&Ask> {
        self.asks.values().flatten().chain(&self.nameless).take(3).collect()
    }

    /// No books are kept any more.
    pub(super) fn clear(&mut self) {
        self.lost_count |= self.awaits_path();
        self.unknown = self.doubtful();
        self.asks.clear();
        self.nameless.clear();
        self.pasts.clear();
    }

    /// Topics of which nobody can tell whether they are subscribed to: something was asked and not answered.
    pub(super) fn doubtful(&self) -> Vec<Topic> {
        let topic = |ask: &Ask| match *ask {
            Ask::Subscribe { topic, .. } | Ask::Unsubscribe { topic, .. } => Some(topic),
            _ => None,
        };
        let asks = self.asks.values().flatten().chain(&self.nameless);
        self.unknown.iter().copied().chain(asks.filter_map(topic)).collect()
    }

    /// Whether an answer is due that says where a channel goes on.
    pub(super) fn awaits_past(&self, channel: ChannelIndex) -> bool {
        self.pasts.contains(&channel)
    }

    /// All such channels.
    pub(super) fn awaited_pasts(&self) -> &[ChannelIndex] {
        &self.pasts
    }

    /// A request to subscribe that is sent now wants something of the channel's past too.
    pub(super) fn want_past(&mut self, ask: &mut Ask, wanted: &Wanted) {
        if let Ask::Subscribe { topic: Topic::Channel(channel), past, .. } = ask {
            *past = Some(Box::new(wanted.clone()));
            self.pasts.push(*channel);
            self.has_wanted_past = true;
        }
    }

    /// A request with an id, which is returned.
    pub(super) fn ask(&mut self, asks: Vec<Ask>) -> u64 {
        self.last_id += 1;
        self.asks.insert(self.last_id, asks);
        self.last_id
    }

    pub(super) fn ask_nameless(&mut self, ask: Ask) {
        self.nameless.push(ask);
    }

    /// Whether an answer to a request for this topic is due.
    pub(super) fn is_due(&self, topic: Topic) -> bool {
        let is_about = |ask: &Ask| matches!(ask, Ask::Subscribe { topic: it, .. } | Ask::Unsubscribe { topic: it, .. } if *it == topic);
        self.nameless.iter().any(is_about) || self.asks.values().flatten().any(is_about)
    }

    /// Whether `subscribed` without an id may be the answer to a request without one, on a channel of which an epoch
    /// may be announced as well.
    pub(super) fn awaits_path(&self) -> bool {
        self.nameless.iter().any(|ask| matches!(ask, Ask::Subscribe { .. }))
    }

    /// A request to subscribe is sent now: what it must be answered.
    pub(super) fn subscribe(&mut self, names: &Names, topic: Topic, fate: Fate, limit: usize) -> Ask {
        let refused = |code| Ask::Refused { code, channel: Some(topic.text(names)) };
        if let Fate::Refused(code) = fate {
            return refused(code);
        }
        if topic != Topic::Channel(names.system()) && !self.held.contains(&topic) {
            if self.held.len() >= limit {
                return refused("SUBSCRIPTION_LIMIT");
            }
            self.held.push(topic);
        }
        self.orders += 1;
        Ask::Subscribe { topic, order: self.orders, past: None, sieve: None, acks: false }
    }

    /// A topic came back with a session.
    pub(super) fn resumes(&mut self, topic: Topic) {
        if !self.held.contains(&topic) {
            self.held.push(topic);
        }
    }

    /// A request to unsubscribe is sent now: what it must be answered.
    pub(super) fn unsubscribe(&mut self, names: &Names, topic: Topic) -> Ask {
        let refused = |code| Ask::Refused { code, channel: Some(topic.text(names)) };
        if topic == Topic::Channel(names.system()) {
            return refused("FORBIDDEN");
        }
        let Some(at) = self.held.iter().position(|it| *it == topic) else { return refused("NOT_SUBSCRIBED") };
        self.held.swap_remove(at);
        self.orders += 1;
        Ask::Unsubscribe { topic, order: self.orders }
    }

    /// The first unanswered request with this id (or one of those without) that is as wanted.
    pub(super) fn take(&mut self, id: Option<u64>, is_wanted: impl Fn(&Ask) -> bool) -> Option<Ask> {
        let Some(id) = id else {
            let at = self.nameless.iter().position(is_wanted)?;
            return Some(self.nameless.remove(at));
        };
        let asks = self.asks.get_mut(&id)?;
        let at = asks.iter().position(is_wanted)?;
        let ask = asks.remove(at);
        if asks.is_empty() {
            self.asks.remove(&id);
        }
        if let Ask::Subscribe { topic: Topic::Channel(channel), past: Some(_), .. } = &ask
            && let Some(at) = self.pasts.iter().position(|it| it == channel)
        {
            self.pasts.swap_remove(at);
        }
        Some(ask)
    }

    /// `subscribed` was read for a request: it must not have been taken back before.
    pub(super) fn begins(&self, topic: Topic, order: u64) -> Result<(), Failure> {
        match self.ended.get(&topic) {
            Some(ended) if *ended > order => {
                Err(Failure::new(Check::Answers, "a subscription that was taken back became active"))
            }
            _ => Ok(()),
        }
    }

    /// `CANCELLED` was read for a request: the answer to what took it back came before.
    pub(super) fn is_cancelled(&self, topic: Topic, order: u64) -> bool {
        self.ended.get(&topic).is_some_and(|ended| *ended > order)
    }

    /// `unsubscribed` was read.
    pub(super) fn ends(&mut self, topic: Topic, order: u64) {
        self.ended.insert(topic, order);
        // Without an id nobody is told that it was cancelled.
        self.nameless.retain(
            |ask| !matches!(ask, Ask::Subscribe { topic: it, order: of, .. } if *it == topic && *of < order),
        );
    }
}

/// Half of the ids count from 0 on, the others in ways that a server may get wrong. As JSON.
pub(super) fn id_text(id: u64) -> String {
    match id % 8 {
        0 => format!("\"{id}\""),
        1 => format!("{}", (1u64 << 53) - 1 - id),
        2 => format!("\"\\u0069d\\\"{id}\""),
        3 => format!("\"{id:064}\""),
        _ => format!("{id}"),
    }
}

/// The request with this id, if ids of requests look like that.
pub(super) fn id_of(text: &str) -> Option<u64> {
    let digits = text.trim_matches('"');
    let id = match digits.strip_prefix("\\u0069d\\\"").unwrap_or(digits).parse::<u64>().ok()? {
        large if large > 1 << 52 => ((1u64 << 53) - 1).checked_sub(large)?,
        small => small,
    };
    (id_text(id) == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_were_written() {
        assert!((0..1_000).all(|id| id_of(&id_text(id)) == Some(id)));
        assert_eq!(id_of("\"5\""), None, "this one goes as a number");
    }
}
