//! Where publishes go: to channels, participants, or lists of them.

use std::rc::Rc;

use super::deeds::Deed;
use super::session::Session;
use super::{Client, Town};
use crate::names::{ChannelIndex, Class};

/// Where a publish goes.
pub(super) enum Target {
    Channel(ChannelIndex),
    /// Participants' numbers.
    Participants(Vec<usize>),
}

impl Client {
    /// Where the next publish goes.
    pub(super) fn target(&mut self, session: &Session, town: &mut Town) -> Target {
        let names = &town.names;
        let developers = names.participants.len();
        match self.rng.u32(..100) {
            // What is slow to leave must not end connections while none are to end.
            _ if town.is_steady && town.habits.is_tight => {
                let may_drop = |it: &ChannelIndex| {
                    matches!(names.channels[usize::from(*it)].class, Class::Dropping | Class::Conflating)
                };
                let droppable: Vec<_> = (0..names.open as ChannelIndex).filter(may_drop).collect();
                Target::Channel(self.rng.choice(droppable).unwrap_or_default())
            }
            0 => Target::Channel(names.system()),
            1..5 => Target::Participants(vec![self.rng.usize(..developers)]),
            5 if session.participant.is_some() => {
                Target::Participants(session.participant.into_iter().collect())
            }
            6..8 => {
                let mut list: Vec<usize> =
                    (0..self.rng.usize(1..6)).map(|_| self.rng.usize(..developers)).collect();
                list.extend(session.participant.filter(|_| self.rng.u32(..3) == 0));
                town.deeds.did(Deed::ToList);
                let last = list[list.len() - 1];
                let count = list.len();
                list.retain(|it| *it != last);
                list.push(last);
                if list.len() < count {
                    town.deeds.did(Deed::ToTwice);
                }
                // Each once: named twice, it would get the message the last time, as it does with repetitions below.
                let mut seen = Vec::new();
                list.retain(|it| {
                    !seen.contains(it) && {
                        seen.push(*it);
                        true
                    }
                });
                Target::Participants(list)
            }
            _ => Target::Channel(self.rng.usize(..names.open) as ChannelIndex),
        }
    }

    /// `channel` or `to`, as a member of the envelope.
    pub(super) fn address(&mut self, session: &Session, target: &Target, town: &mut Town) -> String {
        let names = Rc::clone(&town.names);
        match target {
            Target::Channel(channel) => {
                let name = self.escaped(&names.channels[usize::from(*channel)].name, town);
                format!(r#""channel":{name}"#)
            }
            Target::Participants(list) => {
                let mut texts = Vec::new();
                for participant in list {
                    if session.participant == Some(*participant) && self.rng.bool() {
                        town.deeds.did(Deed::ToMe);
                        texts.push("\"@me\"".to_owned());
                    } else {
                        texts.push(self.escaped(&names.participants[*participant], town));
                    }
                }
                // The last of a repeated name counts, so that a repetition changes nothing.
                if texts.len() > 1 && self.rng.u32(..3) == 0 {
                    texts.insert(0, texts[self.rng.usize(..texts.len())].clone());
                    town.deeds.did(Deed::ToTwice);
                }
                match &texts[..] {
                    [one] if self.rng.bool() => format!(r#""to":{one}"#),
                    list => format!(r#""to":[{}]"#, list.join(",")),
                }
            }
        }
    }
}
