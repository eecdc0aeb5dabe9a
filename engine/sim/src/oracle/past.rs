//! What comes of a channel's past: from the named position on everything, once and in order, or the news that it
//! can't be had, where it certainly was not kept.

use std::collections::BTreeSet;

use super::{Check, Checked, Failure, Oracle, Serial, Truth};
use crate::names::{ChannelIndex, Class};

/// What a client wanted of a channel's past.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Everything behind a position.
    pub position: Option<(String, u64)>,
    /// Otherwise so many of the latest messages.
    pub latest: u64,
}

/// How `subscribed` says that a channel begins.
#[derive(Clone, Copy, Debug)]
pub struct Began<'a> {
    /// Behind which position the next message comes.
    pub position: (&'a str, u64),
    /// Whether it says that nothing is missing.
    pub recovered: Option<bool>,
    /// Messages that came with it.
    pub carried: u64,
    /// Whether more are to come, or there were.
    pub has_more: Option<bool>,
    /// Some may have been left out of them.
    pub is_filtered: bool,
}

impl Oracle {
    /// `subscribed` was read for a request that wanted something of the past; what came with it comes next. Another
    /// such answer may be due (`is_unsure`).
    ///
    /// # Errors
    /// If it claims what can't be, or denies what must be.
    pub fn subscribed_from(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        wanted: &Wanted,
        began: &Began<'_>,
    ) -> Result<bool, Failure> {
        let checked = self.begin(serial, channel, wanted, began);
        checked.map_err(|failure| self.on(channel, failure))
    }

    fn begin(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        wanted: &Wanted,
        began: &Began<'_>,
    ) -> Result<bool, Failure> {
        self.clock += 1;
        let Some(view) = self.views.get_mut(&serial) else { return Ok(false) };
        self.changes += 1;
        // Who was live gets on the way what was published until the answer.
        let was_live = view.is_by_name(channel) && !view.is_behind(channel);
        // What a filter left out is not missed.
        let was_live_at = view.at(channel).filter(|_| was_live && !view.is_sieved(channel));
        let is_on_the_way = began.carried == 0 && began.has_more == Some(true);
        view.subscribed(channel, self.clock);
        let wrong = |what: String| Err(Failure::new(Check::Answers, what));
        // Who is catching up goes on from where it stands, which says nothing of how far the channel is.
        let was_at = (view.is_behind(channel) || was_live && is_on_the_way).then(|| view.at(channel));
        let truth = &mut self.truths[usize::from(channel)];
        if matches!(truth.class, Class::Dropping | Class::Conflating) {
            view.renewed(channel, None, self.clock);
            if began.carried > 0 || began.recovered == Some(true) {
                return wrong("nothing is kept here, and something was recovered".to_owned());
            }
            return Ok(false);
        }
        let (epoch, offset) = truth.at(began.position);
        let known = wanted.position.as_ref().filter(|(theirs, _)| theirs == began.position.0);
        let start = known.map(|(_, offset)| *offset);
        let is_recovered = began.recovered.unwrap_or(start == offset.checked_sub(began.carried));
        if let Some(start) = start.filter(|_| is_recovered) {
            if start + began.carried > offset || start + began.carried < offset && !began.is_filtered {
                let what = format!("recovered from {start} with {} messages up to {offset}", began.carried);
                return wrong(what);
            }
            view.renewed(channel, Some((epoch, start)), self.clock);
            view.falls_behind(channel, true, self.clock);
            return Ok(true);
        }
        if is_recovered {
            return wrong("recovered from a position that is none".to_owned());
        }
        let own = view.unechoed_here(channel);
        // How far a filter had left out what came is not known here, nor where own messages were that had no echo.
        let is_farther =
            |at: u64| is_on_the_way && (view.is_sieved(channel) || (at..=at + own).contains(&offset));
        let is_there = |at: (u32, u64)| at == (epoch, offset) || at.0 == epoch && is_farther(at.1);
        let stays = was_at.is_some_and(|at| at.is_none_or(is_there));
        if let Some(at) = was_live_at.filter(|at| at.0 == epoch && at.1 + own < offset - began.carried)
            && !began.is_filtered
            && truth.keeps_since(at, offset, self.now_us)
        {
            let what = format!("it was at {} and goes on at {offset} with {} messages", at.1, began.carried);
            return Err(Failure::new(Check::Delivery, what));
        }
        if let Some(start) = start
            && !stays
            && truth.keeps_since((epoch, start), offset, self.now_us)
        {
            let what = format!("not recovered from {start} up to {offset}, and all of it is kept");
            return Err(Failure::new(Check::Delivery, what));
        }
        check_latest(truth, (epoch, offset), wanted, began, self.now_us)?;
        let start = (epoch, offset - began.carried);
        view.renewed(channel, Some(start).filter(|_| !began.is_filtered), self.clock);
        // Until they were read, what came with it comes from what is kept.
        view.falls_behind(channel, began.carried > 0 || stays || is_on_the_way, self.clock);
        Ok(false)
    }

    /// All that came with `subscribed` was read: whether its channel is live.
    ///
    /// # Errors
    /// If the position is not the one that was named.
    pub fn began(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        began: &Began<'_>,
        (is_live, is_unsure): (bool, bool),
    ) -> Checked {
        let Some(view) = self.views.get_mut(&serial) else { return Ok(()) };
        let truth = &mut self.truths[usize::from(channel)];
        if matches!(truth.class, Class::Dropping | Class::Conflating) {
            return Ok(());
        }
        let at = truth.at(began.position);
        if began.is_filtered {
            // What was left out behind the last one that came is counted no more.
            let checked = view.positioned(serial, channel, at, truth);
            view.counts_anew(channel, truth.settled_ephemerals());
            if let Err(failure) = checked.or_else(|failure| if is_unsure { Ok(()) } else { Err(failure) }) {
                return Err(self.on(channel, failure));
            }
        } else if view.at(channel) != Some(at) {
            let what = format!("{} messages came, and not up to the position {}", began.carried, at.1);
            return Err(self.on(channel, Failure::new(Check::Offsets, what)));
        }
        if is_live {
            view.falls_behind(channel, false, self.clock);
        }
        if is_unsure {
            view.forget_position(channel);
        }
        Ok(())
    }

    /// `subscribed` was read for a request that wanted nothing of the past, while the answer to one is due that did.
    pub fn subscribed_between(&mut self, serial: Serial, channel: ChannelIndex) {
        self.clock += 1;
        self.changes += 1;
        if let Some(view) = self.views.get_mut(&serial) {
            view.subscribed(channel, self.clock);
            view.forget_position(channel);
        }
    }

    /// An epoch or a position was announced without having been asked for: the past is lost.
    ///
    /// # Errors
    /// If nobody here can have lost it.
    pub fn announced(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        position: (&str, u64),
        is_unsure: bool,
    ) -> Checked {
        let checked = self.lose(serial, channel, position, is_unsure);
        checked.map_err(|failure| self.on(channel, failure))
    }

    fn lose(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        position: (&str, u64),
        is_unsure: bool,
    ) -> Checked {
        let Some(view) = self.views.get_mut(&serial) else { return Ok(()) };
        let truth = &mut self.truths[usize::from(channel)];
        let at = truth.at(position);
        let is_behind = view.is_behind(channel);
        let was_acked = view.acking.contains_key(&channel);
        view.loses_open(channel, at);
        if was_acked && view.at(channel).is_some_and(|was| was.0 == at.0 && at.1 <= was.1) {
            // It has come, and can't come again.
            return truth.check_lost(at, self.now_us, self.is_forgetful);
        }
        if view.active_since(&self.names, channel).is_none() {
            return Err(Failure::new(Check::Subscription, "an epoch was announced to who is no subscriber"));
        }
        if let Some(was) = view.at(channel).filter(|was| was.0 == at.0 && *was != at) {
            if !is_behind {
                let what = "a position was announced, and the epoch is the one that was known";
                return Err(Failure::new(Check::Subscription, what));
            }
            let last = truth.highest(at.0);
            let is_kept = match was_acked {
                true => truth.keeps_all_since(was, last, self.now_us),
                false => truth.keeps_since(was, at.1, self.now_us),
            };
            if is_kept {
                let what = format!("lost from {} up to {}, and all of it is kept", was.1, at.1);
                return Err(Failure::new(Check::Delivery, what));
            }
        }
        if is_behind {
            self.changes += 1;
            view.renewed(channel, Some(at), self.clock);
            view.falls_behind(channel, false, self.clock);
        }
        view.moved(channel, at);
        view.loses_count(channel);
        if is_unsure {
            view.forget_position(channel);
        }
        Ok(())
    }

    /// Who is subscribed to a channel by its name.
    pub fn members(&self, channel: ChannelIndex) -> BTreeSet<&str> {
        let members = self.views.values().filter(|view| view.is_by_name(channel));
        members.map(|view| view.name.as_str()).collect()
    }

    /// Where a connection is in a channel, as far as it was told.
    pub fn position(&self, serial: Serial, channel: ChannelIndex) -> Option<(String, u64)> {
        let at = self.views.get(&serial)?.at(channel)?;
        Some(self.truths[usize::from(channel)].text_of(at))
    }

    /// Channels begin new epochs only where they may be forgotten.
    pub(super) fn check_epochs(&self) -> Checked {
        let is_new = |channel: &ChannelIndex| {
            let truth = &self.truths[usize::from(*channel)];
            truth.class == Class::Numbered && truth.epochs() > 1
        };
        match (0..self.truths.len() as ChannelIndex).find(is_new).filter(|_| !self.is_forgetful) {
            Some(channel) => {
                let what = "a new epoch, and nothing had to be forgotten";
                Err(self.on(channel, Failure::new(Check::Offsets, what)))
            }
            None => Ok(()),
        }
    }
}

/// So many of the latest messages as were wanted came, as far as they are certainly kept.
fn check_latest(
    truth: &Truth,
    (epoch, offset): (u32, u64),
    wanted: &Wanted,
    began: &Began<'_>,
    now_us: u64,
) -> Checked {
    let due = wanted.latest.min(offset);
    if began.carried > due {
        let what = format!("{} messages came, at most {} were wanted", began.carried, wanted.latest);
        return Err(Failure::new(Check::Answers, what));
    }
    let may_be_short = began.is_filtered || began.recovered.is_none() || began.has_more == Some(true);
    if began.carried < due && !may_be_short && truth.keeps_since((epoch, offset - due), offset, now_us) {
        let what = format!("{} of {due} messages came, and all of them are kept", began.carried);
        return Err(Failure::new(Check::Delivery, what));
    }
    Ok(())
}
