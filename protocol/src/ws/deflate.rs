//! permessage-deflate (RFC 7692): what is agreed in the handshake, and messages packed and unpacked.
//!
//! Knows one message at a time, not its frames. Who compresses what, and when it pays, is decided elsewhere.

mod compressor;
mod extension;
mod inflater;

pub use compressor::Compressor;
pub use extension::{ClientWindow, Contexts, Negotiated, Offer, negotiate};
pub(crate) use inflater::{Inflater, Unusable};

/// The extension's name (RFC 7692 section 7).
const NAME: &str = "permessage-deflate";

/// The window where none is agreed: 32 KiB (RFC 7692 section 7.1.2).
const WINDOW_BITS_MAX: u8 = 15;

/// What a sender leaves out at the end and a receiver puts back: the empty block of a flush (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The smallest window that zlib works with. It never reaches further back than the window less 262 bytes, which is
/// 250 here: so it stays within a window of 8 bits, of 256 bytes, too. For reading, larger is always right.
const WINDOW_BITS_OF_ZLIB_MIN: u8 = 9;
