//! What waits, and what becomes of it: order, policies, turns.

use super::*;
use std::num::NonZeroU32;

use corecast_driver::FramePool;

const LIMITS: OutboxLimits = OutboxLimits { messages: 4, bytes: 64 };

struct Fixture {
    frames: FramePool,
    queues: QueuePool,
    batches: BatchPool,
    outbox: Outbox,
}

impl Fixture {
    fn new() -> Self {
        Self {
            frames: FramePool::new(8),
            queues: QueuePool::new(2),
            batches: BatchPool::new(2),
            outbox: Outbox::default(),
        }
    }

    fn frame(&self, text: &str) -> Frame {
        let mut builder = self.frames.build();
        builder.bytes().extend_from_slice(text.as_bytes());
        builder.finish(0)
    }

    fn push(&mut self, text: &str, delivery: Delivery) -> Pushed {
        let frame = self.frame(text);
        self.outbox.push(&mut self.queues, &frame, (delivery, None), LIMITS)
    }

    fn reply(&mut self, text: &str) {
        let frame = self.frame(text);
        self.outbox.push_reply(&mut self.queues, frame, Place::Liftable);
    }

    fn fix(&mut self, text: &str) {
        let frame = self.frame(text);
        self.outbox.push_reply(&mut self.queues, frame, Place::Fixed);
    }

    /// A batch that stays in flight: from here on the consumer is behind.
    fn block(&mut self) {
        self.reply("!");
        assert!(self.outbox.next_batch(&mut self.queues, &mut self.batches).is_some());
    }

    fn drain(&mut self) -> String {
        self.outbox.sent();
        let mut all = String::new();
        while let Some(batch) = self.outbox.next_batch(&mut self.queues, &mut self.batches) {
            for index in 0..batch.pieces() {
                all += std::str::from_utf8(batch.slice(index)).expect("tests send text");
            }
            self.batches.recycle(batch);
            self.outbox.sent();
        }
        all
    }
}

fn dropped(count: usize) -> Pushed {
    Pushed::Dropped { count, is_queued: true }
}

fn refused(count: usize) -> Pushed {
    Pushed::Dropped { count, is_queued: false }
}

fn on(channel: u32, policy: SlowPolicy, priority: Priority) -> Delivery {
    Delivery { priority, policy, namespace: 0, channel, conflate: u64::from(channel) }
}

#[test]
fn one_batch_carries_all_that_waits_in_order() {
    let mut it = Fixture::new();
    it.reply("s");
    for text in ["a", "b"] {
        assert_eq!(it.push(text, on(1, SlowPolicy::Disconnect, Priority::Normal)), Pushed::Queued);
    }
    assert_eq!((it.outbox.messages(), it.outbox.bytes()), (3, 3));
    assert_eq!(it.drain(), "sab");
    assert!(it.outbox.is_idle());
    assert_eq!(it.frames.in_use(), 0);
}

#[test]
fn a_full_outbox_of_a_promised_channel_overflows() {
    let mut it = Fixture::new();
    it.block();
    let delivery = on(1, SlowPolicy::Disconnect, Priority::Normal);
    for _ in 0..4 {
        assert_eq!(it.push("a", delivery), Pushed::Queued);
    }
    assert_eq!(it.push("b", delivery), Pushed::Overflow);
}

#[test]
fn drop_oldest_spares_replies_and_promised_messages() {
    let mut it = Fixture::new();
    it.block();
    it.reply("r");
    it.push("p", on(1, SlowPolicy::Disconnect, Priority::Normal));
    for text in ["a", "b"] {
        assert_eq!(it.push(text, on(2, SlowPolicy::DropOldest, Priority::Normal)), Pushed::Queued);
    }
    assert_eq!(it.push("c", on(2, SlowPolicy::DropOldest, Priority::Normal)), dropped(1));
    assert_eq!(it.drain(), "rpbc");
}

#[test]
fn where_nothing_may_go_the_new_droppable_message_does() {
    let mut it = Fixture::new();
    it.block();
    for _ in 0..4 {
        it.reply("r");
    }
    assert_eq!(it.push("a", on(2, SlowPolicy::DropOldest, Priority::Normal)), refused(1));
    assert_eq!(it.drain(), "rrrr");
}

#[test]
fn bytes_are_a_bound_of_their_own() {
    let mut it = Fixture::new();
    it.block();
    let delivery = on(2, SlowPolicy::DropOldest, Priority::Normal);
    it.push(&"x".repeat(60), delivery);
    assert_eq!(it.push("12345", delivery), dropped(1));
    assert_eq!(it.push(&"y".repeat(65), delivery), refused(2));
    assert_eq!(it.outbox.bytes(), 0);
}

#[test]
fn conflation_keeps_the_latest_in_the_place_of_the_first() {
    let mut it = Fixture::new();
    it.block();
    let (one, two) =
        (on(1, SlowPolicy::Conflate, Priority::Normal), on(2, SlowPolicy::Conflate, Priority::Normal));
    it.push("a1", one);
    it.push("b1", two);
    assert_eq!(it.push("a2", one), Pushed::Replaced);
    assert_eq!(it.drain(), "a2b1");
}

#[test]
fn conflation_keeps_the_order_of_a_channel() {
    let mut it = Fixture::new();
    it.block();
    let kind = |conflate| Delivery { conflate, ..on(1, SlowPolicy::Conflate, Priority::Normal) };
    it.push("x1", kind(10));
    it.push("y2", kind(20));
    assert_eq!(it.push("x3", kind(10)), Pushed::Replaced);
    assert_eq!(it.drain(), "y2x3", "a publisher's messages keep their order");
    it.block();
    it.push("x4", kind(10));
    it.fix("|");
    assert_eq!(it.push("x5", kind(10)), Pushed::Replaced);
    assert_eq!(it.drain(), "|x5", "what is subscribed to again comes behind the answer");
}

#[test]
fn values_that_change_often_keep_their_turn() {
    const ROUNDS: usize = 200;
    let limits = OutboxLimits { messages: 1_024, bytes: 1 << 20 };
    let mut it = Fixture::new();
    it.block();
    let kind =
        |channel, conflate| Delivery { conflate, ..on(channel, SlowPolicy::Conflate, Priority::Normal) };
    // One channel of two events, a hundred of one; 16 messages are a batch.
    let kinds = [kind(0, 1_000), kind(0, 2_000)].into_iter().chain((1..=100).map(|n| kind(n, n.into())));
    let kinds: Vec<Delivery> = kinds.collect();
    let mut sent = [0; 101];
    let (mut pushed, mut conflated) = (0, 0);
    for _ in 0..ROUNDS {
        for delivery in &kinds {
            let frame = it.frame(&format!("{:<4096}", delivery.channel));
            let became = it.outbox.push(&mut it.queues, &frame, (*delivery, None), limits);
            assert!(matches!(became, Pushed::Queued | Pushed::Replaced), "{became:?}");
            pushed += 1;
            conflated += usize::from(became == Pushed::Replaced);
        }
        it.outbox.sent();
        let batch = it.outbox.next_batch(&mut it.queues, &mut it.batches).expect("much waits");
        for index in 0..batch.pieces() {
            let channel = std::str::from_utf8(batch.slice(index)).expect("tests send text");
            sent[channel.trim_end().parse::<usize>().expect("a number")] += 1;
        }
        it.batches.recycle(batch);
    }
    let all: usize = sent.iter().sum();
    assert_eq!(all + conflated + it.outbox.messages(), pushed);
    let share = all / kinds.len();
    let is_fair = |count: usize| count.abs_diff(share) <= share / 4;
    assert!(sent[1..].iter().all(|count| is_fair(*count)), "{share} are fair: {sent:?}");
    assert!(is_fair(sent[0] / 2), "{share} each are fair: {sent:?}");
}

#[test]
fn a_value_behind_others_of_its_channel_takes_their_priority() {
    let mut it = Fixture::new();
    it.block();
    let kind = |conflate, priority| Delivery { conflate, ..on(1, SlowPolicy::Conflate, priority) };
    it.push("x1", kind(10, Priority::High));
    it.push("y1", kind(20, Priority::High));
    it.push("b", on(2, SlowPolicy::Conflate, Priority::High));
    assert_eq!(it.push("x2", kind(10, Priority::Normal)), Pushed::Replaced);
    // Sorting by priority would show if the queue were out of order.
    it.push("c!", on(3, SlowPolicy::Conflate, Priority::Critical));
    assert_eq!(it.drain(), "c!y1x2b");
}

#[test]
fn a_value_that_follows_something_fixed_lets_higher_ones_go_first() {
    let mut it = Fixture::new();
    it.block();
    let on = |channel, priority| on(channel, SlowPolicy::Conflate, priority);
    it.push("a1", on(1, Priority::Normal));
    it.fix("|");
    it.push("h!", on(2, Priority::High));
    it.push("b1", on(3, Priority::Normal));
    assert_eq!(it.push("a2", on(1, Priority::Normal)), Pushed::Replaced);
    assert_eq!(it.drain(), "|h!a2b1");
}

#[test]
fn nothing_passes_what_is_fixed() {
    let mut it = Fixture::new();
    let of = |channel, priority| on(channel, SlowPolicy::Disconnect, priority);
    it.push("a1", of(1, Priority::Low));
    // `unsubscribed` from a channel stays behind its messages, and `subscribed` before them.
    it.fix("|");
    it.push("b1", of(2, Priority::Normal));
    it.push("c1!", of(3, Priority::Critical));
    assert_eq!(it.drain(), "a1|c1!b1");
}

#[test]
fn a_higher_value_takes_its_own_place() {
    let mut it = Fixture::new();
    it.block();
    let on = |channel, priority| on(channel, SlowPolicy::Conflate, priority);
    it.push("a1", on(1, Priority::Normal));
    it.push("b1", on(2, Priority::Normal));
    assert_eq!(it.push("b2!", on(2, Priority::Critical)), Pushed::Replaced, "b1 is gone");
    assert_eq!(it.drain(), "b2!a1");
}

#[test]
fn conflation_keeps_to_the_bytes() {
    let mut it = Fixture::new();
    it.block();
    let on = |channel| on(channel, SlowPolicy::Conflate, Priority::Normal);
    it.push("a", on(1));
    it.push("b", on(2));
    assert_eq!(it.push(&"x".repeat(60), on(1)), Pushed::Replaced);
    // Larger than what is left: the older one of its kind goes, and one of another kind.
    assert_eq!(it.push(&"y".repeat(60), on(2)), dropped(2));
    assert_eq!(it.outbox.bytes(), 60);
    assert_eq!(it.drain(), "y".repeat(60));
}

#[test]
fn a_burst_replaces_only_its_own_kind() {
    let mut it = Fixture::new();
    let on = |channel| on(channel, SlowPolicy::Conflate, Priority::Normal);
    it.push("rare", on(1));
    for text in ["b1", "b2", "b3"] {
        assert_eq!(it.push(text, on(2)), Pushed::Queued);
    }
    assert_eq!(it.push("b4", on(2)), Pushed::Replaced);
    assert_eq!(it.push("b5", on(2)), Pushed::Replaced);
    assert_eq!(it.drain(), "rareb1b2b5");
}

#[test]
fn a_consumer_that_keeps_up_is_not_conflated() {
    let mut it = Fixture::new();
    let one = on(1, SlowPolicy::Conflate, Priority::Normal);
    it.push("a", one);
    assert_eq!(it.push("b", one), Pushed::Queued);
    assert_eq!(it.drain(), "ab");
}

#[test]
fn a_higher_message_passes_other_channels_and_lifts_its_own() {
    let mut it = Fixture::new();
    let low = |channel| on(channel, SlowPolicy::Disconnect, Priority::Normal);
    it.push("a1", low(1));
    it.push("b1", low(2));
    it.push("a2", low(1));
    it.push("b2!", on(2, SlowPolicy::Disconnect, Priority::High));
    assert_eq!(it.drain(), "b1b2!a1a2");
}

#[cfg(feature = "canaries")]
#[test]
fn planted_bugs_show() {
    use corecast_hub::canary::{Canary, plant};
    let drained = |canary: Option<Canary>| {
        plant(canary);
        let mut it = Fixture::new();
        let mut all = String::new();
        for _ in 0..20 {
            it.push("a", on(1, SlowPolicy::DropOldest, Priority::Normal));
            it.push("B", on(1, SlowPolicy::DropOldest, Priority::High));
            it.reply("r");
            all += &it.drain();
        }
        plant(None);
        all
    };
    let right = "aBr".repeat(20);
    assert_eq!(drained(None), right);
    for canary in [Canary::ReplyOvertaken, Canary::PriorityBreaksOrder] {
        assert_ne!(drained(Some(canary)), right, "{}", canary.name());
    }
    let mut it = Fixture::new();
    it.block();
    it.reply("r");
    let Fixture { queues, batches, outbox, .. } = &mut it;
    assert!(outbox.next_batch(queues, batches).is_none(), "one is in flight");
    plant(Some(Canary::DoubleSend));
    let second = (0..Canary::DoubleSend.every()).find_map(|_| outbox.next_batch(queues, batches));
    plant(None);
    assert!(second.is_some());
}

#[test]
fn of_every_counted_copy_it_is_known_once_whether_it_was_sent_or_lost() {
    for seed in 1..=50u64 {
        println!("seed {seed}");
        let (mut it, mut random) = (Fixture::new(), seed);
        let mut below = |bound: u64| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (random >> 33) % bound
        };
        let (mut pushed, mut known) = (Vec::new(), Vec::new());
        for number in 1..=200 {
            let policy =
                [SlowPolicy::Conflate, SlowPolicy::DropOldest, SlowPolicy::Disconnect][below(3) as usize];
            let priority = [Priority::Normal, Priority::High][below(2) as usize];
            let delivery = on(below(3) as u32, policy, priority);
            let tracking = NonZeroU32::new(number).filter(|_| below(4) > 0).map(Tracking);
            let frame = it.frame(["a", "bcd", &"x".repeat(30)][below(3) as usize]);
            it.outbox.push(&mut it.queues, &frame, (delivery, tracking), LIMITS);
            pushed.extend(tracking);
            match below(12) {
                0..4 => it.outbox.sent(),
                4 => {
                    it.outbox.clear(&mut it.queues);
                }
                _ => {}
            }
            if below(4) == 0
                && let Some(batch) = it.outbox.next_batch(&mut it.queues, &mut it.batches)
            {
                it.batches.recycle(batch);
            }
            known.append(&mut it.queues.carried);
            known.append(&mut it.queues.lost);
        }
        it.outbox.clear(&mut it.queues);
        known.append(&mut it.queues.lost);
        known.sort_unstable();
        assert_eq!(known, pushed);
    }
}

#[test]
fn what_is_counted_takes_no_room() {
    assert_eq!(size_of::<Entry>(), 32, "256 of them are 8 KiB");
}
