//! What must hold for whatever a peer or an operator sends: one module per fuzz target, each with a `check`.
//!
//! Where the product has a test that knows the same, its code is included, not copied.

pub mod assembly;
pub mod config;
pub mod envelope;
pub mod frames;
pub mod handshake;
pub mod hub;
pub mod inflate;
pub mod msgpack;
pub mod transcode;

#[path = "../../engine/hub/tests/harness/mod.rs"]
mod harness;
#[path = "../../protocol/tests/msgpack/mod.rs"]
mod msgpack_twin;
#[path = "../../protocol/tests/puff/mod.rs"]
mod puff;
#[path = "../../protocol/tests/twin/mod.rs"]
#[allow(dead_code, reason = "the tests of the protocol use more of it")]
mod twin;
