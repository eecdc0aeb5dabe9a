//! The envelope: commands from clients, events to clients, in JSON and in MessagePack.

pub mod command;
pub mod event;
mod format;
mod json;
mod key;
pub mod name;
mod pack;
mod scan;
mod special;
mod text;
mod time;

pub use format::Format;
pub use json::{BATCH_MESSAGES_MAX, Rejection, Scanner, batch_messages, parse};
pub use scan::DEPTH_MAX;
