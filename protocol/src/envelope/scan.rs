//! One pass over JSON (RFC 8259): everything is validated, nothing is built.
//!
//! Without recursion: what is open lies in the bits of one number, so depth costs a peer nothing but its bytes.
//! The input is known to be valid UTF-8.

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
}

/// A position in a text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte that is `"`, `\` or a control character; exact up to the first such byte.
pub(crate) fn specials(word: u64) -> u64 {
    let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGHS;
    let quote = zero(word ^ (ONES * 0x22));
    let backslash = zero(word ^ (ONES * 0x5c));
    // Bytes below 0x20, not those with the high bit.
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
    quote | backslash | control
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    pub(crate) fn fault<T>(&self, expected: &'static str) -> Result<T, Fault> {
        Err(Fault { at: self.at, what: Problem::Expected(expected) })
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    pub(crate) fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), Fault> {
        if self.eat(byte) { Ok(()) } else { self.fault(name) }
    }

    /// A string, from its opening quote to behind its closing one; whether it holds escapes.
    pub(crate) fn string(&mut self) -> Result<bool, Fault> {
        self.expect(b'"', "a string")?;
        let mut has_escapes = false;
        loop {
            while let Some(chunk) = self.bytes[self.at..].first_chunk::<8>() {
                let found = specials(u64::from_le_bytes(*chunk));
                if found != 0 {
                    self.at += found.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.escape()?;
                }
                Some(0..=0x1f) => return self.fault("no raw control character in a string (escape it)"),
                Some(_) => self.at += 1,
                None => return self.fault("the end of a string"),
            }
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

    /// A value without parts; `None` if an array or object begins here.
    fn scalar(&mut self) -> Result<Option<Kind>, Fault> {
        let kind = match self.peek() {
            Some(b'"') => {
                self.string()?;
                Kind::Text
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            Some(b't') => {
                self.word("true")?;
                Kind::True
            }
            Some(b'f') => {
                self.word("false")?;
                Kind::False
            }
            Some(b'n') => {
                self.word("null")?;
                Kind::Null
            }
            Some(b'{' | b'[') => return Ok(None),
            _ => return self.fault("a value"),
        };
        Ok(Some(kind))
    }

    /// A whole value, with `depth` more levels allowed.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip_space();
        let start = self.at;
        let kind = match self.scalar()? {
            Some(kind) => kind,
            None => self.nested(depth)?,
        };
        Ok(Value { start, end: self.at, kind })
    }

    /// An array or object with all that is in it. `open` counts the levels, `objects` says in its lowest bits which
    /// of them are objects.
    fn nested(&mut self, depth: usize) -> Result<Kind, Fault> {
        let outermost = if self.peek() == Some(b'{') { Kind::Object } else { Kind::Array };
        let (mut open, mut objects) = (0usize, 0u128);
        // Whether a value is expected next, rather than the end of one.
        let mut expects_value = true;
        loop {
            if expects_value {
                self.skip_space();
                if self.scalar()?.is_none() {
                    if open == depth.min(DEPTH_MAX) {
                        return Err(Fault { at: self.at, what: Problem::TooDeep });
                    }
                    let is_object = self.peek() == Some(b'{');
                    self.at += 1;
                    open += 1;
                    objects = objects << 1 | u128::from(is_object);
                    self.skip_space();
                    if self.peek() == Some(if is_object { b'}' } else { b']' }) {
                        expects_value = false;
                        continue;
                    }
                    if is_object {
                        self.key()?;
                    }
                    continue;
                }
                expects_value = false;
            }
            let is_object = objects & 1 == 1;
            self.skip_space();
            if self.eat(b',') {
                self.skip_space();
                if is_object {
                    self.key()?;
                }
                expects_value = true;
            } else if self.eat(if is_object { b'}' } else { b']' }) {
                open -= 1;
                objects >>= 1;
                if open == 0 {
                    return Ok(outermost);
                }
            } else {
                return self.fault(if is_object {
                    "a comma or the end of an object"
                } else {
                    "a comma or the end of an array"
                });
            }
        }
    }

    fn key(&mut self) -> Result<(), Fault> {
        self.string()?;
        self.skip_space();
        self.expect(b':', "a colon behind a key")
    }

    /// Nothing but space may follow.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.skip_space();
        if self.at == self.bytes.len() { Ok(()) } else { self.fault("nothing behind the message") }
    }
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
    fn specials_are_found_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..8 {
                let mut word = *b"abcdefgh";
                word[place] = byte;
                let is_special = byte < 0x20 || byte == b'"' || byte == b'\\';
                let found = specials(u64::from_le_bytes(word));
                let first = (found != 0).then(|| found.trailing_zeros() as usize / 8);
                assert_eq!(first, is_special.then_some(place), "{byte:#x} at {place}");
            }
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
