//! MessagePack's bytes, as they are written: every value in its shortest form.
//!
//! The format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use crate::envelope::sink::Sink;
use crate::envelope::time;

/// A map of none of the 15 members that fit into its first byte.
pub(crate) const FIXMAP: u8 = 0x80;
/// A list of none of the 15 items that fit into its first byte.
pub(crate) const FIXARRAY: u8 = 0x90;
/// A map of 15 members, whose count still fits into its first byte.
pub(crate) const FIXMAP_LAST: u8 = 0x8f;
pub(crate) const FALSE: u8 = 0xc2;

/// An integer below zero.
pub(crate) fn negative(value: i64, out: &mut impl Sink) {
    match value {
        -0x20..=-1 => out.put(&[value as u8]),
        -0x80..-0x20 => out.put(&[0xd0, value as u8]),
        -0x8000..-0x80 => headed(0xd1, (value as i16).to_be_bytes(), out),
        -0x8000_0000..-0x8000 => headed(0xd2, (value as i32).to_be_bytes(), out),
        _ => headed(0xd3, value.to_be_bytes(), out),
    }
}

/// What precedes so many bytes.
pub(crate) fn binary_header(length: usize, out: &mut impl Sink) {
    match length {
        0..=0xff => out.put(&[0xc4, length as u8]),
        0x100..=0xffff => headed(0xc5, (length as u16).to_be_bytes(), out),
        _ => headed(0xc6, (length as u32).to_be_bytes(), out),
    }
}

/// What precedes so many bytes of an application's type.
pub(crate) fn extension_header(kind: i8, length: usize, out: &mut impl Sink) {
    match length {
        1 | 2 | 4 | 8 | 16 => out.put(&[0xd4 + length.trailing_zeros() as u8]),
        0..=0xff => out.put(&[0xc7, length as u8]),
        0x100..=0xffff => headed(0xc8, (length as u16).to_be_bytes(), out),
        _ => headed(0xc9, (length as u32).to_be_bytes(), out),
    }
    out.put(&[kind as u8]);
}

/// A non-negative integer.
#[inline]
pub(crate) fn unsigned(value: u64, out: &mut impl Sink) {
    match value {
        0..=0x7f => out.put(&[value as u8]),
        0x80..=0xff => out.put(&[0xcc, value as u8]),
        0x100..=0xffff => headed(0xcd, (value as u16).to_be_bytes(), out),
        0x1_0000..=0xffff_ffff => headed(0xce, (value as u32).to_be_bytes(), out),
        _ => headed(0xcf, value.to_be_bytes(), out),
    }
}

/// A string: its header and its bytes, which are UTF-8.
#[inline]
pub(crate) fn text(bytes: &[u8], out: &mut impl Sink) {
    text_header(bytes.len(), out);
    out.put(bytes);
}

/// What precedes a string of so many bytes.
#[inline]
pub(crate) fn text_header(length: usize, out: &mut impl Sink) {
    match length {
        0..=31 => out.put(&[0xa0 | length as u8]),
        32..=0xff => out.put(&[0xd9, length as u8]),
        0x100..=0xffff => headed(0xda, (length as u16).to_be_bytes(), out),
        _ => headed(0xdb, (length as u32).to_be_bytes(), out),
    }
}

/// What precedes so many items.
pub(crate) fn array_header(count: usize, out: &mut impl Sink) {
    match count {
        0..=15 => out.put(&[FIXARRAY | count as u8]),
        16..=0xffff => headed(0xdc, (count as u16).to_be_bytes(), out),
        _ => headed(0xdd, (count as u32).to_be_bytes(), out),
    }
}

/// What precedes so many members.
pub(crate) fn map_header(count: usize, out: &mut impl Sink) {
    match count {
        0..=15 => out.put(&[FIXMAP | count as u8]),
        16..=0xffff => headed(0xde, (count as u16).to_be_bytes(), out),
        _ => headed(0xdf, (count as u32).to_be_bytes(), out),
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
pub(crate) fn headed<const N: usize>(first: u8, rest: [u8; N], out: &mut impl Sink) {
    out.put(&[first]);
    out.put(&rest);
}
