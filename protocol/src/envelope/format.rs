//! The two encodings of the envelope.

/// An encoding: of a message, or of a value within one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// JSON in text frames.
    Json,
    /// MessagePack in binary frames.
    MessagePack,
}
