//! What clients can do, they do: a behaviour that never happens tests nothing.

use corecast_sim::client::deeds::DeedCounts;
use corecast_sim::run::run;
use corecast_sim::setup::Setup;

#[test]
fn no_behaviour_is_missing_from_a_hundred_seeds() {
    let mut counts = DeedCounts::default();
    for seed in 1_000..1_100 {
        let outcome = run(&Setup::of(seed, 2_500), 0);
        assert_eq!(outcome.failure, None, "seed {seed}");
        counts.add(&outcome.deeds);
        if counts.missing().is_empty() {
            return;
        }
    }
    assert_eq!(counts.missing(), Vec::<&str>::new());
}
