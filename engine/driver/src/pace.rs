//! How much that can wait is begun in one turn.
//!
//! When thousands of clients come or go at once, each turn does a little of it and then what the others wait for. A turn
//! that took long, because there is much else to do, may begin more: as many per millisecond get their turn either way.

use std::time::Duration;

/// In a turn of any length.
const LEAST: u128 = 2;
const MOST: u128 = 8;

/// For each millisecond that the last turn took.
const PER_MS: u128 = 2;

/// Connections taken, let go of or closed in a turn behind one that took so long: 2 to 8.
pub fn connections(last_turn: Duration) -> usize {
    (last_turn.as_millis() * PER_MS).clamp(LEAST, MOST) as usize
}

/// What [`connections`] is at most.
pub const CONNECTIONS_MAX: usize = MOST as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_turns_begin_more_up_to_a_bound() {
        let of = |micros| connections(Duration::from_micros(micros));
        assert_eq!([0, 999, 1_999, 2_000, 3_500, 1_000_000].map(of), [2, 2, 2, 4, 6, 8]);
    }
}
