//! What a seed decides about how messages are delivered to who asks for less than all of them.

use crate::chaos::Fault;

/// How often it is asked for: drawn apart, so that without it runs stay what they were.
pub(super) fn of(seed: u64, one_in: &mut [u32; Fault::ALL.len()]) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x0f11_7e55);
    one_in[Fault::Filters as usize] = if rng.u32(..3) == 0 { 0 } else { rng.u32(1..5) };
}
