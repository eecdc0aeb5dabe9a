//! Records read back.

use std::net::IpAddr;

use corecast_protocol::envelope::command::{Priority, RequestId};
use corecast_protocol::envelope::event::Seams;

use crate::effect::ConnKey;
use crate::format::{Format, Formats, PerFormat};
use crate::remote::{
    Count, Epoch, Extent, Form, FromHome, InboxAnswer, InboxAsk, Malformed, Messages, Moved, PRIORITY_NONE,
    Page, Past, Published, Reborn, Receipt, ToHome, Written, presence,
};
use crate::session::{Token, Tokens};

impl<'a> ToHome<'a> {
    /// Reads a record.
    ///
    /// # Errors
    /// If it is none, which is our own defect.
    pub fn decode(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut it = Input(record);
        let record = match it.byte()? {
            1 => Self::Subscribe {
                conn: it.key()?,
                serial: it.u32()?,
                channel: it.text()?,
                id: it.id()?,
                format: it.format()?,
                past: it.past()?,
            },
            2 => Self::SubscribePattern {
                conn: it.key()?,
                serial: it.u32()?,
                prefix: it.text()?,
                id: it.id()?,
                format: it.format()?,
            },
            3 => Self::Leave { channel: it.text()?, formats: it.formats()? },
            4 => Self::LeavePattern { prefix: it.text()?, formats: it.formats()? },
            5 => Self::Publish(it.published()?),
            6 => Self::Direct(it.published()?),
            7 => Self::AdmitIp { conn: it.key()?, ip: it.address()? },
            8 => Self::ReleaseIp { ip: it.address()? },
            9 => Self::AdmitParticipant {
                conn: it.key()?,
                participant: it.text()?,
                format: it.format()?,
                presented: if it.flag()? { Some(it.token()?) } else { None },
            },
            10 => Self::ReleaseParticipant { participant: it.text()?, format: it.format()? },
            20 => Self::Fetch {
                conn: it.key()?,
                serial: it.u32()?,
                channel: it.text()?,
                format: it.format()?,
                epoch: it.epoch()?,
                after: it.u64()?,
                limit: it.u32()?,
            },
            21 => Self::History {
                conn: it.key()?,
                id: it.id()?,
                channel: it.text()?,
                format: it.format()?,
                extent: it.extent()?,
            },
            tag @ 70..=79 => Self::Inbox(InboxAsk::decode(tag, &mut it)?),
            50 => Self::Report { serial: it.u64()?, count: it.count()? },
            tag @ 40..=49 => presence::to_home(tag, &mut it)?,
            30 => Self::Resume {
                conn: it.key()?,
                participant: it.text()?,
                token: it.token()?,
                own: it.token()?,
            },
            31 => Self::Released {
                participant: it.text()?,
                session: it.key()?,
                handed: if it.flag()? { Some(it.moved()?) } else { None },
            },
            32 => Self::Fence { number: it.u32()? },
            33 => Self::SessionEnded { participant: it.text()?, tokens: it.tokens()? },
            34 => Self::TokenUsedUp { token: it.token()? },
            _ => return Err(Malformed),
        };
        it.end(record)
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
                page: it.page()?,
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
                format: it.format()?,
                is_admitted: it.flag()?,
                token: if it.flag()? { Some(it.token()?) } else { None },
                unseen: it.named_position()?.flatten(),
                is_held: it.flag()?,
            },
            30 => Self::Release { participant: it.text()?, session: it.key()?, to: it.u16()? },
            31 => Self::Fenced { number: it.u32()? },
            32 => Self::Resumed { conn: it.key()?, participant: it.text()?, session: it.moved()? },
            33 => Self::NotResumed { conn: it.key()? },
            tag @ 70..=79 => Self::Inbox(InboxAnswer::decode(tag, &mut it)?),
            9 => Self::TooLarge {
                conn: it.key()?,
                id: it.id()?,
                target: it.text()?,
                is_direct: it.flag()?,
                format: it.format()?,
                bytes: it.u64()?,
            },
            20 => Self::Replay { conn: it.key()?, serial: it.u32()?, channel: it.text()?, page: it.page()? },
            21 => Self::HistoryPage { conn: it.key()?, id: it.id()?, channel: it.text()?, page: it.page()? },
            50 => Self::Repeated(it.receipt()?),
            52 => {
                let (conn, id, target) = (it.key()?, it.id()?, it.text()?);
                Self::NoReceipt { conn, id, target, is_direct: it.flag()?, is_own: it.flag()? }
            }
            51 => Self::Counted {
                receipt: it.receipt()?,
                channel: if it.flag()? { Some(it.text()?) } else { None },
                count: it.count()?,
            },
            tag @ 40..=49 => presence::from_home(tag, &mut it)?,
            _ => return Err(Malformed),
        };
        it.end(record)
    }
}

impl<'a> Messages<'a> {
    /// Each with its event and its time.
    pub fn iter(self) -> impl Iterator<Item = (Option<&'a str>, Form<'a>, u64)> + Clone {
        let mut rest = Input(self.bytes);
        (0..self.count).map_while(move |_| rest.message().ok())
    }
}

/// What is left of a record.
#[derive(Clone)]
pub(super) struct Input<'a>(&'a [u8]);

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

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// Several in one byte.
    fn flags(&mut self) -> Result<[bool; 6], Malformed> {
        match self.byte()? {
            bits @ 0..=63 => Ok([1, 2, 4, 8, 16, 32].map(|bit| bits & bit != 0)),
            _ => Err(Malformed),
        }
    }

    /// Some, never none: what nobody wants is not recorded.
    fn formats(&mut self) -> Result<Formats, Malformed> {
        match self.byte()? {
            bits @ 1..=3 => Ok(Formats { json: bits & 1 != 0, msgpack: bits & 2 != 0 }),
            _ => Err(Malformed),
        }
    }

    pub(super) fn format(&mut self) -> Result<Format, Malformed> {
        match self.formats()? {
            Formats { json: true, msgpack: false } => Ok(Format::Json),
            Formats { json: false, msgpack: true } => Ok(Format::MessagePack),
            _ => Err(Malformed),
        }
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn epoch(&mut self) -> Result<Epoch, Malformed> {
        let text = self.array::<8>()?;
        std::str::from_utf8(&text).ok().and_then(Epoch::read).ok_or(Malformed)
    }

    fn reborn(&mut self) -> Result<Reborn, Malformed> {
        Ok(Reborn { epoch: self.epoch()?, offset: self.u64()?, is_for_all: self.flag()? })
    }

    /// A position that a client named.
    fn named_position(&mut self) -> Result<Option<Option<(Epoch, u64)>>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(None)),
            2 => Ok(Some(Some((self.epoch()?, self.u64()?)))),
            _ => Err(Malformed),
        }
    }

    pub(super) fn past(&mut self) -> Result<Past, Malformed> {
        Ok(Past {
            wants_ack: false,
            position: self.named_position()?,
            latest: self.u32()?,
            is_carried: self.flag()?,
            is_held: self.flag()?,
            is_watching: self.flag()?,
        })
    }

    pub(super) fn extent(&mut self) -> Result<Extent, Malformed> {
        Ok(Extent { limit: self.u32()?, since: self.named_position()?, is_backward: self.flag()? })
    }

    pub(super) fn page(&mut self) -> Result<Page<'a>, Malformed> {
        Ok(Page {
            epoch: self.epoch()?,
            offset: self.u64()?,
            is_reborn: self.flag()?,
            is_past: self.flag()?,
            is_recovered: self.flag()?,
            is_live: self.flag()?,
            is_held: self.flag()?,
            has_more: self.flag()?,
            messages: if self.flag()? { Some(self.messages()?) } else { None },
        })
    }

    /// Looked through here, so that whoever reads them finds them well-formed.
    fn messages(&mut self) -> Result<Messages<'a>, Malformed> {
        let messages = Messages { count: self.u32()?, bytes: self.bytes()? };
        let mut rest = Input(messages.bytes);
        for _ in 0..messages.count {
            rest.message()?;
        }
        rest.end(messages)
    }

    fn message(&mut self) -> Result<(Option<&'a str>, Form<'a>, u64), Malformed> {
        let has_event = self.flag()?;
        let event = self.text()?;
        let timestamp = self.u64()?;
        Ok((has_event.then_some(event), self.form()?, timestamp))
    }

    fn token(&mut self) -> Result<Token, Malformed> {
        self.array().map(Token::from_bytes)
    }

    fn tokens(&mut self) -> Result<Tokens, Malformed> {
        let current = self.token()?;
        let former = if self.flag()? { Some(self.token()?) } else { None };
        Ok(Tokens { current, former })
    }

    fn moved(&mut self) -> Result<Moved<'a>, Malformed> {
        Ok(Moved { tokens: self.tokens()?, kept: self.bytes()?, away_ms: self.milliseconds()? })
    }

    pub(super) fn milliseconds(&mut self) -> Result<Option<u32>, Malformed> {
        let (is_known, milliseconds) = (self.flag()?, self.u32()?);
        Ok(is_known.then_some(milliseconds))
    }

    pub(super) fn key(&mut self) -> Result<ConnKey, Malformed> {
        Ok(ConnKey { index: self.u32()?, generation: self.u32()? })
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(super) fn id(&mut self) -> Result<Option<RequestId<'a>>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(RequestId::Number(self.u64()?))),
            2 => Ok(Some(RequestId::Text(self.text()?))),
            3 => Ok(Some(RequestId::Plain(self.text()?))),
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
        let [is_ephemeral, is_stored, echoes, wants_receipt, has_event, has_key] = self.flags()?;
        let event = self.text()?;
        Ok(Published {
            conn,
            id,
            target,
            hash,
            slot: None,
            rule,
            event: has_event.then_some(event),
            format: self.format()?,
            payload: self.bytes()?,
            publisher: self.text()?,
            priority: self.priority()?,
            is_ephemeral,
            is_stored,
            echoes,
            wants_receipt,
            idempotency_key: if has_key { Some(self.text()?) } else { None },
            timestamp: self.u64()?,
        })
    }

    fn receipt(&mut self) -> Result<Receipt<'a>, Malformed> {
        Ok(Receipt {
            conn: self.key()?,
            id: self.id()?.ok_or(Malformed)?,
            epoch: self.epoch()?,
            offset: self.u64()?,
        })
    }

    fn count(&mut self) -> Result<Count, Malformed> {
        Ok(Count { of: self.u64()?, delivered: self.u64()?, failed: self.u64()? })
    }

    fn written(&mut self) -> Result<Written<'a>, Malformed> {
        let target = self.text()?;
        let priority = self.priority()?.ok_or(Malformed)?;
        let exclude = if self.flag()? { Some(self.key()?) } else { None };
        let receipt = if self.flag()? { Some(self.receipt()?) } else { None };
        let reborn = if self.flag()? { Some(self.reborn()?) } else { None };
        let serial = if self.flag()? { Some(self.u64()?) } else { None };
        let (hash, conflate, timestamp, offset) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
        let formats = self.formats()?;
        let json = if formats.json { self.form()? } else { Form::NONE };
        let msgpack = if formats.msgpack { self.form()? } else { Form::NONE };
        Ok(Written {
            target,
            hash,
            slot: None,
            conflate,
            priority,
            exclude,
            receipt,
            reborn,
            offset,
            serial,
            tracking: None,
            timestamp,
            forms: PerFormat { json, msgpack },
        })
    }

    fn form(&mut self) -> Result<Form<'a>, Malformed> {
        let seams = Seams { pattern: self.u32()?, time: (self.u32()?, self.u32()?) };
        let bytes = self.bytes()?;
        // The seams are where the message is cut into variants: in order and inside of it.
        let are_inside = seams.pattern <= seams.time.0
            && seams.time.0 <= seams.time.1
            && seams.time.1 as usize <= bytes.len();
        if are_inside && !bytes.is_empty() { Ok(Form { bytes, seams }) } else { Err(Malformed) }
    }
}
