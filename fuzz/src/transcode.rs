//! A value in the other encoding is valid, as long as foretold, and the same from the first time there and back on.

use corecast_protocol::envelope::Format;

use crate::msgpack_twin::{DEPTH, Verdict, check_round_trip, twin};

/// Everything that must hold for these bytes, as a value in either encoding where they are one.
pub fn check(bytes: &[u8]) {
    if twin(bytes) == Verdict::Good {
        check_round_trip(Format::MessagePack, bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && crate::twin::twin(text) == crate::twin::Verdict::Json
        && crate::twin::depth(text) <= DEPTH
    {
        check_round_trip(Format::Json, bytes);
    }
}
