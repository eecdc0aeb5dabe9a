//! Sessions: what a client still has whose connection is gone, for how long, and what that allows others to see.
//!
//! A client knows when its connection was lost for itself, and not when the server noticed: that is certain only when
//! all rests. What was under way then is in doubt: it may belong to the session or not.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Checked, Failure, Oracle, Serial, View};
use crate::Map;
use crate::names::ChannelIndex;

/// Whose session goes on on another shard may be seen where it was for so long.
const LINGERS_US: u64 = 2_100_000;

/// That a session is over is told to others within this time.
const TOLD_AFTER_US: u64 = 400_000;

/// A session, numbered by the connection that it began with.
pub(super) type SessionId = Serial;

/// What the end of a connection means for its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It waits for its client, not since before its client knew.
    Waits,
    /// It waits for its client: since when nobody can tell.
    WaitsSince,
    /// There was none: the connection was refused.
    Never,
    /// It ends with the connection.
    Ends,
    /// It went on in another connection.
    Moved,
    /// Nobody can tell.
    Unclear,
}

/// Who is in channels as far as somebody knows who is told.
pub type Watched = BTreeMap<ChannelIndex, Option<BTreeSet<String>>>;

/// What a client cannot tell of its session, and what else it had.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// Subscribed to by name, or not.
    pub channels: BTreeSet<ChannelIndex>,
    /// Subscribed to by pattern, or not.
    pub prefixes: BTreeSet<usize>,
    /// Channels whose position is in doubt.
    pub positions: BTreeSet<ChannelIndex>,
    /// Channels of which it is certainly told who comes and goes, and who was there as far as it knows.
    pub watched: Watched,
}

/// A session whose connection is gone.
#[derive(Debug)]
pub(super) struct Lost {
    /// Its participant's; empty for who was never told its own.
    pub(super) name: String,
    pub(super) fate: Fate,
    /// What it was subscribed to; none for who was never told that it is somebody.
    pub(super) view: Option<View>,
    pub(super) doubts: Doubts,
    /// When its client lost it.
    pub(super) since_us: u64,
    /// By then the server had certainly noticed.
    noticed_us: Option<u64>,
}

/// Where a session is, as far as its clients know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In a connection; whether that does something that may end it.
    Live(Serial, bool),
    /// In a connection that is gone.
    Lost(Serial),
    /// Nowhere, for certain.
    Over,
}

/// A token that was presented for the latest one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Former {
    pub(super) token: String,
    /// Whether something was said behind `resumed`.
    pub(super) has_spoken: bool,
    /// Whether it certainly works no more.
    pub(super) is_used_up: bool,
}

/// A session of which a token is known.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) token: String,
    pub(super) former: Option<Former>,
    pub(super) place: Place,
    /// Connections that asked for it and have no answer yet.
    pub(super) asked_by: Vec<Serial>,
    /// Somebody who is gone asked for it, which the server may still act on.
    pub(super) is_sought: bool,
    /// Somebody may have had it in between, with subscriptions of its own.
    pub(super) is_mixed: bool,
    /// So many subscriptions such connections may have had of their own: a session that they made too large has lost some.
    pub(super) mixed_in: usize,
    /// Nobody can tell any more where it is, or which token is its latest.
    pub(super) is_muddled: bool,
}

/// What a connection was told that took over a living session.
#[derive(Debug)]
pub(super) struct Told {
    /// To whom.
    pub(super) by: Serial,
    /// What goes on, and what finds no room.
    pub(super) listed: Vec<String>,
    /// Whether there was room for all of it.
    pub(super) had_room: bool,
    /// Whether that is all.
    pub(super) is_all: bool,
}

/// All sessions of a run.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) window_us: u64,
    pub(super) lost: Map<Serial, Lost>,
    pub(super) records: Vec<(SessionId, Record)>,
    /// All tokens there ever were.
    pub(super) tokens: Map<String, SessionId>,
    /// Which session a connection has.
    pub(super) of: Map<Serial, SessionId>,
    /// Whose sessions may have moved, and until when that may be seen, once they certainly have.
    lingering: Vec<(String, Option<u64>)>,
    /// Connections whose session was taken over, and the clock then.
    pub(super) taken: Map<Serial, u64>,
    /// What a connection that took over a living session was told, until the other one has said what it had.
    pub(super) unchecked: Map<Serial, Told>,
    /// What connections had whose sessions went on, while `resumed` is read.
    pub(super) handed: Option<(View, Doubts)>,
    /// Behind which of its messages on each channel, a connection goes on for another one.
    pub(super) successors: Map<Serial, (Serial, Vec<u32>)>,
    /// Which inboxes have something for who is away.
    pub(super) inboxes: super::inbox::Inboxes,
    pub(super) attempts: Map<Serial, super::resume::Attempt>,
}

impl Sessions {
    /// Those that are lost wait for so long.
    pub(super) fn new(window_us: u64) -> Self {
        Self { window_us, ..Self::default() }
    }

    /// Whether any wait.
    pub(super) fn is_on(&self) -> bool {
        self.window_us > 0
    }

    /// A session by its number: numbers rise.
    pub(super) fn record(&mut self, id: SessionId) -> Option<&mut Record> {
        let at = self.records.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.records[at].1)
    }

    /// The session of a connection.
    pub(super) fn record_of(&mut self, serial: Serial) -> Option<&mut Record> {
        let id = *self.of.get(&serial)?;
        self.record(id)
    }

    /// A token that nobody was ever told.
    pub(super) fn note_token(&mut self, token: &str, id: SessionId) -> Checked {
        match self.tokens.insert(token.to_owned(), id) {
            None => Ok(()),
            Some(_) => Err(Failure::new(Check::Sessions, "a token that somebody was told before")),
        }
    }
}

impl Oracle {
    /// A connection was told the token of its session.
    ///
    /// # Errors
    /// If it is none, or not the first of its kind.
    pub fn session_begins(&mut self, serial: Serial, name: &str, token: &str) -> Checked {
        let sessions = &mut self.sessions;
        if !sessions.is_on() {
            return Ok(());
        }
        if token.len() != 22 {
            return Err(Failure::new(Check::Sessions, format!("the token is {token:?}")));
        }
        sessions.note_token(token, serial)?;
        let record = Record {
            name: name.to_owned(),
            token: token.to_owned(),
            former: None,
            place: Place::Live(serial, false),
            asked_by: Vec::new(),
            is_sought: false,
            is_mixed: false,
            mixed_in: 0,
            is_muddled: false,
        };
        // Serials are given when connections begin, and some are told earlier than those before them.
        let at = sessions.records.partition_point(|(id, _)| *id < serial);
        sessions.records.insert(at, (serial, record));
        sessions.of.insert(serial, serial);
        Ok(())
    }

    /// A connection is about to end for its client, of this name.
    ///
    /// # Errors
    /// If who took its session over was told something else.
    pub fn session_lost(&mut self, serial: Serial, name: &str, fate: Fate, doubts: Doubts) -> Checked {
        if !self.sessions.is_on() {
            return Ok(());
        }
        let own = self.views.get(&serial).map_or(0, |view| view.count());
        let own = own + doubts.channels.len() + doubts.prefixes.len();
        let fate = self.attempt_lost(serial, fate, own);
        let mut view = self.views.get(&serial).cloned();
        if let Some(view) = &mut view {
            doubts.positions.iter().for_each(|channel| view.forget_position(*channel));
        }
        if self.sessions.taken.remove(&serial).is_some() {
            let Some(told) = self.sessions.unchecked.remove(&serial) else { return Ok(()) };
            return view.map_or(Ok(()), |view| self.check_told(&told, &view, &doubts));
        }
        if fate == Fate::Moved && !self.went_on(serial)? {
            return Ok(());
        }
        if !matches!(fate, Fate::Waits | Fate::Never) {
            self.forget_inbox_of(name);
        }
        let since_us = self.now_us;
        let lost = Lost { name: name.to_owned(), fate, view, doubts, since_us, noticed_us: None };
        if fate == Fate::Never || self.sessions.lost.contains_key(&serial) {
            return Ok(());
        }
        self.sessions.lost.insert(serial, lost);
        if let Some(record) = self.sessions.record_of(serial)
            && matches!(record.place, Place::Live(it, _) if it == serial)
        {
            record.place = Place::Lost(serial);
        }
        Ok(())
    }

    /// A connection was closed because its session goes on in another one: whether nobody was told so yet.
    fn went_on(&mut self, serial: Serial) -> Result<bool, Failure> {
        let Some(record) = self.sessions.record_of(serial) else { return Ok(true) };
        let is_here = matches!(record.place, Place::Live(it, _) if it == serial);
        if is_here && record.asked_by.is_empty() && !record.is_muddled && !record.is_sought {
            let what = format!("connection {serial} lost its session, and nobody asked for it");
            return Err(Failure::new(Check::Sessions, what));
        }
        Ok(is_here)
    }

    /// All rests, and shards hold nobody who is gone for its client (`all_are_known`): what was lost by now is known to
    /// be. So many sessions wait, as shards count them: by the time of the shards, which stands still where the clock
    /// jumps (`has_jumped`).
    ///
    /// # Errors
    /// If more wait than can.
    pub fn sessions_rest(&mut self, (all_are_known, has_jumped): (bool, bool), waiting: u64) -> Checked {
        let (now_us, window_us) = (self.now_us, self.sessions.window_us);
        let mut over = Vec::new();
        self.sessions.lost.retain(|_, lost| {
            let is_late = lost.noticed_us.is_some_and(|noticed_us| noticed_us + window_us < now_us);
            let is_over = is_late && !has_jumped || all_are_known && waiting == 0;
            if all_are_known {
                lost.noticed_us.get_or_insert(now_us);
            }
            if is_over {
                over.push((lost.name.clone(), Some(now_us + TOLD_AFTER_US)));
            }
            !is_over && (lost.fate != Fate::Ends || !all_are_known)
        });
        self.sessions
            .lingering
            .retain_mut(|(_, until_us)| *until_us.get_or_insert(now_us + LINGERS_US) > now_us || has_jumped);
        self.sessions.lingering.append(&mut over);
        let most = self.sessions.lost.len() as u64;
        if waiting > most {
            let what = format!("{waiting} sessions wait, and {most} were lost and may still wait");
            return Err(Failure::new(Check::Sessions, what));
        }
        if let Some(serial) = self.sessions.taken.keys().find(|serial| self.views.contains_key(serial)) {
            let what = format!("connection {serial} is still there, and its session went on elsewhere");
            return Err(Failure::new(Check::Sessions, what));
        }
        self.look_who_is_away(all_are_known)?;
        let lost = &self.sessions.lost;
        for (_, record) in &mut self.sessions.records {
            if matches!(record.place, Place::Lost(serial) if !lost.contains_key(&serial)) {
                record.place = Place::Over;
            }
            let is_here = matches!(record.place, Place::Live(..)) && !record.is_sought;
            if let Some(former) = record.former.as_mut().filter(|it| it.has_spoken && is_here) {
                former.is_used_up = true;
            }
            record.is_sought &= !all_are_known;
        }
        Ok(())
    }

    /// A participant's session moves, or may be about to.
    pub(super) fn moves(&mut self, name: &str) {
        self.sessions.lingering.push((name.to_owned(), None));
    }

    /// Until when somebody may be seen where a session was that went on elsewhere.
    pub fn lingers_until_us(&self) -> Option<u64> {
        // By the time of the shards, which may have stood still until now.
        (!self.sessions.lingering.is_empty()).then_some(self.now_us + LINGERS_US)
    }

    /// A session may be at a connection that is lost from now on: that is noticed later.
    pub(super) fn unnotice(&mut self, serial: Serial) {
        if let Some(lost) = self.sessions.lost.get_mut(&serial) {
            lost.noticed_us = None;
        }
    }

    /// Whether a participant may be in a channel by a session that waits.
    pub fn may_wait_in(&self, channel: ChannelIndex, name: &str) -> bool {
        let lingers = self.sessions.lingering.iter().any(|(it, _)| it == name || it.is_empty());
        lingers
            || self.sessions.lost.values().any(|lost| {
                let is_there = lost.view.as_ref().is_none_or(|view| view.is_by_name(channel));
                let is_it = lost.name == name || lost.name.is_empty();
                is_it && (is_there || lost.doubts.channels.contains(&channel))
            })
    }

    /// A connection does something that may end it.
    pub fn session_wavers(&mut self, serial: Serial) {
        if let Some(record) = self.sessions.record_of(serial)
            && record.place == Place::Live(serial, false)
        {
            record.place = Place::Live(serial, true);
        }
    }

    /// A client says something: if that is behind `resumed`, the token before works no more.
    pub fn session_speaks(&mut self, serial: Serial) {
        if let Some(attempt) = self.sessions.attempts.get_mut(&serial) {
            attempt.has_spoken = true;
        } else if let Some(record) = self.sessions.record_of(serial)
            && matches!(record.place, Place::Live(it, _) if it == serial)
            && let Some(former) = &mut record.former
        {
            former.has_spoken = true;
        }
    }
}
