//! What a publisher may rely on: a key makes a publish happen once, and a receipt tells what became of it.
//!
//! Random interleavings of publishes, records and settling on one to four shards, on virtual time.

mod delivery {
    pub(crate) mod ack_edges;
    pub(crate) mod ack_losses;
    pub(crate) mod acks;
    pub(crate) mod keys;
    pub(crate) mod receipts;
}
mod harness;

/// The tests can fail: each of these bugs, planted, is found by the one beside it.
#[cfg(feature = "canaries")]
#[test]
fn planted_bugs_are_found() {
    use corecast_hub::canary::{Canary, plant};
    use delivery::{acks, keys, receipts};
    let tests: [(Canary, fn()); 3] = [
        (Canary::RepetitionDelivered, keys::a_key_makes_a_publish_happen_once),
        (Canary::LossUncounted, receipts::a_receipt_tells_what_became_of_every_copy),
        (Canary::ResentWhileQueued, acks::nothing_is_sent_again_while_an_earlier_copy_waits),
    ];
    for (canary, test) in tests {
        test();
        plant(Some(canary));
        let result = std::panic::catch_unwind(test);
        plant(None);
        assert!(result.is_err(), "{} was not noticed", canary.name());
    }
}
