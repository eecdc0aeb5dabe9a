//! What a shard consists of beside its received bytes, and how effects are carried out.
//!
//! `Core` is everything that acting on a message may touch. Received bytes and their assembly buffers stay
//! outside, so that a message can be acted on while it is still borrowed from them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corecast_driver::{ConnId, Frame};
use corecast_hub::canary::{self, Canary};
use corecast_hub::{ConnKey, Delivery, Effect, Effects, Fate, Format, Hub, Idle, Now, Tracking};
use corecast_protocol::envelope::Scanner;
use corecast_protocol::ws::frame::Opcode;

use crate::compression::{Compression, Forms, Kind, takes_up_to};
use crate::config::{Node, ShardConfig};
use crate::conn::{Conn, Phase, id_of};
use crate::counters::Counters;
use crate::drain::Drain;
use crate::outbox::Pushed;
use crate::output::Output;
use crate::rings::Links;
use crate::slab::Slab;
use crate::timer::Timers;

/// A variant is larger than its message by the longest pattern and its key, a time and some punctuation; where JSON
/// escapes the pattern, its frame grows once more.
const VARIANT_BYTES_MORE: usize = 320;

/// A larger buffer for a spliced message is freed after use.
const SPLICED_KEPT_BYTES: usize = 64 << 10;

/// Everything that acting on a message may touch.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: ShardConfig,
    pub(crate) node: Arc<Node>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hub: Hub,
    pub(crate) links: Links,
    pub(crate) conns: Slab<Conn>,
    pub(crate) out: Output,
    pub(crate) compression: Compression,
    pub(crate) fx: Effects,
    /// A variant of a message that is to be compressed.
    spliced: Vec<u8>,
    pub(crate) scanner: Scanner,
    pub(crate) batch_scanner: Scanner,
    pub(crate) timers: Timers,
    /// Connections whose held-back input is to be looked at again.
    pub(crate) stalled: VecDeque<ConnId>,
    /// Connections whose held-back input may be compressed, and waits for its turn.
    pub(crate) inflating: VecDeque<ConnId>,
    /// So far the pool's count of inflated bytes may come in this tick.
    pub(crate) inflated_until: u64,
    /// Somebody was let go on since held-back input was looked at.
    pub(crate) lets_go_on: bool,
    /// Bytes in all places for held-back input.
    pub(crate) held_bytes: usize,
    /// Consumers that overflowed while effects were carried out.
    overflowed: Vec<ConnId>,
    pub(crate) drain: Drain,
    pub(crate) now: Instant,
    pub(crate) unix_ms: u64,
}

impl Core {
    pub(crate) fn new(
        config: ShardConfig,
        hub: Hub,
        links: Links,
        node: Arc<Node>,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Self {
        let depth = config.limits.json_depth;
        let compression = Compression::new(config.compression);
        Self {
            config,
            node,
            counters,
            hub,
            links,
            conns: Slab::new(),
            out: Output::new(),
            compression,
            fx: Effects::default(),
            spliced: Vec::new(),
            scanner: Scanner::new(depth),
            batch_scanner: Scanner::new(depth),
            timers: Timers::new(now, Duration::from_millis(10)),
            stalled: VecDeque::new(),
            inflating: VecDeque::new(),
            inflated_until: 0,
            lets_go_on: false,
            held_bytes: 0,
            overflowed: Vec::new(),
            drain: Drain::default(),
            now,
            unix_ms: 0,
        }
    }

    pub(crate) fn hub_now(&self) -> Now {
        Now { instant: self.now, unix_ms: self.unix_ms }
    }

    /// Whether messages may be acted on: all that they may cause finds room.
    pub(crate) fn has_room(&self) -> bool {
        self.links.request_room() && self.links.deliver_room()
    }

    /// Does what the hub wants done, until nothing is left to do.
    pub(crate) fn carry_out(&mut self) {
        while !self.fx.list.is_empty() {
            let mut fx = std::mem::take(&mut self.fx);
            for effect in &fx.list {
                self.carry_out_one(&fx, *effect);
            }
            fx.clear();
            // What closing connections caused meanwhile comes next, in the memory that is already there.
            fx.append(&mut self.fx);
            self.fx = fx;
            while let Some(id) = self.overflowed.pop() {
                self.disconnect_slow(id);
            }
        }
    }

    fn carry_out_one(&mut self, fx: &Effects, effect: Effect) {
        match effect {
            Effect::Deliver { message, format, variant: None, recipients, delivery, tracking } => {
                let recipients = &fx.recipients[recipients.0 as usize..recipients.1 as usize];
                let message = fx.span(message);
                let forms = self.forms(opcode(format), message, recipients, delivery);
                self.deliver(&forms, message.len(), recipients, (delivery, tracking));
            }
            Effect::Deliver { message, format, variant, recipients, delivery, tracking } => {
                let recipients = &fx.recipients[recipients.0 as usize..recipients.1 as usize];
                let about_bytes = fx.span(message).len() + VARIANT_BYTES_MORE;
                let write = |out: &mut Vec<u8>| fx.message(message, format, variant, out);
                let (forms, bytes) =
                    self.forms_of_variant((opcode(format), about_bytes), write, recipients, delivery);
                self.deliver(&forms, bytes, recipients, (delivery, tracking));
            }
            Effect::Reply { conn, message, format, place } => {
                if let Some(conn) = self.conns.find(id_of(conn))
                    && matches!(conn.phase, Phase::Open(_))
                {
                    let message = (opcode(format), fx.span(message), Kind::Reply);
                    let frame = reply_frame(&mut self.compression, message, conn, &self.out, &self.counters);
                    self.out.reply_at(conn, frame, place);
                }
            }
            Effect::AwaitRoom { conn } => {
                if let Some(conn) = self.conns.find(id_of(conn)) {
                    conn.is_awaited = true;
                }
                self.tell_of_room(id_of(conn));
            }
            Effect::AwaitIdle { conn, serial } => {
                if let Some(found) = self.conns.find(id_of(conn)) {
                    let is_idle = found.outbox.is_idle();
                    found.awaits_idle = Some(serial).filter(|_| !is_idle);
                    if is_idle {
                        self.hub.idle(conn, serial, Idle::Before);
                    }
                }
            }
            Effect::Forward { shards, class, record } => self.links.push_all(shards, class, fx.span(record)),
            Effect::Admitted { conn } => self.admitted(id_of(conn)),
            Effect::Refused { conn, refusal } => self.not_admitted(id_of(conn), refusal),
            Effect::Hold { conn } => {
                if let Some(conn) = self.conns.find(id_of(conn)) {
                    conn.is_held = true;
                }
            }
            Effect::GoOn { conn } => {
                if let Some(conn) = self.conns.find(id_of(conn)) {
                    conn.is_held = false;
                    self.lets_go_on |= conn.is_stalled;
                }
            }
            Effect::Close { conn, code, reason } => {
                let reason = std::str::from_utf8(fx.span(reason)).unwrap_or("INTERNAL");
                self.begin_close(id_of(conn), code, reason);
            }
        }
    }

    /// Tells the hub that a connection has room again, if it has and the hub waits for it.
    pub(crate) fn tell_of_room(&mut self, id: ConnId) {
        let limits = self.config.limits.outbox;
        let Some(conn) = self.conns.find(id) else { return };
        if conn.is_awaited && !conn.outbox.is_half_full(limits) {
            conn.is_awaited = false;
            let key = conn.key();
            self.hub.has_room(key);
        }
    }

    /// A message in the forms that its recipients take.
    fn forms(&mut self, opcode: Opcode, message: &[u8], recipients: &[ConnKey], delivery: Delivery) -> Forms {
        if !self.compression.has_takers() {
            return Forms { plain: Some(self.out.encode(opcode, message)), packed: None };
        }
        let conns = &mut self.conns;
        let takers =
            recipients.iter().filter_map(|key| conns.find(id_of(*key)).map(|conn| takes_up_to(conn.deflate)));
        let message = (opcode, message, Kind::Of(delivery.namespace));
        self.compression.forms(message, takers, &self.out, &self.counters)
    }

    /// The forms of a message that is spliced, and its bytes: straight into its frame, unless it is to be compressed.
    fn forms_of_variant(
        &mut self,
        (opcode, about_bytes): (Opcode, usize),
        write: impl FnOnce(&mut Vec<u8>),
        recipients: &[ConnKey],
        delivery: Delivery,
    ) -> (Forms, usize) {
        if !self.compression.has_takers() {
            let frame = self.out.encode_with(opcode, about_bytes, write);
            return (Forms { plain: Some(frame), packed: None }, about_bytes);
        }
        let mut whole = std::mem::take(&mut self.spliced);
        whole.clear();
        write(&mut whole);
        let forms = self.forms(opcode, &whole, recipients, delivery);
        let bytes = whole.len();
        if whole.capacity() <= SPLICED_KEPT_BYTES {
            self.spliced = whole;
        }
        (forms, bytes)
    }

    /// Queues a message of so many bytes for each of its recipients, in the form that this one takes.
    #[inline(always)]
    fn deliver(
        &mut self,
        forms: &Forms,
        message_bytes: usize,
        recipients: &[ConnKey],
        (delivery, tracking): (Delivery, Option<Tracking>),
    ) {
        if canary::strikes(Canary::FrameLeaked) {
            std::mem::forget(forms.plain.clone());
        }
        let limits = self.config.limits.outbox;
        let mut queued = 0;
        for key in recipients {
            let Some(conn) = self.conns.find(id_of(*key)).filter(|it| matches!(it.phase, Phase::Open(_)))
            else {
                self.out.queues.lost.extend(tracking);
                continue;
            };
            let is_packed = forms.packed.is_some() && takes_packed(conn, message_bytes);
            let form = if is_packed { &forms.packed } else { &forms.plain };
            let Some(frame) = form else { continue };
            match conn.outbox.push(&mut self.out.queues, frame, (delivery, tracking), limits) {
                Pushed::Queued => queued += 1,
                Pushed::Replaced if canary::strikes(Canary::ConflationUncounted) => {}
                Pushed::Replaced => self.counters.conflated.add(1),
                Pushed::Dropped { is_queued, .. } if canary::strikes(Canary::DropUncounted) => {
                    queued += u64::from(is_queued);
                }
                Pushed::Dropped { count, is_queued } => {
                    queued += u64::from(is_queued);
                    self.counters.dropped.add(count as u64);
                }
                Pushed::Overflow if canary::strikes(Canary::PolicyIgnored) => continue,
                Pushed::Overflow => {
                    self.overflowed.push(conn.id);
                    continue;
                }
            }
            self.out.is_pressed |= conn.outbox.is_pressed(limits);
            self.out.mark(conn);
        }
        if !canary::strikes(Canary::DeliveryUncounted) {
            self.counters.deliveries.add(queued);
        }
    }
}

impl Core {
    /// Tells the hub of counted copies that were lost in an outbox.
    pub(crate) fn tell_lost(&mut self) {
        while let Some(tracking) = self.out.queues.lost.pop() {
            self.hub.tracked(tracking, Fate::Lost);
        }
    }

    /// Tells the hub of the counted copies that a batch carried, if it carried any.
    pub(crate) fn tell_sent(&mut self, id: ConnId, fate: Fate) {
        if self.out.in_flight.is_empty() {
            return;
        }
        for tracking in self.out.in_flight.remove(&id).into_iter().flatten() {
            self.hub.tracked(tracking, fate);
        }
    }
}

/// Whether a message is sent compressed to a connection, where there is that form of it.
fn takes_packed(conn: &Conn, message_bytes: usize) -> bool {
    takes_up_to(conn.deflate) >= message_bytes
        || conn.deflate.is_none() && canary::strikes(Canary::PackedUnasked)
}

/// The frames that carry an encoding.
pub(crate) fn opcode(format: Format) -> Opcode {
    match format {
        Format::Json => Opcode::Text,
        Format::MessagePack => Opcode::Binary,
    }
}

/// What no policy drops, as one connection takes it.
pub(crate) fn reply_frame(
    compression: &mut Compression,
    message: (Opcode, &[u8], Kind),
    conn: &Conn,
    out: &Output,
    counters: &Counters,
) -> Frame {
    if conn.deflate.is_none() {
        return out.encode(message.0, message.1);
    }
    let takers = std::iter::once(takes_up_to(conn.deflate));
    let forms = compression.forms(message, takers, out, counters);
    forms.packed.or(forms.plain).expect("one of both is made")
}
