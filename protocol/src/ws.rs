//! RFC 6455: handshake, frames, messages.
