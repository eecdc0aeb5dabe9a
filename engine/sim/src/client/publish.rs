//! Publishes in every form that the contract has: to channels, participants and lists, with all fields, and by short
//! forms.

use std::rc::Rc;

use super::deeds::Deed;
use super::ledger::Ask;
use super::payload::{checksum, iso, pad_of};
use super::repeat::Repeat;
use super::requests::noted;
use super::session::Session;
use super::target::Target;
use super::{Client, Town};
use crate::names::{ChannelIndex, Class};

/// Events that are ephemeral whatever else a publish says, as types of their own.
const EPHEMERAL: [&str; 3] = ["user_typing", "chat_message_chunk", "agent_status_update"];

/// Times that clients give: before the year 2100, in milliseconds.
const TIME_MAX_MS: u64 = 4_102_444_800_000;

/// A publish in the making.
#[derive(Default)]
pub(super) struct Draft {
    /// Members of the envelope, as JSON.
    pub(super) envelope: Vec<String>,
    /// Members of the payload.
    payload: Vec<String>,
    is_short: bool,
    event: String,
    /// Its number on each of its channels.
    pub(super) numbers: Vec<u32>,
}

impl Draft {
    fn text(&self, has_payload: bool) -> String {
        match has_payload {
            true => format!(r#"{{{},"payload":{{{}}}}}"#, self.envelope.join(","), self.payload.join(",")),
            false => format!(r#"{{{}, {}}}"#, self.payload.join(" , "), self.envelope.join(",")),
        }
    }
}

impl Client {
    /// A publish with up to `pad_max` bytes of padding.
    pub(super) fn publish(&mut self, session: &mut Session, town: &mut Town, pad_max: usize) -> String {
        if let Some(text) = self.repeat(session, town) {
            return text;
        }
        let target = self.target(session, town);
        let to = match &target {
            Target::Channel(channel) => vec![*channel],
            Target::Participants(list) => list.iter().map(|it| town.names.inbox(*it)).collect(),
        };
        let names = Rc::clone(&town.names);
        let may = to.iter().all(|channel| names.may_publish(session.who(), *channel));
        let class = names.channels[usize::from(to[0])].class;
        let is_numbered = matches!(class, Class::Numbered | Class::Inbox);
        let mut draft = Draft::default();
        let is_ephemeral_event = self.event(&mut draft, class, town);
        let is_stored = self.rng.u32(..8) > 0;
        let is_for_who_is_away = self.stores(&mut draft, class, (is_stored, is_ephemeral_event), town);
        let is_ephemeral = is_numbered && (!is_stored || is_ephemeral_event);
        // Without an echo, an own message leaves no trace on channels without offsets.
        let echoes = !is_numbered || is_ephemeral || self.rng.u32(..10) > 0 || !session.is_established;
        if !echoes {
            draft.envelope.push(r#""echo":false"#.to_owned());
        }
        self.fields(&mut draft, town);
        if may {
            self.number(&mut draft, session, town, &to, (echoes, is_ephemeral));
        }
        if is_for_who_is_away && may {
            let numbered = to.iter().zip(&draft.numbers);
            numbered.for_each(|(inbox, number)| town.oracle.stores((session.serial, *number), *inbox));
        }
        draft.payload.push(format!(r#""e":{is_ephemeral}"#));
        draft.payload.push(format!(r#""who":"{}""#, session.name));
        let request = (!may || self.rng.bool()).then(|| {
            let last = to.len() - 1;
            let ask = match may {
                true => Ask::Publish { channel: to[last], number: draft.numbers[last], is_ephemeral },
                false => refused(&target, town),
            };
            let id = session.ledger.ask(vec![ask]);
            draft.envelope.push(format!(r#""id":{}"#, noted(id, town)));
            id
        });
        let address = self.address(session, &target, town);
        draft.envelope.push(address);
        let is_kept = class == Class::Numbered && !is_ephemeral && echoes && may;
        let keyed = if is_kept { self.key(&mut draft, session, town) } else { None };
        if let Some(request) = request.filter(|_| keyed.is_none() && may && to.len() == 1) {
            self.receipt(&mut draft, session, (to[0], request, echoes), town);
        }
        self.rng.shuffle(&mut draft.envelope);
        let has_payload = self.rng.u32(..8) > 0;
        if !has_payload {
            town.deeds.did(Deed::PayloadAbsent);
        }
        if may {
            self.pad(&mut draft, session, town, pad_max / to.len(), has_payload);
        }
        let text = draft.text(has_payload);
        if text.len() > 65_536 {
            town.deeds.did(Deed::Above64K);
        }
        if let Some(name) = keyed {
            draft.envelope.retain(|member| !member.starts_with(r#""id":"#));
            let from = (session.serial, draft.numbers[0]);
            self.repeats.push(Repeat { name, channel: to[0], from, text: draft.text(has_payload) });
        }
        text
    }

    /// The event; whether it is ephemeral whatever else is said.
    fn event(&mut self, draft: &mut Draft, class: Class, town: &mut Town) -> bool {
        let mut event = format!("e{}", self.rng.u32(..3));
        if self.rng.u32(..10) == 0 {
            event = EPHEMERAL[self.rng.usize(..3)].to_owned();
            draft.is_short = class != Class::Inbox && self.rng.bool();
        } else if self.rng.u32(..16) == 0 {
            event = "chat_message".to_owned();
            draft.is_short = class != Class::Inbox && self.rng.bool();
        }
        draft.payload.push(format!(r#""ev":"{event}""#));
        if draft.is_short {
            town.deeds.did(Deed::ShortForm);
            draft.envelope.push(format!(r#""type":"{event}""#));
        } else {
            draft.envelope.push(r#""type":"publish""#.to_owned());
            draft.envelope.push(format!(r#""event":"{event}""#));
        }
        draft.event = event;
        EPHEMERAL.contains(&draft.event.as_str())
    }

    /// Priority, time, and what a server without that feature ignores.
    fn fields(&mut self, draft: &mut Draft, town: &mut Town) {
        let priority = match self.rng.u32(..12) {
            0 => "high",
            1 => "low",
            2 => "critical",
            3 => "normal",
            _ => "",
        };
        if !priority.is_empty() {
            match priority {
                "critical" => town.deeds.did(Deed::Critical),
                "low" => town.deeds.did(Deed::Low),
                _ => {}
            }
            draft.envelope.push(format!(r#""priority":"{priority}""#));
            draft.payload.push(format!(r#""pr":"{priority}""#));
        }
        if self.rng.u32(..10) == 0 {
            let time = self.rng.u64(..TIME_MAX_MS);
            town.deeds.did(Deed::TimeGiven);
            let text = match self.rng.u32(..3) {
                0 => time.to_string(),
                1 => {
                    town.deeds.did(Deed::IsoTimeGiven);
                    format!("\"{}\"", iso(time))
                }
                _ => {
                    // The same moment where clocks are an hour and a half ahead.
                    town.deeds.did(Deed::IsoTimeGiven);
                    format!("\"{}+01:30\"", iso(time + 5_400_000).trim_end_matches('Z'))
                }
            };
            draft.envelope.push(format!(r#""timestamp":{text}"#));
            draft.payload.push(format!(r#""t":{time}"#));
        }
        if self.rng.u32(..12) == 0 {
            draft.envelope.push(r#""tags":{"a":["b"]},"receipt":false,"traceparent":"00-1-2-01""#.to_owned());
        }
    }

    /// The message gets its number on each of its channels.
    fn number(
        &mut self,
        draft: &mut Draft,
        session: &Session,
        town: &mut Town,
        to: &[ChannelIndex],
        how: (bool, bool),
    ) {
        let by = session.serial;
        let numbers: Vec<u32> =
            to.iter().map(|channel| town.oracle.publishes(by, *channel, &draft.event, how)).collect();
        let sum = checksum(by, numbers[0]);
        draft.payload.push(format!(r#""by":{by},"sum":{sum}"#));
        let names: Vec<String> = to
            .iter()
            .zip(&numbers)
            .map(|(channel, number)| {
                format!(r#""{}":{number}"#, town.names.channels[usize::from(*channel)].name)
            })
            .collect();
        draft.payload.push(format!(r#""n":{}"#, numbers[0]));
        if to.len() > 1 {
            draft.payload.push(format!(r#""ns":{{{}}}"#, names.join(",")));
        }
        draft.numbers = numbers;
    }

    /// Padding: now and then so much that the message is exactly as large as one may be.
    fn pad(
        &mut self,
        draft: &mut Draft,
        session: &Session,
        town: &mut Town,
        pad_max: usize,
        has_payload: bool,
    ) {
        let n = draft.numbers[0];
        if self.rng.u32(..60) == 0 {
            // The message and its payload are two levels themselves.
            let own = if has_payload { 2 } else { 1 };
            let levels = town.habits.json_depth - own - session.nesting;
            draft.payload.push(format!(r#""deep":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
            town.deeds.did(Deed::AtDepth);
        }
        let is_whole = pad_max == town.habits.large_bytes && session.nesting == 0;
        if is_whole && pad_max > 0 && self.rng.u32(..600) == 0 {
            draft.payload.push(r#""pad":"""#.to_owned());
            let room = town.habits.message_bytes.saturating_sub(draft.text(has_payload).len());
            draft.payload.pop();
            draft.payload.push(format!(r#""pad":"{}""#, pad_of(session.serial, n, room)));
            town.deeds.did(Deed::AtMessageLimit);
        } else if self.rng.u32(..30) == 0 {
            let bytes = self.rng.usize(..=pad_max);
            draft.payload.push(format!(r#""pad":"{}""#, pad_of(session.serial, n, bytes)));
        }
    }
}

/// What answers a publish to where one may not.
fn refused(target: &Target, town: &mut Town) -> Ask {
    town.deeds.did(Deed::Forbidden);
    let channel = match target {
        Target::Channel(it) => Some(town.names.channels[usize::from(*it)].name.clone()),
        Target::Participants(_) => None,
    };
    Ask::Refused { code: "FORBIDDEN", channel }
}
