//! What is kept of inboxes for who is away: all of it comes to whoever returns, before anything else.
//!
//! Somebody is away for certain from a rest at which nobody was connected by that name until somebody connects by it.

use std::collections::BTreeSet;

use super::channel::Truth;
use super::{Check, Checked, Failure, Oracle, Seen, Serial};
use crate::Map;
use crate::names::{ChannelIndex, Class};

/// Messages that are kept of an inbox.
const KEPT: u64 = 100;

/// A direct message that somebody is to get.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stored {
    from: (Serial, u32),
    epoch: String,
    offset: u64,
}

/// Inboxes of who is away, and of who has not got all of it yet.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    away: BTreeSet<ChannelIndex>,
    waiting: Map<ChannelIndex, Vec<Stored>>,
    /// Messages that must not be refused because nobody is there.
    stored: BTreeSet<(ChannelIndex, Serial, u32)>,
}

/// Whether messages before this offset may be lost for who catches up on an inbox: that begins with what is kept of it,
/// and nobody is told that more has been.
pub(super) fn may_lack(truth: &Truth, is_behind: bool, is_forgetful: bool, offset: u64) -> bool {
    truth.class == Class::Inbox && is_behind && (is_forgetful || offset > KEPT)
}

impl Oracle {
    fn inbox_of(&self, name: &str) -> Option<ChannelIndex> {
        let participant = self.names.participants.iter().position(|it| it == name)?;
        Some(self.names.inbox(participant))
    }

    /// Inboxes of who is away for certain.
    pub fn away(&self) -> impl Iterator<Item = ChannelIndex> {
        self.sessions.inboxes.away.iter().copied()
    }

    /// Somebody of this name connects.
    pub fn comes(&mut self, name: &str) {
        if let Some(inbox) = self.inbox_of(name) {
            self.sessions.inboxes.away.remove(&inbox);
        }
    }

    /// A direct message is to be kept if nobody is there.
    pub fn stores(&mut self, from: (Serial, u32), inbox: ChannelIndex) {
        self.sessions.inboxes.stored.insert((inbox, from.0, from.1));
    }

    /// A direct message was refused because nobody is there.
    ///
    /// # Errors
    /// If it was to be kept for that case.
    pub fn check_refused(&self, from: (Serial, u32), inbox: ChannelIndex) -> Checked {
        match self.sessions.inboxes.stored.contains(&(inbox, from.0, from.1)) {
            true => Err(Failure::new(Check::Answers, "nobody is there, and it was to be kept for that case")),
            false => Ok(()),
        }
    }

    /// A session goes on, and where its inbox does was not named: with what nobody has got yet. What came meanwhile its
    /// connection before may have got.
    pub fn inbox_goes_on(&mut self, serial: Serial) {
        let Some(view) = self.views.get_mut(&serial) else { return };
        if let Some(participant) = self.names.participants.iter().position(|it| *it == view.name) {
            view.renewed(self.names.inbox(participant), None, self.clock);
        }
    }

    /// A direct message was accepted: for who is away it is kept.
    pub(super) fn kept_for_who_is_away(
        &mut self,
        from: (Serial, u32),
        inbox: ChannelIndex,
        (epoch, offset): (&str, u64),
        is_ephemeral: bool,
    ) {
        let inboxes = &mut self.sessions.inboxes;
        if !is_ephemeral && inboxes.away.contains(&inbox) && !self.is_forgetful {
            let stored = Stored { from, epoch: epoch.to_owned(), offset };
            inboxes.waiting.entry(inbox).or_default().push(stored);
        }
    }

    /// Nobody can tell any more what somebody of this name is to get.
    pub fn forget_inbox_of(&mut self, name: &str) {
        if let Some(inbox) = self.inbox_of(name) {
            self.sessions.inboxes.waiting.remove(&inbox);
        }
    }

    /// A direct message was read: nothing that was kept comes behind it.
    pub(super) fn came_to_inbox(&mut self, serial: Serial, seen: &Seen<'_>) -> Checked {
        let Some(waiting) = self.sessions.inboxes.waiting.get_mut(&seen.channel) else { return Ok(()) };
        if seen.is_ephemeral {
            return Ok(());
        }
        let (epoch, offset) = seen.position;
        waiting.retain(|it| it.from != seen.from);
        let earlier = waiting.iter().find(|it| it.epoch == epoch && it.offset < offset).map(|it| it.offset);
        let name = &self.names.channels[usize::from(seen.channel)].name;
        let is_alone = self.views.iter().all(|(other, view)| *other == serial || view.name != *name);
        match earlier {
            Some(earlier) if is_alone && offset - earlier < KEPT => {
                let what = format!("offset {offset} came before {earlier}, which was kept for who was away");
                Err(Failure::new(Check::Delivery, what))
            }
            _ => Ok(()),
        }
    }

    /// All rests: who is there has got all that was kept, and who is away is so for certain.
    pub(super) fn look_who_is_away(&mut self, all_are_known: bool) -> Checked {
        let names = std::rc::Rc::clone(&self.names);
        let inboxes = (0..names.participants.len()).map(|participant| names.inbox(participant));
        for (inbox, name) in inboxes.zip(&names.participants) {
            let is_there = self.views.values().any(|view| view.name == *name);
            let own = &mut self.sessions.inboxes;
            own.away.remove(&inbox);
            if !is_there {
                if all_are_known {
                    own.away.insert(inbox);
                }
                continue;
            }
            let Some(waiting) = own.waiting.remove(&inbox) else { continue };
            let highest = waiting.iter().map(|it| it.offset).max().unwrap_or_default();
            if let Some(lost) = waiting.iter().find(|it| highest - it.offset < KEPT / 2) {
                let what = format!(
                    "message {} of connection {} was kept for who was away, and did not come on return",
                    lost.from.1, lost.from.0
                );
                return Err(self.on(inbox, Failure::new(Check::Delivery, what)));
            }
        }
        Ok(())
    }
}
