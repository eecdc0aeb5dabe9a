//! What messages mean: channels, subscriptions, participants.
//!
//! Pure and deterministic, one instance per shard: commands and the time come in, [`Effects`] come out. It knows
//! no sockets, no threads and no clock.

#![forbid(unsafe_code)]

mod ack;
mod admission;
mod alarm;
pub mod canary;
mod channel;
mod config;
mod deliver;
pub mod effect;
mod filter;
mod format;
mod history;
mod home;
mod hub;
mod idempotency;
mod inbox;
mod later;
mod looking_back;
mod member;
mod order;
mod participant;
mod presence;
mod publish;
mod query;
mod reading;
mod receipt;
mod refused;
mod registry;
pub mod remote;
mod replay;
mod reply;
pub mod rules;
mod session;
mod size;
pub mod state;
mod subscribe;
mod unsubscribe;

pub use config::{HubConfig, HubLimits, Now, ReplayLimits, Secret};
pub use effect::{
    Class, ConnKey, Delivery, Effect, Effects, Fate, Idle, MESSAGE_BYTES_MAX, Place, Refusal, ShardSet,
    SlowPolicy, Span, Tracking, Variant, VariantId,
};
pub use format::{Format, Formats, PerFormat};
pub use hub::Hub;
pub use member::{Access, Open};
pub use session::{End, SessionCounts, Token, Tokens};
