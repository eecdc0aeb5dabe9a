//! Records written: compact, little-endian, in a form that only [`read`](super::read) knows.

use std::net::IpAddr;

use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::event::Seams;

use crate::canary::{self, Canary};
use crate::effect::ConnKey;
use crate::format::{FORMATS, Format, Formats};
use crate::remote::{
    Count, Epoch, Extent, FromHome, Messages, Moved, PRIORITY_NONE, Page, Past, Published, Receipt, ToHome,
    Written, presence,
};
use crate::session::{Token, Tokens};

impl ToHome<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Subscribe { conn, serial, channel, id, format, past } => {
                out.push(1);
                subscription(out, conn, serial, channel, id);
                out.push(format_byte(format));
                write_past(out, &past);
            }
            Self::SubscribePattern { conn, serial, prefix, id, format } => {
                out.push(2);
                subscription(out, conn, serial, prefix, id);
                out.push(format_byte(format));
            }
            Self::Leave { channel, formats } => no_longer(out, 3, channel, formats),
            Self::LeavePattern { prefix, formats } => no_longer(out, 4, prefix, formats),
            Self::Publish(ref it) => published(out, 5, it),
            Self::Direct(ref it) => published(out, 6, it),
            Self::AdmitIp { conn, ip } => {
                out.push(7);
                key(out, conn);
                address(out, ip);
            }
            Self::ReleaseIp { ip } => {
                out.push(8);
                address(out, ip);
            }
            Self::AdmitParticipant { conn, participant, format, presented } => {
                out.push(9);
                key(out, conn);
                bytes(out, participant.as_bytes());
                out.push(format_byte(format));
                token(out, presented);
            }
            Self::ReleaseParticipant { participant, format } => {
                no_longer(out, 10, participant, Formats::only(format));
            }
            Self::Fetch { conn, serial, channel, format, epoch, after, limit } => {
                out.push(20);
                key(out, conn);
                out.extend_from_slice(&serial.to_le_bytes());
                bytes(out, channel.as_bytes());
                out.push(format_byte(format));
                position(out, epoch, after);
                out.extend_from_slice(&limit.to_le_bytes());
            }
            Self::History { conn, id, channel, format, extent } => {
                requested(out, 21, (conn, id, channel));
                out.push(format_byte(format));
                write_extent(out, &extent);
            }
            Self::Inbox(ref it) => it.encode(out),
            Self::Report { serial, count } => report(out, serial, count),
            Self::Present { channel, participant, before, connections } => {
                presence::present(out, (channel, participant), (before, connections));
            }
            Self::Unwatch { channel } => presence::unwatch(out, channel),
            Self::Missed { conn, channel, away_ms } => presence::ask_missed(out, conn, channel, away_ms),
            Self::Presence { conn, id, channel, ref ask } => presence::ask(out, (conn, id, channel), ask),
            Self::Resume { conn, participant, token, own } => resume(out, conn, participant, [token, own]),
            Self::Released { participant, session, ref handed } => {
                released(out, participant, session, handed.as_ref());
            }
            Self::Fence { number } => fence(out, 32, number),
            Self::SessionEnded { participant, tokens } => session_ended(out, participant, tokens),
            Self::TokenUsedUp { token } => token_used_up(out, token),
        }
    }
}

impl FromHome<'_> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Subscribed { conn, serial, channel, id, page } => {
                out.push(1);
                subscription(out, conn, serial, channel, id);
                write_page(out, &page);
            }
            Self::Replay { conn, serial, channel, page } => {
                out.push(20);
                key(out, conn);
                out.extend_from_slice(&serial.to_le_bytes());
                bytes(out, channel.as_bytes());
                write_page(out, &page);
            }
            Self::HistoryPage { conn, id, channel, page } => {
                requested(out, 21, (conn, id, channel));
                write_page(out, &page);
            }
            Self::PatternSubscribed { conn, serial, prefix, id } => {
                out.push(2);
                subscription(out, conn, serial, prefix, id);
            }
            Self::Message(ref it) => it.encode(false, out),
            Self::Direct(ref it) => it.encode(true, out),
            Self::Accepted(ref it) => tagged_receipt(out, 5, it),
            Self::Repeated(ref it) => tagged_receipt(out, 50, it),
            Self::Counted { ref receipt, channel, count } => counted(out, receipt, channel, count),
            Self::NoReceipt { conn, id, target, is_direct, is_own } => {
                requested(out, 52, (conn, id, target));
                out.extend_from_slice(&[u8::from(is_direct), u8::from(is_own)]);
            }
            Self::Nobody { conn, id, participant } => requested(out, 6, (conn, id, participant)),
            Self::TooLarge { conn, id, target, is_direct, format, bytes: length } => {
                requested(out, 9, (conn, id, target));
                out.extend_from_slice(&[u8::from(is_direct), format_byte(format)]);
                u64s(out, &[length]);
            }
            Self::IpAdmitted { conn, ip, is_admitted } => ip_admitted(out, conn, ip, is_admitted),
            Self::ParticipantAdmitted { conn, participant, format, is_admitted, token, unseen, is_held } => {
                let (whose, is) = ((conn, participant, format), (is_admitted, is_held));
                participant_admitted(out, whose, is, (token, unseen));
            }
            Self::Release { participant, session, to } => {
                out.push(30);
                bytes(out, participant.as_bytes());
                key(out, session);
                out.extend_from_slice(&to.to_le_bytes());
            }
            Self::Fenced { number } => fence(out, 31, number),
            Self::Resumed { conn, participant, ref session } => {
                resumed(out, conn, participant, session);
            }
            Self::NotResumed { conn } => {
                out.push(33);
                key(out, conn);
            }
            Self::Inbox(ref it) => it.encode(out),
            Self::Changed(ref it) => presence::changed(out, it),
            Self::TypingExpired { channel, count, participants } => {
                presence::typing_expired(out, channel, count, participants);
            }
            Self::Members { conn, id, channel, ref page } => {
                presence::members(out, (conn, id, channel), page);
            }
            Self::Missed(ref it) => presence::missed(out, it),
            Self::PresenceStats { conn, id, channel, participants, connections } => {
                presence::stats(out, (conn, id, channel), participants, connections);
            }
        }
    }
}

impl Written<'_> {
    /// Appends the record, [`FromHome::Message`] or [`FromHome::Direct`].
    pub(crate) fn encode(&self, is_direct: bool, out: &mut Vec<u8>) {
        out.push(if is_direct { 4 } else { 3 });
        written(out, self);
    }

    fn wanted(&self) -> Formats {
        Formats { json: !self.forms.json.is_empty(), msgpack: !self.forms.msgpack.is_empty() }
    }
}

impl Messages<'_> {
    /// Appends a message that `write` writes, with its event and its time.
    pub fn push(
        out: &mut Vec<u8>,
        event: Option<&str>,
        timestamp: u64,
        write: impl FnOnce(&mut Vec<u8>) -> Seams,
    ) {
        out.push(u8::from(event.is_some()));
        bytes(out, event.unwrap_or_default().as_bytes());
        u64s(out, &[timestamp]);
        // Seams and length are known when it is written.
        let start = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        let seams = write(out);
        let length = (out.len() - start - HEAD_BYTES) as u32;
        let words = [seams.pattern, seams.time.0, seams.time.1, length];
        for (place, word) in out[start..start + HEAD_BYTES].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Three seams and a length.
const HEAD_BYTES: usize = 16;

fn write_seams(out: &mut Vec<u8>, seams: Seams) {
    for seam in [seams.pattern, seams.time.0, seams.time.1] {
        out.extend_from_slice(&seam.to_le_bytes());
    }
}

fn named_position(out: &mut Vec<u8>, named: Option<Option<(Epoch, u64)>>) {
    match named {
        None => out.push(0),
        Some(None) => out.push(1),
        Some(Some((epoch, offset))) => {
            out.push(2);
            position(out, epoch, offset);
        }
    }
}

pub(super) fn write_past(out: &mut Vec<u8>, it: &Past) {
    named_position(out, it.position);
    out.extend_from_slice(&it.latest.to_le_bytes());
    out.extend_from_slice(&[it.is_carried, it.is_held, it.is_watching].map(u8::from));
}

pub(super) fn write_extent(out: &mut Vec<u8>, it: &Extent) {
    out.extend_from_slice(&it.limit.to_le_bytes());
    named_position(out, it.since);
    out.push(u8::from(it.is_backward));
}

pub(super) fn write_page(out: &mut Vec<u8>, it: &Page<'_>) {
    position(out, it.epoch, it.offset);
    let is = [it.is_reborn, it.is_past, it.is_recovered, it.is_live, it.is_held, it.has_more];
    out.extend(is.map(u8::from));
    out.push(u8::from(it.messages.is_some()));
    if let Some(messages) = it.messages {
        out.extend_from_slice(&messages.count.to_le_bytes());
        bytes(out, messages.bytes);
    }
}

pub(super) fn u64s(out: &mut Vec<u8>, values: &[u64]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn position(out: &mut Vec<u8>, epoch: Epoch, offset: u64) {
    out.extend_from_slice(epoch.text());
    u64s(out, &[offset]);
}

pub(super) fn key(out: &mut Vec<u8>, conn: ConnKey) {
    out.extend_from_slice(&conn.index.to_le_bytes());
    out.extend_from_slice(&conn.generation.to_le_bytes());
}

fn token(out: &mut Vec<u8>, token: Option<Token>) {
    out.push(u8::from(token.is_some()));
    out.extend_from_slice(token.as_ref().map_or(&[][..], |it| it.bytes()));
}

fn tokens(out: &mut Vec<u8>, tokens: Tokens) {
    out.extend_from_slice(tokens.current.bytes());
    token(out, tokens.former);
}

pub(super) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn request_id(out: &mut Vec<u8>, id: Option<RequestId<'_>>) {
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
        Some(RequestId::Plain(text)) => {
            out.push(3);
            bytes(out, text.as_bytes());
        }
    }
}

/// One bit each, so that several make a byte of their own.
pub(super) fn format_byte(format: Format) -> u8 {
    formats_byte(Formats::only(format))
}

fn formats_byte(formats: Formats) -> u8 {
    u8::from(formats.json) | u8::from(formats.msgpack) << 1
}

/// Several in one byte.
fn flags(out: &mut Vec<u8>, flags: [bool; 6]) {
    out.push((0..).zip(flags).map(|(bit, is)| u8::from(is) << bit).sum());
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

fn ip_admitted(out: &mut Vec<u8>, conn: ConnKey, ip: IpAddr, is_admitted: bool) {
    out.push(7);
    key(out, conn);
    address(out, ip);
    out.push(u8::from(is_admitted));
}

fn participant_admitted(
    out: &mut Vec<u8>,
    (conn, participant, format): (ConnKey, &str, Format),
    (is_admitted, is_held): (bool, bool),
    (begun, unseen): (Option<Token>, Option<(Epoch, u64)>),
) {
    out.push(8);
    key(out, conn);
    bytes(out, participant.as_bytes());
    out.extend_from_slice(&[format_byte(format), u8::from(is_admitted)]);
    token(out, begun);
    named_position(out, unseen.map(Some));
    out.push(u8::from(is_held));
}

fn subscription(out: &mut Vec<u8>, conn: ConnKey, serial: u32, name: &str, id: Option<RequestId<'_>>) {
    key(out, conn);
    out.extend_from_slice(&serial.to_le_bytes());
    bytes(out, name.as_bytes());
    request_id(out, id);
}

/// A name that a shard wants no more, or not in these encodings.
fn no_longer(out: &mut Vec<u8>, tag: u8, name: &str, formats: Formats) {
    out.push(tag);
    bytes(out, name.as_bytes());
    out.push(formats_byte(formats));
}

/// How a record begins that a client's request caused.
fn requested(out: &mut Vec<u8>, tag: u8, (conn, id, name): (ConnKey, Option<RequestId<'_>>, &str)) {
    out.push(tag);
    key(out, conn);
    request_id(out, id);
    bytes(out, name.as_bytes());
}

fn published(out: &mut Vec<u8>, tag: u8, it: &Published<'_>) {
    out.push(tag);
    key(out, it.conn);
    request_id(out, it.id);
    bytes(out, it.target.as_bytes());
    u64s(out, &[it.hash]);
    out.extend_from_slice(&it.rule.to_le_bytes());
    let has_key = it.idempotency_key.is_some();
    flags(out, [it.is_ephemeral, it.is_stored, it.echoes, it.wants_receipt, it.event.is_some(), has_key]);
    bytes(out, it.event.unwrap_or_default().as_bytes());
    out.push(format_byte(it.format));
    bytes(out, it.payload);
    bytes(out, it.publisher.as_bytes());
    out.push(it.priority.map_or(PRIORITY_NONE, |priority| priority as u8));
    if let Some(key) = it.idempotency_key {
        bytes(out, key.as_bytes());
    }
    u64s(out, &[it.timestamp]);
}

fn receipt(out: &mut Vec<u8>, it: &Receipt<'_>) {
    key(out, it.conn);
    request_id(out, Some(it.id));
    position(out, it.epoch, it.offset);
}

fn tagged_receipt(out: &mut Vec<u8>, tag: u8, it: &Receipt<'_>) {
    out.push(tag);
    receipt(out, it);
}

fn report(out: &mut Vec<u8>, serial: u64, count: Count) {
    out.push(50);
    u64s(out, &[serial, count.of, count.delivered, count.failed]);
}

fn counted(out: &mut Vec<u8>, it: &Receipt<'_>, channel: Option<&str>, count: Count) {
    tagged_receipt(out, 51, it);
    out.push(u8::from(channel.is_some()));
    if let Some(channel) = channel {
        bytes(out, channel.as_bytes());
    }
    u64s(out, &[count.of, count.delivered, count.failed]);
}

fn resume(out: &mut Vec<u8>, conn: ConnKey, participant: &str, presented_and_own: [Token; 2]) {
    out.push(30);
    key(out, conn);
    bytes(out, participant.as_bytes());
    for token in &presented_and_own {
        out.extend_from_slice(token.bytes());
    }
}

fn released(out: &mut Vec<u8>, participant: &str, session: ConnKey, it: Option<&Moved<'_>>) {
    out.push(31);
    bytes(out, participant.as_bytes());
    key(out, session);
    out.push(u8::from(it.is_some()));
    if let Some(it) = it {
        moved(out, it);
    }
}

fn resumed(out: &mut Vec<u8>, conn: ConnKey, participant: &str, it: &Moved<'_>) {
    out.push(32);
    key(out, conn);
    bytes(out, participant.as_bytes());
    moved(out, it);
}

fn moved(out: &mut Vec<u8>, it: &Moved<'_>) {
    tokens(out, it.tokens);
    bytes(out, it.kept);
    milliseconds(out, it.away_ms);
}

pub(super) fn milliseconds(out: &mut Vec<u8>, milliseconds: Option<u32>) {
    out.push(u8::from(milliseconds.is_some()));
    out.extend_from_slice(&milliseconds.unwrap_or_default().to_le_bytes());
}

/// A fence, or that it was reached.
fn fence(out: &mut Vec<u8>, tag: u8, number: u32) {
    out.push(tag);
    out.extend_from_slice(&number.to_le_bytes());
}

fn session_ended(out: &mut Vec<u8>, participant: &str, both: Tokens) {
    out.push(33);
    bytes(out, participant.as_bytes());
    tokens(out, both);
}

fn token_used_up(out: &mut Vec<u8>, token: Token) {
    out.push(34);
    out.extend_from_slice(token.bytes());
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
    if let Some(it) = it.reborn {
        position(out, it.epoch, it.offset);
        out.push(u8::from(it.is_for_all));
    }
    out.push(u8::from(it.serial.is_some()));
    if let Some(serial) = it.serial {
        u64s(out, &[serial]);
    }
    u64s(out, &[it.hash, it.conflate, it.timestamp, it.offset]);
    out.push(formats_byte(it.wanted()));
    for format in FORMATS {
        let form = it.forms.of(format);
        if form.is_empty() {
            continue;
        }
        write_seams(out, form.seams);
        bytes(out, form.bytes);
        if format == Format::Json && canary::strikes(Canary::RecordCorrupted) {
            let start = out.len() - form.bytes.len();
            canary::change_payload(&mut out[start..]);
        }
    }
}
