//! RFC 6455 without sockets and clocks: handshake, frames, messages, heartbeats.
//!
//! Bytes come in and are read in place; events and encoded bytes come out.

mod assembly;
mod connection;
pub mod deflate;
pub mod frame;
pub mod handshake;
mod heartbeat;
mod mask;
mod utf8;

pub use assembly::AssemblyPool;
pub use connection::{Connection, Event, Limits, Reader, Role, Violation};
pub use heartbeat::{Heartbeat, Verdict};
pub use mask::unmask;
