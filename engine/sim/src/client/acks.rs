//! Acknowledging what comes: at once, late, partly, twice, never, and beyond what came.

use super::deeds::Deed;
use super::hear::Heard;
use super::ledger::{Ask, Topic};
use super::requests::noted;
use super::session::Session;
use super::{Client, Town};
use crate::chaos::Fault;
use crate::names::ChannelIndex;

/// Manners in which subscriptions are acknowledged: at once, or now and then; and never.
const MANNERS: usize = 4;
const AT_ONCE: usize = 0;
const NEVER: usize = 1;

/// What a connection knows of a channel that it acknowledges.
#[derive(Debug, Default)]
pub(super) struct Acking {
    manner: usize,
    /// Its subscription was answered, and no other request for it is under way.
    is_active: bool,
    /// A request for it was answered since the promise was sent; and the promise was.
    has_begun: bool,
    is_answered: bool,
    /// The last position that came, and up to which offset it has acknowledged.
    heard: Option<(String, u64)>,
    acked: u64,
}

/// Whether a channel's messages can be acknowledged.
fn is_reliable(channel: ChannelIndex, town: &Town) -> bool {
    let name = &town.names.channels[usize::from(channel)].name;
    usize::from(channel) < town.names.open && (name.starts_with("conversation:") || name.starts_with("user:"))
}

impl Client {
    /// The member of a request to subscribe that promises to acknowledge, now and then.
    pub(super) fn acks(
        &self,
        topics: &[Topic],
        asks: &mut [Ask],
        session: &mut Session,
        town: &mut Town,
    ) -> &'static str {
        let ([Topic::Channel(channel)], [Ask::Subscribe { acks, .. }]) = (topics, asks) else { return "" };
        let is_fit = is_reliable(*channel, town) && !session.ledger.awaits_past(*channel);
        if !is_fit || are_unclear(session, topics) || !town.chaos.strikes(Fault::Acks) {
            return "";
        }
        town.deeds.did(Deed::AckPromised);
        *acks = true;
        let manner = town.chaos.below(Fault::Acks, MANNERS);
        // What was taken back before, and is not known to be yet, has begun somewhere else.
        let has_begun = town.oracle.is_acking(session.serial, *channel);
        session.acking.entry(*channel).or_insert(Acking { manner, has_begun, ..Acking::default() });
        // News of a loss are no copies.
        session.ledger.has_wanted_past = true;
        town.oracle.acking(session.serial, *channel);
        r#""ack":true,"#
    }

    /// A message was read: some acknowledge at once.
    pub(super) fn acknowledge(&mut self, session: &mut Session, town: &mut Town, heard: &Heard<'_>) {
        let channel = heard.channel.as_deref().and_then(|it| town.names.find(it));
        let is_numbered =
            heard.pattern.is_none() && heard.payload.as_ref().is_some_and(|it| !it.is_ephemeral());
        let (Some(channel), Some(epoch), Some(offset)) = (channel, heard.epoch, heard.offset) else { return };
        if heard.attempt.is_some() {
            town.deeds.did(Deed::Redelivered);
        }
        let Some(acking) = session.acking.get_mut(&channel).filter(|it| it.is_active && is_numbered) else {
            return;
        };
        match &mut acking.heard {
            Some((known, last)) if known == epoch => *last = offset.max(*last),
            _ => (acking.heard, acking.acked) = (Some((epoch.to_owned(), offset)), 0),
        }
        if acking.manner == AT_ONCE && town.chaos.below(Fault::Acks, 3) == 0 {
            self.send_ack(session, town, channel, 0);
        }
    }

    /// Acknowledges something, now and then.
    pub(super) fn acknowledge_late(&mut self, session: &mut Session, town: &mut Town) {
        if session.acking.is_empty() || !town.chaos.strikes(Fault::Acks) {
            return;
        }
        let at = town.chaos.below(Fault::Acks, session.acking.len());
        let (channel, manner) =
            session.acking.iter().nth(at).map(|(it, acking)| (*it, acking.manner)).expect("it is");
        match town.chaos.below(Fault::Acks, 8) {
            0 => self.ack_beyond(session, town, channel),
            1 => self.ack_unpromised(session, town),
            _ if manner == NEVER => {}
            which => self.send_ack(session, town, channel, which),
        }
    }

    /// All that came, part of it, or once more what was acknowledged before.
    fn send_ack(&mut self, session: &mut Session, town: &mut Town, channel: ChannelIndex, which: usize) {
        let Some(acking) = session.acking.get_mut(&channel).filter(|it| it.is_active) else { return };
        let Some((epoch, last)) = acking.heard.clone() else { return };
        let offset = match which {
            2 => {
                last - town.chaos.below(Fault::Acks, (last.saturating_sub(acking.acked) + 1) as usize) as u64
            }
            3 => acking.acked,
            _ => last,
        };
        town.deeds.did(match which {
            2 => Deed::AckedInPart,
            3 => Deed::AckedTwice,
            _ => Deed::Acked,
        });
        acking.acked = acking.acked.max(offset);
        session.has_acknowledged = true;
        town.oracle.acknowledges(session.serial, channel, (&epoch, offset));
        let name = &town.names.channels[usize::from(channel)].name;
        let text = format!(r#"{{"type":"ack","channel":"{name}","epoch":"{epoch}","offset":{offset}}}"#);
        session.message(town, &text, &mut self.rng);
    }

    /// What was never sent, or in no epoch: that is answered.
    fn ack_beyond(&mut self, session: &mut Session, town: &mut Town, channel: ChannelIndex) {
        let acking = session.acking.get(&channel).filter(|it| it.is_active);
        let Some((epoch, last)) = acking.and_then(|it| it.heard.clone()) else { return };
        town.deeds.did(Deed::AckedBeyond);
        let (epoch, offset) = match town.chaos.below(Fault::Acks, 2) {
            0 => (epoch, last + 1_000_000),
            _ => ("what?".to_owned(), last),
        };
        let name = town.names.channels[usize::from(channel)].name.clone();
        let text = format!(r#""type":"ack","channel":"{name}","epoch":"{epoch}","offset":{offset}"#);
        let id = session.ledger.ask(vec![Ask::Refused { code: "INVALID_MESSAGE", channel: Some(name) }]);
        let text = format!(r#"{{{text},"id":{}}}"#, noted(id, town));
        session.message(town, &text, &mut self.rng);
    }

    /// For a subscription that promised nothing: nothing waits for it.
    fn ack_unpromised(&mut self, session: &mut Session, town: &mut Town) {
        let held = session.ledger.held.iter().find_map(|topic| match topic {
            Topic::Channel(channel) if !session.acking.contains_key(channel) => {
                Some(*channel).filter(|it| !session.acks_unclear.contains(it))
            }
            _ => None,
        });
        let place = held.and_then(|channel| Some((channel, town.oracle.position(session.serial, channel)?)));
        let Some((channel, (epoch, offset))) = place else { return };
        town.oracle.acknowledges_unasked(session.serial, channel, (&epoch, offset));
        let name = &town.names.channels[usize::from(channel)].name;
        let text = format!(r#"{{"type":"ack","channel":"{name}","epoch":"{epoch}","offset":{offset}}}"#);
        session.message(town, &text, &mut self.rng);
    }
}

/// `subscribed` was read for the last request for a channel.
pub(super) fn begins(
    session: &mut Session,
    town: &mut Town,
    (topic, position): (Topic, Option<(&str, u64)>),
    acks: bool,
) {
    let Topic::Channel(channel) = topic else { return };
    let is_due = session.ledger.is_due(topic);
    let Some(acking) = session.acking.get_mut(&channel) else {
        if acks {
            // It was taken back meanwhile: until that is known too, it is acknowledging from here on.
            town.oracle.acking(session.serial, channel);
            town.oracle.acks_begin(session.serial, channel, None);
        }
        return;
    };
    town.oracle.acking(session.serial, channel);
    if !acking.is_answered {
        // The promise may have come before an answer to an earlier request: with that it begins already.
        let is_first = !std::mem::replace(&mut acking.has_begun, true);
        town.oracle.acks_begin(session.serial, channel, position.filter(|_| is_first));
    }
    acking.is_answered |= acks;
    acking.is_active |= !is_due;
}

/// A channel goes on with its session, which acknowledges it as before: behind a position, unless the connection had
/// subscribed to it by itself.
pub(super) fn go_on(
    session: &mut Session,
    town: &mut Town,
    channel: ChannelIndex,
    position: Option<(&str, u64)>,
) {
    if !town.chaos.is_on(Fault::Acks) || !is_reliable(channel, town) {
        return;
    }
    match (town.oracle.acks_handed(channel), position) {
        (Some(false), _) => {}
        (Some(true), Some(position)) => {
            town.deeds.did(Deed::AckGoesOn);
            let manner = town.chaos.below(Fault::Acks, MANNERS);
            session.acking.insert(
                channel,
                Acking { manner, is_active: true, has_begun: true, is_answered: true, ..Acking::default() },
            );
            town.oracle.acks_go_on(session.serial, channel, Some(position));
        }
        _ => {
            session.acking.remove(&channel);
            session.acks_unclear.insert(channel);
            town.oracle.acks_go_on(session.serial, channel, None);
        }
    }
}

/// Whether nobody can tell if one of these is acknowledged.
pub(super) fn are_unclear(session: &Session, topics: &[Topic]) -> bool {
    let is_unclear = |it: &Topic| matches!(it, Topic::Channel(it) if session.acks_unclear.contains(it));
    topics.iter().any(is_unclear)
}

/// `unsubscribed` was read: what was promised meanwhile is to be answered.
pub(super) fn begins_anew(session: &mut Session, channel: ChannelIndex) {
    if let Some(acking) = session.acking.get_mut(&channel) {
        *acking = Acking { manner: acking.manner, ..Acking::default() };
    }
}

/// A request to unsubscribe is sent: nothing is acknowledged from here on.
pub(super) fn ends(session: &mut Session, topics: &[Topic]) {
    for topic in topics {
        if let Topic::Channel(channel) = topic {
            session.acking.remove(channel);
            session.acks_unclear.remove(channel);
        }
    }
}

/// Whether an acknowledgement may have come too late: it was of an epoch that has ended meanwhile.
pub(super) fn may_be_late(session: &Session, town: &Town) -> bool {
    town.oracle.is_forgetful() && session.has_acknowledged
}
