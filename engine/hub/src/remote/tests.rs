//! Whatever record is written, it is read as it was; whatever else is read, it is no panic.

use super::*;
use proptest::prelude::*;

/// What records are made of.
struct Drawn {
    index: u32,
    number: u64,
    name: String,
    other: String,
    payload: Vec<u8>,
    flag: bool,
    kind: u8,
    /// One message of a page.
    list: Vec<u8>,
}

impl Drawn {
    fn conn(&self) -> ConnKey {
        ConnKey { index: self.index, generation: !self.index }
    }

    fn id(&self) -> Option<RequestId<'_>> {
        let Self { number, other, .. } = self;
        let ids = [RequestId::Number(*number), RequestId::Text(other), RequestId::Plain(other)];
        ids.get(usize::from(self.kind)).copied()
    }

    fn format(&self) -> Format {
        if self.flag { Format::MessagePack } else { Format::Json }
    }

    fn ip(&self) -> IpAddr {
        if self.flag { IpAddr::from(self.index.to_be_bytes()) } else { IpAddr::from([7; 16]) }
    }

    fn epoch(&self) -> Epoch {
        Epoch::new(self.number)
    }

    fn position(&self) -> Option<Option<(Epoch, u64)>> {
        [None, Some(None), Some(Some((self.epoch(), !self.number)))][usize::from(self.kind % 3)]
    }

    fn past(&self) -> Past {
        let (is, position, latest) = (self.flag, self.position(), self.index);
        Past { position, latest, is_carried: is, is_held: !is, is_watching: is, wants_ack: false }
    }

    fn extent(&self) -> Extent {
        Extent { limit: self.index, since: self.position(), is_backward: self.flag }
    }

    fn tokens(&self) -> Tokens {
        let token = Token::from_bytes([self.number as u8; 16]);
        Tokens { current: token, former: self.flag.then_some(token) }
    }

    fn count(&self) -> Count {
        Count { of: self.number, delivered: !self.number, failed: u64::from(self.index) }
    }

    fn form(&self) -> Form<'_> {
        let cut = self.payload.len() as u32;
        Form { bytes: &self.payload, seams: Seams { pattern: cut / 2, time: (cut / 2, cut) } }
    }

    fn messages(&self) -> Option<Messages<'_>> {
        self.flag.then_some(Messages { count: 1, bytes: &self.list })
    }

    fn page(&self) -> Page<'_> {
        let (is, epoch, offset) = (self.flag, self.epoch(), self.number);
        Page {
            epoch,
            offset,
            is_reborn: is,
            is_past: !is,
            is_recovered: is,
            is_live: !is,
            is_held: is,
            has_more: is,
            messages: self.messages(),
        }
    }

    fn published(&self) -> Published<'_> {
        let Self { number, flag, kind, .. } = *self;
        Published {
            conn: self.conn(),
            id: self.id(),
            target: &self.name,
            hash: !number,
            slot: None,
            rule: 3,
            event: flag.then_some(&*self.other),
            format: self.format(),
            payload: &self.payload,
            publisher: &self.other,
            priority: flag.then_some(Priority::High),
            is_ephemeral: !flag,
            is_stored: flag,
            echoes: flag,
            wants_receipt: kind == 2,
            idempotency_key: (kind % 2 == 0).then_some(&*self.other),
            timestamp: number,
        }
    }

    fn written(&self) -> Written<'_> {
        let Self { number, flag, kind, .. } = *self;
        let (conn, form, epoch) = (self.conn(), self.form(), self.epoch());
        Written {
            target: &self.name,
            hash: number,
            slot: None,
            conflate: number,
            priority: Priority::Critical,
            exclude: flag.then_some(conn),
            receipt: self.id().map(|id| Receipt { conn, id, epoch: Epoch::new(!number), offset: number }),
            reborn: flag.then_some(Reborn { epoch, offset: number, is_for_all: kind > 1 }),
            offset: number,
            serial: flag.then_some(number),
            tracking: None,
            timestamp: !number,
            forms: [
                PerFormat { json: form, msgpack: form },
                PerFormat { json: form, msgpack: Form::NONE },
                PerFormat { json: Form::NONE, msgpack: form },
            ][usize::from(kind % 3)],
        }
    }

    fn asked_of_channels(&self) -> Vec<ToHome<'_>> {
        let (conn, id, channel, prefix) = (self.conn(), self.id(), &*self.name, &*self.name);
        let (serial, format, past, extent) = (self.index, self.format(), self.past(), self.extent());
        let (epoch, after, limit, published) = (self.epoch(), self.number, !self.index, self.published());
        let formats = [Formats::only(format), Formats { json: true, msgpack: true }];
        let formats = formats[usize::from(self.kind % 2)];
        vec![
            ToHome::Subscribe { conn, serial, channel, id, format, past },
            ToHome::Fetch { conn, serial, channel, format, epoch, after, limit },
            ToHome::History { conn, id, channel, format, extent },
            ToHome::SubscribePattern { conn, serial, prefix, id, format },
            ToHome::Leave { channel, formats },
            ToHome::LeavePattern { prefix, formats },
            ToHome::Publish(published),
            ToHome::Direct(published),
            ToHome::Report { serial: after, count: self.count() },
        ]
    }

    fn asked_of_participants(&self) -> Vec<ToHome<'_>> {
        let (conn, id, ip, participant) = (self.conn(), self.id(), self.ip(), &*self.name);
        let (serial, format, tokens) = (self.index, self.format(), self.tokens());
        let (epoch, offset, is_all) = (self.epoch(), self.number, self.flag);
        let (token, session, number) = (tokens.current, conn, self.index);
        let away_ms = self.flag.then_some(self.index);
        let handed = self.flag.then_some(Moved { tokens, kept: &self.payload, away_ms });
        let reader = Reader { conn, participant, format };
        vec![
            ToHome::Inbox(InboxAsk::Fetch { reader, serial, epoch, after: offset }),
            ToHome::Inbox(InboxAsk::Subscribe { reader, id, past: self.past() }),
            ToHome::Inbox(InboxAsk::History { reader, id, extent: self.extent() }),
            ToHome::Inbox(InboxAsk::Seen { participant, epoch, offset, is_all }),
            ToHome::AdmitIp { conn, ip },
            ToHome::ReleaseIp { ip },
            ToHome::AdmitParticipant { conn, participant, format, presented: tokens.former },
            ToHome::ReleaseParticipant { participant, format },
            ToHome::Resume { conn, participant, token, own: token },
            ToHome::Released { participant, session, handed },
            ToHome::Fence { number },
            ToHome::SessionEnded { participant, tokens },
            ToHome::TokenUsedUp { token },
        ]
    }

    fn answers_of_channels(&self) -> Vec<FromHome<'_>> {
        let (conn, id, channel, page) = (self.conn(), self.id(), &*self.name, self.page());
        let (written, number) = (self.written(), self.number);
        let receipt = |id, epoch, offset| Receipt { conn, id, epoch: Epoch::new(epoch), offset };
        vec![
            FromHome::Subscribed { conn, serial: 7, channel, id, page },
            FromHome::Replay { conn, serial: 7, channel, page },
            FromHome::HistoryPage { conn, id, channel, page },
            FromHome::PatternSubscribed { conn, serial: 7, prefix: channel, id },
            FromHome::Message(written),
            FromHome::Direct(written),
            FromHome::Accepted(receipt(RequestId::Text(&self.other), number, 9)),
            FromHome::Repeated(receipt(RequestId::Number(number), !number, 9)),
            FromHome::Counted {
                receipt: receipt(RequestId::Plain(&self.other), number, 1),
                channel: self.flag.then_some(channel),
                count: self.count(),
            },
        ]
    }

    fn answers_of_participants(&self) -> Vec<FromHome<'_>> {
        let (conn, id, ip, participant) = (self.conn(), self.id(), self.ip(), &*self.name);
        let (is_admitted, format, tokens) = (self.flag, self.format(), self.tokens());
        let (number, page, kept, serial) = (self.number, self.page(), &*self.payload, self.index);
        vec![
            FromHome::Nobody { conn, id, participant },
            FromHome::NoReceipt { conn, id, target: participant, is_direct: self.flag, is_own: !self.flag },
            FromHome::TooLarge { conn, id, target: participant, is_direct: self.flag, format, bytes: number },
            FromHome::IpAdmitted { conn, ip, is_admitted },
            FromHome::ParticipantAdmitted {
                conn,
                participant,
                format,
                is_admitted,
                token: tokens.former,
                unseen: self.position().flatten(),
                is_held: self.flag,
            },
            FromHome::Release { participant, session: conn, to: number as u16 },
            FromHome::Fenced { number: self.index },
            FromHome::Resumed {
                conn,
                participant,
                session: Moved { tokens, kept, away_ms: self.flag.then_some(serial) },
            },
            FromHome::NotResumed { conn },
            FromHome::Inbox(InboxAnswer::Replay { conn, serial, page }),
            FromHome::Inbox(InboxAnswer::Subscribed { conn, id, page }),
        ]
    }
}

proptest! {
    #[test]
    fn records_survive(
        index in any::<u32>(), number in any::<u64>(), name in "\\PC{0,40}", other in "\\PC{0,12}",
        payload in proptest::collection::vec(any::<u8>(), 1..300), flag in any::<bool>(), kind in 0u8..4,
    ) {
        let mut drawn = Drawn { index, number, name, other, payload, flag, kind, list: Vec::new() };
        let mut list = Vec::new();
        Messages::push(&mut list, flag.then_some(&*drawn.other), number, |out| {
            out.extend_from_slice(&drawn.payload);
            drawn.form().seams
        });
        drawn.list = list;
        prop_assert_eq!(
            drawn.messages().map(|it| it.iter().collect::<Vec<_>>()),
            flag.then(|| vec![(Some(&*drawn.other), drawn.form(), number)])
        );
        for record in drawn.asked_of_channels().into_iter().chain(drawn.asked_of_participants()) {
            let mut out = Vec::new();
            record.encode(&mut out);
            prop_assert_eq!(ToHome::decode(&out), Ok(record));
            prop_assert_eq!(ToHome::decode(&out[..out.len() - 1]), Err(Malformed));
            out.push(0);
            prop_assert_eq!(ToHome::decode(&out), Err(Malformed));
        }
        for record in drawn.answers_of_channels().into_iter().chain(drawn.answers_of_participants()) {
            let mut out = Vec::new();
            record.encode(&mut out);
            prop_assert_eq!(FromHome::decode(&out), Ok(record));
            prop_assert_eq!(FromHome::decode(&out[..out.len() - 1]), Err(Malformed));
            out.push(0);
            prop_assert_eq!(FromHome::decode(&out), Err(Malformed));
        }
    }

    #[test]
    fn numbers_are_written_in_base_36(number in any::<u64>()) {
        let epoch = String::from_utf8(Epoch::new(number).text().to_vec());
        prop_assert_eq!(epoch.map(|it| u64::from_str_radix(&it, 36)), Ok(Ok(number % 36u64.pow(8))));
        prop_assert_eq!(u64::from_str_radix(base36(number, &mut [0; 13]), 36), Ok(number));
    }

    /// Whatever it is, it is read without a panic, and what was read can be written again.
    #[test]
    fn garbage_is_no_panic(record in proptest::collection::vec(any::<u8>(), 0..120), tag in 1u8..80) {
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
