//! The envelope in JSON: where its members lie, and what is in them.

use std::borrow::Cow;

use crate::envelope::command::{Name, RequestId};
use crate::envelope::fields::{Seen, Source};
use crate::envelope::key::Key;
use crate::envelope::parse::{ID_BYTES_MAX, INTEGER_MAX};
use crate::envelope::scan::{Cursor, DEPTH_MAX};
use crate::envelope::value::{Fault, Kind, Problem, Value};
use crate::envelope::{Format, text};

impl<'a> Source<'a> for &'a str {
    const FORMAT: Format = Format::Json;

    #[inline(always)]
    fn scan(self, depth_max: usize, seen: &mut Seen<'_>) -> Result<(), Fault> {
        let mut cursor = Cursor::new(self);
        if cursor.token() != b'{' {
            cursor.value(depth_max)?;
            cursor.finish()?;
            return Err(Fault { at: 0, what: Problem::NoObject });
        }
        cursor.eat(b'{');
        if cursor.token() != b'}' {
            loop {
                let name = cursor.key()?;
                let key = match name.has_escapes {
                    false => Key::find(name.bytes),
                    true => Key::find_escaped(name.of(self)),
                };
                let value = cursor.value(depth_max - 1)?;
                seen.note(key, name.start, value);
                if !cursor.take(b',') {
                    break;
                }
            }
        }
        if !cursor.eat(b'}') {
            return cursor.fault("a comma or the end of an object");
        }
        cursor.finish()
    }

    #[inline(always)]
    fn bytes(self) -> &'a [u8] {
        self.as_bytes()
    }

    #[inline(always)]
    fn part(self, value: Value) -> Self {
        &self[value.start..value.end]
    }

    #[inline(always)]
    fn string(self, value: Value) -> Option<Name<'a>> {
        let has_escapes = match value.kind {
            Kind::Text => false,
            Kind::EscapedText => true,
            _ => return None,
        };
        Some(unescaped(&self[value.start + 1..value.end - 1], has_escapes))
    }

    /// Written without fraction or exponent.
    fn integer(self, value: Value) -> Option<u64> {
        let raw = self.part(value);
        let is_plain = raw.len() <= 16 && raw.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| raw.parse().ok())?.filter(|number| *number <= INTEGER_MAX)
    }

    #[inline(always)]
    fn id(self, value: Value) -> Option<RequestId<'a>> {
        match value.kind {
            Kind::Text | Kind::EscapedText => {
                let contents = &self[value.start + 1..value.end - 1];
                // The string's bytes count, not those of its escapes, six at most for one.
                let fits = |length: usize| (1..=ID_BYTES_MAX).contains(&length);
                let is_right = fits(contents.len())
                    || contents.len() <= 6 * ID_BYTES_MAX && fits(text::unescape(contents).len());
                is_right.then_some(RequestId::Text(contents))
            }
            Kind::Number => self.integer(value).map(RequestId::Number),
            _ => None,
        }
    }

    fn items(self) -> impl Iterator<Item = Value> {
        let mut cursor = Cursor::new(self);
        cursor.eat(b'[');
        std::iter::from_fn(move || {
            cursor.token();
            cursor.eat(b',');
            cursor.value(DEPTH_MAX).ok()
        })
    }

    fn members(self) -> impl Iterator<Item = (Name<'a>, Value)> {
        let mut cursor = Cursor::new(self);
        cursor.token();
        cursor.eat(b'{');
        std::iter::from_fn(move || {
            cursor.token();
            cursor.eat(b',');
            let key = cursor.key().ok()?;
            let name = unescaped(key.of(self), key.has_escapes);
            Some((name, cursor.value(DEPTH_MAX).ok()?))
        })
    }

    fn join(self, members: &[(usize, usize)], out: &mut Vec<u8>) {
        out.push(b'{');
        for (index, (start, end)) in members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.as_bytes()[*start..*end]);
        }
        out.push(b'}');
    }
}

fn unescaped(contents: &str, has_escapes: bool) -> Name<'_> {
    if has_escapes { text::unescape(contents) } else { Cow::Borrowed(contents) }
}
