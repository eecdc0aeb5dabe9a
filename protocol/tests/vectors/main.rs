//! Runs every case of `protocol/vectors`. What the files mean is said in their README.

mod channels;
mod close_codes;
mod commands;
mod deflate;
mod events;
mod frames;
mod handshake;
mod msgpack;
mod queries;
mod runner;
mod transcode;
mod utf8;
