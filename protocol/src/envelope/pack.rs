//! MessagePack's bytes, as they are written: every value in its shortest form.
//!
//! The format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use crate::envelope::time;

/// A map of none of the 15 members that fit into its first byte.
pub(crate) const FIXMAP: u8 = 0x80;
/// A map of 15 members, whose count still fits into its first byte.
pub(crate) const FIXMAP_LAST: u8 = 0x8f;
pub(crate) const FALSE: u8 = 0xc2;

/// A non-negative integer.
#[inline]
pub(crate) fn unsigned(value: u64, out: &mut Vec<u8>) {
    match value {
        0..=0x7f => out.push(value as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..=0xffff => headed(0xcd, (value as u16).to_be_bytes(), out),
        0x1_0000..=0xffff_ffff => headed(0xce, (value as u32).to_be_bytes(), out),
        _ => headed(0xcf, value.to_be_bytes(), out),
    }
}

/// A string: its header and its bytes, which are UTF-8.
#[inline]
pub(crate) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    text_header(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// What precedes a string of so many bytes.
#[inline]
pub(crate) fn text_header(length: usize, out: &mut Vec<u8>) {
    match length {
        0..=31 => out.push(0xa0 | length as u8),
        32..=0xff => out.extend_from_slice(&[0xd9, length as u8]),
        0x100..=0xffff => headed(0xda, (length as u16).to_be_bytes(), out),
        _ => headed(0xdb, (length as u32).to_be_bytes(), out),
    }
}

/// A time as ISO 8601.
pub(crate) fn iso_time(unix_ms: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(0);
    time::write_iso(unix_ms, out);
    // 24 characters, or 27 from the year 10000 on: 31 would fit.
    out[start] = 0xa0 | (out.len() - start - 1) as u8;
}

#[inline]
pub(crate) fn headed<const N: usize>(first: u8, rest: [u8; N], out: &mut Vec<u8>) {
    out.push(first);
    out.extend_from_slice(&rest);
}
