//! What the scanners of both encodings find: the places of values, and what is wrong where.

/// Where and why the message is not of its encoding, or nested too deep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: Problem,
}

/// What was found or missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    /// What would have been right here.
    Expected(&'static str),
    /// Well-formed, but no object.
    NoObject,
    /// A map's key that is no string: only MessagePack can say that.
    Key,
    /// Nested deeper than allowed.
    TooDeep,
}

/// The type of a value; as wide as a position, so that a value has no gaps that are carried along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    /// A JSON string that holds escapes.
    EscapedText,
    Number,
    True,
    False,
    Null,
    /// What only MessagePack has: binary and extensions.
    Other,
}

/// A validated value's place in the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) kind: Kind,
}
