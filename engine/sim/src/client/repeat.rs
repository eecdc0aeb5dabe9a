//! Publishes with an idempotency key, and the same once more: on the same connection or a later one.

use super::ledger::Ask;
use super::publish::Draft;
use super::requests::noted;
use super::session::Session;
use super::{Client, Town};
use crate::chaos::Fault;
use crate::names::ChannelIndex;
use crate::oracle::Serial;

/// Publishes that a client may repeat.
const REPEATS_MAX: usize = 20;

/// Bytes of a publish that is repeated at most: a batch may be full of them.
const TEXT_BYTES_MAX: usize = 2_000;

/// A publish that may be repeated.
#[derive(Debug)]
pub(super) struct Repeat {
    /// Who published it.
    pub(super) name: String,
    pub(super) channel: ChannelIndex,
    pub(super) from: (Serial, u32),
    /// All of it but its id.
    pub(super) text: String,
}

impl Client {
    /// Gives a publish a key, now and then; whose it is then.
    pub(super) fn key(&self, draft: &mut Draft, session: &Session, town: &mut Town) -> Option<String> {
        let is_known = session.is_established && session.kind.is_named;
        let is_wanted = is_known && self.repeats.len() < REPEATS_MAX && town.chaos.strikes(Fault::Repetition);
        if !is_wanted {
            return None;
        }
        draft.envelope.push(format!(r#""idempotency_key":"{}-{}""#, session.serial, draft.numbers[0]));
        Some(session.name.clone())
    }

    /// One that was published before, if there is one to repeat.
    pub(super) fn repeat(&mut self, session: &mut Session, town: &mut Town) -> Option<String> {
        let may = session.is_established && !(town.is_steady && town.habits.is_tight);
        if self.repeats.is_empty() || !may || !town.chaos.strikes(Fault::Repetition) {
            return None;
        }
        let at = town.chaos.below(Fault::Repetition, self.repeats.len());
        // In a batch, what is as deep as may be would be too deep.
        let is_flat = |it: &Repeat| !it.text.contains(r#""deep""#);
        let is_fit = |it: &Repeat| it.name == session.name && it.text.len() <= TEXT_BYTES_MAX && is_flat(it);
        if !is_fit(&self.repeats[at]) || town.chaos.below(Fault::Repetition, 4) == 0 {
            self.repeats.swap_remove(at);
            return None;
        }
        let Repeat { channel, from, text, .. } = &self.repeats[at];
        // On the same connection it is acted on first.
        let is_late = town.oracle.repeats(*channel, *from) || from.0 == session.serial;
        let id = session.ledger.ask(vec![Ask::Repetition { channel: *channel, from: *from, is_late }]);
        Some(format!(r#"{{"id":{},{}"#, noted(id, town), &text[1..]))
    }
}
