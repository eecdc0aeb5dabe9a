//! Who is there: asked for while all is quiet, and foreseen by those who are told who comes and goes.

use std::collections::BTreeSet;

use super::deeds::Deed;
use super::hear::Heard;
use super::ledger::{Ask, Topic};
use super::payload::checksum;
use super::requests::noted;
use super::session::{Session, Stage};
use super::{Client, State, Town};
use crate::chaos::Fault;
use crate::names::ChannelIndex;
use crate::oracle::{Check, Checked, Failure, Watched};

/// Who asks while all is quiet: one in so many, beside those who watch.
const ASKS_ONE_IN: u32 = 4;

/// Names of one answer at most.
const LIMIT: usize = 1_000;

/// What a connection knows of who is in a channel.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether what changes is certainly told.
    is_told: bool,
    /// Who was there when it asked last, and what it was told since.
    members: Option<BTreeSet<String>>,
    /// Who is typing, as far as it saw.
    typing: BTreeSet<String>,
}

fn wrong(what: String) -> Checked {
    Err(Failure::new(Check::Presence, what))
}

/// Channels of which it is known who is there.
fn rooms(town: &Town) -> Vec<ChannelIndex> {
    (0..town.names.open as ChannelIndex).filter(|it| is_attended(*it, town)).collect()
}

/// Whether it is known who is in a channel.
pub(super) fn is_attended(channel: ChannelIndex, town: &Town) -> bool {
    town.names.channels[usize::from(channel)].name.starts_with("conversation:")
}

/// Whether a request to subscribe asks for presence too.
pub(super) fn watch(topics: &[Topic], asks: &[Ask], session: &mut Session, town: &mut Town) -> bool {
    let ([Topic::Channel(channel)], [Ask::Subscribe { .. }]) = (topics, asks) else { return false };
    town.deeds.did(Deed::Watching);
    session.watched.insert(*channel, Watch { is_told: true, ..Watch::default() });
    true
}

/// Channels of which what changes is certainly told, and who is there.
pub(super) fn watched(session: &Session) -> Watched {
    let told = session.watched.iter().filter(|(_, watch)| watch.is_told);
    told.map(|(channel, watch)| (*channel, watch.members.clone())).collect()
}

/// A session goes on: what changed meanwhile and changes from here on is told, and for certain if it was before.
pub(super) fn watch_on(
    channel: ChannelIndex,
    before: Option<&Option<BTreeSet<String>>>,
    session: &mut Session,
) {
    let (is_told, members) = (before.is_some(), before.cloned().flatten());
    session.watched.insert(channel, Watch { is_told, members, ..Watch::default() });
}

/// Something changes of a subscription: what is told from here on is nobody's to foresee.
pub(super) fn forget(topics: &[Topic], session: &mut Session) {
    for topic in topics {
        if let Topic::Channel(channel) = topic
            && let Some(watch) = session.watched.get_mut(channel)
        {
            *watch = Watch::default();
        }
    }
}

/// Whether an event is delivered as messages are.
pub(super) fn is_copy(heard: &Heard<'_>) -> bool {
    matches!(heard.name, Some("join" | "leave" | "presence" | "typing_expired"))
}

/// Somebody came, left, or types no more.
pub(super) fn changed(session: &mut Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let channel = heard.channel.as_deref().and_then(|name| town.names.find(name));
    let Some(watch) = channel.and_then(|channel| session.watched.get_mut(&channel)) else {
        return wrong("news of who is there came to who does not want any".to_owned());
    };
    let names = heard.participants.as_deref().unwrap_or_default();
    let Watch { members, typing, .. } = watch;
    if matches!(heard.name, Some("leave" | "typing_expired")) {
        typing.retain(|name| !names.iter().any(|it| it == name));
    }
    match heard.name {
        Some("join") => {
            town.deeds.did(Deed::Came);
            members.iter_mut().for_each(|it| it.extend(names.iter().map(|name| name.to_string())));
        }
        Some("leave") => {
            town.deeds.did(Deed::Came);
            members.iter_mut().for_each(|it| it.retain(|name| !names.iter().any(|left| left == name)));
        }
        // Only so much that it is told how many.
        Some("presence") => *watch = Watch { is_told: watch.is_told, ..Watch::default() },
        Some("typing_expired") => town.deeds.did(Deed::TypingExpired),
        other => return wrong(format!("an event {other:?}")),
    }
    Ok(())
}

/// A message came: its publisher types, or types no more.
pub(super) fn typed(session: &mut Session, town: &Town, heard: &Heard<'_>, channel: ChannelIndex) {
    let watch = session.watched.get_mut(&channel).filter(|it| it.is_told);
    let (Some(watch), Some(publisher)) = (watch, heard.publisher) else { return };
    if heard.event != Some("user_typing") {
        watch.typing.remove(publisher);
    } else if town.nobody_types && town.oracle.members(channel).contains(publisher) {
        // Of whoever is not there nothing is told.
        watch.typing.insert(publisher.to_owned());
    }
}

/// Who is there, while nobody comes or goes.
pub(super) fn attendance(
    session: &mut Session,
    town: &mut Town,
    heard: &Heard<'_>,
    channel: ChannelIndex,
) -> Checked {
    let Some(names) = heard.result.as_ref().and_then(|it| it.participants.as_ref()) else {
        return wrong("who is there is not answered".to_owned());
    };
    let present: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
    let name = &town.names.channels[usize::from(channel)].name;
    if present.len() < names.len() || names.len() >= LIMIT {
        return wrong(format!("{name}: a name twice, or too many: {names:?}"));
    }
    town.deeds.did(Deed::Attendance);
    let known = town.oracle.members(channel);
    if let Some(missing) = known.iter().find(|name| !present.contains(**name)) {
        return wrong(format!("{name}: {missing} is subscribed and not there, but {present:?}"));
    }
    if let Some(more) = present.iter().find(|name| !known.contains(name.as_str()))
        && town.all_are_known
        && !town.oracle.may_wait_in(channel, more)
    {
        return wrong(format!("{name}: {more} is there and not subscribed, but {known:?}"));
    }
    if let Some(watch) = session.watched.get_mut(&channel).filter(|it| it.is_told) {
        if let Some(foreseen) = &watch.members {
            town.deeds.did(Deed::Foreseen);
            if *foreseen != present && town.all_are_known && town.nobody_waits {
                return wrong(format!("{name}: {present:?} are there, and who watched knew of {foreseen:?}"));
            }
        }
        if let Some(typing) = watch.typing.first().filter(|_| town.nobody_types) {
            return wrong(format!("{name}: {typing} types no more, and who watched was not told"));
        }
        watch.members = Some(present);
    }
    Ok(())
}

impl Client {
    /// A channel of which it wants to know who comes and goes, now and then.
    pub(super) fn wants_to_watch(&self, session: &Session, town: &mut Town) -> Option<Topic> {
        if !town.chaos.strikes(Fault::Presence) {
            return None;
        }
        let rooms = rooms(town);
        let topic = Topic::Channel(rooms[town.chaos.below(Fault::Presence, rooms.len())]);
        let held = &session.ledger.held;
        (held.contains(&topic) || held.len() < town.habits.subscriptions_max).then_some(topic)
    }

    /// Types, in a channel that it watches, while all is quiet.
    pub fn type_something(&mut self, town: &mut Town) {
        let State::Up(session) = &mut self.state else { return };
        let is_well = session.stage == Stage::Open && session.is_established && !session.is_deaf;
        let told = |(_, watch): &(&ChannelIndex, &Watch)| watch.is_told;
        let Some((channel, _)) = session.watched.iter().find(told).filter(|_| is_well) else { return };
        let channel = *channel;
        let by = session.serial;
        let n = town.oracle.publishes(by, channel, "user_typing", (true, true));
        let (sum, who) = (checksum(by, n), &session.name);
        let payload =
            format!(r#"{{"ev":"user_typing","by":{by},"n":{n},"sum":{sum},"e":true,"who":"{who}"}}"#);
        let name = &town.names.channels[usize::from(channel)].name;
        let text = format!(r#"{{"type":"user_typing","channel":"{name}","payload":{payload}}}"#);
        session.message(town, &text, &mut self.rng);
    }

    /// Asks who is in a channel, while all is quiet.
    pub fn ask_attendance(&mut self, town: &mut Town) {
        let State::Up(session) = &mut self.state else { return };
        let is_well = session.stage == Stage::Open && session.is_established && !session.kind.is_echo;
        if !is_well || session.is_deaf {
            return;
        }
        let mut channels: Vec<ChannelIndex> = session.watched.keys().copied().collect();
        if town.chaos.below(Fault::Presence, ASKS_ONE_IN as usize) == 0 {
            let rooms = rooms(town);
            channels.extend(rooms.get(town.chaos.below(Fault::Presence, rooms.len())));
        }
        for channel in channels {
            let name = &town.names.channels[usize::from(channel)].name;
            let params = format!(r#"{{"channel":"{name}","limit":{LIMIT}}}"#);
            let id = session.ledger.ask(vec![Ask::Attendance { channel }]);
            let id = noted(id, town);
            let text = format!(r#"{{"type":"query","id":{id},"method":"presence","params":{params}}}"#);
            session.message(town, &text, &mut self.rng);
        }
    }
}
