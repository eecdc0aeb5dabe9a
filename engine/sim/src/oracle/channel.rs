//! What is known of one channel, from whoever saw it: which message has which offset, and who published what.

use std::collections::BTreeSet;

use crate::Map;

use super::times::Moment;
use super::{Check, Checked, Failure, Serial};
use crate::names::{Class, Keeps};

/// Where nobody knows a message, one of so many before it may be known.
const OLDER: u64 = 8;

/// A position: which of the channel's epochs, and the offset.
pub(super) type At = (u32, u64);

/// A channel's truth.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) class: Class,
    /// How much of it is kept.
    keeps: Keeps,
    /// Epochs in the order in which they were first seen; most channels have one.
    epochs: Vec<Epoch>,
    pub(super) publishers: Map<Serial, Published>,
    /// Messages that were sent more than once, and where the one is that counts.
    repeated: Map<(Serial, u32), Option<At>>,
    /// How many messages those published whose connections have ended: the server may act on some of them later.
    gone: Map<Serial, u32>,
    /// Messages that were refused.
    refused: BTreeSet<(Serial, u32)>,
    /// Messages without an offset, ever; and those that everybody has seen who was to.
    ephemerals: (u64, u64),
}

#[derive(Debug)]
struct Epoch {
    name: String,
    /// Which message has which offset.
    messages: Map<u64, Noted>,
    /// The highest offset that anybody was told.
    highest: u64,
    /// Everything up to here was settled.
    settled: u64,
}

/// A message whose offset is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Noted {
    pub(super) from: (Serial, u32),
    /// What it is about, where that is known.
    pub(super) event: Option<u32>,
    /// When it was written, where that is known: it was kept since then at the earliest.
    pub(super) written: Option<Moment>,
}

/// A message that is not settled yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// The clock then.
    pub(super) clock: u64,
    /// The same in virtual time.
    pub(super) at: Moment,
    pub(super) event: u32,
    /// It has no offset of its own, and is not kept.
    pub(super) is_ephemeral: bool,
}

/// What one connection published on one channel.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// How many.
    pub(super) count: u32,
    /// Up to which number all was settled.
    settled: u32,
    /// The later ones.
    written: Vec<Written>,
    /// The highest number that anybody has seen, or that was answered.
    pub(super) known: u32,
    /// The connection has ended: how much of it the server took is known only by who saw it.
    pub(super) has_ended: bool,
}

impl Truth {
    pub(super) fn new(class: Class, keeps: Keeps) -> Self {
        Self {
            class,
            keeps,
            epochs: Vec::new(),
            publishers: Map::default(),
            repeated: Map::default(),
            gone: Map::default(),
            refused: BTreeSet::new(),
            ephemerals: (0, 0),
        }
    }

    pub(super) fn published(&mut self, serial: Serial, written: Written) -> u32 {
        self.ephemerals.0 += u64::from(written.is_ephemeral);
        let published = self.publishers.entry(serial).or_default();
        published.count += 1;
        published.written.push(written);
        published.count
    }

    pub(super) fn answered(&mut self, from: (Serial, u32)) {
        if let Some(published) = self.publishers.get_mut(&from.0) {
            published.known = published.known.max(from.1);
        }
    }

    /// A message was refused as a whole.
    pub(super) fn never_published(&mut self, from: (Serial, u32)) {
        self.refused.insert(from);
    }

    /// Whether a message was refused.
    pub(super) fn is_refused(&self, from: (Serial, u32)) -> bool {
        self.refused.contains(&from)
    }

    pub(super) fn publisher_ended(&mut self, serial: Serial) {
        if let Some(published) = self.publishers.get_mut(&serial) {
            published.has_ended = true;
        }
    }

    /// The index of an epoch, and the offset.
    pub(super) fn at(&mut self, position: (&str, u64)) -> At {
        let index = self.epoch(position.0);
        let epoch = &mut self.epochs[index];
        epoch.highest = epoch.highest.max(position.1);
        (index as u32, position.1)
    }

    fn epoch(&mut self, name: &str) -> usize {
        match self.epochs.iter().rposition(|epoch| epoch.name == name) {
            Some(index) => index,
            None => {
                let messages = Map::default();
                self.epochs.push(Epoch { name: name.to_owned(), messages, highest: 0, settled: 0 });
                self.epochs.len() - 1
            }
        }
    }

    /// All that is known of the message at a position.
    pub(super) fn noted(&self, (epoch, offset): At) -> Option<&Noted> {
        self.epochs[epoch as usize].messages.get(&offset)
    }

    /// Messages without an offset that were published so far.
    pub(super) fn ephemerals(&self) -> u64 {
        self.ephemerals.0
    }

    /// Those of them that can't come any more.
    pub(super) fn settled_ephemerals(&self) -> u64 {
        self.ephemerals.1
    }

    /// How many epochs it has had.
    pub(super) fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// An epoch's index, if anybody was told of it.
    pub(super) fn known_epoch(&self, name: &str) -> Option<u32> {
        self.epochs.iter().rposition(|epoch| epoch.name == name).map(|index| index as u32)
    }

    /// A message is sent once more: whether somebody has seen it, so that it is none that is new.
    pub(super) fn repeats(&mut self, from: (Serial, u32)) -> bool {
        let of = |(index, epoch): (u32, &Epoch)| {
            let found = epoch.messages.iter().find(|(_, it)| it.from == from);
            found.map(|(offset, _)| (index, *offset))
        };
        let at = || (0..).zip(&self.epochs).find_map(of);
        let place = self.repeated.get(&from).copied().flatten().or_else(at);
        self.repeated.insert(from, place);
        place.is_some()
    }

    /// Whether it was sent more than once: the one that counts may be any of them.
    pub(super) fn is_repeated(&self, from: (Serial, u32)) -> bool {
        self.repeated.contains_key(&from)
    }

    /// A position as it is written.
    pub(super) fn text_of(&self, (epoch, offset): At) -> (String, u64) {
        (self.epochs[epoch as usize].name.clone(), offset)
    }

    /// Whether it would be kept even if as much again had come that nobody knows of.
    pub(super) fn keeps_twice_since(&self, at: At, last: u64, now_us: u64) -> bool {
        at.1 < last && 2 * (last - at.1) <= self.keeps.messages && self.keeps_since(at, last, now_us)
    }

    /// Whether it would be kept even if all that was ever published had come, of which nobody knows yet.
    pub(super) fn keeps_all_since(&self, at: At, last: u64, now_us: u64) -> bool {
        let is_whole = self.published_ever() <= at.1 + self.keeps.messages;
        at.1 < last && is_whole && self.keeps_since(at, last, now_us)
    }

    /// Whether everything behind an offset was certainly kept when the channel's last one was `last`, as somebody was
    /// told who reads it now.
    pub(super) fn keeps_since(&self, (epoch, offset): At, last: u64, now_us: u64) -> bool {
        if offset == last {
            return true;
        }
        // No message is older than those before it.
        let messages = &self.epochs[epoch as usize].messages;
        let is_young = |offset: u64| {
            let written = messages.get(&offset).and_then(|it| it.written);
            written.is_some_and(|at| now_us.saturating_sub(at.us) <= self.keeps.age_us)
        };
        offset < last
            && last - offset <= self.keeps.messages
            && (offset.saturating_sub(OLDER)..=offset + 1).rev().any(is_young)
    }

    /// What was not acknowledged can't be sent again up to this offset.
    ///
    /// # Errors
    /// If its last message is certainly kept.
    pub(super) fn check_lost(&self, (epoch, offset): At, now_us: u64, is_forgetful: bool) -> Checked {
        let before = (epoch, offset.saturating_sub(1));
        let known = self.highest(epoch);
        // All that was ever published may have come before it, and only a part of that is known.
        let is_kept = self.published_ever() <= before.1 + self.keeps.messages;
        if !is_forgetful
            && offset > 0
            && is_kept
            && self.keeps_since(before, known, now_us)
            && before.1 < known
        {
            let what = format!("all up to {offset} can't be sent again, and {offset} is kept");
            return Err(Failure::new(Check::Acks, what));
        }
        Ok(())
    }

    /// How many messages were ever published, and so the highest offset there may be.
    fn published_ever(&self) -> u64 {
        let counts = self.publishers.values().map(|it| it.count).chain(self.gone.values().copied());
        counts.map(u64::from).sum::<u64>() + self.repeated.len() as u64
    }

    /// The highest offset that anybody was told of.
    pub(super) fn highest(&self, epoch: u32) -> u64 {
        self.epochs[epoch as usize].highest
    }

    /// Somebody saw this message at this position; `is_old` if it may have come from what is kept.
    pub(super) fn note(&mut self, position: (&str, u64), from: (Serial, u32), is_old: bool) -> Checked {
        let (index, offset) = self.at(position);
        let written = self.written(from);
        let (written, event) = (written.map(|it| it.at), written.map(|it| it.event));
        if let Some(place) = self.repeated.get_mut(&from)
            && *place.get_or_insert((index, offset)) != (index, offset)
        {
            let what = format!("message {} of connection {} has a second offset, {offset}", from.1, from.0);
            return Err(Failure::new(Check::Order, what));
        }
        let epoch = &mut self.epochs[index as usize];
        if offset <= epoch.settled && !is_old {
            let what = format!("offset {offset} comes again: all up to {} was settled", epoch.settled);
            return Err(Failure::new(Check::Offsets, what));
        }
        let known = epoch.messages.entry(offset).or_insert(Noted { from, event, written }).from;
        if known != from {
            let what = format!(
                "offset {offset} is message {} of connection {} and message {} of connection {}",
                known.1, known.0, from.1, from.0
            );
            return Err(Failure::new(Check::Identity, what));
        }
        Ok(())
    }

    /// What is known of a message of this publisher that is not settled.
    pub(super) fn written(&self, from: (Serial, u32)) -> Option<&Written> {
        self.publishers.get(&from.0)?.written(from.1)
    }

    /// Whether a message of this publisher was written behind `clock`.
    pub(super) fn is_written_after(&self, from: (Serial, u32), clock: u64) -> bool {
        self.publishers.get(&from.0).and_then(|it| it.written_at(from.1)).is_some_and(|at| at > clock)
    }

    /// Notes that a message was seen; whether it was ever published.
    pub(super) fn saw(&mut self, from: (Serial, u32)) -> bool {
        let Some(published) = self.publishers.get_mut(&from.0) else {
            return self.gone.get(&from.0).is_some_and(|count| from.1 <= *count);
        };
        published.known = published.known.max(from.1);
        from.1 <= published.count
    }

    /// Everything so far was delivered or accounted for.
    pub(super) fn settle(&mut self) {
        for epoch in &mut self.epochs {
            epoch.settled = epoch.highest;
        }
        // What those wrote who have gone may be acted on later.
        let live = self.publishers.values().filter(|it| !it.has_ended).flat_map(|it| &it.written);
        self.ephemerals.1 += live.filter(|it| it.is_ephemeral).count() as u64;
        let gone = &mut self.gone;
        self.publishers.retain(|serial, published| {
            if published.has_ended {
                gone.insert(*serial, published.count);
            }
            !published.has_ended
        });
        for published in self.publishers.values_mut() {
            published.settled = published.count;
            published.written.clear();
        }
    }
}

impl Published {
    /// The last of its messages that the server certainly took.
    pub(super) fn last(&self) -> u32 {
        if self.has_ended { self.known } else { self.count }
    }

    /// Up to where everything was settled.
    pub(super) fn settled(&self) -> u32 {
        self.settled
    }

    /// The clock when a message was written; `None` for a settled one.
    pub(super) fn written_at(&self, number: u32) -> Option<u64> {
        self.written(number).map(|it| it.clock)
    }

    /// The event of a message; `None` for a settled one.
    pub(super) fn event(&self, number: u32) -> Option<u32> {
        self.written(number).map(|it| it.event)
    }

    pub(super) fn written(&self, number: u32) -> Option<&Written> {
        self.written.get(number.checked_sub(self.settled + 1)? as usize)
    }
}
