//! Sessions: what a client still has whose connection is gone, for how long, and what that allows others to see.
//!
//! A client knows when its connection was lost for itself, and not when the server noticed: that is certain only when
//! all rests. What was under way then is in doubt: it may belong to the session or not.

use std::collections::BTreeSet;

use super::{Check, Checked, Failure, Oracle, Serial, View};
use crate::Map;
use crate::names::ChannelIndex;

/// What the end of a connection means for its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It waits for its client.
    Waits,
    /// It ends with the connection.
    Ends,
    /// Nobody can tell.
    Unclear,
}

/// Subscriptions of which nobody can tell whether they are the session's.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// By name.
    pub channels: BTreeSet<ChannelIndex>,
    /// By pattern.
    pub prefixes: BTreeSet<usize>,
}

/// A session whose connection is gone.
#[derive(Debug)]
struct Lost {
    /// Its participant's; empty for who was never told its own.
    name: String,
    fate: Fate,
    /// What it was subscribed to; none for who was never told that it is somebody.
    view: Option<View>,
    doubts: Doubts,
    /// By then the server had certainly noticed.
    noticed_us: Option<u64>,
}

/// All sessions of a run.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    window_us: u64,
    lost: Map<Serial, Lost>,
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
}

impl Oracle {
    /// A connection is about to end for its client, of this name.
    pub fn session_lost(&mut self, serial: Serial, name: &str, fate: Fate, doubts: Doubts) {
        if self.sessions.window_us == 0 {
            return;
        }
        let view = self.views.get(&serial).cloned();
        let lost = Lost { name: name.to_owned(), fate, view, doubts, noticed_us: None };
        self.sessions.lost.entry(serial).or_insert(lost);
    }

    /// All rests, and shards hold nobody who is gone for its client (`all_are_known`): what was lost by now is known to
    /// be. So many sessions wait, as shards count them.
    ///
    /// # Errors
    /// If more wait than can.
    pub fn sessions_rest(&mut self, all_are_known: bool, waiting: u64) -> Checked {
        let (now_us, window_us) = (self.now_us, self.sessions.window_us);
        self.sessions.lost.retain(|_, lost| {
            let is_over = lost.noticed_us.is_some_and(|noticed_us| noticed_us + window_us < now_us);
            if all_are_known {
                lost.noticed_us.get_or_insert(now_us);
            }
            !is_over && (lost.fate != Fate::Ends || !all_are_known)
        });
        let most = self.sessions.lost.len() as u64;
        if waiting > most {
            let what = format!("{waiting} sessions wait, and {most} were lost and may still wait");
            return Err(Failure::new(Check::Sessions, what));
        }
        Ok(())
    }

    /// Whether a participant may be in a channel by a session that waits.
    pub fn may_wait_in(&self, channel: ChannelIndex, name: &str) -> bool {
        self.sessions.lost.values().any(|lost| {
            let is_there = lost.view.as_ref().is_none_or(|view| view.is_by_name(channel));
            let is_it = lost.name == name || lost.name.is_empty();
            is_it && (is_there || lost.doubts.channels.contains(&channel))
        })
    }
}
