//! Whether a message arrives as it was published, and to whom it should.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Town;
use super::deeds::Deed;
use super::hear::Heard;
use super::payload::{checksum, iso, pad_of};
use super::session::Session;
use crate::oracle::{Check, Checked, Failure, Seen};

/// What clients publish.
#[derive(Debug, Deserialize)]
pub(super) struct Payload<'a> {
    /// The publisher's connection.
    by: u32,
    /// Its message's number on this channel, or on the first of several.
    n: u32,
    /// Its number for each recipient of a list.
    #[serde(borrow)]
    ns: Option<BTreeMap<&'a str, u32>>,
    /// Whether it has no offset of its own.
    e: bool,
    /// A checksum of the two.
    sum: u32,
    pad: Option<&'a str>,
    /// What was said of it: event, publisher, priority, time.
    ev: Option<&'a str>,
    who: Option<&'a str>,
    pr: Option<&'a str>,
    t: Option<u64>,
}

impl Payload<'_> {
    pub(super) fn is_ephemeral(&self) -> bool {
        self.e
    }
}

/// The time is there, in the form that was asked for, and one that it was lately.
pub(super) fn check_time(
    session: &Session,
    town: &mut Town,
    heard: &Heard<'_>,
    given: Option<u64>,
) -> Checked {
    let now = town.oracle.times_since(None);
    check_time_in(session, town, heard, given, &now)
}

/// The time is the one that was given, or within this range.
fn check_time_in(
    session: &Session,
    town: &mut Town,
    heard: &Heard<'_>,
    given: Option<u64>,
    range: &RangeInclusive<u64>,
) -> Checked {
    let Some(time) = heard.timestamp.map(RawValue::get) else {
        return Err(Failure::new(Check::Content, "there is no time"));
    };
    let is_right = match (session.kind.is_time_iso, given) {
        // Equally long, they are ordered as texts.
        (true, None) => {
            let (first, last) = (iso(*range.start()), iso(*range.end()));
            let text = time.trim_matches('"');
            time.len() == 26 && (first.as_str()..=last.as_str()).contains(&text)
        }
        (true, Some(given)) => time == format!("\"{}\"", iso(given)),
        (false, None) => time.parse().is_ok_and(|time| range.contains(&time)),
        (false, Some(given)) => time == given.to_string(),
    };
    if session.kind.is_time_iso {
        town.deeds.did(Deed::IsoTimeSeen);
    }
    if is_right {
        Ok(())
    } else {
        Err(Failure::new(Check::Content, format!("the time is {time}, not in {range:?}")))
    }
}

/// A message was read, by itself or with `subscribed`.
pub(super) fn message(session: &Session, town: &mut Town, heard: &Heard<'_>, is_carried: bool) -> Checked {
    let mut seen = seen(session, town, heard)?;
    seen.is_carried = is_carried;
    seen.is_unsure = !is_carried && session.ledger.awaits_past(seen.channel);
    if seen.skipped > 0 {
        town.deeds.did(Deed::SkippedTold);
    }
    town.oracle.message(session.serial, &seen)
}

/// What a message says, if it is one that was published.
pub(super) fn seen<'a>(
    session: &Session,
    town: &mut Town,
    heard: &'a Heard<'_>,
) -> Result<Seen<'a>, Failure> {
    let (Some(channel), Some(epoch), Some(offset), Some(payload)) =
        (&heard.channel, heard.epoch, heard.offset, &heard.payload)
    else {
        return Err(Failure::new(Check::Content, "a message lacks a field"));
    };
    let mut number = payload.n;
    let channel = if channel == "@me" {
        let Some(participant) = session.participant.filter(|_| heard.to == Some(&*session.name)) else {
            return Err(Failure::new(Check::Subscription, "a message to somebody else"));
        };
        if let Some(numbers) = &payload.ns {
            let missing = || Failure::new(Check::Subscription, "a message to others");
            number = *numbers.get(&*session.name).ok_or_else(missing)?;
        }
        town.names.inbox(participant)
    } else {
        let unknown = || Failure::new(Check::Subscription, "a channel that nobody knows");
        town.names.find(channel).ok_or_else(unknown)?
    };
    let is_whole = payload.sum == checksum(payload.by, payload.n)
        && payload.pad.is_none_or(|pad| pad_of(payload.by, payload.n, pad.len()) == pad);
    if !is_whole {
        return Err(Failure::new(Check::Content, "the payload is not what was published"));
    }
    // A hasty publisher without a name did not know its own yet.
    let is_as_said = payload.ev == heard.event
        && payload.pr == heard.priority
        && payload.who == heard.publisher
        && (heard.kind == "broadcast") == (channel == town.names.system());
    if !is_as_said {
        return Err(Failure::new(Check::Content, "event, publisher or priority is not what was published"));
    }
    let times = town.oracle.times_since(Some((channel, (payload.by, number))));
    check_time_in(session, town, heard, payload.t, &times)?;
    let pattern = match heard.pattern {
        None => None,
        Some(text) => {
            let prefix = town.names.prefixes.iter().position(|it| text.strip_suffix('*') == Some(it));
            Some(prefix.ok_or_else(|| Failure::new(Check::Subscription, "a pattern that nobody knows"))?)
        }
    };
    if matches!(heard.attempt, Some(0 | 1)) {
        return Err(Failure::new(Check::Acks, "a first attempt that is said to be one"));
    }
    if heard.skipped == Some(0) {
        return Err(Failure::new(Check::Filters, "it is said that nothing was left out"));
    }
    Ok(Seen {
        channel,
        pattern,
        position: (epoch, offset),
        from: (payload.by, number),
        event: heard.event.unwrap_or_default(),
        is_ephemeral: payload.e,
        skipped: heard.skipped.unwrap_or(0),
        attempt: heard.attempt.unwrap_or(0),
        is_carried: false,
        is_unsure: false,
    })
}
