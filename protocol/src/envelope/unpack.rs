//! One pass over MessagePack: everything is validated, nothing is built.
//!
//! A length is believed only as far as there are bytes behind it, so what claims gigabytes costs nothing. Maps have
//! string keys only, and strings are UTF-8: what is accepted has a form in JSON.

use crate::envelope::scan::DEPTH_MAX;
use crate::envelope::value::{Fault, Kind, Problem, Value};

/// The beginning of a value; of all but arrays and maps, the whole of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Head<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Negative(i64),
    Float(f64),
    /// Not looked at yet: whoever wants it as text checks it.
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Extension(i8, &'a [u8]),
    /// So many values follow.
    Array(usize),
    /// So many keys follow, each with its value.
    Map(usize),
}

/// A position in a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// How many bytes were taken.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    #[cold]
    fn fault<T>(at: usize, expected: &'static str) -> Result<T, Fault> {
        Err(Fault { at, what: Problem::Expected(expected) })
    }

    #[inline(always)]
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, behind) = self.rest.split_at_checked(length)?;
        self.rest = behind;
        Some(taken)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, behind) = self.rest.split_first_chunk()?;
        self.rest = behind;
        Some(*taken)
    }

    /// A number of one, two or four bytes.
    #[inline(always)]
    fn length(&mut self, bytes: u8) -> Option<usize> {
        Some(match bytes {
            0 => usize::from(u8::from_be_bytes(self.array()?)),
            1 => usize::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?) as usize,
        })
    }

    /// So many values, each of at least `bytes`: what can't be there is not waited for.
    #[inline(always)]
    fn count(&self, count: usize, bytes: usize) -> Option<usize> {
        (count <= self.rest.len() / bytes).then_some(count)
    }

    fn extension(&mut self, length: usize) -> Option<Head<'a>> {
        let [kind] = self.array()?;
        Some(Head::Extension(i8::from_be_bytes([kind]), self.take(length)?))
    }

    /// Takes the beginning of a value, without what is in an array or a map.
    #[inline(always)]
    pub(crate) fn head(&mut self) -> Result<Head<'a>, Fault> {
        let at = self.at();
        match self.head_unless_cut(at)? {
            Some(head) => Ok(head),
            None => Self::fault(at, "a value, which is cut off"),
        }
    }

    #[inline(always)]
    fn head_unless_cut(&mut self, at: usize) -> Result<Option<Head<'a>>, Fault> {
        let Some([first]) = self.array() else { return Ok(None) };
        if first == 0xc1 {
            return Self::fault(at, "a value, and 0xc1 begins none");
        }
        Ok(self.head_of(first))
    }

    /// `None` if its bytes are not all there.
    #[inline(always)]
    fn head_of(&mut self, first: u8) -> Option<Head<'a>> {
        Some(match first {
            0x00..=0x7f => Head::Unsigned(u64::from(first)),
            0x80..=0x8f => Head::Map(self.count(usize::from(first & 0x0f), 2)?),
            0x90..=0x9f => Head::Array(self.count(usize::from(first & 0x0f), 1)?),
            0xa0..=0xbf => Head::Text(self.take(usize::from(first & 0x1f))?),
            0xc0 | 0xc1 => Head::Nil,
            0xc2 | 0xc3 => Head::Bool(first == 0xc3),
            0xc4..=0xc6 => {
                let length = self.length(first - 0xc4)?;
                Head::Binary(self.take(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.length(first - 0xc7)?;
                self.extension(length)?
            }
            0xca => Head::Float(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => Head::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Head::Unsigned(u64::from(u8::from_be_bytes(self.array()?))),
            0xcd => Head::Unsigned(u64::from(u16::from_be_bytes(self.array()?))),
            0xce => Head::Unsigned(u64::from(u32::from_be_bytes(self.array()?))),
            0xcf => Head::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => signed(i64::from(i8::from_be_bytes(self.array()?))),
            0xd1 => signed(i64::from(i16::from_be_bytes(self.array()?))),
            0xd2 => signed(i64::from(i32::from_be_bytes(self.array()?))),
            0xd3 => signed(i64::from_be_bytes(self.array()?)),
            0xd4..=0xd8 => self.extension(1 << (first - 0xd4))?,
            0xd9..=0xdb => {
                let length = self.length(first - 0xd9)?;
                Head::Text(self.take(length)?)
            }
            0xdc | 0xdd => {
                let count = self.length(first - 0xdc + 1)?;
                Head::Array(self.count(count, 1)?)
            }
            0xde | 0xdf => {
                let count = self.length(first - 0xde + 1)?;
                Head::Map(self.count(count, 2)?)
            }
            0xe0..=0xff => Head::Negative(i64::from(first as i8)),
        })
    }

    /// Takes a map's key.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<&'a [u8], Fault> {
        let at = self.at();
        match self.head()? {
            Head::Text(bytes) => self.checked(bytes),
            _ => Err(Fault { at, what: Problem::Key }),
        }
    }

    /// A string that was just taken.
    #[inline(always)]
    fn checked(&self, bytes: &'a [u8]) -> Result<&'a [u8], Fault> {
        if simdutf8::basic::from_utf8(bytes).is_ok() {
            return Ok(bytes);
        }
        Self::fault(self.at() - bytes.len(), "UTF-8 in a string")
    }

    /// A whole value, with `depth` more levels allowed.
    #[inline(always)]
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        let (start, before) = (self.at(), *self);
        let kind = match self.head()? {
            Head::Nil => Kind::Null,
            Head::Bool(true) => Kind::True,
            Head::Bool(false) => Kind::False,
            Head::Unsigned(_) | Head::Negative(_) | Head::Float(_) => Kind::Number,
            Head::Text(bytes) => {
                self.checked(bytes)?;
                Kind::Text
            }
            Head::Binary(_) | Head::Extension(..) => Kind::Other,
            Head::Array(_) => {
                *self = before.nested(depth)?;
                Kind::Array
            }
            Head::Map(_) => {
                *self = before.nested(depth)?;
                Kind::Object
            }
        };
        Ok(Value { start, end: self.at(), kind })
    }

    /// An array or map with all that is in it. `left` says of each open level how many items or members are to come,
    /// the one in hand counted.
    #[inline(never)]
    fn nested(self, depth: usize) -> Result<Self, Fault> {
        let mut cursor = self;
        let mut left = [0usize; DEPTH_MAX];
        let (mut open, mut maps) = (0usize, 0u128);
        let depth = depth.min(DEPTH_MAX);
        loop {
            let at = cursor.at();
            let (count, is_map) = match cursor.head()? {
                Head::Array(count) => (Some(count), false),
                Head::Map(count) => (Some(count), true),
                Head::Text(bytes) => {
                    cursor.checked(bytes)?;
                    (None, false)
                }
                _ => (None, false),
            };
            if let Some(count) = count {
                if open == depth {
                    return Err(Fault { at, what: Problem::TooDeep });
                }
                if count > 0 {
                    left[open] = count;
                    open += 1;
                    maps = maps << 1 | u128::from(is_map);
                    if is_map {
                        cursor.key()?;
                    }
                    continue;
                }
            }
            loop {
                let Some(level) = open.checked_sub(1) else { return Ok(cursor) };
                left[level] -= 1;
                if left[level] > 0 {
                    if maps & 1 == 1 {
                        cursor.key()?;
                    }
                    break;
                }
                open = level;
                maps >>= 1;
            }
        }
    }

    /// Nothing may follow.
    #[inline]
    pub(crate) fn finish(&self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Self::fault(self.at(), "nothing behind the message") }
    }
}

fn signed<'a>(value: i64) -> Head<'a> {
    u64::try_from(value).map_or(Head::Negative(value), Head::Unsigned)
}
