//! Publishing: checked where it arrives, numbered and written once at the home.

use std::sync::Arc;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Name, Priority, Publish, RequestId, Target};
use corecast_protocol::envelope::event::{self, Message};
use corecast_protocol::envelope::{self, name};

use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{Class, ConnKey, Effects, ShardSet, SlowPolicy};
use crate::format::{Format, Formats, PerFormat, Wanted, other};
use crate::history::Kept;
use crate::home::{Numbering, Placed, Unannounced};
use crate::hub::{Hub, forward, one};
use crate::member::Access;
use crate::refused::Refused;
use crate::remote::{Epoch, Form, FromHome, Published, Reborn, Receipt, ToHome, Written};
use crate::rules::{Act, Request};

impl Hub {
    pub(crate) fn publish(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        if publish.receipt && id.is_none() {
            return self.invalid(conn, id, "`receipt` needs an `id`: the receipt names it", fx);
        }
        match &publish.target {
            Target::Channel(channel) => self.publish_channel(now, conn, id, channel, publish, fx),
            Target::Participants(participants) => {
                self.publish_direct(now, conn, id, participants.as_slice(), publish, fx);
            }
        }
    }

    fn publish_channel(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        let hash = self.hasher.of(channel);
        let slot = self.channels.exact.find(hash, channel);
        let payload_bytes = publish.payload.bytes().len() as u64;
        let (rule, is_numbered, publisher) = match self.may_publish(conn, slot, channel, payload_bytes) {
            Ok(found) => found,
            Err(refused) => return self.error(fx, conn, id, Some(channel), refused.code, &refused.why),
        };
        if let Err(refused) = self.take_bytes(publish) {
            return self.error(fx, conn, id, Some(channel), refused.code, &refused.why);
        }
        let is_ephemeral = !is_numbered || is_ephemeral(publish);
        let target = Addressed { conn, id, target: channel, hash, slot, rule, is_ephemeral };
        let published = target.published(&publisher, publish, now);
        let home = self.home(hash);
        if home == self.config.shard {
            // Without the detour of a record: what there is most of.
            return self.publish_at_home(now, home, &published, fx);
        }
        self.ask(now, home, &ToHome::Publish(published), fx);
    }

    /// The number of the channel's namespace, whether its messages have offsets of their own, and who publishes.
    fn may_publish(
        &self,
        conn: ConnKey,
        slot: Option<u32>,
        channel: &str,
        payload_bytes: u64,
    ) -> Result<(u16, bool, Arc<str>), Refused> {
        // A channel that somebody here subscribed to has a good name of a known namespace.
        let (index, rule) = match slot.and_then(|slot| self.channels.exact.get(slot)) {
            Some(known) => (known.rule, self.config.namespaces.at(known.rule)),
            None => {
                let space = name::channel(channel).map_err(Refused::name)?;
                self.config.namespaces.find(space).ok_or_else(|| self.no_namespace(space))?
            }
        };
        let member = self.members.find(conn).ok_or_else(Refused::gone)?;
        rule.check(&Request {
            act: Act::Publish,
            access: member.access,
            participant: &member.participant,
            name: channel,
            is_pattern: false,
        })?;
        if payload_bytes > rule.payload_bytes {
            return Err(Refused::payload(&rule.name, rule.payload_bytes, payload_bytes));
        }
        // A count, not a copy: the hub changes while the name is in use.
        Ok((index, rule.numbers(), member.participant.clone()))
    }

    fn publish_direct(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        names: &[Name<'_>],
        publish: &Publish<'_>,
        fx: &mut Effects,
    ) {
        if !self.may_name(conn, id, names.len(), fx) {
            return;
        }
        if publish.receipt && names.len() > 1 {
            let why = "`receipt` is for a channel or one participant: publish to each apart";
            return self.invalid(conn, id, why, fx);
        }
        if let Err(refused) = self.may_send_direct(conn, names, publish) {
            return self.error(fx, conn, id, None, refused.code, &refused.why);
        }
        let Some(member) = self.members.find(conn) else { return };
        let publisher = member.participant.clone();
        for (index, to) in names.iter().enumerate() {
            let to = resolved(to, &publisher);
            // Named twice, it gets the message once: the last time, which may be the one that is answered.
            if names[index + 1..].iter().any(|later| resolved(later, &publisher) == to) {
                continue;
            }
            // One request has one answer: the last of a list gives it.
            let id = id.filter(|_| index + 1 == names.len());
            let hash = self.hasher.of(to);
            let target = Addressed {
                conn,
                id,
                target: to,
                hash,
                slot: None,
                rule: 0,
                is_ephemeral: is_ephemeral(publish),
            };
            let record = ToHome::Direct(target.published(&publisher, publish, now));
            self.ask(now, self.home(hash), &record, fx);
        }
    }

    /// Everything that can be wrong with a direct message before its homes are asked: nothing of a list is sent
    /// unless all of it may be.
    fn may_send_direct(
        &mut self,
        conn: ConnKey,
        names: &[Name<'_>],
        publish: &Publish<'_>,
    ) -> Result<(), Refused> {
        let member = self.members.find(conn).ok_or_else(Refused::gone)?;
        if member.access == Access::Demo {
            return Err(Refused::new(
                ErrorCode::Forbidden,
                "demo participants publish to channels only: use `channel` instead of `to`",
            ));
        }
        if names.is_empty() {
            return Err(Refused::new(ErrorCode::InvalidMessage, "`to` names nobody"));
        }
        for to in names {
            if to.starts_with("group:") {
                let why = "this server has no groups: `to` names participants";
                return Err(Refused::new(ErrorCode::NotFound, why));
            }
            name::participant(to)
                .map_err(|wrong| Refused::new(ErrorCode::InvalidMessage, format!("`to`: {wrong}")))?;
        }
        self.take_copies(names.len(), publish)?;
        self.take_bytes(publish)
    }

    /// At the channel's home: the message gets its place, is written once, and goes where it is wanted.
    pub(crate) fn publish_at_home(&mut self, now: Now, from: u16, it: &Published<'_>, fx: &mut Effects) {
        let key = self.key_of(it, false);
        if self.is_repeated(now, from, it, key, fx) {
            return;
        }
        if it.wants_receipt && self.has_no_receipt(now, from, (it, false), fx) {
            return;
        }
        if self.may_be_too_large(it) && self.is_too_large_for_channel(now, from, it, fx) {
            return;
        }
        let rule = self.config.namespaces.at(it.rule);
        if rule.presence && (it.event == Some("user_typing") || self.presence.home.is_typing()) {
            self.typed_at_home(now, it);
        }
        let rule = self.config.namespaces.at(it.rule);
        let numbering = match (rule.numbers(), it.is_ephemeral) {
            (false, _) => Numbering::Never,
            (true, true) => Numbering::Ephemeral,
            (true, false) => Numbering::Numbered,
        };
        let Placed { epoch, offset, mut wanted, unannounced, slot } =
            self.homes.publish(it.hash, it.target, numbering, &self.hasher);
        if it.target == name::SYSTEM {
            let all = ShardSet::first(usize::from(self.config.shards));
            wanted = Wanted { json: all, msgpack: all };
        }
        if canary::strikes(Canary::PublishDroppedAtHome) {
            wanted = Wanted::default();
        }
        let conflates = rule.policy == SlowPolicy::Conflate;
        let priority = it.priority.unwrap_or(rule.priority);
        if numbering == Numbering::Numbered
            && let Some(slot) = slot
            && !canary::strikes(Canary::HistoryForgotten)
        {
            self.homes.keep(slot, &it.kept(), now.instant, rule.history.bounds());
            self.bound_histories();
            self.sweep_later(now);
        }
        let spread = Spread {
            epoch,
            offset,
            reborn: (unannounced != Unannounced::Nobody).then(|| Reborn {
                epoch,
                offset: offset - u64::from(!it.is_ephemeral),
                is_for_all: unannounced == Unannounced::Everybody,
            }),
            wanted,
            from,
            channel: it.target,
            to: None,
            priority,
            conflate: if conflates { self.hasher.of((it.hash, it.event)) } else { 0 },
        };
        self.remember(now, key, (epoch, offset));
        self.spread(now, it, &spread, fx);
    }

    /// At the participant's home: the message gets its place in the inbox.
    pub(crate) fn direct_at_home(&mut self, now: Now, from: u16, it: &Published<'_>, fx: &mut Effects) {
        let key = self.key_of(it, true);
        if self.is_repeated(now, from, it, key, fx) {
            return;
        }
        if it.wants_receipt && self.has_no_receipt(now, from, (it, true), fx) {
            return;
        }
        if self.may_be_too_large(it) && self.is_too_large_for_participant(now, from, it, fx) {
            return;
        }
        let is_stored = it.is_stored && !it.is_ephemeral;
        let Some(slot) = self.participants.reach(it.hash, it.target, is_stored) else {
            let nobody = FromHome::Nobody { conn: it.conn, id: it.id, participant: it.target };
            return self.answer_to(now, from, &nobody, fx);
        };
        let participant = self.participants.place(slot, it.is_ephemeral);
        let spread = Spread {
            epoch: participant.epoch,
            offset: participant.offset,
            reborn: None,
            wanted: participant.wanted(),
            from,
            channel: name::INBOX,
            to: Some(it.target),
            priority: it.priority.unwrap_or_default(),
            conflate: 0,
        };
        self.remember(now, key, (spread.epoch, spread.offset));
        if !it.is_ephemeral {
            self.keep_in_inbox(now, slot, it);
        }
        self.spread(now, it, &spread, fx);
    }

    /// Writes the message and sends one record to each shard, with the encodings that it wants: all that want the same
    /// get the same, but for the publisher's shard if the publisher is to be told something or left out.
    #[inline(always)]
    fn spread(&mut self, now: Now, it: &Published<'_>, to: &Spread<'_>, fx: &mut Effects) {
        let receipt = it.id.map(|id| Receipt { conn: it.conn, id, epoch: to.epoch, offset: to.offset });
        let serial = if it.wants_receipt { self.track(it, to) } else { None };
        if to.wanted.is_empty() {
            if let Some(receipt) = receipt {
                self.answer_to(now, to.from, &FromHome::Accepted(receipt), fx);
            }
            return;
        }
        let mut buffers = self.scratch.take().unwrap_or_default();
        let forms = self.write_forms(it, to, &mut buffers);
        let exclude = (!it.echoes).then_some(it.conn);
        let is_told = receipt.is_some() || exclude.is_some();
        let mut written = Written {
            target: it.target,
            hash: it.hash,
            // The slot is one of the publisher's shard: of use where that is here.
            slot: it.slot,
            conflate: to.conflate,
            priority: to.priority,
            exclude,
            receipt,
            reborn: to.reborn,
            offset: if it.is_ephemeral { 0 } else { to.offset },
            serial,
            tracking: None,
            timestamp: it.timestamp,
            forms,
        };
        let is_mixed = to.wanted.is_mixed();
        let mut others = to.wanted;
        let formats = if is_told { others.by(to.from) } else { Formats::default() };
        if !formats.is_empty() {
            others.remove(to.from, formats);
            if is_mixed {
                written.forms = only(&forms, formats);
            }
            self.hand_over_to_one(to, &written, fx);
        } else if let Some(receipt) = receipt {
            self.answer_to(now, to.from, &FromHome::Accepted(receipt), fx);
        }
        if !others.is_empty() {
            (written.exclude, written.receipt) = (None, None);
            if is_mixed {
                self.hand_over_apart(others, &forms, to, &mut written, fx);
            } else {
                self.hand_over(others.shards(), to, &written, fx);
            }
        }
        self.scratch = Some(buffers);
    }

    /// Opens a receipt; the number under which shards tell of it, if any is asked.
    fn track(&mut self, it: &Published<'_>, to: &Spread<'_>) -> Option<u64> {
        let channel = to.to.is_none().then_some(to.channel);
        self.open_receipt(to.from, it, channel, (to.epoch, to.offset), to.wanted.shards())
    }

    /// The message in each encoding that anybody wants.
    #[inline(always)]
    fn write_forms<'b>(
        &mut self,
        it: &Published<'_>,
        to: &Spread<'_>,
        buffers: &'b mut Buffers,
    ) -> PerFormat<Form<'b>> {
        let mut forms = PerFormat { json: Form::NONE, msgpack: Form::NONE };
        let Buffers { messages, payload } = buffers;
        let mut message = Message {
            channel: to.channel,
            event: it.event,
            payload: it.payload,
            publisher: Some(it.publisher),
            epoch: to.epoch.text(),
            offset: to.offset,
            timestamp: it.timestamp,
            priority: it.priority,
            to: to.to,
        };
        if !to.wanted.of(other(it.format)).is_empty() {
            self.transcode(it, payload);
        }
        if !to.wanted.json.is_empty() {
            let bytes = &mut messages.json;
            bytes.clear();
            message.payload = if it.format == Format::Json { it.payload } else { payload };
            let seams = event::message(bytes, Format::Json, &message);
            forms.json = Form { bytes, seams };
        }
        if !to.wanted.msgpack.is_empty() {
            let bytes = &mut messages.msgpack;
            bytes.clear();
            message.payload = if it.format == Format::MessagePack { it.payload } else { payload };
            let seams = event::message(bytes, Format::MessagePack, &message);
            forms.msgpack = Form { bytes, seams };
        }
        forms
    }

    /// The payload in the other encoding: once for all who want it, wherever they are.
    #[cold]
    fn transcode(&mut self, it: &Published<'_>, payload: &mut Vec<u8>) {
        self.transcoded += 1;
        payload.clear();
        envelope::transcode(it.format, it.payload, payload);
    }

    /// The publisher's shard alone gets it.
    #[inline(always)]
    fn hand_over_to_one(&mut self, to: &Spread<'_>, written: &Written<'_>, fx: &mut Effects) {
        let is_direct = to.to.is_some();
        if to.from == self.config.shard {
            return self.written(written, is_direct, fx);
        }
        forward(fx, one(to.from), Class::Deliver, |out| written.encode(is_direct, out));
    }

    /// One record to each shard, this one last and without encoding it.
    fn hand_over(&mut self, shards: ShardSet, to: &Spread<'_>, written: &Written<'_>, fx: &mut Effects) {
        let is_direct = to.to.is_some();
        let mut elsewhere = shards;
        elsewhere.remove(self.config.shard);
        if !elsewhere.is_empty() {
            forward(fx, elsewhere, Class::Deliver, |out| written.encode(is_direct, out));
        }
        if shards.contains(self.config.shard) {
            self.written(written, is_direct, fx);
        }
    }

    /// The same where somebody wants the other encoding: each shard gets what it wants.
    #[cold]
    fn hand_over_apart<'b>(
        &mut self,
        wanted: Wanted,
        forms: &PerFormat<Form<'b>>,
        to: &Spread<'_>,
        written: &mut Written<'b>,
        fx: &mut Effects,
    ) {
        for (shards, formats) in wanted.apart() {
            if !shards.is_empty() {
                written.forms = only(forms, formats);
                self.hand_over(shards, to, written, fx);
            }
        }
    }
}

impl<'a> Published<'a> {
    /// What is remembered of it.
    pub(crate) fn kept(&self) -> Kept<'a> {
        Kept {
            event: self.event,
            publisher: self.publisher,
            format: self.format,
            payload: self.payload,
            priority: self.priority,
            timestamp: self.timestamp,
        }
    }
}

/// The forms of these encodings, without the others.
#[cold]
fn only<'a>(forms: &PerFormat<Form<'a>>, formats: Formats) -> PerFormat<Form<'a>> {
    let of = |format| if *formats.of(format) { *forms.of(format) } else { Form::NONE };
    PerFormat { json: of(Format::Json), msgpack: of(Format::MessagePack) }
}

/// A message in the making, in both encodings. Reused, so that publishing allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    messages: PerFormat<Vec<u8>>,
    /// The payload in the encoding that it did not come in.
    payload: Vec<u8>,
}

/// The own inbox is the publisher's: its other connections get the message too.
fn resolved<'a>(to: &'a str, publisher: &'a str) -> &'a str {
    if to == name::INBOX { publisher } else { to }
}

/// Where a message goes, as its publisher's shard knows it.
struct Addressed<'a> {
    conn: ConnKey,
    id: Option<RequestId<'a>>,
    target: &'a str,
    hash: u64,
    slot: Option<u32>,
    rule: u16,
    is_ephemeral: bool,
}

impl<'a> Addressed<'a> {
    fn published(self, publisher: &'a str, publish: &'a Publish<'_>, now: Now) -> Published<'a> {
        Published {
            conn: self.conn,
            id: self.id,
            target: self.target,
            hash: self.hash,
            slot: self.slot,
            rule: self.rule,
            event: publish.event.as_deref(),
            format: publish.format,
            payload: publish.payload.bytes(),
            publisher,
            priority: publish.priority,
            is_ephemeral: self.is_ephemeral,
            is_stored: publish.store == Some(true),
            echoes: publish.echo,
            wants_receipt: publish.receipt,
            idempotency_key: publish.idempotency_key.as_deref(),
            // The publisher knows best when it happened; who needs the hub's time publishes without one.
            timestamp: publish.timestamp.unwrap_or(now.unix_ms),
        }
    }
}

/// Where a message goes, as its home knows it.
struct Spread<'a> {
    epoch: Epoch,
    offset: u64,
    /// The channel's new epoch, if it is one that subscribers may not know.
    reborn: Option<Reborn>,
    wanted: Wanted,
    /// The publisher's shard.
    from: u16,
    channel: &'a str,
    to: Option<&'a str>,
    priority: Priority,
    conflate: u64,
}

/// Events that leave no trace anywhere.
fn is_ephemeral(publish: &Publish<'_>) -> bool {
    let event = publish.event.as_deref();
    publish.store == Some(false)
        || matches!(event, Some("user_typing" | "chat_message_chunk" | "agent_status_update"))
}
