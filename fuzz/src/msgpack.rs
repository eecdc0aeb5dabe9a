//! A message in MessagePack: the verdict of the slow twin; what is passed on is valid by itself, and the message in
//! JSON is the same command.

/// Everything that must hold for a binary message of these bytes.
pub fn check(bytes: &[u8]) {
    crate::msgpack_twin::check(bytes);
}
