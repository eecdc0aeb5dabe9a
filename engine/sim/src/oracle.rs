//! What must be true of all that clients see: the checkers.
//!
//! It knows what clients asked for and what they were told, never what the server thinks. A publish is known by its
//! publisher's connection and a number that rises by one per channel; a subscriber that misses a number has lost a
//! message.

mod acks;
mod channel;
mod filters;
mod history;
mod inbox;
mod latest;
mod past;
mod receipts;
mod resume;
mod session;
mod settle;
mod times;
mod view;

use std::rc::Rc;

use crate::Map;

use crate::names::{ChannelIndex, Class, Keeps, Names};
pub use acks::AckLimits;
use channel::{Truth, Written};
pub use filters::{Sieve, Subject};
pub use history::HistoryQuery;
pub use past::{Began, Wanted};
pub use receipts::Counts;
pub use resume::{Choice, Lacks, Places, Ticket};
use session::Sessions;
pub use session::{Doubts, Fate, Watched};
pub use view::View;

/// A connection of a client, numbered through the whole run.
pub type Serial = u32;

/// Which promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// Offsets rise by one.
    Offsets,
    /// The same offset is the same message for everybody.
    Identity,
    /// One publisher's messages keep their order, each comes once.
    Order,
    /// Nobody gets what he did not subscribe to.
    Subscription,
    /// What was accepted is delivered.
    Delivery,
    /// What was not delivered was counted.
    Accounting,
    /// Every request is answered, with what it asked for.
    Answers,
    /// Messages arrive as they were sent.
    Content,
    /// Connections take only the steps that the contract allows.
    Steps,
    /// The shard keeps to the driver's contract.
    Driver,
    /// Pools, tables and counters return to where they began.
    Leaks,
    /// Nothing grows without bound.
    Bounds,
    /// Everything gets on within a bound.
    Progress,
    /// Who is there is who is subscribed.
    Presence,
    /// A session is its client's, as it was, for as long as it waits.
    Sessions,
    /// What is not acknowledged comes again, and nothing else does.
    Acks,
    /// Who wants to know what became of a message is told so once, and rightly.
    Receipts,
    /// Who asks for less than all gets that, and is told how much was left out.
    Filters,
    /// Nothing panics.
    Panic,
}

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which.
    pub check: Check,
    /// What was seen, and what should have been.
    pub what: String,
}

impl Failure {
    /// A broken promise.
    pub fn new(check: Check, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

/// A message as a client read it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where it was published.
    pub channel: ChannelIndex,
    /// The prefix by which it came, if the server named one.
    pub pattern: Option<usize>,
    /// Its position, or the channel's.
    pub position: (&'a str, u64),
    /// Who published it, and as which of its messages on this channel.
    pub from: (Serial, u32),
    /// What it is about.
    pub event: &'a str,
    /// Which attempt it is said to be; 0 for the first.
    pub attempt: u32,
    /// How many are said to be left out before it.
    pub skipped: u64,
    /// It has no offset of its own.
    pub is_ephemeral: bool,
    /// It came with `subscribed`.
    pub is_carried: bool,
    /// Whether an answer is due that says where the channel goes on: until then its position is nobody's.
    pub is_unsure: bool,
}

/// The promises of a run, and what has been seen of them.
#[derive(Debug)]
pub struct Oracle {
    names: Rc<Names>,
    truths: Vec<Truth>,
    views: Map<Serial, View>,
    /// Those of connections that a drain ended, with all that it owed them.
    parted: Vec<(Serial, View)>,
    /// Rises with everything that somebody wrote or read: orders events of different clients.
    clock: u64,
    /// Those whose connections are gone.
    sessions: Sessions,
    /// What the wall clock has shown since the last settling, and ever.
    wall: Vec<times::Stretch>,
    ever: (u64, u64),
    /// Whether channels may be forgotten, or what is kept of them.
    is_forgetful: bool,
    ack_limits: AckLimits,
    receipts: receipts::Receipts,
    /// Virtual time, in microseconds.
    pub now_us: u64,
    /// The same without what a shard may take for its absence: its own time has passed at least as fast.
    sure_us: u64,
    /// Messages missed on channels that may drop, since the last settling.
    missed: u64,
    /// Subscriptions and connections that began or ended since then: what was dropped for them can't be seen.
    changes: u64,
    /// The clock then.
    rested: u64,
    /// Connections that have ended since then, and whose client never heard that it is somebody.
    strangers: u64,
    /// Messages read.
    pub delivered: u64,
    /// Publishes answered.
    pub accepted: u64,
}

/// The result of a check.
pub type Checked = Result<(), Failure>;

impl Oracle {
    /// Nothing has been seen yet. Of channels is kept what the contract says, or within `bounds`; some of them are
    /// forgotten if the node `is_forgetful`.
    /// Sessions wait for `window_us`.
    pub fn new(names: Rc<Names>, bounds: Option<Keeps>, is_forgetful: bool, window_us: u64) -> Self {
        let truth = |(index, channel): (ChannelIndex, &crate::names::Channel)| {
            Truth::new(channel.class, names.keeps(index, bounds))
        };
        let truths = (0..).zip(&names.channels).map(truth).collect();
        let views = Map::default();
        let parted = Vec::new();
        Self {
            names,
            truths,
            views,
            parted,
            clock: 0,
            sessions: Sessions::new(window_us),
            wall: Vec::new(),
            ever: (u64::MAX, 0),
            is_forgetful,
            ack_limits: AckLimits { timeout_us: 5_000_000, attempts: 5 },
            receipts: receipts::Receipts::default(),
            now_us: 0,
            sure_us: 0,
            missed: 0,
            changes: 0,
            rested: 0,
            strangers: 0,
            delivered: 0,
            accepted: 0,
        }
    }

    /// A connection past its handshake, of this participant if others know its name.
    pub fn established(&mut self, serial: Serial, participant: Option<usize>, name: &str) {
        self.clock += 1;
        let mut view = View::new(&self.names, serial, name);
        // Everybody has these without asking.
        self.changes += 1;
        view.subscribed(self.names.system(), self.clock);
        if let Some(participant) = participant {
            let inbox = self.names.inbox(participant);
            view.subscribed(inbox, self.clock);
            if self.sessions.is_on() {
                // What came while somebody's session waited comes first.
                view.falls_behind(inbox, true, self.clock);
            }
        }
        self.views.insert(serial, view);
    }

    /// A connection has ended for its client. If it was told to go (`is_sent_away`), what it was owed before is
    /// looked at in the end.
    pub fn ended(&mut self, serial: Serial, is_sent_away: bool, unsure: &[ChannelIndex]) {
        if let Some(mut view) = self.views.remove(&serial) {
            self.changes += 1;
            if is_sent_away {
                view.excuse_behind();
                unsure.iter().for_each(|channel| view.excuse(*channel));
                self.parted.push((serial, view));
            }
        } else {
            self.strangers += 1;
        }
        self.receipts_lost(serial);
        for truth in &mut self.truths {
            truth.publisher_ended(serial);
        }
    }

    /// A client is about to send a publish; its number on this channel.
    pub fn publishes(
        &mut self,
        serial: Serial,
        channel: ChannelIndex,
        event: &str,
        (echoes, is_ephemeral): (bool, bool),
    ) -> u32 {
        self.clock += 1;
        let event = latest::event_of(event);
        let written = Written { clock: self.clock, at: self.moment(), event, is_ephemeral };
        let number = self.truths[usize::from(channel)].published(serial, written);
        if !echoes && let Some(view) = self.views.get_mut(&serial) {
            view.unechoed(channel, number);
        }
        number
    }

    /// A publish was answered with a position.
    ///
    /// # Errors
    /// If somebody knows another message at this position.
    pub fn accepted(
        &mut self,
        from: (Serial, u32),
        channel: ChannelIndex,
        position: (&str, u64),
        is_ephemeral: bool,
    ) -> Checked {
        self.accepted += 1;
        self.kept_for_who_is_away(from, channel, position, is_ephemeral);
        let truth = &mut self.truths[usize::from(channel)];
        truth.answered(from);
        if is_ephemeral || matches!(truth.class, Class::Dropping | Class::Conflating) {
            return Ok(());
        }
        truth.note(position, from, false).map_err(|failure| self.on(channel, failure))
    }

    /// A direct message was refused, for nobody is there: whoever was there all the time waits for it all the same.
    pub fn refused(&mut self, from: (Serial, u32), channel: ChannelIndex) {
        self.truths[usize::from(channel)].answered(from);
        if let Some(view) = self.views.get_mut(&from.0) {
            view.refused(channel, from.1);
        }
    }

    /// `subscribed` was read, as an answer or as news of an epoch.
    ///
    /// # Errors
    /// If its position contradicts what has been delivered.
    pub fn subscribed(&mut self, serial: Serial, channel: ChannelIndex, position: (&str, u64)) -> Checked {
        self.clock += 1;
        let clock = self.clock;
        let Some(view) = self.views.get_mut(&serial) else { return Ok(()) };
        self.changes += 1;
        let may_be_new = self.is_forgetful || view.is_by_pattern(&self.names, channel);
        let truth = &mut self.truths[usize::from(channel)];
        if matches!(truth.class, Class::Dropping | Class::Conflating) {
            view.subscribed(channel, clock);
            return Ok(());
        }
        let at = truth.at(position);
        if may_be_new && view.at(channel).is_some_and(|(epoch, _)| epoch != at.0) {
            // The answer is the announcement: what was open before is lost.
            view.loses_open(channel, at);
            view.moved(channel, at);
            view.subscribed(channel, clock);
            return Ok(());
        }
        if view.acking.contains_key(&channel) && view.at(channel).is_some_and(|was| at.1 < was.1) {
            // What is not acknowledged is being sent again, from there on.
            view.subscribed(channel, clock);
            return Ok(());
        }
        // What came before did so by what was subscribed to before.
        let checked = view.positioned(serial, channel, at, truth);
        view.subscribed(channel, clock);
        checked.map_err(|failure| self.on(channel, failure))
    }

    /// `subscribed` was read for a pattern.
    pub fn pattern_subscribed(&mut self, serial: Serial, prefix: usize) {
        self.clock += 1;
        self.changes += 1;
        if let Some(view) = self.views.get_mut(&serial) {
            view.pattern_subscribed(prefix, self.clock);
        }
    }

    /// `unsubscribed` was read; if the answer to a request for something of the past is due, which is taken back with it
    /// (`is_unsure`), nothing came live from that request on.
    pub fn unsubscribed(&mut self, serial: Serial, channel: ChannelIndex, is_unsure: bool) {
        let names = Rc::clone(&self.names);
        self.changes += 1;
        if let Some(view) = self.views.get_mut(&serial) {
            view.unsubscribed(&names, channel, is_unsure, self.clock);
            view.acking.remove(&channel);
            view.unasked.remove(&channel);
            self.unsieved(serial, Subject::Channel(channel));
        }
    }

    /// `unsubscribed` was read for a pattern.
    pub fn pattern_unsubscribed(&mut self, serial: Serial, prefix: usize) {
        let names = Rc::clone(&self.names);
        self.changes += 1;
        if let Some(view) = self.views.get_mut(&serial) {
            view.pattern_unsubscribed(&names, prefix);
            self.unsieved(serial, Subject::Prefix(prefix));
        }
    }

    /// A message was read.
    ///
    /// # Errors
    /// If it should not have come, or another one should have come before it.
    pub fn message(&mut self, serial: Serial, seen: &Seen<'_>) -> Checked {
        self.delivered += 1;
        self.reads_for_receipt(seen);
        let now = self.moment();
        if let Some(view) = self.views.get_mut(&serial) {
            view.heard_at = now;
        }
        let channel = seen.channel;
        // What comes again came in order the first time.
        let is_in_order = self.sessions.is_on() && seen.attempt == 0;
        if let Some(view) = self.views.get(&serial).filter(|_| is_in_order) {
            self.check_succession(view, seen).map_err(|failure| self.on(channel, failure))?;
        }
        self.came_to_inbox(serial, seen).map_err(|failure| self.on(channel, failure))?;
        self.check_message(serial, seen).map_err(|failure| self.on(channel, failure))
    }

    fn check_message(&mut self, serial: Serial, seen: &Seen<'_>) -> Checked {
        if seen.attempt > 0 {
            return self.redelivered(serial, seen);
        }
        let now = self.moment();
        let Some(view) = self.views.get_mut(&serial) else {
            return Err(Failure::new(Check::Steps, "a message before connection_established"));
        };
        let truth = &mut self.truths[usize::from(seen.channel)];
        let since = view.since(&self.names, seen.channel, seen.pattern)?;
        let is_behind = view.is_behind(seen.channel);
        if seen.from.0 == serial && view.wants_no_echo(seen.channel, seen.from.1) {
            if !is_behind || seen.is_ephemeral {
                return Err(Failure::new(
                    Check::Subscription,
                    "an own message came that was not to be echoed",
                ));
            }
            // What is kept is not known by who published it.
            view.echoed(seen.channel, seen.from.1);
        }
        // What was kept of an inbox for who was away, or may have resumed a session, was so within bounds.
        let may_lack = inbox::may_lack(truth, is_behind, self.is_forgetful, seen.position.1);
        if may_lack {
            view.forget_position(seen.channel);
        }
        let mut passed = None;
        if matches!(truth.class, Class::Numbered | Class::Inbox) {
            if !seen.is_ephemeral {
                truth.note(seen.position, seen.from, is_behind)?;
            }
            let at = truth.at(seen.position);
            if seen.is_unsure {
                view.forget_position(seen.channel);
            } else {
                passed = view.message_at(serial, seen.channel, at, seen.is_ephemeral, truth)?;
            }
        }
        view.check_sieve(seen, passed.as_ref(), truth, now)?;
        view.came(seen, truth.written(seen.from).map(|it| it.at), now);
        if truth.class == Class::Conflating {
            view.saw_event(seen.channel, latest::event_of(seen.event), seen.from);
        }
        let missed = view.message_from(serial, seen.channel, seen.from, truth, since)?;
        if seen.is_ephemeral && is_behind {
            // It is not kept: only who is live gets it.
            if may_lack {
                view.renewed(seen.channel, view.at(seen.channel), self.clock);
            }
            view.falls_behind(seen.channel, false, self.clock);
        }
        let missed = if seen.is_unsure || may_lack { 0 } else { missed };
        if missed > 0 {
            if matches!(truth.class, Class::Numbered | Class::Inbox) {
                let what = format!("{missed} messages of {} before {} never came", seen.from.0, seen.from.1);
                return Err(Failure::new(Check::Delivery, what));
            }
            self.missed += u64::from(missed);
        }
        Ok(())
    }

    fn on(&self, channel: ChannelIndex, failure: Failure) -> Failure {
        let name = &self.names.channels[usize::from(channel)].name;
        Failure { what: format!("{name}: {}", failure.what), ..failure }
    }
}
