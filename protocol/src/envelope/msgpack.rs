//! The envelope in MessagePack: where its members lie, and what is in them.

use std::borrow::Cow;

use crate::envelope::command::{Name, RequestId};
use crate::envelope::fields::{Seen, Source};
use crate::envelope::key::Key;
use crate::envelope::parse::{ID_BYTES_MAX, INTEGER_MAX};
use crate::envelope::scan::DEPTH_MAX;
use crate::envelope::unpack::{Cursor, Head};
use crate::envelope::value::{Fault, Problem, Value};
use crate::envelope::{Format, pack};

impl<'a> Source<'a> for &'a [u8] {
    const FORMAT: Format = Format::MessagePack;

    #[inline(always)]
    fn scan(self, depth_max: usize, seen: &mut Seen<'_>) -> Result<(), Fault> {
        let mut cursor = Cursor::new(self);
        let Head::Map(count) = cursor.head()? else {
            let mut cursor = Cursor::new(self);
            cursor.value(depth_max)?;
            cursor.finish()?;
            return Err(Fault { at: 0, what: Problem::NoObject });
        };
        for _ in 0..count {
            let start = cursor.at();
            let key = Key::find(cursor.key()?);
            let value = cursor.value(depth_max - 1)?;
            seen.note(key, start, value);
        }
        cursor.finish()
    }

    #[inline(always)]
    fn bytes(self) -> &'a [u8] {
        self
    }

    #[inline(always)]
    fn part(self, value: Value) -> Self {
        &self[value.start..value.end]
    }

    #[inline(always)]
    fn string(self, value: Value) -> Option<Name<'a>> {
        match Cursor::new(self.part(value)).head() {
            Ok(Head::Text(bytes)) => text(bytes).map(Cow::Borrowed),
            _ => None,
        }
    }

    /// Of any width, but no float.
    #[inline(always)]
    fn integer(self, value: Value) -> Option<u64> {
        match Cursor::new(self.part(value)).head() {
            Ok(Head::Unsigned(number)) if number <= INTEGER_MAX => Some(number),
            _ => None,
        }
    }

    #[inline(always)]
    fn id(self, value: Value) -> Option<RequestId<'a>> {
        match Cursor::new(self.part(value)).head() {
            Ok(Head::Text(bytes)) if (1..=ID_BYTES_MAX).contains(&bytes.len()) => {
                text(bytes).map(RequestId::Plain)
            }
            Ok(Head::Unsigned(number)) if number <= INTEGER_MAX => Some(RequestId::Number(number)),
            _ => None,
        }
    }

    fn items(self) -> impl Iterator<Item = Value> {
        let mut cursor = Cursor::new(self);
        let count = match cursor.head() {
            Ok(Head::Array(count)) => count,
            _ => 0,
        };
        (0..count).map_while(move |_| cursor.value(DEPTH_MAX).ok())
    }

    fn members(self) -> impl Iterator<Item = (Name<'a>, Value)> {
        let mut cursor = Cursor::new(self);
        let count = match cursor.head() {
            Ok(Head::Map(count)) => count,
            _ => 0,
        };
        (0..count).map_while(move |_| {
            let name = text(cursor.key().ok()?)?;
            Some((Cow::Borrowed(name), cursor.value(DEPTH_MAX).ok()?))
        })
    }

    fn join(self, members: &[(usize, usize)], out: &mut Vec<u8>) {
        pack::map_header(members.len(), out);
        for (start, end) in members {
            out.extend_from_slice(&self[*start..*end]);
        }
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}
