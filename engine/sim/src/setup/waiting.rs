//! What a seed decides about sessions: how long they wait for their clients, and how many of them.

use corecast_hub::HubLimits;

/// How sessions wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// For so long, in virtual milliseconds; with 0 none waits.
    pub window_ms: u64,
    /// So many of the whole node.
    pub sessions: u32,
}

impl Default for Waiting {
    /// None waits.
    fn default() -> Self {
        Self { window_ms: 0, sessions: HubLimits::default().sessions }
    }
}

impl Waiting {
    /// What the seed decides, and that a session is resumed at one in so many opportunities.
    pub(super) fn of(seed: u64) -> (u32, Self) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5e55_1045);
        if rng.u32(..3) == 0 {
            return (0, Self::default());
        }
        let one_in = rng.u32(1..4);
        let window_ms = match rng.u32(..4) {
            0 => rng.u64(1..100),
            1 => rng.u64(100..1_000),
            _ => rng.u64(1_000..6_000),
        };
        let sessions = if rng.u32(..5) == 0 { rng.u32(1..8) } else { HubLimits::default().sessions };
        (one_in, Self { window_ms, sessions })
    }

    /// Virtual microseconds.
    pub fn window_us(&self) -> u64 {
        1_000 * self.window_ms
    }

    /// Whether so few may wait that some end earlier than their time.
    pub fn is_bounded(&self) -> bool {
        self.sessions < HubLimits::default().sessions
    }
}
