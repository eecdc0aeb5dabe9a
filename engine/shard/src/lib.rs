//! One shard: the tick, its connections and what waits for them, timers, and the rings to other shards.
//!
//! It joins the driver (bytes and sockets), the protocol (frames and envelopes) and the hub (meaning), and knows
//! no kernel interface: the same code runs on io_uring, on epoll and in simulation.

#![forbid(unsafe_code)]

mod clock;
mod compression;
mod config;
mod conn;
mod core;
mod counters;
mod drain;
mod input;
mod lifecycle;
mod outbox;
mod output;
pub mod rings;
mod run;
mod slab;
mod timer;

pub use corecast_hub::canary;

pub use config::{CompressionConfig, CompressionMode, Node, Order, ShardConfig, ShardLimits};
pub use counters::{Counter, Counters};
pub use outbox::OutboxLimits;
pub use run::ShardLoop;
