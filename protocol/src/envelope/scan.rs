//! One pass over JSON (RFC 8259): everything is validated, nothing is built.
//!
//! Without recursion: what is open lies in the bits of one number, so depth costs a peer nothing but its bytes.
//! The input is known to be valid UTF-8.

use crate::envelope::special;

/// Nested arrays and objects at most, whatever is configured: the bits of [`Cursor`]'s stack.
pub const DEPTH_MAX: usize = 128;

/// Where and why the text is not JSON, or nested too deep.
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
    /// JSON, but no object.
    NoObject,
    /// Nested deeper than allowed.
    TooDeep,
}

/// The type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Object,
    Array,
    Text,
    Number,
    True,
    False,
    Null,
}

/// A validated value's place in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    /// Whether it is a string that holds escapes.
    pub(crate) has_escapes: bool,
}

/// A position in a text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    pub(crate) fn fault<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault { at: self.at, what: Problem::Expected(expected) })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The next byte that is no space, which is not taken; 0 at the end, where it is as wrong as a NUL.
    #[inline]
    pub(crate) fn token(&mut self) -> u8 {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return byte,
                None => return 0,
            }
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), Fault> {
        if self.eat(byte) { Ok(()) } else { self.fault(name) }
    }

    /// A string, from its opening quote to behind its closing one; whether it holds escapes.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<bool, Fault> {
        self.expect(b'"', "a string")?;
        self.at = special::find(self.bytes, self.at);
        if self.eat(b'"') { Ok(false) } else { self.string_with_escapes() }
    }

    /// The rest of a string from its first escape on, unless it is something worse.
    fn string_with_escapes(&mut self) -> Result<bool, Fault> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return self.fault("no raw control character in a string (escape it)"),
                None => return self.fault("the end of a string"),
            }
            self.at = special::find(self.bytes, self.at);
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6);
                if !digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit)) {
                    return self.fault("four hexadecimal digits behind \\u");
                }
                self.at += 6;
            }
            _ => return self.fault("an escape that JSON knows"),
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.fault("a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Fault> {
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
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), Fault> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return self.fault("a value");
        }
        self.at += word.len();
        Ok(())
    }

    /// A number or a word.
    fn literal(&mut self) -> Result<Kind, Fault> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            Some(b't') => self.word("true").map(|()| Kind::True),
            Some(b'f') => self.word("false").map(|()| Kind::False),
            Some(b'n') => self.word("null").map(|()| Kind::Null),
            _ => self.fault("a value"),
        }
    }

    /// A whole value, with `depth` more levels allowed.
    #[inline]
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        let first = self.token();
        let start = self.at;
        let mut has_escapes = false;
        let kind = match first {
            b'"' => {
                has_escapes = self.string()?;
                Kind::Text
            }
            b'{' | b'[' => {
                self.nested(depth)?;
                if first == b'{' { Kind::Object } else { Kind::Array }
            }
            _ => self.literal()?,
        };
        Ok(Value { start, end: self.at, kind, has_escapes })
    }

    /// An array or object with all that is in it. `open` counts the levels, `objects` says in its lowest bits which
    /// of them are objects.
    fn nested(&mut self, depth: usize) -> Result<(), Fault> {
        let depth = depth.min(DEPTH_MAX);
        let (mut open, mut objects) = (0usize, 0u128);
        loop {
            match self.token() {
                b'"' => {
                    self.string()?;
                }
                first @ (b'{' | b'[') => {
                    if open == depth {
                        return Err(Fault { at: self.at, what: Problem::TooDeep });
                    }
                    self.at += 1;
                    open += 1;
                    let is_object = first == b'{';
                    objects = objects << 1 | u128::from(is_object);
                    if self.token() != end_of(is_object) {
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.literal()?;
                }
            }
            if self.behind_value(&mut open, &mut objects)? {
                return Ok(());
            }
        }
    }

    /// Takes what may follow a value within `open` levels, up to the next value; whether the outermost level ended.
    #[inline]
    fn behind_value(&mut self, open: &mut usize, objects: &mut u128) -> Result<bool, Fault> {
        loop {
            let is_object = *objects & 1 == 1;
            let next = self.token();
            if next == b',' {
                self.at += 1;
                if is_object {
                    self.token();
                    self.key()?;
                }
                return Ok(false);
            }
            if next != end_of(is_object) {
                return self.fault(if is_object {
                    "a comma or the end of an object"
                } else {
                    "a comma or the end of an array"
                });
            }
            self.at += 1;
            *open -= 1;
            *objects >>= 1;
            if *open == 0 {
                return Ok(true);
            }
        }
    }

    /// A key and its colon.
    #[inline]
    fn key(&mut self) -> Result<(), Fault> {
        self.string()?;
        self.colon()
    }

    #[inline]
    pub(crate) fn colon(&mut self) -> Result<(), Fault> {
        self.token();
        self.expect(b':', "a colon behind a key")
    }

    /// Nothing but space may follow.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.token();
        if self.at == self.bytes.len() { Ok(()) } else { self.fault("nothing behind the message") }
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
