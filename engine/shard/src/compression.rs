//! What is sent compressed (RFC 7692), and in how many forms: each is made once per message, for the first who wants it.
//!
//! One state serves the whole shard and begins every message anew, so that an idle connection owns none of it; only
//! `/ws/echo` keeps what its messages refer to. Knows neither channels nor sockets.

use std::cell::Cell;
use std::rc::Rc;

use corecast_driver::Frame;
use corecast_hub::canary::{self, Canary};
use corecast_hub::{Format, PerFormat};
use corecast_protocol::ws::Role;
use corecast_protocol::ws::deflate::{Compressor, Contexts, Negotiated};
use corecast_protocol::ws::frame::Opcode;

use crate::config::{CompressionConfig, CompressionMode};
use crate::counters::Counters;
use crate::output::Output;

/// Connections of one shard that may keep contexts of their own, of up to 0.4 MB each; more of them get shared ones.
const OWNERS_MAX: usize = 1024;

/// Larger messages are sent as they are: compressing so much takes a shard 1 ms by level 1, 6 ms by level 6, and all
/// others wait meanwhile.
const PACKED_BYTES_MAX: usize = 256 << 10;

/// Larger buffers for what was just compressed are freed after use.
const SCRATCH_KEPT_BYTES: usize = 64 << 10;

/// A shard's compressor, and what it knows about when compressing pays.
#[derive(Debug)]
pub(crate) struct Compression {
    config: CompressionConfig,
    /// From the first message on that somebody takes compressed.
    shared: Option<Box<Compressor>>,
    scratch: Vec<u8>,
    /// By namespace: what one sends in JSON says little about its MessagePack.
    ratios: Vec<PerFormat<Ratio>>,
    /// Of what belongs to none: replies and direct messages.
    others: PerFormat<Ratio>,
    /// Connections that agreed to compression.
    takers: usize,
    owners: Rc<Cell<usize>>,
    compressors: Rc<Cell<usize>>,
}

/// What a message is, as far as it says how well it compresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A message of a namespace.
    Of(u16),
    /// A reply.
    Reply,
}

/// One message in the forms in which it is sent.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    pub(crate) plain: Option<Frame>,
    pub(crate) packed: Option<Frame>,
}

/// How large a message may be that this connection takes compressed, in bytes; 0 for one that takes none. The shard's
/// compressor looks back as far as the largest window: whoever agreed to a smaller one gets what that covers.
pub(crate) fn takes_up_to(deflate: Option<Negotiated>) -> usize {
    let Some(negotiated) = deflate else { return 0 };
    match negotiated.window_bits_sent(Role::Server) {
        15 => PACKED_BYTES_MAX,
        _ if canary::strikes(Canary::WindowIgnored) => PACKED_BYTES_MAX,
        bits => 1 << bits,
    }
}

fn shared(level: u32) -> Box<Compressor> {
    Box::new(if canary::strikes(Canary::CompressorNotReset) {
        Compressor::for_connection(level, &Negotiated::default(), Role::Server)
    } else {
        Compressor::shared(level)
    })
}

impl Compression {
    pub(crate) fn new(config: CompressionConfig) -> Self {
        Self {
            config,
            shared: None,
            scratch: Vec::new(),
            ratios: Vec::new(),
            others: PerFormat::default(),
            takers: 0,
            owners: Rc::default(),
            compressors: Rc::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.config.mode != CompressionMode::Off
    }

    /// Whether anybody takes compressed messages.
    pub(crate) fn has_takers(&self) -> bool {
        self.takers > 0
    }

    /// Somebody who does came.
    pub(crate) fn came(&mut self, deflate: Option<Negotiated>) {
        self.takers += usize::from(deflate.is_some());
    }

    /// Somebody who did is gone.
    pub(crate) fn left(&mut self, deflate: Option<Negotiated>) {
        self.takers -= usize::from(deflate.is_some());
    }

    /// What a new connection of `/ws/echo` may be offered.
    pub(crate) fn contexts_for_echo(&self) -> Contexts {
        if self.owners.get() < OWNERS_MAX { Contexts::PerConnection } else { Contexts::Shared }
    }

    /// Connections that own a compressor.
    pub(crate) fn compressors(&self) -> usize {
        self.compressors.get()
    }

    /// The forms in which these recipients, known by how much each takes compressed, get a message: only what is wanted.
    pub(crate) fn forms(
        &mut self,
        (opcode, message, kind): (Opcode, &[u8], Kind),
        takers: impl Iterator<Item = usize>,
        out: &Output,
        counters: &Counters,
    ) -> Forms {
        let (mut takes_packed, mut takes_plain, mut is_too_large) = (false, false, false);
        for bytes_max in takers {
            // An empty message has nothing to compress.
            let is_covered = bytes_max >= message.len().max(1);
            is_too_large |= bytes_max > 0 && !is_covered;
            takes_packed |= is_covered;
            takes_plain |= !is_covered;
            if takes_packed && takes_plain {
                break;
            }
        }
        if is_too_large && !takes_packed {
            counters.compression_skipped.add(1);
        }
        let packed = if takes_packed { self.pack(opcode, message, kind, out, counters) } else { None };
        let is_plain_wanted = takes_plain || packed.is_none();
        Forms { plain: is_plain_wanted.then(|| out.encode(opcode, message)), packed }
    }

    /// A message in a compressed frame, if that pays.
    fn pack(
        &mut self,
        opcode: Opcode,
        message: &[u8],
        kind: Kind,
        out: &Output,
        counters: &Counters,
    ) -> Option<Frame> {
        if message.len() < self.config.threshold_bytes || !self.pays(kind, opcode) {
            counters.compression_skipped.add(1);
            return None;
        }
        let level = self.config.level;
        let shared = self.shared.get_or_insert_with(|| shared(level));
        self.scratch.clear();
        shared.pack(message, &mut self.scratch);
        let packed_bytes = self.scratch.len();
        self.ratio(kind, opcode).note(message.len(), packed_bytes);
        if packed_bytes >= message.len() {
            counters.compression_skipped.add(1);
            return None;
        }
        Some(self.packed_frame(opcode, message.len(), out, counters))
    }

    /// A message of `/ws/echo` that its connection [packs](OwnContext::packs), whatever it gains.
    pub(crate) fn pack_own(
        &mut self,
        own: &mut OwnContext,
        (opcode, message): (Opcode, &[u8]),
        out: &Output,
        counters: &Counters,
    ) -> Frame {
        self.scratch.clear();
        let level = self.config.level;
        if own.needs_compressor() {
            own.compressor(level).pack(message, &mut self.scratch);
        } else {
            let shared = self.shared.get_or_insert_with(|| shared(level));
            shared.pack(message, &mut self.scratch);
        }
        self.packed_frame(opcode, message.len(), out, counters)
    }

    /// A frame of what was just compressed: as large as that, not as what it might have become.
    fn packed_frame(
        &mut self,
        opcode: Opcode,
        plain_bytes: usize,
        out: &Output,
        counters: &Counters,
    ) -> Frame {
        counters.compressed_messages.add(1);
        counters.compression_bytes_in.add(plain_bytes as u64);
        counters.compression_bytes_out.add(self.scratch.len() as u64);
        let frame = out.encode_packed(opcode, &self.scratch);
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Vec::new();
        }
        frame
    }

    fn pays(&mut self, kind: Kind, opcode: Opcode) -> bool {
        self.config.mode == CompressionMode::Standard || self.ratio(kind, opcode).pays()
    }

    fn ratio(&mut self, kind: Kind, opcode: Opcode) -> &mut Ratio {
        let of_kind = match kind {
            Kind::Of(namespace) if namespace < u16::MAX => {
                let index = usize::from(namespace);
                if index >= self.ratios.len() {
                    self.ratios.resize_with(index + 1, PerFormat::default);
                }
                &mut self.ratios[index]
            }
            _ => &mut self.others,
        };
        let format = if opcode == Opcode::Binary { Format::MessagePack } else { Format::Json };
        of_kind.of_mut(format)
    }

    /// What a connection of `/ws/echo` owns, where its client did not agree to go without.
    pub(crate) fn own_context(&self, negotiated: Negotiated) -> Option<Box<OwnContext>> {
        let is_own = negotiated.takes_over_received(Role::Server) || needs_compressor(negotiated);
        is_own.then(|| {
            self.owners.set(self.owners.get() + 1);
            Box::new(OwnContext {
                negotiated,
                compressor: None,
                owners: Rc::clone(&self.owners),
                compressors: Rc::clone(&self.compressors),
            })
        })
    }
}

/// What later messages to one connection refer to.
#[derive(Debug)]
pub(crate) struct OwnContext {
    negotiated: Negotiated,
    /// From the first message on.
    compressor: Option<Compressor>,
    /// How many there are.
    owners: Rc<Cell<usize>>,
    compressors: Rc<Cell<usize>>,
}

/// Whether the shard's compressor won't do: it refers to nothing, and looks back as far as it can.
fn needs_compressor(negotiated: Negotiated) -> bool {
    negotiated.takes_over_sent(Role::Server)
        || negotiated.server_max_window_bits.is_some_and(|bits| bits < 15)
}

impl OwnContext {
    fn needs_compressor(&self) -> bool {
        needs_compressor(self.negotiated)
    }

    /// Whether a message of this size is sent compressed. Where later ones refer to it, it costs what it costs.
    pub(crate) fn packs(&self, bytes: usize) -> bool {
        bytes > 0 && (bytes <= PACKED_BYTES_MAX || self.negotiated.takes_over_sent(Role::Server))
    }

    fn compressor(&mut self, level: u32) -> &mut Compressor {
        self.compressor.get_or_insert_with(|| {
            self.compressors.set(self.compressors.get() + 1);
            Compressor::for_connection(level, &self.negotiated, Role::Server)
        })
    }
}

impl Drop for OwnContext {
    fn drop(&mut self) {
        self.owners.set(self.owners.get() - 1);
        if self.compressor.is_some() {
            self.compressors.set(self.compressors.get() - 1);
        }
    }
}

/// How well the messages of one kind compressed lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Ratio {
    plain_bytes: usize,
    packed_bytes: usize,
    /// Messages since the last one that was tried.
    skipped: u32,
}

impl Ratio {
    /// So much must be known before anything is held to be in vain.
    const KNOWN_BYTES: usize = 8 << 10;

    /// What lies further back counts half.
    const REMEMBERED_BYTES: usize = 32 << 10;

    /// Where compressing did not pay, one message of so many is tried all the same: it may have become another kind.
    const PROBE_EVERY: u32 = 64;

    /// Whether a quarter is saved at least, as far as is known, or it is time to look again.
    fn pays(&mut self) -> bool {
        if self.plain_bytes < Self::KNOWN_BYTES || self.packed_bytes * 4 <= self.plain_bytes * 3 {
            return true;
        }
        self.skipped += 1;
        if self.skipped == Self::PROBE_EVERY {
            self.skipped = 0;
        }
        self.skipped == 0
    }

    fn note(&mut self, plain_bytes: usize, packed_bytes: usize) {
        self.plain_bytes += plain_bytes;
        self.packed_bytes += packed_bytes;
        while self.plain_bytes > Self::REMEMBERED_BYTES {
            self.plain_bytes /= 2;
            self.packed_bytes /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` messages of these sizes are tried.
    fn tried(ratio: &mut Ratio, count: usize, plain_bytes: usize, packed_bytes: usize) -> usize {
        (0..count)
            .filter(|_| {
                let is_tried = ratio.pays();
                if is_tried {
                    ratio.note(plain_bytes, packed_bytes);
                }
                is_tried
            })
            .count()
    }

    #[test]
    fn what_does_not_pay_is_tried_now_and_then() {
        let mut ratio = Ratio::default();
        assert_eq!(tried(&mut ratio, 100, 1000, 300), 100, "it pays");
        let in_vain = tried(&mut ratio, 64_000, 1000, 990);
        assert!((1000..1100).contains(&in_vain), "one of 64: {in_vain}");
        let again = tried(&mut ratio, 10_000, 1000, 300);
        assert!(again > 8_000, "it is seen that it pays again: {again}");
    }

    #[test]
    fn one_large_message_is_no_verdict_for_ever() {
        let mut ratio = Ratio::default();
        ratio.note(16 << 20, 16 << 20);
        assert!(ratio.plain_bytes <= Ratio::REMEMBERED_BYTES);
        let tried = tried(&mut ratio, 10_000, 1000, 300);
        assert!(tried > 8_000, "{tried}");
    }

    #[test]
    fn each_form_is_made_only_if_somebody_wants_it() {
        let config = CompressionConfig { mode: CompressionMode::Standard, level: 6, threshold_bytes: 100 };
        let mut compression = Compression::new(config);
        let (out, counters) = (Output::new(), Counters::default());
        let long = "corecast ".repeat(100);
        let mut forms = |message: &[u8], windows: &[usize]| {
            let message = (Opcode::Text, message, Kind::Of(3));
            let forms = compression.forms(message, windows.iter().copied(), &out, &counters);
            (forms.plain.is_some(), forms.packed.is_some())
        };
        assert_eq!(forms(long.as_bytes(), &[0, 0]), (true, false), "nobody takes it compressed");
        assert_eq!(forms(long.as_bytes(), &[1 << 15, 1 << 10]), (false, true), "everybody does");
        assert_eq!(forms(long.as_bytes(), &[1 << 15, 0]), (true, true), "some do");
        assert_eq!(forms(long.as_bytes(), &[1 << 9, 1 << 8]), (true, false), "their windows are too small");
        assert_eq!(forms(long.as_bytes(), &[1 << 9, 1 << 15]), (true, true), "one of them is");
        assert_eq!(forms(&long.as_bytes()[..99], &[1 << 15]), (true, false), "below the threshold");
        assert_eq!(forms(b"", &[1 << 15]), (true, false), "nothing to compress");
        let counted = (counters.compressed_messages.value(), counters.compression_skipped.value());
        assert_eq!(counted, (3, 3), "once per message");
        assert_eq!(counters.compression_bytes_in.value(), 3 * long.len() as u64);
        assert!(counters.compression_bytes_out.value() < long.len() as u64 / 2);
    }

    #[test]
    fn what_one_encoding_gains_is_no_verdict_on_the_other() {
        let config =
            CompressionConfig { mode: CompressionMode::Adaptive, level: 1, ..CompressionConfig::default() };
        let mut compression = Compression::new(config);
        let (out, counters) = (Output::new(), Counters::default());
        // Bytes without any pattern, as MessagePack carries pictures; the JSON of the same namespace is text.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let noise = std::iter::repeat_with(|| {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        let noise: Vec<u8> = noise.take(1000).collect();
        let text = "corecast ".repeat(100);
        for kind in [Kind::Of(3), Kind::Of(u16::MAX), Kind::Reply] {
            let mut is_packed = |opcode, message: &[u8]| {
                let window = std::iter::once(1 << 15);
                compression.forms((opcode, message, kind), window, &out, &counters).packed.is_some()
            };
            for _ in 0..100 {
                assert!(!is_packed(Opcode::Binary, &noise), "noise gains nothing");
            }
            for _ in 0..10 {
                assert!(is_packed(Opcode::Text, text.as_bytes()), "{kind:?}: text does");
            }
        }
    }

    #[test]
    fn the_largest_window_covers_more_than_itself() {
        let window = |bits| Some(Negotiated { server_max_window_bits: bits, ..Negotiated::default() });
        let all = [None, window(Some(9)), window(Some(14)), window(Some(15)), window(None)];
        assert_eq!(all.map(takes_up_to), [0, 1 << 9, 1 << 14, 256 << 10, 256 << 10]);
    }

    #[test]
    fn what_a_connection_owned_is_not_counted_behind_it() {
        let compression = Compression::new(CompressionConfig::default());
        let mut own = compression.own_context(Negotiated::default()).expect("contexts are taken over");
        own.compressor(1);
        assert_eq!((compression.owners.get(), compression.compressors()), (1, 1));
        drop(own);
        assert_eq!((compression.owners.get(), compression.compressors()), (0, 0));
        let forgets = Negotiated {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            ..Negotiated::default()
        };
        assert!(compression.own_context(forgets).is_none(), "the shard's serve");
        let owners: Vec<_> =
            (0..OWNERS_MAX).map(|_| compression.own_context(Negotiated::default())).collect();
        assert_eq!(compression.contexts_for_echo(), Contexts::Shared, "they are bounded");
        drop(owners);
        assert_eq!(compression.contexts_for_echo(), Contexts::PerConnection);
    }
}
