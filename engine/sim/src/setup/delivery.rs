//! What a seed decides about how messages are delivered to who asks for less than all of them, or acknowledges them.

use corecast_hub::HubLimits;

use crate::chaos::Fault;

/// How often it is asked for: drawn apart, so that without it runs stay what they were.
pub(super) fn of(seed: u64, one_in: &mut [u32; Fault::ALL.len()], limits: &mut HubLimits) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5ec3_1b75);
    one_in[Fault::Receipts as usize] = if rng.u32(..3) == 0 { 0 } else { rng.u32(1..6) };
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x0f11_7e55);
    // One of them, or both.
    let which = rng.u32(..3);
    if which != 2 {
        one_in[Fault::Filters as usize] = if rng.u32(..5) == 0 { 0 } else { rng.u32(1..5) };
    }
    if which != 1 && rng.u32(..5) > 0 {
        one_in[Fault::Acks as usize] = rng.u32(1..5);
        limits.ack_timeout_ms = [1, 5, 20, 100, 1_000][rng.usize(..5)];
        limits.ack_attempts = rng.u32(1..6);
    }
}

/// Whether runs whose sessions go on have neither of them.
pub(super) fn is_plain(seed: u64) -> bool {
    fastrand::Rng::with_seed(seed ^ 0x91a1_2b1d).u32(..3) == 0
}

/// Nobody acknowledges.
pub(super) fn without_acks(limits: &mut HubLimits) {
    let HubLimits { ack_timeout_ms, ack_attempts, .. } = HubLimits::default();
    (limits.ack_timeout_ms, limits.ack_attempts) = (ack_timeout_ms, ack_attempts);
}
