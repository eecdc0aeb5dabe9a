//! Receipts: each that is wanted comes once, behind the answer to its publish, and says rightly what became of the copies.
//!
//! Who certainly was a live subscriber when a message was written is one of its recipients; where nobody came or went since
//! the last rest, nobody else is. What everybody gets was delivered; who acknowledges has got what it has acknowledged.

use std::collections::BTreeMap;

use super::times::Moment;
use super::{Check, Checked, Failure, Oracle, Seen, Serial, View};
use crate::Map;
use crate::names::{ChannelIndex, Class};

/// What was not written within this time has failed.
const WRITTEN_WITHIN_US: u64 = 30_000_000;

/// Receipts that a participant may have open at one home.
const OPEN_MAX: u64 = 1_024;

/// Receipts that wait for one subscription's acknowledgements, less some that nobody knows of.
const UNACKED_MAX: usize = 200;

/// What a receipt says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Recipients.
    pub of: u64,
    /// Of these, so many have got it.
    pub delivered: u64,
    /// And so many have not.
    pub failed: u64,
}

/// A publish that wants a receipt.
#[derive(Clone, Debug)]
struct Wanted {
    channel: ChannelIndex,
    number: u32,
    /// Whether its publisher is a recipient if it is subscribed.
    echoes: bool,
    clock: u64,
    at: Moment,
    /// What it was answered.
    position: Option<(String, u64)>,
}

/// All receipts of a run.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    /// Those that have not come, by connection and request.
    wanted: BTreeMap<(Serial, u64), Wanted>,
    /// Those that have since the last rest.
    came: Vec<(Serial, Wanted, Counts)>,
    /// How often those messages were read for the first time.
    reads: Map<(ChannelIndex, Serial, u32), u64>,
    /// How many each participant may have open, those of its lost connections among them.
    open: Map<String, u64>,
}

/// How many subscribers there are of a kind, certainly and perhaps.
#[derive(Clone, Copy, Debug, Default)]
struct Recipients {
    certain: u64,
    possible: u64,
    /// Those of them who certainly have got it, or may have.
    got: u64,
    may_have: u64,
}

fn wrong(what: String) -> Checked {
    Err(Failure::new(Check::Receipts, what))
}

impl Oracle {
    /// A publish wants a receipt, by its request's number.
    pub fn wants_receipt(
        &mut self,
        (serial, request): (Serial, u64),
        name: &str,
        (channel, number): (ChannelIndex, u32),
        echoes: bool,
    ) {
        let (clock, at) = (self.clock, self.moment());
        let wanted = Wanted { channel, number, echoes, clock, at, position: None };
        self.receipts.reads.insert((channel, serial, number), 0);
        self.receipts.wanted.insert((serial, request), wanted);
        *self.receipts.open.entry(name.to_owned()).or_default() += 1;
    }

    /// A publish was answered that may want a receipt.
    pub fn receipt_follows(&mut self, serial: Serial, request: Option<u64>, position: (&str, u64)) {
        let wanted = request.and_then(|request| self.receipts.wanted.get_mut(&(serial, request)));
        if let Some(wanted) = wanted {
            wanted.position = Some((position.0.to_owned(), position.1));
        }
    }

    /// A publish was refused that may want a receipt: none comes. Whether it wanted one.
    pub fn no_receipt_follows(&mut self, serial: Serial, request: Option<u64>, name: &str) -> bool {
        let wanted = request.and_then(|request| self.receipts.wanted.remove(&(serial, request)));
        if wanted.is_some() {
            self.receipt_closes(name);
        }
        wanted.is_some()
    }

    /// A publish was refused because too many receipts are open.
    ///
    /// # Errors
    /// If they can't be that many.
    pub fn overloaded(&mut self, from: (Serial, u32), request: Option<u64>, name: &str) -> Checked {
        let open = self.receipts.open.get(name).copied().unwrap_or_default();
        let wanted = request.and_then(|request| self.receipts.wanted.remove(&(from.0, request)));
        let Some(wanted) = wanted else { return wrong("too many receipts, and none was wanted".to_owned()) };
        // This one is not open.
        if open <= OPEN_MAX {
            return wrong(format!("too many receipts, and at most {} are open", open - 1));
        }
        self.receipt_closes(name);
        let truth = &mut self.truths[usize::from(wanted.channel)];
        truth.answered(from);
        truth.never_published(from);
        if let Some(view) = self.views.get_mut(&from.0) {
            view.refused(wanted.channel, from.1);
        }
        Ok(())
    }

    /// A message was read.
    pub(super) fn reads_for_receipt(&mut self, seen: &Seen<'_>) {
        if seen.attempt == 0
            && let Some(reads) = self.receipts.reads.get_mut(&(seen.channel, seen.from.0, seen.from.1))
        {
            *reads += 1;
        }
    }

    fn receipt_closes(&mut self, name: &str) {
        if let Some(open) = self.receipts.open.get_mut(name) {
            *open -= 1;
        }
    }

    /// A receipt was read.
    ///
    /// # Errors
    /// If nobody wanted it any more, or it is of something else.
    pub fn receipt(
        &mut self,
        (serial, request): (Serial, Option<u64>),
        name: &str,
        (channel, position): (Option<&str>, (&str, u64)),
        counts: Counts,
    ) -> Checked {
        let wanted = request.and_then(|request| self.receipts.wanted.remove(&(serial, request)));
        let Some(wanted) = wanted else {
            return wrong("a receipt that nobody wants, or that has come before".to_owned());
        };
        self.receipt_closes(name);
        let (class, own) = (self.truths[usize::from(wanted.channel)].class, wanted.channel);
        let due = Some(&*self.names.channels[usize::from(own)].name).filter(|_| class != Class::Inbox);
        let at = wanted.position.as_ref().map(|(epoch, offset)| (&**epoch, *offset));
        if channel != due || at != Some(position) {
            return wrong(format!(
                "a receipt of {channel:?} at {position:?}, and {due:?} was answered at {at:?}"
            ));
        }
        let Counts { of, delivered, failed } = counts;
        if delivered + failed != of {
            return self.on_receipt(own, format!("{delivered} delivered and {failed} failed are not {of}"));
        }
        self.receipts.came.push((serial, wanted, counts));
        Ok(())
    }

    /// A connection has ended: its receipts come to nobody.
    pub(super) fn receipts_lost(&mut self, serial: Serial) {
        self.receipts.wanted.retain(|(of, _), _| *of != serial);
        self.receipts.came.retain(|(of, ..)| *of != serial);
        self.receipts.reads.retain(|(_, of, _), _| *of != serial);
    }

    /// All rests. What came since the last rest is right, and all has come that must have; `is_exact` if shards hold nobody
    /// who is gone for its client.
    pub(super) fn settle_receipts(&mut self, is_exact: bool) -> Checked {
        let is_steady = is_exact && self.changes == 0 && self.strangers == 0;
        for (serial, wanted, counts) in std::mem::take(&mut self.receipts.came) {
            self.check_counts((serial, &wanted), counts, is_steady && wanted.clock >= self.rested)?;
            self.receipts.reads.remove(&(wanted.channel, serial, wanted.number));
        }
        for ((serial, _), wanted) in &self.receipts.wanted {
            let is_late = wanted.position.is_some() && is_exact && self.awaits_nobody(wanted);
            if is_late {
                let what = format!(
                    "connection {serial} was never told what became of its message {}, and all who acknowledge have \
                     done so",
                    wanted.number
                );
                return self.on_receipt(wanted.channel, what);
            }
        }
        Ok(())
    }

    /// Whether everybody who acknowledges a channel has acknowledged a message of it, as far as that is known.
    fn awaits_nobody(&self, wanted: &Wanted) -> bool {
        let at = wanted.position.as_ref();
        let truth = &self.truths[usize::from(wanted.channel)];
        let at = at.and_then(|(epoch, offset)| Some((truth.known_epoch(epoch)?, *offset)));
        self.views.values().all(|view| match (view.acking.get(&wanted.channel), at) {
            (None, _) => true,
            (Some(acking), Some(at)) => acking.is_known_up_to(at),
            (Some(_), None) => false,
        })
    }

    fn check_counts(&self, (serial, wanted): (Serial, &Wanted), counts: Counts, is_steady: bool) -> Checked {
        let truth = &self.truths[usize::from(wanted.channel)];
        // Nobody knows who of a participant's connections had caught up with the inbox.
        if truth.class == Class::Inbox {
            return Ok(());
        }
        let mut all = Recipients::default();
        for (other, view) in &self.views {
            let is_left_out = *other == serial && !wanted.echoes;
            if !is_left_out {
                self.count(view, wanted, truth.class, &mut all);
            }
        }
        let Counts { of, delivered, .. } = counts;
        // At rest whatever was written was read.
        let reads = self.receipts.reads.get(&(wanted.channel, serial, wanted.number)).copied();
        all.may_have = all.may_have.min(reads.unwrap_or_default());
        let what = if of < all.certain || is_steady && of > all.possible {
            format!("{of} recipients, and there are {} to {}", all.certain, all.possible)
        } else if delivered < all.got || is_steady && delivered > all.may_have {
            format!("{delivered} of {of} have got it, and {} to {} have", all.got, all.may_have)
        } else {
            return Ok(());
        };
        let number = wanted.number;
        self.on_receipt(wanted.channel, format!("message {number} of connection {serial}: {what}"))
    }

    /// Counts a subscriber among the recipients of a message.
    fn count(&self, view: &View, wanted: &Wanted, class: Class, all: &mut Recipients) {
        let channel = wanted.channel;
        let Some(since) = view.active_since(&self.names, channel) else { return };
        all.possible += 1;
        let acking = view.acking.get(&channel);
        let is_sure = since < wanted.clock && !view.is_sieved(channel);
        // Who catches up gets it all the same, and is none of the recipients unless it acknowledges.
        let is_live = !view.catches_up(channel) && acking.is_none_or(|it| !it.is_unclear());
        let is_certain = is_sure && is_live;
        all.certain += u64::from(is_certain);
        let is_recent = self.now_us < wanted.at.us + WRITTEN_WITHIN_US;
        let truth = &self.truths[usize::from(channel)];
        let at = wanted.position.as_ref();
        let at = at.and_then(|(epoch, offset)| Some((truth.known_epoch(epoch)?, *offset)));
        let (got, may_have) = match (acking, at) {
            (None, _) => (is_recent && class == Class::Numbered, true),
            (Some(acking), Some(at)) => {
                let patience_us = self.ack_limits.patience_us();
                let is_early = self.now_us < wanted.at.us + patience_us.min(WRITTEN_WITHIN_US);
                let few = self.receipts_of(channel) < UNACKED_MAX;
                (is_early && few && acking.has_acknowledged(at), acking.may_have_acknowledged(at))
            }
            (Some(_), None) => (false, true),
        };
        all.got += u64::from(is_certain && got);
        all.may_have += u64::from(may_have);
    }

    /// How many receipts of a channel are open.
    fn receipts_of(&self, channel: ChannelIndex) -> usize {
        self.receipts.wanted.values().filter(|it| it.channel == channel).count()
    }

    fn on_receipt(&self, channel: ChannelIndex, what: String) -> Checked {
        Err(self.on(channel, Failure::new(Check::Receipts, what)))
    }
}
