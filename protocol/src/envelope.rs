//! The envelope: commands from clients, events to clients, in JSON (MessagePack has its place beside it).

pub mod command;
