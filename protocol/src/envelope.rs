//! The envelope: commands from clients, events to clients, in JSON and in MessagePack.

pub mod command;
pub mod event;
mod fields;
mod format;
mod json;
mod key;
mod msgpack;
pub mod name;
mod number;
mod pack;
mod parse;
pub mod query;
mod scan;
mod sink;
mod special;
mod text;
mod time;
mod transcode;
mod unpack;
mod value;

pub use format::Format;
pub use parse::{
    BATCH_MESSAGES_MAX, NAMES_MAX, Rejection, Scanner, batch_messages, batch_messages_msgpack, parse,
    parse_msgpack,
};
pub use scan::DEPTH_MAX;
pub use transcode::{transcode, transcoded_len, transcoded_len_max};
