//! What the hub wants done: data, carried out by the shard.
//!
//! One `Effects` is reused for all commands of a shard; bytes and recipients lie in two arenas, so that a publish
//! allocates nothing in the steady state. This module knows no meaning of the bytes, but that a message has variants.

use std::num::NonZeroU32;

use corecast_protocol::CloseCode;
use corecast_protocol::envelope::command::Priority;
use corecast_protocol::envelope::event::{self, Changes, Seams};

use crate::format::Format;

/// A connection of this shard, as the hub knows it: the shard's slot and its generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnKey {
    /// Slot.
    pub index: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// A set of shards, at most 128.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ShardSet(pub u128);

impl ShardSet {
    /// The largest number of shards of one node.
    pub const SHARDS_MAX: usize = 128;

    /// No shard.
    pub const EMPTY: Self = Self(0);

    /// Shards 0 to `count - 1`.
    pub fn first(count: usize) -> Self {
        assert!(count <= Self::SHARDS_MAX, "a node has at most 128 shards");
        Self(if count == 128 { u128::MAX } else { (1 << count) - 1 })
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: u16) {
        self.0 |= 1 << shard;
    }

    /// Removes a shard.
    pub fn remove(&mut self, shard: u16) {
        // Half of it: shifting 128 bits by a variable is many instructions.
        let (low, high) = (self.0 as u64, (self.0 >> 64) as u64);
        let bit = 1u64 << (shard & 63);
        let (low, high) = if shard < 64 { (low & !bit, high) } else { (low, high & !bit) };
        self.0 = u128::from(high) << 64 | u128::from(low);
    }

    /// Whether the shard is a member.
    pub fn contains(self, shard: u16) -> bool {
        let half = if shard < 64 { self.0 as u64 } else { (self.0 >> 64) as u64 };
        half >> (shard & 63) & 1 == 1
    }

    /// Whether nobody is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, rising.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let shard = left.trailing_zeros() as u16;
                left &= left - 1;
                shard
            })
        })
    }
}

/// The two ring classes between shards (DESIGN section 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// To a home: may cause `Deliver` records, never further requests.
    Request,
    /// From a home: always taken, causes no records at all.
    Deliver,
}

/// What becomes of a message for a consumer whose outbox is full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SlowPolicy {
    /// The consumer is closed with 4000; it may resume.
    Disconnect,
    /// The oldest droppable messages go.
    DropOldest,
    /// Only the latest per `conflate` key is kept, from the first queued one on.
    Conflate,
}

/// A range of [`Effects::bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Behind the last byte.
    pub end: u32,
}

/// How what is delivered differs from the message as it was written: spliced where it is written into a frame, so that
/// a message lies here once, however many patterns its recipients have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Where it differs.
    pub seams: Seams,
    /// The pattern that its recipients subscribed to.
    pub pattern: Option<Span>,
    /// The time that they get as ISO 8601, in milliseconds since the Unix epoch.
    pub iso_timestamp: Option<u64>,
    /// How many messages were left out for them since the last one.
    pub skipped: u64,
    /// Which attempt to deliver it this is; 0 where attempts are not counted.
    pub attempt: u32,
}

impl Variant {
    /// No difference yet.
    pub fn of(seams: Seams) -> Self {
        Self { seams, pattern: None, iso_timestamp: None, skipped: 0, attempt: 0 }
    }
}

/// One of [`Effects::variants`]: counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VariantId(NonZeroU32);

/// How a delivered message may be queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Against other channels.
    pub priority: Priority,
    /// When the outbox is full.
    pub policy: SlowPolicy,
    /// Index of the channel's namespace: messages of one resemble each other. `u16::MAX` for direct messages.
    pub namespace: u16,
    /// Identifies the channel within this shard, for lifting what it has queued; stable while subscribed.
    pub channel: u32,
    /// Equal for messages of which the later replaces the earlier (channel and event), under `Conflate`.
    pub conflate: u64,
}

/// A message whose copies are counted: what becomes of each is told to [`Hub::tracked`](crate::Hub::tracked), once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tracking(pub NonZeroU32);

/// What became of one recipient's copy of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// It was written to the socket.
    Written,
    /// It was dropped, replaced, or its connection ended.
    Lost,
}

/// Since when nothing waits for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Idle {
    /// It was so when it was asked for.
    Before,
    /// The last batch has just left.
    Now,
}

/// Whether a reply may be lifted over messages that wait, as higher messages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Answers stand for themselves.
    Liftable,
    /// Where a subscription begins or ends, everything keeps its side.
    Fixed,
}

/// Something to be done, in the order of the list.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect {
    /// One message for several connections of this shard.
    Deliver {
        /// The message as it was written.
        message: Span,
        /// Its encoding.
        format: Format,
        /// How the recipients' differs from it, if it does: see [`Effects::message`].
        variant: Option<VariantId>,
        /// First and behind-last of [`Effects::recipients`].
        recipients: (u32, u32),
        /// How to queue it.
        delivery: Delivery,
        /// Set if its copies are counted.
        tracking: Option<Tracking>,
    },
    /// A message for one connection which no policy drops: replies, errors, `subscribed`.
    Reply {
        /// For whom.
        conn: ConnKey,
        /// The message.
        message: Span,
        /// Its encoding.
        format: Format,
        /// Whether messages may pass it.
        place: Place,
    },
    /// A record for other shards, never this one.
    Forward {
        /// For whom.
        shards: ShardSet,
        /// In which ring.
        class: Class,
        /// An encoded [`remote`](crate::remote) record.
        record: Span,
    },
    /// Tell [`Hub::has_room`](crate::Hub::has_room) as soon as less than half of the connection's outbox is taken.
    AwaitRoom {
        /// Whose.
        conn: ConnKey,
    },
    /// Tell [`Hub::idle`](crate::Hub::idle) as soon as nothing waits for the connection and nothing is in flight. What is
    /// told of the last one of several holds for all of them.
    AwaitIdle {
        /// Whose.
        conn: ConnKey,
        /// To be told with it. It rises.
        serial: u32,
    },
    /// The connection was admitted: complete its handshake. Replies follow it.
    Admitted {
        /// Who.
        conn: ConnKey,
    },
    /// The connection was refused while its handshake waits.
    Refused {
        /// Who.
        conn: ConnKey,
        /// Over which limit.
        refusal: Refusal,
    },
    /// Act on nothing more of this connection before `GoOn`: what it says next has to wait for an answer.
    Hold {
        /// Who.
        conn: ConnKey,
    },
    /// Act on what this connection says, again.
    GoOn {
        /// Who.
        conn: ConnKey,
    },
    /// Close the connection after what is queued for it.
    Close {
        /// Who.
        conn: ConnKey,
        /// With which code.
        code: CloseCode,
        /// The reason, beginning with an error code.
        reason: Span,
    },
}

/// Why a connection was not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// `connections_per_ip`.
    PerIp {
        /// The limit.
        limit: u32,
    },
    /// `connections_per_participant`.
    PerParticipant {
        /// The limit.
        limit: u32,
    },
}

/// An arena above this size is freed after use instead of kept. A message that needs more allocates once; its frames
/// are too large to be kept as well.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Bytes of one message at most, whatever is configured: positions in [`Effects::bytes`] have 32 bits. All that lies
/// there at once is of one request. A message to participants becomes the most: 4 times a message's bytes are addressed
/// at most, in the larger encoding, and each of these lies there six times at most: in both encodings for this shard, in
/// records for shards that want one or the other, and in both again for those that want both. 6 * 4 * 128 MiB are 3 GiB;
/// the envelopes of 256 names, of less than 8 KiB each, add 12 MiB.
pub const MESSAGE_BYTES_MAX: u64 = 128 << 20;

/// Where the hub writes what it wants done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    /// What to do, in order.
    pub list: Vec<Effect>,
    /// The bytes that spans point into.
    pub bytes: Vec<u8>,
    /// The connections that `Deliver` points into.
    pub recipients: Vec<ConnKey>,
    /// What `Deliver` may say about its message.
    pub variants: Vec<Variant>,
}

impl Effects {
    /// Forgets everything, keeps the memory, but for what an unusually large message took.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        self.recipients.clear();
        self.variants.clear();
    }

    /// Moves all of `other` behind what is here.
    pub fn append(&mut self, other: &mut Self) {
        if other.list.is_empty() {
            other.clear();
            return;
        }
        let (bytes, recipients) = (position(self.bytes.len()), position(self.recipients.len()));
        let variants = position(self.variants.len());
        position(self.bytes.len() + other.bytes.len());
        let shift = |span: Span| Span { start: span.start + bytes, end: span.end + bytes };
        self.list.extend(other.list.iter().map(|effect| match *effect {
            Effect::Deliver { message, format, variant, recipients: (start, end), delivery, tracking } => {
                Effect::Deliver {
                    message: shift(message),
                    format,
                    variant: variant.map(|VariantId(id)| VariantId(id.saturating_add(variants))),
                    recipients: (start + recipients, end + recipients),
                    delivery,
                    tracking,
                }
            }
            Effect::Reply { conn, message, format, place } => {
                Effect::Reply { conn, message: shift(message), format, place }
            }
            Effect::Forward { shards, class, record } => {
                Effect::Forward { shards, class, record: shift(record) }
            }
            Effect::Close { conn, code, reason } => Effect::Close { conn, code, reason: shift(reason) },
            other @ (Effect::Admitted { .. }
            | Effect::Refused { .. }
            | Effect::AwaitRoom { .. }
            | Effect::AwaitIdle { .. }
            | Effect::Hold { .. }
            | Effect::GoOn { .. }) => other,
        }));
        self.variants
            .extend(other.variants.iter().map(|it| Variant { pattern: it.pattern.map(shift), ..*it }));
        self.bytes.append(&mut other.bytes);
        self.recipients.append(&mut other.recipients);
        other.clear();
    }

    /// The bytes of a span.
    pub fn span(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// Appends what `write` writes and returns its span.
    ///
    /// # Panics
    /// Beyond 4 GiB, which [`MESSAGE_BYTES_MAX`] keeps out of reach.
    pub fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        write(&mut self.bytes);
        // What ends below 4 GiB began there.
        Span { start: start as u32, end: position(self.bytes.len()) }
    }

    /// Notes how a message differs for some of its recipients.
    pub fn vary(&mut self, variant: Variant) -> VariantId {
        self.variants.push(variant);
        VariantId(NonZeroU32::new(position(self.variants.len())).expect("there is one at least"))
    }

    /// Appends a delivered message as its recipients get it.
    pub fn message(&self, message: Span, format: Format, variant: Option<VariantId>, out: &mut Vec<u8>) {
        let Some(VariantId(id)) = variant else { return out.extend_from_slice(self.span(message)) };
        let Variant { seams, pattern, iso_timestamp, skipped, attempt } =
            self.variants[id.get() as usize - 1];
        let pattern = pattern.map(|it| std::str::from_utf8(self.span(it)).expect("a pattern is text"));
        let changes = Changes { pattern, iso_timestamp, skipped, attempt };
        event::variant(out, format, self.span(message), seams, &changes);
    }
}

/// A place in an arena.
#[inline(always)]
fn position(place: usize) -> u32 {
    assert!(place <= u32::MAX as usize, "what one request causes has less than 4 GiB");
    place as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_large_message_took_is_given_back() {
        let mut fx = Effects::default();
        fx.write(|out| out.extend_from_slice(&vec![1; KEPT_BYTES_MAX / 2]));
        fx.clear();
        let kept = fx.bytes.capacity();
        assert!((KEPT_BYTES_MAX / 2..=KEPT_BYTES_MAX).contains(&kept), "usual ones keep theirs: {kept}");
        fx.write(|out| out.extend_from_slice(&vec![1; KEPT_BYTES_MAX + 1]));
        fx.clear();
        assert_eq!(fx.bytes.capacity(), 0);
    }

    #[test]
    fn variants_keep_their_message_where_effects_are_joined() {
        let with = |pattern: &str, payload: &[u8]| {
            let mut fx = Effects::default();
            let message = fx.write(|out| out.extend_from_slice(payload));
            let pattern = Some(fx.write(|out| out.extend_from_slice(pattern.as_bytes())));
            let seams = Seams { pattern: 1, time: (2, 3) };
            let variant = Some(fx.vary(Variant { pattern, ..Variant::of(seams) }));
            let delivery = Delivery {
                priority: Priority::Normal,
                policy: SlowPolicy::Disconnect,
                namespace: 0,
                channel: 0,
                conflate: 0,
            };
            let format = Format::Json;
            let (recipients, tracking) = ((0, 0), None);
            fx.list.push(Effect::Deliver { message, format, variant, recipients, delivery, tracking });
            fx
        };
        let (mut fx, mut other) = (with("a*", b"1234"), with("b:*", b"5678"));
        fx.append(&mut other);
        let mut out = Vec::new();
        for effect in &fx.list {
            let Effect::Deliver { message, format, variant, .. } = *effect else { continue };
            fx.message(message, format, variant, &mut out);
        }
        let expected = br#"1,"pattern":"a*"2345,"pattern":"b:*"678"#;
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected));
    }

    #[test]
    fn a_set_of_shards_equals_its_slow_twin() {
        for shard in 0..ShardSet::SHARDS_MAX as u16 {
            let mut set = ShardSet::EMPTY;
            set.insert(shard);
            assert_eq!(set.iter().collect::<Vec<_>>(), [shard]);
            let mut others = ShardSet::first(ShardSet::SHARDS_MAX);
            others.remove(shard);
            assert_eq!(others.0, !(1 << shard));
            for other in 0..ShardSet::SHARDS_MAX as u16 {
                assert_eq!((set.contains(other), others.contains(other)), (other == shard, other != shard));
            }
            others.remove(shard);
            assert_eq!(others.0, !set.0, "who is not there can be removed");
        }
    }
}
