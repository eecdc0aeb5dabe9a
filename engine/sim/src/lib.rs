//! The real protocol, hub and shard crates on a simulated driver, clock and network: single-threaded, deterministic
//! from one seed, with faults, and with checkers that run all the time.
//!
//! It knows the driver's contract and the wire contract; it has no copy of anything that it checks.

#![forbid(unsafe_code)]

pub mod books;
pub mod campaign;
pub mod chaos;
pub mod client;
mod host;
pub mod io;
pub mod names;
pub mod net;
pub mod oracle;
pub mod run;
pub mod setup;
pub mod shrink;
pub mod trace;
pub mod world;

/// A map whose order is the same in every run.
pub(crate) type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::FixedState>;
