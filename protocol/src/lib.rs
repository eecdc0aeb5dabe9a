//! Bytes to messages and back: RFC 6455 and the Corecast envelope.
//!
//! Sans-IO: bytes and the time come in; events, output and a deadline come out. This crate knows no sockets, no
//! clock and no channels' meaning.

#![forbid(unsafe_code)]

pub mod envelope;
pub mod error;
pub mod ws;

pub use error::{CloseCode, ErrorCode};
