//! Receipts: what became of a message's copies, told to its publisher once.
//!
//! A shard that gets a message whose copies are counted knows its recipients there, and hears of each copy what became
//! of it: from the shard that it was written to the socket or lost. When nothing is open any more, or after half a
//! minute, it tells the home; when all shards have, the home tells the publisher. Nothing here knows why a copy is lost.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{OwnedRequestId, RequestId};
use corecast_protocol::envelope::event::{self, ReceiptEvent};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::ack::Outcome;
use crate::admission::Todo;
use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::Now;
use crate::effect::{ConnKey, Effect, Effects, Fate, ShardSet, Tracking};
use crate::hub::Hub;
use crate::remote::{Count, Epoch, FromHome, Published, Receipt, Written};

/// A copy that was not written within this time has failed.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Beyond so many things to be told, at one home, nothing is published that wants a receipt.
const TOLD_MAX: usize = 16_384;

/// Receipts that one home has open at most, likewise. About 250 bytes each.
const OPEN_MAX: usize = 16_384;

/// Of one participant: else whoever publishes to those who never acknowledge would take them all.
const OWN_MAX: u32 = 1_024;

/// What a shard tells a home of a message's copies here.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) home: u16,
    pub(crate) serial: u64,
    pub(crate) count: Count,
}

/// What is known on this shard of one message's copies.
#[derive(Debug)]
struct Part {
    home: u16,
    /// At the home.
    serial: u64,
    count: Count,
    /// Copies in outboxes.
    queued: u64,
    /// Recipients who are to acknowledge it.
    unacked: u64,
    /// What is in an outbox still has failed.
    is_overdue: bool,
    /// The home was told.
    is_told: bool,
}

impl Part {
    fn is_settled(&self) -> bool {
        self.count.delivered + self.count.failed == self.count.of
    }
}

/// The messages whose copies are counted on this shard: as many as have copies in outboxes.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    slots: Vec<Option<Part>>,
    free: Vec<u32>,
}

impl Parts {
    fn insert(&mut self, home: u16, serial: u64) -> Tracking {
        let count = Count::default();
        let part = Part { home, serial, count, queued: 0, unacked: 0, is_overdue: false, is_told: false };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(part);
        Tracking(NonZeroU32::MIN.saturating_add(slot))
    }

    fn get_mut(&mut self, tracking: Tracking) -> Option<&mut Part> {
        self.slots.get_mut(tracking.slot())?.as_mut()
    }

    /// What the home is to be told, if now is the time; the slot is free when nothing comes back to it any more.
    fn settle(&mut self, tracking: Tracking) -> Option<Report> {
        let part = self.get_mut(tracking)?;
        let is_due = !part.is_told && part.is_settled();
        part.is_told |= is_due;
        let report = Report { home: part.home, serial: part.serial, count: part.count };
        if part.is_told && part.queued == 0 && part.unacked == 0 {
            self.slots[tracking.slot()] = None;
            self.free.push(tracking.slot() as u32);
        }
        is_due.then_some(report)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl Tracking {
    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// A receipt that its publisher has not got yet, at the message's home.
#[derive(Debug)]
pub(crate) struct Open {
    conn: ConnKey,
    /// The publisher, by hash.
    publisher: u64,
    /// The publisher's shard.
    from: u16,
    id: OwnedRequestId,
    channel: Option<Box<str>>,
    epoch: Epoch,
    offset: u64,
    /// Shards that have not told yet.
    awaited: ShardSet,
    count: Count,
}

/// The receipts that are open at one home, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    open: BTreeMap<u64, Open>,
    /// How many each participant has, by hash. Two with the same hash, keyed as it is, would share their bound.
    own: HashMap<u64, u32, foldhash::fast::FixedState>,
    last: u64,
}

impl Receipts {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.own.is_empty()
    }

    fn insert(&mut self, open: Open) -> u64 {
        *self.own.entry(open.publisher).or_default() += 1;
        self.last += 1;
        self.open.insert(self.last, open);
        self.last
    }

    fn remove(&mut self, serial: u64) -> Option<Open> {
        let open = self.open.remove(&serial)?;
        if let Entry::Occupied(mut own) = self.own.entry(open.publisher) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
        Some(open)
    }

    /// Whether this participant has as many as one may have.
    fn has_all_of(&self, publisher: u64) -> bool {
        self.own.get(&publisher).is_some_and(|own| *own >= OWN_MAX)
    }
}

impl Hub {
    /// The publisher of this message wants to know: the number under which shards are to tell what becomes of it.
    #[cold]
    pub(crate) fn open_receipt(
        &mut self,
        from: u16,
        it: &Published<'_>,
        channel: Option<&str>,
        (epoch, offset): (Epoch, u64),
        awaited: ShardSet,
    ) -> Option<u64> {
        let id = it.id?.to_owned();
        let (conn, channel, count) = (it.conn, channel.map(Into::into), Count::default());
        let publisher = self.hasher.of(it.publisher);
        let open = Open { conn, publisher, from, id, channel, epoch, offset, awaited, count };
        if awaited.is_empty() {
            self.todo.push_back(Todo::Receipt(Box::new(open)));
            return None;
        }
        Some(self.receipts.insert(open))
    }

    /// Whether this publish wants a receipt that can't be kept: then it is refused as a whole, for a publisher that wants
    /// to know must not be told something wrong.
    pub(crate) fn has_no_receipt(
        &mut self,
        now: Now,
        from: u16,
        (it, is_direct): (&Published<'_>, bool),
        fx: &mut Effects,
    ) -> bool {
        let is_own = self.receipts.has_all_of(self.hasher.of(it.publisher));
        let is_full = is_own || self.receipts.open.len() >= OPEN_MAX || self.todo.len() >= TOLD_MAX;
        if is_full {
            let refused =
                FromHome::NoReceipt { conn: it.conn, id: it.id, target: it.target, is_direct, is_own };
            self.answer_to(now, from, &refused, fx);
        }
        is_full
    }

    pub(crate) fn receipt_refused(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (target, is_direct, is_own): (&str, bool, bool),
        fx: &mut Effects,
    ) {
        let whose = if is_own { "too many of your receipts are open" } else { "too many receipts are open" };
        let why = format!(
            "{whose}, and nothing was published: publish without `receipt`, or again when some have come"
        );
        self.error(fx, conn, id, (!is_direct).then_some(target), ErrorCode::Overloaded, &why);
    }

    /// A shard has told the home of its copies.
    pub(crate) fn reported(&mut self, now: Now, from: u16, serial: u64, count: Count, fx: &mut Effects) {
        let Some(open) = self.receipts.open.get_mut(&serial) else { return };
        open.awaited.remove(from);
        open.count.of += count.of;
        open.count.delivered += count.delivered;
        open.count.failed += count.failed;
        if open.awaited.is_empty()
            && let Some(open) = self.receipts.remove(serial)
            && !canary::strikes(Canary::ReceiptForgotten)
        {
            self.end_receipt(now, &open, fx);
        }
    }

    /// Tells the publisher what is known.
    pub(crate) fn end_receipt(&mut self, now: Now, open: &Open, fx: &mut Effects) {
        let Open { conn, epoch, offset, count, .. } = *open;
        let receipt = Receipt { conn, id: open.id.as_id(), epoch, offset };
        let counted = FromHome::Counted { receipt, channel: open.channel.as_deref(), count };
        self.answer_to(now, open.from, &counted, fx);
    }

    pub(crate) fn counted(
        &mut self,
        it: &Receipt<'_>,
        channel: Option<&str>,
        count: Count,
        fx: &mut Effects,
    ) {
        let Count { of, delivered, failed } = count;
        let receipt =
            ReceiptEvent { channel, epoch: it.epoch.text(), offset: it.offset, of, delivered, failed };
        self.reply(fx, it.conn, |out, format| event::receipt(out, format, Some(it.id), &receipt));
    }

    /// A message for connections of this shard whose copies are counted.
    #[cold]
    pub(crate) fn written_tracked(
        &mut self,
        written: &Written<'_>,
        is_direct: bool,
        serial: u64,
        fx: &mut Effects,
    ) {
        let tracking = self.parts.insert(self.home(written.hash), serial);
        let first = fx.list.len();
        let written = Written { serial: None, tracking: Some(tracking), ..*written };
        self.written(&written, is_direct, fx);
        // A participant's name may be a channel's too.
        let acking = if is_direct { Vec::new() } else { self.await_acks(&written, tracking) };
        leave_to(&acking, tracking, first, fx);
        let copies = fx.list[first..].iter().map(|effect| match effect {
            Effect::Deliver { recipients, tracking: Some(it), .. } if *it == tracking => {
                u64::from(recipients.1 - recipients.0)
            }
            _ => 0,
        });
        let (copies, unacked) = (copies.sum(), acking.len() as u64);
        let part = self.parts.get_mut(tracking).expect("it was inserted");
        (part.count.of, part.queued, part.unacked) = (copies + unacked, copies, unacked);
        if copies > 0 {
            self.todo.push_back(Todo::Patience(tracking));
        }
        self.tell(tracking);
    }

    /// What became of one copy of a message.
    pub fn tracked(&mut self, tracking: Tracking, fate: Fate) {
        let Some(part) = self.parts.get_mut(tracking) else { return };
        part.queued -= 1;
        if !part.is_told && !part.is_overdue {
            match fate {
                Fate::Lost if !canary::strikes(Canary::LossUncounted) => part.count.failed += 1,
                _ => part.count.delivered += 1,
            }
        }
        self.tell(tracking);
    }

    /// What became of it with one of those who are to acknowledge it.
    pub(crate) fn acknowledged(&mut self, tracking: Tracking, outcome: Outcome) {
        let Some(part) = self.parts.get_mut(tracking) else { return };
        part.unacked -= 1;
        match outcome {
            Outcome::Delivered if !canary::strikes(Canary::ReceiptWithoutAcks) => part.count.delivered += 1,
            Outcome::Delivered | Outcome::Failed => part.count.failed += 1,
        }
        self.tell(tracking);
    }

    /// How long copies are waited for begins where time is known.
    pub(crate) fn be_patient(&mut self, now: Now, tracking: Tracking) {
        let Some(part) = self.parts.get_mut(tracking) else { return };
        let alarm = Alarm::Receipt { tracking, home: part.home, serial: part.serial };
        self.alarms.set(now.instant + WRITTEN_WITHIN, alarm);
    }

    /// Copies that are still in their outboxes have failed, if it is this message's.
    pub(crate) fn lose_patience(&mut self, tracking: Tracking, (home, serial): (u16, u64)) {
        let Some(part) = self.parts.get_mut(tracking) else { return };
        if (part.home, part.serial) == (home, serial) && !part.is_told {
            part.count.failed += part.queued;
            part.is_overdue = true;
            self.tell(tracking);
        }
    }

    fn tell(&mut self, tracking: Tracking) {
        if let Some(report) = self.parts.settle(tracking) {
            self.todo.push_back(Todo::Report(report));
        }
    }
}

/// Copies for those who are to acknowledge them are not counted by their writing: such a delivery is cut in two.
fn leave_to(acking: &[ConnKey], tracking: Tracking, first: usize, fx: &mut Effects) {
    if acking.is_empty() {
        return;
    }
    let mut sorted: Vec<(u32, u32)> = acking.iter().map(|it| (it.index, it.generation)).collect();
    sorted.sort_unstable();
    let acknowledges = |conn: ConnKey| sorted.binary_search(&(conn.index, conn.generation)).is_ok();
    for at in (first..fx.list.len()).rev() {
        let mut rest = fx.list[at];
        let Effect::Deliver { recipients, tracking: counted, .. } = &mut fx.list[at] else { continue };
        if *counted != Some(tracking) {
            continue;
        }
        let (start, end) = *recipients;
        let mut until = start;
        for index in start..end {
            if !acknowledges(fx.recipients[index as usize]) {
                fx.recipients.swap(index as usize, until as usize);
                until += 1;
            }
        }
        *recipients = (start, until);
        if let Effect::Deliver { recipients, tracking, .. } = &mut rest {
            (*recipients, *tracking) = ((until, end), None);
        }
        fx.list.insert(at + 1, rest);
    }
}
