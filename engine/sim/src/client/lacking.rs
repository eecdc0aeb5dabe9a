//! What a session goes on without: together with what the new connection has by itself it brings no more subscriptions
//! along than a connection may have. Right behind `resumed` its client is told which ones find no room.

use super::Town;
use super::deeds::Deed;
use super::hear::Heard;
use super::session::Session;
use crate::oracle::{Check, Checked, Failure, Lacks};

/// Until something else is heard.
#[derive(Debug)]
pub(super) struct Lacking {
    /// Which ones are to be named; none where nobody knows.
    lacks: Option<Lacks>,
    /// Those that were.
    named: Vec<String>,
    /// Whether there was room for all.
    had_room: bool,
}

fn wrong(what: String) -> Checked {
    Err(Failure::new(Check::Sessions, what))
}

/// How many subscriptions a connection has with those of the session, and how many it may have.
pub(super) fn room(session: &Session, town: &Town, listed: &[String]) -> (usize, usize) {
    let own: Vec<String> = session.ledger.held.iter().map(|topic| topic.text(&town.names)).collect();
    let is_new = |name: &&String| *name != "@me" && !own.contains(name);
    (own.len() + listed.iter().filter(is_new).count(), town.habits.subscriptions_limit)
}

/// `resumed` was read.
pub(super) fn begins(session: &mut Session, lacks: Option<Lacks>, room: (usize, usize)) -> Checked {
    if room.0 > room.1 {
        return wrong(format!("{} subscriptions with those of the session, at most {}", room.0, room.1));
    }
    let lacking = Lacking { lacks, named: Vec::new(), had_room: room.0 < room.1 };
    session.lacking = Some(Box::new(lacking));
    Ok(())
}

/// `unsubscribed` with a code: one of the session's subscriptions finds no room.
pub(super) fn found_no_room(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let (Some(code), Some(name)) = (heard.code, heard.channel.as_deref()) else {
        return wrong("a subscription ends without a code or a channel".to_owned());
    };
    let Some(lacking) = session.lacking.as_mut() else {
        return wrong(format!("{name} ends with {code}, and that not right behind `resumed`"));
    };
    if code != "SUBSCRIPTION_LIMIT" || heard.id.is_some() || lacking.had_room {
        return wrong(format!("{name} ends with {code}, and there is room"));
    }
    let has_it = session.ledger.held.iter().any(|topic| topic.text(&town.names) == name);
    if has_it || lacking.named.iter().any(|it| it == name) {
        return wrong(format!("{name} finds no room, and is there, or was named before"));
    }
    let is_theirs = |lacks: &Lacks| lacks.missing.iter().chain(&lacks.doubtful).any(|it| it == name);
    if lacking.lacks.as_ref().is_some_and(|lacks| !is_theirs(lacks)) {
        return wrong(format!("{name} finds no room, and the session did not have it"));
    }
    lacking.named.push(name.to_owned());
    town.deeds.did(Deed::ResumedInPart);
    town.oracle.found_no_room(session.serial, name);
    Ok(())
}

/// Something else was read: all that the session goes on without was named.
pub(super) fn told_all(session: &mut Session, town: &mut Town) -> Checked {
    let Some(lacking) = session.lacking.take() else { return Ok(()) };
    town.oracle.was_told_all(session.serial);
    let missing =
        lacking.lacks.as_ref().and_then(|it| it.missing.iter().find(|it| !lacking.named.contains(it)));
    match missing {
        Some(missing) => wrong(format!("{missing} is neither resumed nor without room")),
        None => Ok(()),
    }
}
