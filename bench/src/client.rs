//! The load generator's side of the connections: opening them, publishing on schedule, reading what comes.
//!
//! It knows nothing of servers and scenarios, only a port and what to do there.

mod effort;
mod inbox;
mod open;
mod worker;

pub(crate) use inbox::{Tally, histogram};
pub(crate) use open::{await_pong, is_open, open};
pub(crate) use worker::{Job, Outcome, Worker};
