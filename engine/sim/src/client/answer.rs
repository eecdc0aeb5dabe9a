//! Whether what a client is answered is what it asked for.

use super::content::{message, seen};
use super::deeds::Deed;
use super::filters::holds;
use super::hear::Heard;
use super::ledger::{Ask, Topic, id_of};
use super::session::Session;
use super::{Town, acks, presence, resume};
use crate::chaos::Fault;
use crate::names::ChannelIndex;
use crate::names::{Class, Names};
use crate::oracle::{Began, Check, Checked, Failure, HistoryQuery, Sieve, Wanted};

fn wrong(what: impl Into<String>) -> Checked {
    Err(Failure::new(Check::Answers, what))
}

/// The id of an answer; a failure if it has one that was never sent.
pub(super) fn id(heard: &Heard<'_>) -> Result<Option<u64>, Failure> {
    let Some(raw) = heard.id else { return Ok(None) };
    match id_of(raw.get()) {
        None => Err(Failure::new(Check::Answers, format!("the id {raw} was never sent"))),
        id => Ok(id),
    }
}

/// Whether an answer is about this topic.
fn names(heard: &Heard<'_>, names: &Names, topic: Topic) -> bool {
    heard.channel.as_deref().is_some_and(|channel| *channel == *topic.text(names))
}

/// `subscribed`: an answer, or news of an epoch that nobody asked for.
pub(super) fn subscribed(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let is_about =
        |ask: &Ask| matches!(ask, Ask::Subscribe { topic, .. } if names(heard, &town.names, *topic));
    let id = id(heard)?;
    let Some(Ask::Subscribe { topic, order, past, sieve, acks }) = session.ledger.take(id, is_about) else {
        return match id {
            Some(_) => wrong("subscribed to what was not asked for"),
            None => announced(session, town, heard),
        };
    };
    session.ledger.begins(topic, order)?;
    let serial = session.serial;
    let has_past = past.is_some();
    let checked = match (topic, heard.epoch, heard.offset) {
        (Topic::Channel(channel), Some(epoch), Some(offset)) => {
            if id.is_none() && town.names.channels[usize::from(channel)].class != Class::Dropping {
                town.deeds.did(Deed::PathSubscribed);
            }
            match past {
                Some(wanted) => began(session, town, heard, (channel, sieve.as_deref()), &wanted),
                None if heard.messages.is_some() => wrong("messages that nobody asked for"),
                None if session.ledger.awaits_past(channel) => {
                    town.oracle.subscribed_between(serial, channel);
                    Ok(())
                }
                None => town.oracle.subscribed(serial, channel, (epoch, offset)),
            }
        }
        (Topic::Channel(_), _, _) => wrong("subscribed without a position"),
        (Topic::Prefix(prefix), None, None) => {
            town.oracle.pattern_subscribed(serial, prefix);
            Ok(())
        }
        (Topic::Prefix(_), _, _) => wrong("a pattern has no position"),
    };
    let position = heard.epoch.zip(heard.offset).filter(|_| !has_past);
    acks::begins(session, town, (topic, position), acks);
    if !has_past {
        holds(session, town, topic, sieve.as_deref());
    }
    checked
}

/// `subscribed`, and perhaps what was wanted of the past.
fn began(
    session: &Session,
    town: &mut Town,
    heard: &Heard<'_>,
    (channel, sieve): (ChannelIndex, Option<&Sieve>),
    wanted: &Wanted,
) -> Checked {
    let (Some(epoch), Some(offset)) = (heard.epoch, heard.offset) else { return Ok(()) };
    let messages = heard.messages.as_deref().unwrap_or_default();
    let began = Began {
        position: (epoch, offset),
        recovered: heard.recovered,
        carried: messages.len() as u64,
        has_more: heard.more,
        is_filtered: town.chaos.is_on(Fault::Filters)
            && (sieve.is_some() || session.ledger.is_due(Topic::Channel(channel))),
    };
    let is_recovered = town.oracle.subscribed_from(session.serial, channel, wanted, &began)?;
    holds(session, town, Topic::Channel(channel), sieve);
    for carried in messages {
        message(session, town, carried, true)?;
    }
    town.deeds.did(match (is_recovered, &wanted.position) {
        (true, _) => Deed::Recovered,
        (false, Some(_)) => Deed::NotRecovered,
        (false, None) => Deed::HistoryWanted,
    });
    let is_unsure = session.ledger.awaits_past(channel);
    // Where messages come with it, it says whether they are all. Where none come and there are more, it goes on from
    // where it stood.
    let is_live = match is_recovered {
        true => heard.messages.is_some() && heard.more != Some(true),
        false => !messages.is_empty() || heard.more != Some(true),
    };
    town.oracle.began(session.serial, channel, &began, (is_live && !is_unsure, is_unsure))
}

/// A new epoch, or the news that what was missed is gone.
fn announced(session: &Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let book = &mut town.books[session.shard];
    if session.ledger.has_wanted_past {
        book.doubtful += 1;
    } else {
        book.copies += 1;
    }
    let channel = heard.channel.as_deref().and_then(|name| match name {
        "@me" => session.participant.map(|participant| town.names.inbox(participant)),
        name => town.names.find(name),
    });
    match (channel, heard.epoch, heard.offset) {
        (Some(channel), Some(epoch), Some(offset)) if heard.recovered != Some(true) => {
            let is_unsure = session.ledger.awaits_past(channel);
            if session.ledger.has_wanted_past {
                town.deeds.did(Deed::LostOnTheWay);
            }
            town.oracle.announced(session.serial, channel, (epoch, offset), is_unsure)
        }
        _ => wrong("subscribed without a channel and a position, or recovered and nobody asked"),
    }
}

pub(super) fn unsubscribed(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let is_about =
        |ask: &Ask| matches!(ask, Ask::Unsubscribe { topic, .. } if names(heard, &town.names, *topic));
    let Some(Ask::Unsubscribe { topic, order }) = session.ledger.take(id(heard)?, is_about) else {
        return wrong("unsubscribed from what was not asked for");
    };
    session.ledger.ends(topic, order);
    match topic {
        Topic::Channel(channel) => {
            acks::begins_anew(session, channel);
            let is_unsure = session.ledger.awaits_past(channel);
            town.oracle.unsubscribed(session.serial, channel, is_unsure);
        }
        Topic::Prefix(prefix) => town.oracle.pattern_unsubscribed(session.serial, prefix),
    }
    Ok(())
}

/// `response`: a publish was accepted, or nobody handles a call.
pub(super) fn response(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let is_attendance = |ask: &Ask| matches!(ask, Ask::Attendance { .. });
    if let Some(Ask::Attendance { channel }) = session.ledger.take(id(heard)?, is_attendance) {
        return presence::attendance(session, town, heard, channel);
    }
    if session.ledger.take(id(heard)?, |ask| *ask == Ask::Session).is_some() {
        let Some(result) = &heard.result else { return wrong("a session without a description") };
        return resume::described(session, town, result);
    }
    let is_history = |ask: &Ask| matches!(ask, Ask::History { .. });
    if let Some(Ask::History { channel, query }) = session.ledger.take(id(heard)?, is_history) {
        return history(session, town, heard, channel, &query);
    }
    if let Some(refusal) = &heard.error {
        let is_due = |ask: &Ask| matches!(ask, Ask::Refused { code, .. } if *code == refusal.code);
        return match session.ledger.take(id(heard)?, is_due) {
            Some(_) => Ok(()),
            None => wrong(format!("this must not be refused: {}", refusal.code)),
        };
    }
    let is_repetition = |ask: &Ask| matches!(ask, Ask::Repetition { .. });
    if let Some(Ask::Repetition { channel, from, is_late }) = session.ledger.take(id(heard)?, is_repetition) {
        let Some(result) = &heard.result else { return wrong("a response without a result") };
        town.deeds.did(if result.duplicate { Deed::Repeated } else { Deed::RepeatedFirst });
        let Some(position) = result.position() else { return wrong("a response without a position") };
        return town.oracle.repeated(from, channel, position, (result.duplicate, is_late));
    }
    let is_publish = |ask: &Ask| matches!(ask, Ask::Publish { .. });
    match (session.ledger.take(id(heard)?, is_publish), &heard.result) {
        (Some(Ask::Publish { channel, number, is_ephemeral }), Some(result)) => {
            if result.duplicate {
                return wrong("nobody had published it before");
            }
            let Some(position) = result.position() else { return wrong("a response without a position") };
            town.oracle.receipt_follows(session.serial, id(heard)?, position);
            town.oracle.accepted((session.serial, number), channel, position, is_ephemeral)
        }
        (Some(_), None) => wrong("a response without a result"),
        _ => wrong("a response to nothing that was asked"),
    }
}

/// What is kept of a channel, or that it is not what was asked for.
fn history(
    session: &Session,
    town: &mut Town,
    heard: &Heard<'_>,
    channel: ChannelIndex,
    query: &HistoryQuery,
) -> Checked {
    if let Some(refusal) = &heard.error {
        let is_stranger = !town.names.may_subscribe(session.who(), channel);
        return match refusal.code {
            "FORBIDDEN" if is_stranger => Ok(()),
            "UNRECOVERABLE" if query.since.is_some() && !is_stranger => {
                town.deeds.did(Deed::HistoryRefused);
                town.oracle.history_refused(channel, query)
            }
            "OVERLOADED" => Ok(()),
            code => wrong(format!("history is refused: {code}")),
        };
    }
    let Some(result) = &heard.result else { return wrong("a response without a result") };
    let name = &town.names.channels[usize::from(channel)].name;
    let Some(messages) = result.messages.as_ref().filter(|_| result.channel.as_deref() == Some(name)) else {
        return wrong("history of another channel, or without messages");
    };
    let Some(position) = result.position() else { return wrong("history without a position") };
    town.deeds.did(Deed::HistoryRead);
    let mut page = Vec::with_capacity(messages.len());
    for message in messages {
        let seen = seen(session, town, message)?;
        town.oracle.kept(&seen)?;
        if seen.skipped > 0 || seen.attempt > 0 {
            return wrong("a page says that something was left out");
        }
        if seen.channel != channel || seen.position.0 != position.0 {
            return wrong("a message of another channel or epoch");
        }
        page.push(seen.position.1);
    }
    town.oracle.history(channel, query, position, &page, result.more)
}

pub(super) fn pong(session: &mut Session, heard: &Heard<'_>) -> Checked {
    match session.ledger.take(id(heard)?, |ask| *ask == Ask::Ping) {
        Some(_) => Ok(()),
        None => wrong("a pong to nothing that was asked"),
    }
}

pub(super) fn error(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let id = id(heard)?;
    let code = heard.code.unwrap_or_default();
    let is_due = |ask: &Ask| matches!(ask, Ask::Refused { code: due, channel } if *due == code && channel.as_deref() == heard.channel.as_deref());
    if session.ledger.take(id, is_due).is_some() {
        match code {
            "SUBSCRIPTION_LIMIT" => town.deeds.did(Deed::SubscriptionLimit),
            "NOT_SUBSCRIBED" => town.deeds.did(Deed::NotSubscribed),
            _ => {}
        }
        return Ok(());
    }
    if code == "UNRECOVERABLE" && session.ledger.take(id, |ask| *ask == Ask::Resume).is_some() {
        return resume::refused(session, town);
    }
    // Direct messages to who is not there: of a list, only the last one has the id.
    let is_direct = |ask: &Ask| matches!(ask, Ask::Publish { channel, .. } if town.names.channels[usize::from(*channel)].class == Class::Inbox);
    if code == "NOT_FOUND" && id.is_none() {
        return Ok(());
    }
    if code == "NOT_FOUND"
        && let Some(Ask::Publish { channel, number, .. }) = session.ledger.take(id, is_direct)
    {
        town.oracle.check_refused((session.serial, number), channel)?;
        town.oracle.no_receipt_follows(session.serial, id, &session.name);
        town.oracle.refused((session.serial, number), channel);
        return Ok(());
    }
    let is_publish = |ask: &Ask| matches!(ask, Ask::Publish { .. });
    if code == "OVERLOADED"
        && let Some(Ask::Publish { number, .. }) = session.ledger.take(id, is_publish)
    {
        return town.oracle.overloaded((session.serial, number), id, &session.name);
    }
    let cancelled =
        |ask: &Ask| matches!(ask, Ask::Subscribe { topic, .. } if names(heard, &town.names, *topic));
    if code == "CANCELLED"
        && let Some(Ask::Subscribe { topic, order, .. }) = session.ledger.take(id, cancelled)
    {
        if !session.ledger.is_cancelled(topic, order) {
            return wrong("a subscription was cancelled that nobody took back");
        }
        town.deeds.did(Deed::Cancelled);
        return Ok(());
    }
    if code == "INVALID_MESSAGE" && id.is_none() && acks::may_be_late(session, town) {
        return Ok(());
    }
    let why = heard.message.as_deref().unwrap_or_default();
    wrong(format!("this must not be refused: {code}, {why}"))
}
