//! Publishes in every form that the contract has: to channels, participants and lists, with all fields, and by short
//! forms.

use std::fmt::Write;
use std::rc::Rc;

use super::deeds::Deed;
use super::ledger::Ask;
use super::requests::noted;
use super::session::Session;
use super::{Client, Town};
use crate::names::{ChannelIndex, Class};

/// Events that are ephemeral whatever else a publish says, as types of their own.
const EPHEMERAL: [&str; 3] = ["user_typing", "chat_message_chunk", "agent_status_update"];

/// Times that clients give: before the year 2100, in milliseconds.
const TIME_MAX_MS: u64 = 4_102_444_800_000;

/// What a payload's numbers add up to.
pub(super) fn checksum(by: u32, n: u32) -> u32 {
    by.wrapping_mul(0x9e37_79b1) ^ n.wrapping_mul(0x85eb_ca6b).rotate_left(13)
}

/// What fills a large payload; characters of one or two bytes.
pub(super) fn pad_of(by: u32, n: u32, bytes: usize) -> String {
    let sum = checksum(by, n);
    if sum.is_multiple_of(5) && bytes.is_multiple_of(2) {
        return "ж".repeat(bytes / 2);
    }
    char::from(b'a' + (sum % 26) as u8).to_string().repeat(bytes)
}

/// Where a publish goes.
enum Target {
    Channel(ChannelIndex),
    /// Participants' numbers.
    Participants(Vec<usize>),
}

/// A publish in the making.
#[derive(Default)]
struct Draft {
    /// Members of the envelope, as JSON.
    envelope: Vec<String>,
    /// Members of the payload.
    payload: Vec<String>,
    is_short: bool,
    /// Its number on each of its channels.
    numbers: Vec<u32>,
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
        if !is_stored {
            draft.envelope.push(r#""store":false"#.to_owned());
        }
        let is_ephemeral = is_numbered && (!is_stored || is_ephemeral_event);
        // Without an echo, an own message leaves no trace on channels without offsets.
        let echoes = !is_numbered || is_ephemeral || self.rng.u32(..10) > 0 || !session.is_established;
        if !echoes {
            draft.envelope.push(r#""echo":false"#.to_owned());
        }
        self.fields(&mut draft, town);
        if may {
            self.number(&mut draft, session, town, &to, echoes);
        }
        draft.payload.push(format!(r#""e":{is_ephemeral}"#));
        draft.payload.push(format!(r#""who":"{}""#, session.name));
        let has_id = !may || self.rng.bool();
        if has_id {
            let ask = match (may, &target) {
                (true, _) => {
                    let (channel, number) = (to[to.len() - 1], draft.numbers[to.len() - 1]);
                    Ask::Publish { channel, number, is_ephemeral }
                }
                (false, target) => {
                    town.deeds.did(Deed::Forbidden);
                    let channel = match target {
                        Target::Channel(it) => Some(names.channels[usize::from(*it)].name.clone()),
                        Target::Participants(_) => None,
                    };
                    Ask::Refused { code: "FORBIDDEN", channel }
                }
            };
            let id = session.ledger.ask(vec![ask]);
            draft.envelope.push(format!(r#""id":{}"#, noted(id, town)));
        }
        self.address(&mut draft, session, &target, town);
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
        text
    }

    fn target(&mut self, session: &Session, town: &mut Town) -> Target {
        let names = &town.names;
        let developers = names.participants.len();
        match self.rng.u32(..100) {
            // What is slow to leave must not end connections while none are to end.
            _ if town.is_steady && town.habits.is_tight => {
                let may_drop = |it: &ChannelIndex| {
                    matches!(names.channels[usize::from(*it)].class, Class::Dropping | Class::Conflating)
                };
                let droppable: Vec<_> = (0..names.open as ChannelIndex).filter(may_drop).collect();
                Target::Channel(self.rng.choice(droppable).unwrap_or_default())
            }
            0 => Target::Channel(names.system()),
            1..5 => Target::Participants(vec![self.rng.usize(..developers)]),
            5 if session.participant.is_some() => {
                Target::Participants(session.participant.into_iter().collect())
            }
            6..8 => {
                let mut list: Vec<usize> =
                    (0..self.rng.usize(1..6)).map(|_| self.rng.usize(..developers)).collect();
                list.extend(session.participant.filter(|_| self.rng.u32(..3) == 0));
                town.deeds.did(Deed::ToList);
                let last = list[list.len() - 1];
                let count = list.len();
                list.retain(|it| *it != last);
                list.push(last);
                if list.len() < count {
                    town.deeds.did(Deed::ToTwice);
                }
                // Each once: named twice, it would get the message the last time, as it does with repetitions below.
                let mut seen = Vec::new();
                list.retain(|it| {
                    !seen.contains(it) && {
                        seen.push(*it);
                        true
                    }
                });
                Target::Participants(list)
            }
            _ => Target::Channel(self.rng.usize(..names.open) as ChannelIndex),
        }
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
        EPHEMERAL.contains(&event.as_str())
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
        echoes: bool,
    ) {
        let by = session.serial;
        let numbers: Vec<u32> =
            to.iter().map(|channel| town.oracle.publishes(by, *channel, echoes)).collect();
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

    fn address(&mut self, draft: &mut Draft, session: &Session, target: &Target, town: &mut Town) {
        let names = Rc::clone(&town.names);
        let text = match target {
            Target::Channel(channel) => {
                let name = self.escaped(&names.channels[usize::from(*channel)].name, town);
                format!(r#""channel":{name}"#)
            }
            Target::Participants(list) => {
                let mut texts = Vec::new();
                for participant in list {
                    if session.participant == Some(*participant) && self.rng.bool() {
                        town.deeds.did(Deed::ToMe);
                        texts.push("\"@me\"".to_owned());
                    } else {
                        texts.push(self.escaped(&names.participants[*participant], town));
                    }
                }
                // The last of a repeated name counts, so that a repetition changes nothing.
                if texts.len() > 1 && self.rng.u32(..3) == 0 {
                    texts.insert(0, texts[self.rng.usize(..texts.len())].clone());
                    town.deeds.did(Deed::ToTwice);
                }
                match &texts[..] {
                    [one] if self.rng.bool() => format!(r#""to":{one}"#),
                    list => format!(r#""to":[{}]"#, list.join(",")),
                }
            }
        };
        draft.envelope.push(text);
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

/// Milliseconds since the Unix epoch as the contract's ISO 8601, counted year by year.
pub(super) fn iso(unix_ms: u64) -> String {
    let (mut days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let mut text = String::new();
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let _ = write!(text, "{year:04}-{:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}", month + 1, days + 1);
    let _ = write!(text, ".{:03}Z", ms % 1_000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_are_known() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(iso(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
    }
}
