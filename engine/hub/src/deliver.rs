//! From a written message to its recipients on this shard, each once.

use corecast_protocol::envelope::event::{self, Subscribed};
use corecast_protocol::envelope::name;

use crate::canary::{self, Canary};
use crate::channel::index;
use crate::effect::{ConnKey, Delivery, Effect, Effects, SlowPolicy, Span, Tracking, Variant};
use crate::filter::pattern_of;
use crate::format::{FORMATS, Format, PerFormat};
use crate::hub::Hub;
use crate::remote::{Form, Reborn, Written};

/// Direct messages and `system` are no channels of a shard: they order against each other only.
const INBOX_CHANNEL: u32 = u32::MAX;
const SYSTEM_CHANNEL: u32 = u32::MAX - 2;

/// Reused, so that delivering allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Slots of the patterns that match.
    matching: Vec<u32>,
}

/// How a message differs for its recipients, whoever they are.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Change {
    /// What they subscribed to, where it was a pattern.
    pub(crate) pattern: Option<Span>,
    /// How many were left out for them before it.
    pub(crate) skipped: u64,
}

impl Hub {
    /// A message of a channel.
    pub(crate) fn deliver(&mut self, written: &Written<'_>, fx: &mut Effects) {
        if written.target == name::SYSTEM {
            return self.deliver_system(written, fx);
        }
        if self.matches_patterns(written.target) || written.reborn.is_some() {
            return self.deliver_overlapping(written, fx);
        }
        // The usual case copies the whole list and looks at nobody.
        let slot = written.slot.or_else(|| self.channels.exact.find(written.hash, written.target));
        let Some(slot) = slot else { return };
        let Some(channel) = self.channels.exact.get(slot) else { return };
        let is_acked = channel.acking.is_some();
        if channel.behind.is_some() {
            self.who_looks_back_waits(slot, written);
        }
        for format in FORMATS {
            if !written.forms.of(format).is_empty() {
                self.deliver_to_all(slot, format, written, fx);
            }
        }
        if is_acked && written.offset > 0 {
            self.sent_to_acking(slot, written);
        }
    }

    /// A message for all of a channel's subscribers of one encoding.
    #[inline(always)]
    fn deliver_to_all(&mut self, slot: u32, format: Format, written: &Written<'_>, fx: &mut Effects) {
        let Some(channel) = self.channels.exact.get(slot) else { return };
        debug_assert_eq!(*channel.name, *written.target, "a slot is passed on within one call");
        let delivery = self.delivery(channel.rule, written);
        let start = fx.recipients.len();
        fx.recipients.extend_from_slice(channel.subscribers.of(format));
        leave_out(fx, start, written.exclude);
        if canary::strikes(Canary::MessageToNonSubscriber) {
            let mut all = self.members.admitted().filter(|(_, it)| it.format == format).map(|(conn, _)| conn);
            fx.recipients.extend(all.find(|conn| !channel.contains(*conn)));
        }
        if fx.recipients.len() > start && canary::strikes(Canary::RecipientForgotten) {
            fx.recipients.pop();
        }
        if self.special > 0 {
            let mut message = None;
            self.push_variants(fx, start, (format, &mut message), written, Change::default(), delivery);
            return self.deliver_filtered((index(slot, false), format), &mut message, written, delivery, fx);
        }
        push(fx, start, format, (delivery, written.tracking), |out| {
            out.extend_from_slice(form_of(written, format).bytes);
        });
    }

    /// Notes which patterns match the channel; whether there are any.
    #[inline]
    fn matches_patterns(&mut self, channel: &str) -> bool {
        let matching = &mut self.deliver_scratch.matching;
        matching.clear();
        for prefix in self.channels.lengths.prefixes(channel) {
            matching.extend(self.channels.patterns.find(self.hasher.of(prefix), prefix));
        }
        !matching.is_empty()
    }

    /// Where patterns match too: the channel's own subscription goes first, then the longest prefix.
    fn deliver_overlapping(&mut self, written: &Written<'_>, fx: &mut Effects) {
        let scratch = std::mem::take(&mut self.deliver_scratch);
        self.choices += 1;
        // Who is left out counts as served.
        if let Some(excluded) = written.exclude.and_then(|conn| self.members.find_mut(conn)) {
            excluded.chosen_for = self.choices;
        }
        // The message is not for who is left out, but the news of its epoch is.
        let mut untold = written.reborn.and(written.exclude);
        let exact = self.channels.exact.find(written.hash, written.target);
        if let Some(slot) = exact {
            self.who_looks_back_waits(slot, written);
        }
        // Who is catching up gets it with what came before it.
        let behind = exact.and_then(|slot| self.channels.exact.get(slot)).and_then(|it| it.behind.as_deref());
        for conn in behind.into_iter().flat_map(|it| &it.catching_up) {
            if let Some(member) = self.members.find_mut(*conn) {
                member.chosen_for = self.choices;
            }
        }
        let exact = exact.map(|slot| (slot, false));
        let mut messages = PerFormat::default();
        for (slot, is_pattern) in exact.into_iter().chain(scratch.matching.iter().map(|slot| (*slot, true))) {
            for format in FORMATS {
                let message = (format, messages.of_mut(format));
                self.deliver_to_chosen((slot, is_pattern), message, written, &mut untold, fx);
                if self.special > 0 {
                    let list = (index(slot, is_pattern), format);
                    self.deliver_to_chosen_filtered(list, messages.of_mut(format), written, &mut untold, fx);
                }
            }
        }
        self.leave_out_unserved(written, fx);
        if let Some((slot, _)) = exact
            && (written.offset > 0 || written.reborn.is_some_and(|it| it.is_for_all))
        {
            self.sent_to_acking(slot, written);
        }
        self.deliver_scratch = scratch;
    }

    /// A message for those of a channel's or pattern's subscribers of one encoding who have not got it yet.
    fn deliver_to_chosen(
        &mut self,
        (slot, is_pattern): (u32, bool),
        (format, message): (Format, &mut Option<Span>),
        written: &Written<'_>,
        untold: &mut Option<ConnKey>,
        fx: &mut Effects,
    ) {
        let registry = if is_pattern { &self.channels.patterns } else { &self.channels.exact };
        let Some(channel) = registry.get(slot) else { return };
        let subscribers = channel.subscribers.of(format);
        if subscribers.is_empty() {
            return;
        }
        let delivery = self.delivery(channel.rule, written);
        let mut untold = untold.take_if(|conn| subscribers.contains(conn));
        let mut start = fx.recipients.len();
        for conn in subscribers {
            if let Some(member) = self.members.find_mut(*conn)
                && (member.chosen_for != self.choices || canary::strikes(Canary::PatternServedTwice))
            {
                member.chosen_for = self.choices;
                fx.recipients.push(*conn);
            }
        }
        let pattern = is_pattern.then(|| pattern_of(channel, fx));
        // Whoever subscribed by name knows the epoch from the answer, unless it began later.
        if let Some(reborn) = written.reborn
            && (is_pattern || reborn.is_for_all)
        {
            // Told under the message's own policy, or it might be overtaken.
            let end = fx.recipients.len();
            fx.recipients.extend(untold.take());
            push(fx, start, format, (delivery, None), |out| announce(out, format, written.target, &reborn));
            let told = fx.recipients.len();
            fx.recipients.extend_from_within(start..end);
            start = told;
        }
        let change = Change { pattern, skipped: 0 };
        self.push_variants(fx, start, (format, message), written, change, delivery);
    }

    fn deliver_system(&mut self, written: &Written<'_>, fx: &mut Effects) {
        for format in self.formats_here() {
            let mut start = fx.recipients.len();
            let of_format = self.members.admitted().filter(|(_, member)| member.format == format);
            fx.recipients.extend(of_format.map(|(conn, _)| conn));
            if let Some(reborn) = written.reborn
                && fx.recipients.len() > start
            {
                let told = fx.recipients.len();
                let delivery = (apart(written, SYSTEM_CHANNEL), None);
                push(fx, start, format, delivery, |out| announce(out, format, written.target, &reborn));
                fx.recipients.extend_from_within(start..told);
                start = told;
            }
            self.deliver_apart(start, format, written, SYSTEM_CHANNEL, fx);
        }
    }

    /// A message for all connections of a participant.
    pub(crate) fn deliver_direct(&mut self, written: &Written<'_>, fx: &mut Effects) {
        for format in self.formats_here() {
            let start = fx.recipients.len();
            let conns = self.participants.conns(written.hash, written.target).iter();
            let is_of_format = |conn: ConnKey| self.members.find(conn).is_some_and(|it| it.format == format);
            fx.recipients.extend(conns.filter(|conn| is_of_format(**conn)));
            self.deliver_apart(start, format, written, INBOX_CHANNEL, fx);
        }
    }

    /// The encodings that members here may be sent.
    fn formats_here(&self) -> impl Iterator<Item = Format> + use<> {
        let has_msgpack = self.msgpack_members > 0;
        FORMATS.into_iter().filter(move |format| *format == Format::Json || has_msgpack)
    }

    /// A message outside of the shard's channels.
    fn deliver_apart(
        &mut self,
        start: usize,
        format: Format,
        written: &Written<'_>,
        channel: u32,
        fx: &mut Effects,
    ) {
        leave_out(fx, start, written.exclude);
        let delivery = apart(written, channel);
        self.push_variants(fx, start, (format, &mut None), written, Change::default(), delivery);
    }

    /// A channel is known by its hash here: by whichever subscription its messages come, they keep their order. Two
    /// channels of one hash only keep theirs towards each other as well.
    pub(crate) fn delivery(&self, rule: u16, written: &Written<'_>) -> Delivery {
        let policy = self.config.namespaces.at(rule).policy;
        let channel = written.hash as u32;
        Delivery { priority: written.priority, policy, namespace: rule, channel, conflate: written.conflate }
    }

    /// The recipients from `start` on, all of one encoding, get the message, which is written for the first of them;
    /// those who want ISO 8601 times in a variant of its own.
    pub(crate) fn push_variants(
        &mut self,
        fx: &mut Effects,
        start: usize,
        (format, message): (Format, &mut Option<Span>),
        written: &Written<'_>,
        Change { pattern, skipped }: Change,
        delivery: Delivery,
    ) {
        // Whoever is served here was announced to the home before: otherwise it is better to send nothing than nonsense.
        if written.forms.of(format).is_empty() {
            return fx.recipients.truncate(start);
        }
        if self.iso_members > 0 {
            self.split_off_iso(fx, start);
        }
        let mut push = |fx: &mut Effects, start: usize, iso_timestamp: Option<u64>| {
            let recipients = span_of(start, fx.recipients.len());
            if recipients.0 == recipients.1 {
                return;
            }
            let Form { bytes, seams } = *form_of(written, format);
            let message = *message.get_or_insert_with(|| fx.write(|out| out.extend_from_slice(bytes)));
            let differs = pattern.is_some() || iso_timestamp.is_some() || skipped > 0;
            let variant = Variant { pattern, iso_timestamp, skipped, ..Variant::of(seams) };
            let variant = differs.then(|| fx.vary(variant));
            let tracking = written.tracking;
            fx.list.push(Effect::Deliver { message, format, variant, recipients, delivery, tracking });
        };
        push(fx, start, None);
        if self.iso_members > 0 {
            let start = fx.recipients.len();
            fx.recipients.append(&mut self.others);
            push(fx, start, Some(written.timestamp));
        }
    }

    /// Moves those who want ISO 8601 times out of the recipients from `start` on.
    fn split_off_iso(&mut self, fx: &mut Effects, start: usize) {
        let is_iso = |conn: ConnKey| self.members.find(conn).is_some_and(|member| member.is_time_iso);
        self.others.clear();
        let mut kept = start;
        for at in start..fx.recipients.len() {
            let conn = fx.recipients[at];
            if is_iso(conn) {
                self.others.push(conn);
            } else {
                fx.recipients[kept] = conn;
                kept += 1;
            }
        }
        fx.recipients.truncate(kept);
    }
}

/// How messages outside of the shard's channels are delivered.
fn apart(written: &Written<'_>, channel: u32) -> Delivery {
    let (policy, namespace) = (SlowPolicy::Disconnect, u16::MAX);
    Delivery { priority: written.priority, policy, namespace, channel, conflate: 0 }
}

/// News of an epoch.
fn announce(out: &mut Vec<u8>, format: Format, channel: &str, reborn: &Reborn) {
    let news = Subscribed { position: Some((reborn.epoch.text(), reborn.offset)), ..Subscribed::default() };
    event::subscribed(out, format, None, channel, &news);
}

/// The message as it is sent in this encoding.
#[inline(always)]
fn form_of<'w, 'a>(written: &'w Written<'a>, format: Format) -> &'w Form<'a> {
    let Written { forms, .. } = written;
    if !forms.json.is_empty() && !forms.msgpack.is_empty() && canary::strikes(Canary::WrongForm) {
        return if format == Format::Json { &forms.msgpack } else { &forms.json };
    }
    forms.of(format)
}

/// Takes one connection out of the recipients from `start` on.
fn leave_out(fx: &mut Effects, start: usize, conn: Option<ConnKey>) {
    if let Some(conn) = conn
        && !canary::strikes(Canary::EchoNotLeftOut)
        && let Some(at) = fx.recipients[start..].iter().position(|it| *it == conn)
    {
        fx.recipients.swap_remove(start + at);
    }
}

/// One delivery to the recipients from `start` on, if there are any.
#[inline(always)]
pub(crate) fn push(
    fx: &mut Effects,
    start: usize,
    format: Format,
    (delivery, tracking): (Delivery, Option<Tracking>),
    write: impl FnOnce(&mut Vec<u8>),
) {
    let recipients = span_of(start, fx.recipients.len());
    if recipients.0 == recipients.1 {
        return;
    }
    let message = fx.write(write);
    fx.list.push(Effect::Deliver { message, format, variant: None, recipients, delivery, tracking });
}

/// Recipients from here to there. A connection is among those of a request once per answer and message at most, and a
/// shard has far less than four billion of both.
#[inline(always)]
pub(crate) fn span_of(start: usize, end: usize) -> (u32, u32) {
    debug_assert!(end <= u32::MAX as usize, "more recipients than connections can be");
    (start as u32, end as u32)
}
