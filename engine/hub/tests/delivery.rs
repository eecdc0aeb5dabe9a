//! What a publisher may rely on: a key makes a publish happen once, and a receipt tells what became of it.
//!
//! Random interleavings of publishes, records and settling on one to four shards, on virtual time.

mod delivery {
    pub(crate) mod acks;
    pub(crate) mod keys;
    pub(crate) mod receipts;
}
mod harness;
