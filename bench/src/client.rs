//! The load generator's side of the connections: opening them, publishing on schedule, reading what comes.
//!
//! It knows nothing of servers and scenarios, only a port and what to do there.

mod crowd;
mod dialect;
mod effort;
mod frames;
mod inbox;
mod link;
mod message;
mod open;
mod unpack;
mod wire;
mod worker;

pub(crate) use crowd::{Crowd, Gathering, Heard, Layout, Return, Told, participant};
pub(crate) use dialect::{Dialect, Encoding, Payload};
pub(crate) use inbox::{Tally, histogram};
pub(crate) use open::{Opened, await_pong, is_open, open};
pub(crate) use worker::{Job, Outcome, Worker};
