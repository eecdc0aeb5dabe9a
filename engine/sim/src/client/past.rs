//! Asking for what was missed: from the position where a channel was left, from others that are wrong in every way, or
//! just for the latest messages.

use std::collections::BTreeMap;

use super::deeds::Deed;
use super::ledger::{Ask, Topic};
use super::presence::forget;
use super::requests::{asked, noted};
use super::session::Session;
use super::{Client, Town, acks};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class};
use crate::oracle::{HistoryQuery, Wanted};

/// Positions in channels, of this and earlier epochs.
#[derive(Debug, Default)]
pub(super) struct Places {
    last: BTreeMap<ChannelIndex, (String, u64)>,
}

/// Epochs that are none.
pub(super) const NO_EPOCHS: [&str; 4] = ["", "00000000", "what?", "0123456789abcdef0123456789abcdef"];

impl Client {
    /// Its connection is over: where it was in each channel.
    pub(super) fn remember_places(&mut self, session: &Session, town: &Town) {
        for channel in 0..town.names.open as ChannelIndex {
            if town.names.channels[usize::from(channel)].class == Class::Numbered
                && let Some(place) = town.oracle.position(session.serial, channel)
            {
                self.places.last.insert(channel, place);
            }
        }
    }

    /// A request to subscribe that wants something of the past: to a channel of which it knows a position, mostly.
    pub(super) fn subscribe_from(&mut self, session: &mut Session, town: &mut Town) -> Option<String> {
        let channel = match town.chaos.below(Fault::Recovery, 8) {
            0 => town.chaos.below(Fault::Recovery, town.names.open) as ChannelIndex,
            1..4 => self.held_channel(session, town)?,
            _ => {
                let at = town.chaos.below(Fault::Recovery, self.places.last.len());
                *self.places.last.keys().nth(at)?
            }
        };
        let mut topics = vec![Topic::Channel(channel)];
        if town.chaos.below(Fault::Recovery, 8) == 0 {
            topics.push(self.topic(town));
        }
        let held = &session.ledger.held;
        let fresh = topics.iter().filter(|topic| !held.contains(topic)).count();
        // Who acknowledges goes on from there.
        let is_acking =
            |it: &Topic| matches!(it, Topic::Channel(channel) if session.acking.contains_key(channel));
        if topics.iter().any(is_acking) || acks::are_unclear(session, &topics) {
            return None;
        }
        let is_unclear =
            session.ledger.awaits_path() && topics.iter().any(|it| matches!(it, Topic::Prefix(_)));
        if is_unclear || held.len() + fresh > town.habits.subscriptions_max {
            return None;
        }
        let wanted = self.wanted_past(session, channel, town);
        if held.contains(&topics[0]) {
            town.deeds.did(Deed::RenewedFrom);
        }
        forget(&topics, session);
        let mut asks: Vec<Ask> = topics.iter().map(|topic| asked(*topic, session, town)).collect();
        asks.iter_mut().for_each(|ask| session.ledger.want_past(ask, &wanted));
        let filter = self.filter(&topics, &mut asks, session, town);
        let id = session.ledger.ask(asks);
        let past = match &wanted.position {
            Some((epoch, offset)) => {
                format!(r#""recover":{{"epoch":"{epoch}","offset":{offset}}}"#)
            }
            None => format!(r#""history":{}"#, wanted.latest),
        };
        // Both: the latest come where the position is lost.
        let past = match wanted.latest {
            latest if latest > 0 && wanted.position.is_some() => format!(r#"{past},"history":{latest}"#),
            _ => past,
        };
        Some(format!(
            r#"{{"type":"subscribe","id":{},{past},{filter}{}}}"#,
            noted(id, town),
            self.listed(&topics, town)
        ))
    }

    /// A query for what is kept: from the beginning, the end, or a position.
    pub(super) fn ask_history(&mut self, session: &mut Session, town: &mut Town) -> String {
        let mut below = |bound: usize| town.chaos.below(Fault::Recovery, bound);
        let known = below(self.places.last.len() + 1);
        let known = self.places.last.iter().nth(known).map(|(channel, place)| (*channel, place.clone()));
        let (any, limit, back) = (below(town.names.open + 1), below(40) as u64, below(8) as u64);
        let (is_backward, is_since, is_strange) = (below(2) == 0, below(3) > 0, below(16) == 0);
        let (channel, since) = match known {
            Some((channel, (epoch, offset))) if is_since => {
                let epoch = if is_strange { NO_EPOCHS[2].to_owned() } else { epoch };
                (channel, Some((epoch, offset.saturating_sub(back))))
            }
            Some((channel, _)) => (channel, None),
            None => (any as ChannelIndex, None),
        };
        let name = self.escaped(&town.names.channels[usize::from(channel)].name.clone(), town);
        let mut params = vec![format!(r#""channel":{name},"limit":{limit}"#)];
        if let Some((epoch, offset)) = &since {
            params.push(format!(r#""since":{{"epoch":"{epoch}","offset":{offset}}}"#));
        }
        if is_backward {
            params.push(r#""direction":"backward""#.to_owned());
        }
        let query = Box::new(HistoryQuery { limit, since, is_backward });
        let id = session.ledger.ask(vec![Ask::History { channel, query }]);
        format!(
            r#"{{"type":"query","id":{},"method":"history","params":{{{}}}}}"#,
            noted(id, town),
            params.join(",")
        )
    }

    fn held_channel(&self, session: &Session, town: &mut Town) -> Option<ChannelIndex> {
        let numbered = |topic: &Topic| match *topic {
            Topic::Channel(it) if town.names.channels[usize::from(it)].class == Class::Numbered => Some(it),
            _ => None,
        };
        let held: Vec<ChannelIndex> = session.ledger.held.iter().filter_map(numbered).collect();
        held.get(town.chaos.below(Fault::Recovery, held.len())).copied()
    }

    /// From which position on, or how much.
    fn wanted_past(&mut self, session: &Session, channel: ChannelIndex, town: &mut Town) -> Wanted {
        let mut below = |bound: usize| town.chaos.below(Fault::Recovery, bound);
        let (which, back, ahead) = (below(16), below(12) as u64, 1 + below(40) as u64);
        let latest = if below(3) == 0 { 1 + below(150) as u64 } else { 0 };
        let strange = NO_EPOCHS[below(NO_EPOCHS.len())];
        let now = town.oracle.position(session.serial, channel);
        let known = self.places.last.get(&channel).cloned().into_iter().chain(now).last();
        let position = match (which, known) {
            (0..3, _) | (_, None) if which % 2 == 0 || latest > 0 => {
                return Wanted { position: None, latest: latest.max(1) };
            }
            (3, Some((_, offset))) => {
                town.deeds.did(Deed::WrongEpoch);
                Some((strange.to_owned(), offset))
            }
            (4, Some((epoch, offset))) => {
                town.deeds.did(Deed::BeyondPosition);
                Some((epoch, offset + ahead))
            }
            (5..9, Some((epoch, offset))) => Some((epoch, offset.saturating_sub(back))),
            (9, Some((epoch, _))) => Some((epoch, 0)),
            (_, Some(known)) => Some(known),
            (_, None) => Some((strange.to_owned(), back)),
        };
        Wanted { position, latest }
    }
}
