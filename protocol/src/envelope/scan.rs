//! One pass over JSON (RFC 8259): everything is validated, nothing is built.
//!
//! Without recursion: what is open lies in the bits of one number, so depth costs a peer nothing but its bytes.
//! The input is known to be valid UTF-8.

use crate::envelope::special::skip_plain;
use crate::envelope::value::{Fault, Kind, Problem, Value};

/// Nested arrays and objects at most, whatever is configured: the bits of [`Cursor`]'s stack.
pub const DEPTH_MAX: usize = 128;

/// A string's contents as they came, and whether there are escapes in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Contents<'a> {
    /// Where in the text its opening quote is.
    pub(crate) start: usize,
    pub(crate) bytes: &'a [u8],
    pub(crate) has_escapes: bool,
}

impl Contents<'_> {
    /// The same as a text, of the text that was scanned.
    pub(crate) fn of<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start + 1..][..self.bytes.len()]
    }
}

/// A position in a text. What is taken out of line takes the cursor by value and returns it moved on: so it stays in
/// registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { rest: text.as_bytes(), length: text.len() }
    }

    /// How many bytes were taken.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    #[cold]
    pub(crate) fn fault<T>(self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault { at: self.at(), what: Problem::Expected(expected) })
    }

    /// The next byte that is no space, which is not taken; 0 at the end, where it is as wrong as a NUL.
    #[inline]
    pub(crate) fn token(&mut self) -> u8 {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r', behind @ ..] => self.rest = behind,
                [byte, ..] => return *byte,
                [] => return 0,
            }
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        match self.rest {
            [next, behind @ ..] if *next == byte => {
                self.rest = behind;
                true
            }
            _ => false,
        }
    }

    /// Takes `byte` if it is next but for space, of which there mostly is none.
    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        if matches!(self.rest, [..=b' ', ..]) {
            *self = self.behind_space();
        }
        self.eat(byte)
    }

    #[inline(never)]
    fn behind_space(mut self) -> Self {
        self.token();
        self
    }

    /// Skips a string, from its opening quote to behind its closing one; whether it holds escapes.
    #[inline(always)]
    fn skip_string(&mut self) -> Result<bool, Fault> {
        if !self.take(b'"') {
            return self.fault("a string");
        }
        self.rest = skip_plain(self.rest);
        if self.eat(b'"') {
            return Ok(false);
        }
        *self = self.string_with_escapes()?;
        self.eat(b'"');
        Ok(true)
    }

    /// A string with what is in it.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Contents<'a>, Fault> {
        if !self.take(b'"') {
            return self.fault("a string");
        }
        let (start, contents) = (self.at() - 1, self.rest);
        self.rest = skip_plain(contents);
        let has_escapes = !matches!(self.rest, [b'"', ..]);
        if has_escapes {
            *self = self.string_with_escapes()?;
        }
        let length = contents.len() - self.rest.len();
        self.eat(b'"');
        Ok(Contents { start, bytes: &contents[..length], has_escapes })
    }

    /// The rest of a string from its first escape on, unless it is something worse, up to its closing quote.
    fn string_with_escapes(mut self) -> Result<Self, Fault> {
        loop {
            match self.rest {
                [b'"', ..] => return Ok(self),
                [b'\\', ..] => self = self.escape()?,
                [_, ..] => return self.fault("no raw control character in a string (escape it)"),
                [] => return self.fault("the end of a string"),
            }
            self.rest = skip_plain(self.rest);
        }
    }

    fn escape(mut self) -> Result<Self, Fault> {
        match self.rest {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', behind @ ..] => self.rest = behind,
            [_, b'u', digits @ ..] => match digits.split_first_chunk::<4>() {
                Some((digits, behind)) if digits.iter().all(u8::is_ascii_hexdigit) => self.rest = behind,
                _ => return self.fault("four hexadecimal digits behind \\u"),
            },
            _ => return self.fault("an escape that JSON knows"),
        }
        Ok(self)
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let length = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return self.fault("a digit");
        }
        self.rest = &self.rest[length..];
        Ok(())
    }

    fn number(mut self) -> Result<Self, Fault> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _has_sign = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(self)
    }

    fn word(self, word: &'static str) -> Result<Self, Fault> {
        match self.rest.strip_prefix(word.as_bytes()) {
            Some(behind) => Ok(Self { rest: behind, ..self }),
            None => self.fault("a value"),
        }
    }

    /// A number or a word.
    pub(crate) fn literal(self) -> Result<(Self, Kind), Fault> {
        match self.rest {
            [b'-' | b'0'..=b'9', ..] => Ok((self.number()?, Kind::Number)),
            [b't', ..] => Ok((self.word("true")?, Kind::True)),
            [b'f', ..] => Ok((self.word("false")?, Kind::False)),
            [b'n', ..] => Ok((self.word("null")?, Kind::Null)),
            _ => self.fault("a value"),
        }
    }

    /// A whole value, with `depth` more levels allowed.
    #[inline(always)]
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        let first = self.token();
        let start = self.at();
        let kind = match first {
            b'"' if self.string()?.has_escapes => Kind::EscapedText,
            b'"' => Kind::Text,
            b'{' | b'[' => {
                *self = self.nested(depth)?;
                if first == b'{' { Kind::Object } else { Kind::Array }
            }
            _ => {
                let kind;
                (*self, kind) = self.literal()?;
                kind
            }
        };
        Ok(Value { start, end: self.at(), kind })
    }

    /// An array or object with all that is in it. `open` counts the levels, `objects` says in its lowest bits which
    /// of them are objects.
    fn nested(self, depth: usize) -> Result<Self, Fault> {
        let depth = depth.min(DEPTH_MAX);
        // A copy of its own: the argument would be kept in memory.
        let mut cursor = self;
        let (mut open, mut objects) = (0usize, 0u128);
        loop {
            match cursor.token() {
                b'"' => {
                    cursor.skip_string()?;
                }
                first @ (b'{' | b'[') => {
                    if open == depth {
                        return Err(Fault { at: cursor.at(), what: Problem::TooDeep });
                    }
                    cursor.eat(first);
                    open += 1;
                    let is_object = first == b'{';
                    objects = objects << 1 | u128::from(is_object);
                    if cursor.token() != end_of(is_object) {
                        if is_object {
                            cursor.skip_key()?;
                        }
                        continue;
                    }
                }
                _ => (cursor, _) = cursor.literal()?,
            }
            if cursor.behind_value(&mut open, &mut objects)? {
                return Ok(cursor);
            }
        }
    }

    /// Takes what may follow a value within `open` levels, up to the next value; whether the outermost level ended.
    #[inline(always)]
    fn behind_value(&mut self, open: &mut usize, objects: &mut u128) -> Result<bool, Fault> {
        loop {
            let is_object = *objects & 1 == 1;
            if self.take(b',') {
                if is_object {
                    self.skip_key()?;
                }
                return Ok(false);
            }
            if !self.eat(end_of(is_object)) {
                return self.fault(if is_object {
                    "a comma or the end of an object"
                } else {
                    "a comma or the end of an array"
                });
            }
            *open -= 1;
            *objects >>= 1;
            if *open == 0 {
                return Ok(true);
            }
        }
    }

    /// A key and its colon.
    #[inline(always)]
    pub(crate) fn key(&mut self) -> Result<Contents<'a>, Fault> {
        let key = self.string()?;
        self.colon().map(|()| key)
    }

    #[inline(always)]
    fn skip_key(&mut self) -> Result<(), Fault> {
        self.skip_string()?;
        self.colon()
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Fault> {
        if self.take(b':') { Ok(()) } else { self.fault("a colon behind a key") }
    }

    /// Nothing but space may follow.
    #[inline]
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.token();
        if self.rest.is_empty() { Ok(()) } else { self.fault("nothing behind the message") }
    }
}

fn end_of(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_json(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.value(DEPTH_MAX).and_then(|_| cursor.finish()).is_ok()
    }

    /// The slow twin. Huge exponents are JSON although serde_json can't represent them.
    fn twin(text: &str) -> bool {
        match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            Ok(_) => true,
            Err(error) => error.to_string().contains("out of range"),
        }
    }

    #[test]
    fn depth_is_counted_exactly() {
        for depth in [1, 2, 64, 128] {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert!(Cursor::new(&text).value(depth).is_ok());
            let fault = Cursor::new(&text).value(depth - 1).expect_err("one level is too many");
            assert_eq!(fault.what, Problem::TooDeep);
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,20}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_accepted(value in json(), is_pretty in any::<bool>()) {
            let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert!(is_json(&text.expect("a value can be written")));
        }

        #[test]
        fn what_was_damaged_gets_the_verdict_of_the_twin(
            value in json(), at in any::<prop::sample::Index>(), noise in "[\\]\\[{}\",:\\\\0-9eE.+ a-z\\x00-\\x1f-]{0,2}", cut in 0usize..3,
        ) {
            let mut text: Vec<char> = value.to_string().chars().collect();
            let start = at.index(text.len());
            let end = (start + cut).min(text.len());
            text.splice(start..end, noise.chars());
            let text: String = text.into_iter().collect();
            prop_assert_eq!(is_json(&text), twin(&text), "{:?}", text);
        }
    }
}
