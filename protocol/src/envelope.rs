//! The envelope: commands from clients, events to clients, in JSON (MessagePack has its place beside it).

pub mod command;
pub mod event;
mod json;
mod key;
pub mod name;
mod scan;
mod special;
mod text;
mod time;

pub use json::{BATCH_MESSAGES_MAX, Rejection, Scanner, batch_messages, parse};
pub use scan::DEPTH_MAX;
