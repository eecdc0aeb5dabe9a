//! Sessions: what becomes of one when its connection ends, and going on with one in another connection.

use super::deeds::Deed;
use super::hear::Answered;
use super::ledger::{Ask, Topic};
use super::requests::noted;
use super::session::{Session, Stage};
use super::{Client, End, Town};
use crate::names::Names;
use crate::oracle::{Check, Checked, Doubts, Failure, Fate};

/// What this end of a connection means for its session (the contract, sections 5 and 6).
fn fate(session: &Session, end: &End) -> Fate {
    let is_over = |code: u16| matches!(code, 1000 | 1002 | 1003 | 1007..=1009 | 4500..=4999);
    match *end {
        End::Refused(_) => Fate::Ends,
        // The client's own code but 1000 says nothing of coming back.
        End::Closed(code) if session.said_close == Some(code) => match code {
            1000 => Fate::Ends,
            _ => Fate::Waits,
        },
        // Both closed: which close came first nobody can tell.
        _ if session.said_close.is_some() || session.close_due.is_some() => Fate::Unclear,
        End::Closed(code) if is_over(code) => Fate::Ends,
        End::Closed(_) | End::Own => Fate::Waits,
        End::Fin | End::Reset => Fate::Unclear,
    }
}

/// The connection is about to end for its client.
pub(super) fn lost(session: &Session, end: &End, town: &mut Town) {
    if session.kind.is_echo || session.kind.probe.is_some() {
        return;
    }
    let mut doubts = Doubts::default();
    for topic in session.ledger.doubtful() {
        match topic {
            Topic::Channel(channel) => doubts.channels.insert(channel),
            Topic::Prefix(prefix) => doubts.prefixes.insert(prefix),
        };
    }
    let name = if session.is_established || session.kind.is_named { &*session.name } else { "" };
    town.oracle.session_lost(session.serial, name, fate(session, end), doubts);
}

/// What the hub says of the session while all rests: it is subscribed to what its client knows.
pub(super) fn described(session: &Session, town: &mut Town, result: &Answered<'_>) -> Checked {
    let wrong = |what: String| Err(Failure::new(Check::Sessions, what));
    town.deeds.did(Deed::SessionDescribed);
    let Some(names) = &result.subscriptions else { return wrong("no subscriptions".to_owned()) };
    let mut theirs: Vec<&str> = names.iter().map(|name| &**name).collect();
    theirs.sort_unstable();
    let own = texts(&session.ledger.held, &town.names);
    if result.participant != Some(&*session.name) || result.state != Some("authenticated") {
        return wrong(format!("a session of {:?} that is {:?}", result.participant, result.state));
    }
    if own.iter().ne(theirs.iter()) {
        return wrong(format!("the session is subscribed to {theirs:?}, and its client to {own:?}"));
    }
    Ok(())
}

/// Topics as they are written, in order.
fn texts(topics: &[Topic], names: &Names) -> Vec<String> {
    let mut texts: Vec<String> = topics.iter().map(|topic| topic.text(names)).collect();
    texts.sort_unstable();
    texts
}

impl Client {
    /// Once at each rest it asks what its session is. That is a request as any other: an inbox that was held for who
    /// might resume goes on with it.
    pub(super) fn ask_session(&mut self, session: &mut Session, town: &mut Town) {
        let is_quiet = town.is_settling && session.stage == Stage::Open && session.ledger.is_empty();
        let is_wanted = is_quiet && session.is_established && town.habits.sessions.window_ms > 0;
        if !is_wanted || session.kind.is_echo || session.described_at == town.rests {
            return;
        }
        session.described_at = town.rests;
        let id = session.ledger.ask(vec![Ask::Session]);
        let text = format!(r#"{{"type":"query","id":{},"method":"session"}}"#, noted(id, town));
        session.message(town, &text, &mut self.rng);
    }
}
