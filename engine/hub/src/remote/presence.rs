//! Records of presence, written and read: tags 40 to 49.

use corecast_protocol::envelope::command::RequestId;

use crate::effect::ConnKey;
use crate::remote::read::Input;
use crate::remote::write::{bytes, key, milliseconds, request_id, u64s};
use crate::remote::{FromHome, Malformed, ToHome};

pub use crate::presence::names::Names;

/// What is to be known of a channel's members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PresenceAsk<'a> {
    /// So many of them behind this name.
    Members {
        /// Names at most.
        limit: u32,
        /// The last name that is known.
        after: Option<&'a str>,
    },
    /// How many participants there are.
    Count,
    /// That, and how many subscriptions they have.
    Stats,
}

/// Who came and went in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed<'a> {
    /// The channel.
    pub channel: &'a str,
    /// Its members now.
    pub count: u64,
    /// Who came, by name.
    pub joined: Names<'a>,
    /// Who went, by name.
    pub left: Names<'a>,
    /// How many came and went, where they are too many for a list.
    pub counts: Option<(u32, u32)>,
}

/// What somebody missed who was away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missed<'a> {
    /// Who watches.
    pub conn: ConnKey,
    /// The channel.
    pub channel: &'a str,
    /// Its members now.
    pub count: u64,
    /// Who may have come meanwhile and is there, and who may have gone and is not; none if not all of it is known.
    pub who: Option<(Names<'a>, Names<'a>)>,
}

/// Some of a channel's members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MembersPage<'a> {
    /// All members.
    pub count: u64,
    /// Those of this page, by name.
    pub members: Names<'a>,
    /// Who types.
    pub typing: Names<'a>,
    /// Whether there are members behind those of this page.
    pub has_more: bool,
}

/// Who asks what channel.
type Asked<'a> = (ConnKey, Option<RequestId<'a>>, &'a str);

pub(super) fn present(
    out: &mut Vec<u8>,
    (channel, participant): (&str, &str),
    (before, connections): (u32, u32),
) {
    out.push(40);
    bytes(out, channel.as_bytes());
    bytes(out, participant.as_bytes());
    u32s(out, [before, connections]);
}

pub(super) fn unwatch(out: &mut Vec<u8>, channel: &str) {
    out.push(41);
    bytes(out, channel.as_bytes());
}

pub(super) fn ask(out: &mut Vec<u8>, asked: Asked<'_>, ask: &PresenceAsk<'_>) {
    match *ask {
        PresenceAsk::Members { limit, after } => {
            out.push(42);
            who(out, asked);
            u32s(out, [limit]);
            out.push(u8::from(after.is_some()));
            bytes(out, after.unwrap_or_default().as_bytes());
        }
        PresenceAsk::Count => {
            out.push(43);
            who(out, asked);
        }
        PresenceAsk::Stats => {
            out.push(44);
            who(out, asked);
        }
    }
}

pub(super) fn ask_missed(out: &mut Vec<u8>, conn: ConnKey, channel: &str, away_ms: Option<u32>) {
    out.push(45);
    key(out, conn);
    bytes(out, channel.as_bytes());
    milliseconds(out, away_ms);
}

pub(super) fn missed(out: &mut Vec<u8>, it: &Missed<'_>) {
    out.push(45);
    key(out, it.conn);
    bytes(out, it.channel.as_bytes());
    u64s(out, &[it.count]);
    out.push(u8::from(it.who.is_some()));
    let (joined, left) = it.who.unwrap_or_default();
    bytes(out, joined.bytes());
    bytes(out, left.bytes());
}

pub(super) fn changed(out: &mut Vec<u8>, it: &Changed<'_>) {
    out.push(40);
    bytes(out, it.channel.as_bytes());
    u64s(out, &[it.count]);
    bytes(out, it.joined.bytes());
    bytes(out, it.left.bytes());
    out.push(u8::from(it.counts.is_some()));
    let (joined, left) = it.counts.unwrap_or_default();
    u32s(out, [joined, left]);
}

pub(super) fn typing_expired(out: &mut Vec<u8>, channel: &str, count: u64, participants: Names<'_>) {
    out.push(41);
    bytes(out, channel.as_bytes());
    u64s(out, &[count]);
    bytes(out, participants.bytes());
}

pub(super) fn members(out: &mut Vec<u8>, asked: Asked<'_>, page: &MembersPage<'_>) {
    out.push(42);
    who(out, asked);
    u64s(out, &[page.count]);
    bytes(out, page.members.bytes());
    bytes(out, page.typing.bytes());
    out.push(u8::from(page.has_more));
}

pub(super) fn stats(out: &mut Vec<u8>, asked: Asked<'_>, participants: u64, connections: Option<u64>) {
    out.push(if connections.is_some() { 44 } else { 43 });
    who(out, asked);
    u64s(out, &[participants, connections.unwrap_or_default()]);
}

fn who(out: &mut Vec<u8>, (conn, id, channel): Asked<'_>) {
    key(out, conn);
    request_id(out, id);
    bytes(out, channel.as_bytes());
}

fn u32s<const N: usize>(out: &mut Vec<u8>, values: [u32; N]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn to_home<'a>(tag: u8, it: &mut Input<'a>) -> Result<ToHome<'a>, Malformed> {
    Ok(match tag {
        40 => ToHome::Present {
            channel: it.text()?,
            participant: it.text()?,
            before: it.u32()?,
            connections: it.u32()?,
        },
        41 => ToHome::Unwatch { channel: it.text()? },
        42 => {
            let (conn, id, channel) = (it.key()?, it.id()?, it.text()?);
            let (limit, is_behind, after) = (it.u32()?, it.flag()?, it.text()?);
            let ask = PresenceAsk::Members { limit, after: is_behind.then_some(after) };
            ToHome::Presence { conn, id, channel, ask }
        }
        43 | 44 => {
            let ask = if tag == 43 { PresenceAsk::Count } else { PresenceAsk::Stats };
            ToHome::Presence { conn: it.key()?, id: it.id()?, channel: it.text()?, ask }
        }
        45 => ToHome::Missed { conn: it.key()?, channel: it.text()?, away_ms: it.milliseconds()? },
        _ => return Err(Malformed),
    })
}

pub(super) fn from_home<'a>(tag: u8, it: &mut Input<'a>) -> Result<FromHome<'a>, Malformed> {
    Ok(match tag {
        40 => {
            let (channel, count, joined, left) = (it.text()?, it.u64()?, names(it)?, names(it)?);
            let (is_counted, joins, leaves) = (it.flag()?, it.u32()?, it.u32()?);
            let counts = is_counted.then_some((joins, leaves));
            FromHome::Changed(Changed { channel, count, joined, left, counts })
        }
        41 => FromHome::TypingExpired { channel: it.text()?, count: it.u64()?, participants: names(it)? },
        42 => FromHome::Members {
            conn: it.key()?,
            id: it.id()?,
            channel: it.text()?,
            page: MembersPage {
                count: it.u64()?,
                members: names(it)?,
                typing: names(it)?,
                has_more: it.flag()?,
            },
        },
        43 | 44 => {
            let (conn, id, channel) = (it.key()?, it.id()?, it.text()?);
            let (participants, connections) = (it.u64()?, it.u64()?);
            let connections = (tag == 44).then_some(connections);
            FromHome::PresenceStats { conn, id, channel, participants, connections }
        }
        45 => {
            let (conn, channel, count) = (it.key()?, it.text()?, it.u64()?);
            let (is_known, joined, left) = (it.flag()?, names(it)?, names(it)?);
            FromHome::Missed(Missed { conn, channel, count, who: is_known.then_some((joined, left)) })
        }
        _ => return Err(Malformed),
    })
}

fn names<'a>(it: &mut Input<'a>) -> Result<Names<'a>, Malformed> {
    Names::read(it.bytes()?).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_survive(
            index in any::<u32>(), number in any::<u64>(), channel in "\\PC{0,40}", flag in any::<bool>(),
            some in proptest::collection::vec("\\PC{0,20}", 0..20),
        ) {
            let conn = ConnKey { index, generation: !index };
            let id = flag.then_some(RequestId::Number(number));
            let (channel, after) = (channel.as_str(), flag.then_some(channel.as_str()));
            let mut list = Vec::new();
            some.iter().for_each(|name| Names::push(&mut list, name));
            let names = Names::read(&list).expect("it is a list");
            let counts = flag.then_some((index, !index));
            for record in [
                ToHome::Present { channel, participant: "ann", before: index, connections: !index },
                ToHome::Unwatch { channel },
                ToHome::Presence { conn, id, channel, ask: PresenceAsk::Members { limit: index, after } },
                ToHome::Presence { conn, id, channel, ask: PresenceAsk::Count },
                ToHome::Presence { conn, id, channel, ask: PresenceAsk::Stats },
                ToHome::Missed { conn, channel, away_ms: flag.then_some(index) },
            ] {
                let mut out = Vec::new();
                record.encode(&mut out);
                prop_assert_eq!(ToHome::decode(&out), Ok(record));
                prop_assert_eq!(ToHome::decode(&out[..out.len() - 1]), Err(Malformed));
                out.push(0);
                prop_assert_eq!(ToHome::decode(&out), Err(Malformed));
            }
            let page = MembersPage { count: number, members: names, typing: Names::NONE, has_more: flag };
            for record in [
                FromHome::Changed(Changed { channel, count: number, joined: Names::NONE, left: names, counts }),
                FromHome::TypingExpired { channel, count: number, participants: names },
                FromHome::Missed(Missed { conn, channel, count: number, who: flag.then_some((Names::NONE, names)) }),
                FromHome::Members { conn, id, channel, page },
                FromHome::PresenceStats { conn, id, channel, participants: number, connections: flag.then_some(number) },
            ] {
                let mut out = Vec::new();
                record.encode(&mut out);
                prop_assert_eq!(FromHome::decode(&out), Ok(record));
                prop_assert_eq!(FromHome::decode(&out[..out.len() - 1]), Err(Malformed));
                out.push(0);
                prop_assert_eq!(FromHome::decode(&out), Err(Malformed));
            }
        }

        /// Whatever it is, it is read without a panic, and what was read can be written again.
        #[test]
        fn garbage_is_no_panic(record in proptest::collection::vec(any::<u8>(), 0..120), tag in 40u8..50) {
            let record = [&[tag], record.as_slice()].concat();
            if let Ok(read) = ToHome::decode(&record) {
                let mut out = Vec::new();
                read.encode(&mut out);
                prop_assert_eq!(ToHome::decode(&out), Ok(read));
            }
            if let Ok(read) = FromHome::decode(&record) {
                let mut out = Vec::new();
                read.encode(&mut out);
                prop_assert_eq!(FromHome::decode(&out), Ok(read));
            }
        }
    }
}
