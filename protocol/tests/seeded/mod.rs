//! Random tests with a seed that a failure shows: `PROPTEST_RNG_SEED=… cargo test …` runs the same again.

use std::hash::{BuildHasher, Hasher, RandomState};

use proptest::test_runner::{Config, RngSeed};

/// The configuration of one test of `cases` cases; prints its seed, which is seen when the test fails.
pub(crate) fn seeded(cases: u32) -> Config {
    let config = Config::default();
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().build_hasher().finish(),
    };
    println!("PROPTEST_RNG_SEED={seed}");
    Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..config }
}
