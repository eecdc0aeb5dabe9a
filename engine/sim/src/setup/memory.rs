//! What a seed decides about the past of channels: how much of it is kept, and how much of that is sent at once.

use corecast_hub::ReplayLimits;

use crate::names::Keeps;

/// What a run says of the past, where it says anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Of each channel.
    pub keeps: Option<Keeps>,
    /// At once.
    pub replay: Option<ReplayLimits>,
    /// Bytes of all histories of the node.
    pub bytes: Option<u64>,
}

impl Memory {
    /// What the seed decides, and that something of the past is wanted at one in so many opportunities.
    pub(super) fn of(seed: u64, shards: usize) -> (u32, Self) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0009_3e3b_e55a);
        if rng.u32(..4) == 0 {
            return (0, Self::default());
        }
        let one_in = rng.u32(1..6);
        let keeps = Keeps {
            messages: if rng.bool() { rng.u64(1..12) } else { rng.u64(1..200) },
            age_us: [5_000, 60_000, 2_000_000, 3_600_000_000][rng.usize(..4)],
            bytes: None,
        };
        let messages = rng.usize(1..8);
        let replay = ReplayLimits {
            messages,
            bytes: rng.usize(0..2_000),
            answer_bytes: rng.usize(0..3_000),
            // So little that readers wait for each other.
            turn_bytes: messages * 50,
        };
        let bytes = rng.u64(300..20_000) * shards as u64;
        let mut sometimes = |chances: u32| rng.u32(..chances) == 0;
        let memory = Self {
            keeps: sometimes(2).then_some(keeps),
            replay: sometimes(2).then_some(replay),
            bytes: sometimes(4).then_some(bytes),
        };
        // Last, so that the rest of what a seed says does not depend on it.
        let narrow = sometimes(6).then(|| rng.u64(200..10_000));
        let memory = Self { keeps: memory.keeps.map(|it| Keeps { bytes: narrow, ..it }), ..memory };
        (one_in, memory)
    }
}
