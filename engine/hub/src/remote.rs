//! Records between the hubs of a node: what a home is asked and what it answers, as bytes.
//!
//! Records come from this program alone, so a malformed one is our defect: [`Malformed`], which the hub asserts in
//! debug builds and counts in others, because one bad record is no reason to end everybody's connections.

use std::net::IpAddr;

use corecast_protocol::envelope::command::{Priority, RequestId};
use corecast_protocol::envelope::event::Seams;

use crate::effect::ConnKey;

/// Stands for no priority in a record.
const PRIORITY_NONE: u8 = 9;

/// A publish on its way to the channel's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published<'a> {
    /// The publishing connection.
    pub conn: ConnKey,
    /// Whom the answer is for; without one nothing is answered.
    pub id: Option<RequestId<'a>>,
    /// The channel, or the participant of a direct message.
    pub target: &'a str,
    /// Of `target`, so that no shard on the way computes it again.
    pub hash: u64,
    /// Number of the channel's namespace; 0 for a direct message, which has none.
    pub rule: u16,
    /// The event's name.
    pub event: Option<&'a str>,
    /// A validated JSON value.
    pub payload: &'a [u8],
    /// Who publishes.
    pub publisher: &'a str,
    /// As the publisher named it.
    pub priority: Option<Priority>,
    /// Whether it gets no offset of its own.
    pub is_ephemeral: bool,
    /// Whether the publishing connection gets it too.
    pub echoes: bool,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
}

/// To a home.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToHome<'a> {
    /// A connection wants a channel.
    Subscribe { conn: ConnKey, serial: u32, channel: &'a str, id: Option<RequestId<'a>> },
    /// A connection wants all channels with a prefix; every home is asked.
    SubscribePattern { conn: ConnKey, serial: u32, prefix: &'a str, id: Option<RequestId<'a>> },
    /// The shard has no subscriber of the channel left.
    Leave { channel: &'a str },
    /// The shard has no subscriber of the pattern left.
    LeavePattern { prefix: &'a str },
    /// A publish to a channel.
    Publish(Published<'a>),
    /// A publish to a participant.
    Direct(Published<'a>),
    /// May one more connection come from this address?
    AdmitIp { conn: ConnKey, ip: IpAddr },
    /// One connection of this address less.
    ReleaseIp { ip: IpAddr },
    /// May this participant have one more connection?
    AdmitParticipant { conn: ConnKey, participant: &'a str },
    /// One connection of this participant less.
    ReleaseParticipant { participant: &'a str },
}

/// A publish was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt<'a> {
    /// The publisher.
    pub conn: ConnKey,
    /// Its request.
    pub id: RequestId<'a>,
    /// With `offset` the message's identity.
    pub epoch: Epoch,
    /// See `epoch`.
    pub offset: u64,
}

/// A message as the home wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written<'a> {
    /// The channel, or the participant of a direct message.
    pub target: &'a str,
    /// Of `target`.
    pub hash: u64,
    /// Equal for messages of which the later replaces the earlier.
    pub conflate: u64,
    /// As published, or the namespace's.
    pub priority: Priority,
    /// This connection of the receiving shard does not get it.
    pub exclude: Option<ConnKey>,
    /// Tells the publisher on the receiving shard that the message was accepted: with the message, because a
    /// request causes at most one record per shard.
    pub receipt: Option<Receipt<'a>>,
    /// The channel begins this epoch behind this offset, and whoever is subscribed by a pattern may know another one.
    pub reborn: Option<(Epoch, u64)>,
    /// Where its variants differ.
    pub seams: Seams,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
    /// The complete message.
    pub json: &'a [u8],
}

/// From a home.
#[expect(missing_docs, reason = "the fields are named after what they carry")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FromHome<'a> {
    /// The subscription is active from here on.
    Subscribed {
        conn: ConnKey,
        serial: u32,
        channel: &'a str,
        id: Option<RequestId<'a>>,
        epoch: Epoch,
        offset: u64,
    },
    /// This home knows the pattern.
    PatternSubscribed { conn: ConnKey, serial: u32, prefix: &'a str, id: Option<RequestId<'a>> },
    /// A message on a channel.
    Message(Written<'a>),
    /// A message to a participant.
    Direct(Written<'a>),
    /// The publish was accepted, and no message goes to the publisher's shard.
    Accepted(Receipt<'a>),
    /// Nobody is connected as this participant.
    Nobody { conn: ConnKey, id: Option<RequestId<'a>>, participant: &'a str },
    /// The answer to `AdmitIp`.
    IpAdmitted { conn: ConnKey, ip: IpAddr, is_admitted: bool },
    /// The answer to `AdmitParticipant`.
    ParticipantAdmitted { conn: ConnKey, participant: &'a str, is_admitted: bool },
}

/// Which life of a channel or inbox an offset belongs to: below [`Epoch::COUNT`], written as base 36.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub u64);

impl Epoch {
    /// How many there are. Two lives of one channel are alike once in 2.8 million million.
    pub const COUNT: u64 = 36u64.pow(8);

    /// The epoch for a random number.
    pub fn new(random: u64) -> Self {
        Self(random % Self::COUNT)
    }

    /// The text of the wire: 8 characters.
    pub fn text(self, buffer: &mut [u8; 8]) -> &str {
        base36(self.0, buffer)
    }
}

/// The last digits of a number in base 36, as many as the buffer holds.
pub(crate) fn base36<const N: usize>(number: u64, buffer: &mut [u8; N]) -> &str {
    let mut rest = number;
    for digit in buffer.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
    }
    std::str::from_utf8(buffer).expect("digits and letters are UTF-8")
}

impl ToHome<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Subscribe { conn, serial, channel, id } => {
                out.push(1);
                subscription(out, conn, serial, channel, id);
            }
            Self::SubscribePattern { conn, serial, prefix, id } => {
                out.push(2);
                subscription(out, conn, serial, prefix, id);
            }
            Self::Leave { channel } => {
                out.push(3);
                bytes(out, channel.as_bytes());
            }
            Self::LeavePattern { prefix } => {
                out.push(4);
                bytes(out, prefix.as_bytes());
            }
            Self::Publish(it) => {
                out.push(5);
                published(out, &it);
            }
            Self::Direct(it) => {
                out.push(6);
                published(out, &it);
            }
            Self::AdmitIp { conn, ip } => {
                out.push(7);
                key(out, conn);
                address(out, ip);
            }
            Self::ReleaseIp { ip } => {
                out.push(8);
                address(out, ip);
            }
            Self::AdmitParticipant { conn, participant } => {
                out.push(9);
                key(out, conn);
                bytes(out, participant.as_bytes());
            }
            Self::ReleaseParticipant { participant } => {
                out.push(10);
                bytes(out, participant.as_bytes());
            }
        }
    }
}

impl<'a> ToHome<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// If it is none, which is our own defect.
    pub fn decode(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut it = Input(record);
        let record = match it.byte()? {
            1 => Self::Subscribe { conn: it.key()?, serial: it.u32()?, channel: it.text()?, id: it.id()? },
            2 => Self::SubscribePattern {
                conn: it.key()?,
                serial: it.u32()?,
                prefix: it.text()?,
                id: it.id()?,
            },
            3 => Self::Leave { channel: it.text()? },
            4 => Self::LeavePattern { prefix: it.text()? },
            5 => Self::Publish(it.published()?),
            6 => Self::Direct(it.published()?),
            7 => Self::AdmitIp { conn: it.key()?, ip: it.address()? },
            8 => Self::ReleaseIp { ip: it.address()? },
            9 => Self::AdmitParticipant { conn: it.key()?, participant: it.text()? },
            10 => Self::ReleaseParticipant { participant: it.text()? },
            _ => return Err(Malformed),
        };
        it.end(record)
    }
}

impl FromHome<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Subscribed { conn, serial, channel, id, epoch, offset } => {
                out.push(1);
                subscription(out, conn, serial, channel, id);
                u64s(out, &[epoch.0, offset]);
            }
            Self::PatternSubscribed { conn, serial, prefix, id } => {
                out.push(2);
                subscription(out, conn, serial, prefix, id);
            }
            Self::Message(it) => {
                out.push(3);
                written(out, &it);
            }
            Self::Direct(it) => {
                out.push(4);
                written(out, &it);
            }
            Self::Accepted(it) => {
                out.push(5);
                receipt(out, &it);
            }
            Self::Nobody { conn, id, participant } => {
                out.push(6);
                key(out, conn);
                request_id(out, id);
                bytes(out, participant.as_bytes());
            }
            Self::IpAdmitted { conn, ip, is_admitted } => {
                out.push(7);
                key(out, conn);
                address(out, ip);
                out.push(u8::from(is_admitted));
            }
            Self::ParticipantAdmitted { conn, participant, is_admitted } => {
                out.push(8);
                key(out, conn);
                bytes(out, participant.as_bytes());
                out.push(u8::from(is_admitted));
            }
        }
    }
}

impl<'a> FromHome<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// If it is none, which is our own defect.
    pub fn decode(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut it = Input(record);
        let record = match it.byte()? {
            1 => Self::Subscribed {
                conn: it.key()?,
                serial: it.u32()?,
                channel: it.text()?,
                id: it.id()?,
                epoch: Epoch(it.u64()?),
                offset: it.u64()?,
            },
            2 => Self::PatternSubscribed {
                conn: it.key()?,
                serial: it.u32()?,
                prefix: it.text()?,
                id: it.id()?,
            },
            3 => Self::Message(it.written()?),
            4 => Self::Direct(it.written()?),
            5 => Self::Accepted(it.receipt()?),
            6 => Self::Nobody { conn: it.key()?, id: it.id()?, participant: it.text()? },
            7 => Self::IpAdmitted { conn: it.key()?, ip: it.address()?, is_admitted: it.flag()? },
            8 => Self::ParticipantAdmitted {
                conn: it.key()?,
                participant: it.text()?,
                is_admitted: it.flag()?,
            },
            _ => return Err(Malformed),
        };
        it.end(record)
    }
}

fn u64s(out: &mut Vec<u8>, values: &[u64]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn key(out: &mut Vec<u8>, conn: ConnKey) {
    out.extend_from_slice(&conn.index.to_le_bytes());
    out.extend_from_slice(&conn.generation.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn request_id(out: &mut Vec<u8>, id: Option<RequestId<'_>>) {
    match id {
        None => out.push(0),
        Some(RequestId::Number(number)) => {
            out.push(1);
            u64s(out, &[number]);
        }
        Some(RequestId::Text(text)) => {
            out.push(2);
            bytes(out, text.as_bytes());
        }
    }
}

fn address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
}

fn subscription(out: &mut Vec<u8>, conn: ConnKey, serial: u32, name: &str, id: Option<RequestId<'_>>) {
    key(out, conn);
    out.extend_from_slice(&serial.to_le_bytes());
    bytes(out, name.as_bytes());
    request_id(out, id);
}

fn published(out: &mut Vec<u8>, it: &Published<'_>) {
    key(out, it.conn);
    request_id(out, it.id);
    bytes(out, it.target.as_bytes());
    u64s(out, &[it.hash]);
    out.extend_from_slice(&it.rule.to_le_bytes());
    out.push(u8::from(it.event.is_some()));
    bytes(out, it.event.unwrap_or_default().as_bytes());
    bytes(out, it.payload);
    bytes(out, it.publisher.as_bytes());
    out.push(it.priority.map_or(PRIORITY_NONE, |priority| priority as u8));
    out.extend_from_slice(&[u8::from(it.is_ephemeral), u8::from(it.echoes)]);
    u64s(out, &[it.timestamp]);
}

fn receipt(out: &mut Vec<u8>, it: &Receipt<'_>) {
    key(out, it.conn);
    request_id(out, Some(it.id));
    u64s(out, &[it.epoch.0, it.offset]);
}

fn written(out: &mut Vec<u8>, it: &Written<'_>) {
    bytes(out, it.target.as_bytes());
    out.push(it.priority as u8);
    out.push(u8::from(it.exclude.is_some()));
    if let Some(exclude) = it.exclude {
        key(out, exclude);
    }
    out.push(u8::from(it.receipt.is_some()));
    if let Some(it) = &it.receipt {
        receipt(out, it);
    }
    out.push(u8::from(it.reborn.is_some()));
    if let Some((epoch, offset)) = it.reborn {
        u64s(out, &[epoch.0, offset]);
    }
    for seam in [it.seams.pattern, it.seams.time.0, it.seams.time.1] {
        out.extend_from_slice(&seam.to_le_bytes());
    }
    u64s(out, &[it.hash, it.conflate, it.timestamp]);
    bytes(out, it.json);
}

/// Bytes that are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// What is left of a record.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn end<T>(self, record: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(record) } else { Err(Malformed) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn key(&mut self) -> Result<ConnKey, Malformed> {
        Ok(ConnKey { index: self.u32()?, generation: self.u32()? })
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    fn id(&mut self) -> Result<Option<RequestId<'a>>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(RequestId::Number(self.u64()?))),
            2 => Ok(Some(RequestId::Text(self.text()?))),
            _ => Err(Malformed),
        }
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.byte()? {
            4 => Ok(IpAddr::from(self.array::<4>()?)),
            6 => Ok(IpAddr::from(self.array::<16>()?)),
            _ => Err(Malformed),
        }
    }

    fn priority(&mut self) -> Result<Option<Priority>, Malformed> {
        match self.byte()? {
            0 => Ok(Some(Priority::Low)),
            1 => Ok(Some(Priority::Normal)),
            2 => Ok(Some(Priority::High)),
            3 => Ok(Some(Priority::Critical)),
            PRIORITY_NONE => Ok(None),
            _ => Err(Malformed),
        }
    }

    fn published(&mut self) -> Result<Published<'a>, Malformed> {
        let (conn, id, target) = (self.key()?, self.id()?, self.text()?);
        let (hash, rule) = (self.u64()?, self.u16()?);
        let has_event = self.flag()?;
        let event = self.text()?;
        Ok(Published {
            conn,
            id,
            target,
            hash,
            rule,
            event: has_event.then_some(event),
            payload: self.bytes()?,
            publisher: self.text()?,
            priority: self.priority()?,
            is_ephemeral: self.flag()?,
            echoes: self.flag()?,
            timestamp: self.u64()?,
        })
    }

    fn receipt(&mut self) -> Result<Receipt<'a>, Malformed> {
        Ok(Receipt {
            conn: self.key()?,
            id: self.id()?.ok_or(Malformed)?,
            epoch: Epoch(self.u64()?),
            offset: self.u64()?,
        })
    }

    fn written(&mut self) -> Result<Written<'a>, Malformed> {
        let target = self.text()?;
        let priority = self.priority()?.ok_or(Malformed)?;
        let exclude = if self.flag()? { Some(self.key()?) } else { None };
        let receipt = if self.flag()? { Some(self.receipt()?) } else { None };
        let reborn = if self.flag()? { Some((Epoch(self.u64()?), self.u64()?)) } else { None };
        let seams = Seams { pattern: self.u32()?, time: (self.u32()?, self.u32()?) };
        let (hash, conflate, timestamp) = (self.u64()?, self.u64()?, self.u64()?);
        let json = self.bytes()?;
        // The seams are where the message is cut into variants: in order and inside of it.
        let are_inside = seams.pattern <= seams.time.0
            && seams.time.0 <= seams.time.1
            && seams.time.1 as usize <= json.len();
        if !are_inside {
            return Err(Malformed);
        }
        Ok(Written { target, hash, conflate, priority, exclude, receipt, reborn, seams, timestamp, json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_survive(
            index in any::<u32>(), number in any::<u64>(), name in "\\PC{0,40}", other in "\\PC{0,12}",
            payload in proptest::collection::vec(any::<u8>(), 0..300), flag in any::<bool>(), kind in 0u8..3,
        ) {
            let conn = ConnKey { index, generation: !index };
            let id = [None, Some(RequestId::Number(number)), Some(RequestId::Text(&other))][usize::from(kind)];
            let ip = if flag { IpAddr::from(index.to_be_bytes()) } else { IpAddr::from([7; 16]) };
            let publish = Published {
                conn, id, target: &name, hash: !number, rule: 3, event: flag.then_some(other.as_str()), payload: &payload, publisher: &other,
                priority: flag.then_some(Priority::High), is_ephemeral: !flag, echoes: flag, timestamp: number,
            };
            for record in [
                ToHome::Subscribe { conn, serial: index, channel: &name, id },
                ToHome::SubscribePattern { conn, serial: index, prefix: &name, id },
                ToHome::Leave { channel: &name }, ToHome::LeavePattern { prefix: &name },
                ToHome::Publish(publish), ToHome::Direct(publish),
                ToHome::AdmitIp { conn, ip }, ToHome::ReleaseIp { ip },
                ToHome::AdmitParticipant { conn, participant: &name }, ToHome::ReleaseParticipant { participant: &name },
            ] {
                let mut out = Vec::new();
                record.encode(&mut out);
                prop_assert_eq!(ToHome::decode(&out), Ok(record));
                prop_assert_eq!(ToHome::decode(&out[..out.len() - 1]), Err(Malformed));
                out.push(0);
                prop_assert_eq!(ToHome::decode(&out), Err(Malformed));
            }
            let receipt = id.map(|id| Receipt { conn, id, epoch: Epoch(!number), offset: number });
            let cut = payload.len() as u32;
            let written = Written {
                target: &name, hash: number, conflate: number, priority: Priority::Critical,
                exclude: flag.then_some(conn), receipt, reborn: flag.then_some((Epoch(number), number)),
                seams: Seams { pattern: cut / 2, time: (cut / 2, cut) }, timestamp: !number, json: &payload,
            };
            for record in [
                FromHome::Subscribed { conn, serial: 7, channel: &name, id, epoch: Epoch(number), offset: 3 },
                FromHome::PatternSubscribed { conn, serial: 7, prefix: &name, id },
                FromHome::Message(written), FromHome::Direct(written),
                FromHome::Accepted(Receipt { conn, id: RequestId::Text(&other), epoch: Epoch(number), offset: 9 }),
                FromHome::Nobody { conn, id, participant: &name },
                FromHome::IpAdmitted { conn, ip, is_admitted: flag },
                FromHome::ParticipantAdmitted { conn, participant: &name, is_admitted: flag },
            ] {
                let mut out = Vec::new();
                record.encode(&mut out);
                prop_assert_eq!(FromHome::decode(&out), Ok(record));
                prop_assert_eq!(FromHome::decode(&out[..out.len() - 1]), Err(Malformed));
                out.push(0);
                prop_assert_eq!(FromHome::decode(&out), Err(Malformed));
            }
            let epoch = Epoch::new(number);
            prop_assert_eq!(u64::from_str_radix(epoch.text(&mut [0; 8]), 36), Ok(epoch.0));
            prop_assert_eq!(u64::from_str_radix(base36(number, &mut [0; 13]), 36), Ok(number));
        }

        /// Whatever it is, it is read without a panic, and what was read can be written again.
        #[test]
        fn garbage_is_no_panic(record in proptest::collection::vec(any::<u8>(), 0..120), tag in 1u8..11) {
            for record in [record.clone(), [&[tag], record.as_slice()].concat()] {
                let mut out = Vec::new();
                if let Ok(read) = ToHome::decode(&record) {
                    read.encode(&mut out);
                    prop_assert_eq!(ToHome::decode(&out), Ok(read));
                }
                let mut out = Vec::new();
                if let Ok(read) = FromHome::decode(&record) {
                    read.encode(&mut out);
                    prop_assert_eq!(FromHome::decode(&out), Ok(read));
                }
            }
        }
    }
}
