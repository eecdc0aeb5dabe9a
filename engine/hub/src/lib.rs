//! What messages mean: channels, subscriptions, participants.
//!
//! Pure and deterministic, one instance per shard: commands and the time come in, [`Effects`] come out. It knows
//! no sockets, no threads and no clock.

pub mod effect;
pub mod remote;

pub use effect::{Class, ConnKey, Delivery, Effect, Effects, ShardSet, SlowPolicy, Span};
