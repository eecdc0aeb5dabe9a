//! Where a later message may replace an earlier one of its event, the last one must have come to everybody.
//!
//! Nobody knows in which order a channel got the messages of several publishers. But the last one of an event is the
//! last of its publisher, and it is the same for all: who got another one last, or none, was dropped for.

use crate::Map;

use super::channel::Truth;
use super::{Check, Checked, Failure, Oracle, Serial};
use crate::names::{ChannelIndex, Class};

/// A message of some publisher.
type Number = (Serial, u32);

/// An event, as a number.
pub(super) fn event_of(event: &str) -> u32 {
    event.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Oracle {
    /// Checks that no more subscribers lack the last message of an event than messages were `dropped`.
    pub(super) fn check_latest(&self, dropped: u64) -> Checked {
        let mut lacking = Vec::new();
        for (channel, truth) in (0..).zip(&self.truths) {
            if truth.class == Class::Conflating {
                for (event, last) in lasts(truth) {
                    self.lacking(channel, event, &last, &mut lacking);
                }
            }
        }
        if lacking.len() as u64 <= dropped {
            return Ok(());
        }
        let what = format!(
            "{} times somebody did not get the last message of an event, and {dropped} were dropped: {}",
            lacking.len(),
            lacking[..lacking.len().min(3)].join("; ")
        );
        Err(Failure::new(Check::Delivery, what))
    }

    /// Who did not get the last message of an event, which is one of `last`: the fewest that it can be.
    fn lacking(&self, channel: ChannelIndex, event: u32, last: &[(Number, u64)], lacking: &mut Vec<String>) {
        let mut votes: Map<Number, usize> = last.iter().map(|(number, _)| (*number, 0)).collect();
        let mut voters = Vec::new();
        for (serial, view) in &self.views {
            let Some(since) = view.active_since(&self.names, channel) else { continue };
            if view.lacking(channel).is_some_and(|lacking| lacking.allows(Some(event))) {
                continue;
            }
            let got = view.latest(channel, event);
            if got.is_some() || last.iter().any(|(_, written)| *written > since) {
                voters.push((*serial, got));
            }
            if let Some(votes) = got.and_then(|got| votes.get_mut(&got)) {
                *votes += 1;
            }
        }
        let most = votes.iter().max_by_key(|(number, votes)| (**votes, **number)).map(|(number, _)| *number);
        let name = &self.names.channels[usize::from(channel)].name;
        let others = voters.iter().filter(|(_, got)| got.is_none() || *got != most);
        // If nobody got any of them, all lack it.
        lacking.extend(others.map(|(serial, got)| {
            format!("{name}: connection {serial} got {got:?} (publisher, number) last, others {most:?}")
        }));
    }
}

/// The last message of each publisher by event, and the clock when it was written.
fn lasts(truth: &Truth) -> Map<u32, Vec<(Number, u64)>> {
    let mut lasts: Map<u32, Vec<(Number, u64)>> = Map::default();
    for (publisher, published) in &truth.publishers {
        let mut of_publisher: Map<u32, (Number, u64)> = Map::default();
        for number in published.settled() + 1..=published.last() {
            if let (Some(event), Some(at)) = (published.event(number), published.written_at(number)) {
                of_publisher.insert(event, ((*publisher, number), at));
            }
        }
        for (event, last) in of_publisher {
            lasts.entry(event).or_default().push(last);
        }
    }
    lasts
}
