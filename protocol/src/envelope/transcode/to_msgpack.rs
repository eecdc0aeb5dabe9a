//! JSON to MessagePack.

use lexical_parse_float::FromLexical;

use crate::envelope::pack;
use crate::envelope::scan::{Contents, Cursor, DEPTH_MAX};
use crate::envelope::sink::{Count, Sink};
use crate::envelope::text;
use crate::envelope::transcode::{Written, base64};
use crate::envelope::value::{Fault, Kind, Problem};

/// A double and the byte that announces it.
const FLOAT_BYTES: usize = 9;

/// Appends one value.
pub(super) fn write(text: &str, out: &mut Vec<u8>) -> Written {
    let mut writer = Writer { out, long: Vec::new() };
    walk(text, &mut writer)?;
    writer.finish();
    Ok(())
}

/// Counts the bytes of one value.
pub(super) fn measure(text: &str, out: &mut Count) -> Written {
    walk(text, out)
}

/// A list or map, whose count stands before it and is known behind it.
#[derive(Clone, Copy, Default)]
struct Level {
    place: usize,
    count: usize,
    is_map: bool,
}

impl Level {
    fn put_header(self, out: &mut impl Sink) {
        match self.is_map {
            true => pack::map_header(self.count, out),
            false => pack::array_header(self.count, out),
        }
    }
}

/// Where lists and maps are written before their counts are known.
trait Target: Sink {
    /// A number that is no integer of 64 bits.
    fn put_float(&mut self, raw: &str);
    /// A place for what precedes a list or map.
    fn begin(&mut self) -> usize;
    /// Its last member was written.
    fn end(&mut self, level: Level);
}

impl Target for Count {
    /// Every double is as long as any other, and which one it is need not be found out.
    #[inline(always)]
    fn put_float(&mut self, _: &str) {
        self.0 += FLOAT_BYTES;
    }

    fn begin(&mut self) -> usize {
        0
    }

    fn end(&mut self, level: Level) {
        level.put_header(self);
    }
}

/// One byte is kept for each count. Those that need more are widened at the end, all of them in one pass: moving
/// what is within each at its end would cost the square of the depth.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    long: Vec<Level>,
}

impl Sink for Writer<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

impl Target for Writer<'_> {
    fn put_float(&mut self, raw: &str) {
        pack::headed(0xcb, nearest(raw).to_be_bytes(), self);
    }

    fn begin(&mut self) -> usize {
        self.out.push(0);
        self.out.len() - 1
    }

    fn end(&mut self, level: Level) {
        match level.count {
            0..=15 => {
                let first = if level.is_map { pack::FIXMAP } else { pack::FIXARRAY };
                self.out[level.place] = first | level.count as u8;
            }
            _ => self.long.push(level),
        }
    }
}

impl Writer<'_> {
    fn finish(self) {
        let Self { out, mut long } = self;
        if long.is_empty() {
            return;
        }
        long.sort_unstable_by_key(|level| level.place);
        let more = |level: &Level| if level.count > 0xffff { 4 } else { 2 };
        let mut end = out.len();
        let mut moved = long.iter().map(more).sum::<usize>();
        out.resize(end + moved, 0);
        for level in long.iter().rev() {
            let start = level.place + 1;
            out.copy_within(start..end, start + moved);
            moved -= more(level);
            let mut header = Header { place: level.place + moved, out };
            level.put_header(&mut header);
            end = level.place;
        }
    }
}

/// Overwrites what is at a place.
struct Header<'a> {
    place: usize,
    out: &'a mut [u8],
}

impl Sink for Header<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.place..][..bytes.len()].copy_from_slice(bytes);
        self.place += bytes.len();
    }
}

fn walk(text: &str, out: &mut impl Target) -> Written {
    let mut cursor = Cursor::new(text);
    let mut levels = [Level::default(); DEPTH_MAX];
    let mut open = 0usize;
    loop {
        match cursor.token() {
            b'"' => put_text(cursor.string()?, text, out),
            first @ (b'{' | b'[') => {
                if first == b'{'
                    && let Some(behind) = special(cursor, text, out)
                {
                    cursor = behind;
                } else {
                    let at = cursor.at();
                    let level = levels.get_mut(open).ok_or(Fault { at, what: Problem::TooDeep })?;
                    *level = Level { place: out.begin(), count: 0, is_map: first == b'{' };
                    open += 1;
                    cursor.eat(first);
                    if cursor.token() != end_of(level.is_map) {
                        if level.is_map {
                            put_text(cursor.key()?, text, out);
                        }
                        continue;
                    }
                    cursor.eat(end_of(level.is_map));
                    out.end(*level);
                    open -= 1;
                }
            }
            _ => {
                let start = cursor.at();
                let kind;
                (cursor, kind) = cursor.literal()?;
                put_literal(kind, &text[start..cursor.at()], out);
            }
        }
        loop {
            let Some(level) = open.checked_sub(1) else { return cursor.finish() };
            let level = &mut levels[level];
            level.count += 1;
            if cursor.take(b',') {
                if level.is_map {
                    put_text(cursor.key()?, text, out);
                }
                break;
            }
            if !cursor.eat(end_of(level.is_map)) {
                return cursor.fault("a comma or an end");
            }
            out.end(*level);
            open -= 1;
        }
    }
}

fn end_of(is_map: bool) -> u8 {
    if is_map { b'}' } else { b']' }
}

fn put_text(contents: Contents<'_>, text: &str, out: &mut impl Sink) {
    if !contents.has_escapes {
        return pack::text(contents.bytes, out);
    }
    let contents = contents.of(text);
    let mut length = 0;
    text::pieces(contents, |piece| length += piece.len());
    pack::text_header(length, out);
    text::pieces(contents, |piece| out.put(piece.as_bytes()));
}

fn put_literal(kind: Kind, raw: &str, out: &mut impl Target) {
    match kind {
        Kind::True => out.put(&[0xc3]),
        Kind::False => out.put(&[pack::FALSE]),
        Kind::Number => put_number(raw, out),
        _ => out.put(&[0xc0]),
    }
}

/// Integers stay integers as far as 64 bits go; all else is the nearest double, and minus zero has a sign only there.
fn put_number(raw: &str, out: &mut impl Target) {
    let is_integer = raw != "-0" && !raw.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
    if is_integer && let Ok(number) = raw.parse::<u64>() {
        return pack::unsigned(number, out);
    }
    if is_integer && let Ok(number) = raw.parse::<i64>() {
        return pack::negative(number, out);
    }
    out.put_float(raw);
}

/// The nearest double. Beyond the largest it is infinity, as in JavaScript.
///
/// Not by `str::parse`: a peer may choose digits that take it 13 us, which is half a second for one message.
fn nearest(raw: &str) -> f64 {
    // What JSON calls a number has this form.
    f64::from_lexical(raw.as_bytes()).unwrap_or_default()
}

/// Writes the object at the cursor if it stands for binary or for an extension; where it ends.
#[inline]
fn special<'a>(mut cursor: Cursor<'a>, text: &'a str, out: &mut impl Sink) -> Option<Cursor<'a>> {
    cursor.eat(b'{');
    let has_quote = cursor.token() == b'"';
    // Most objects are known by their first key's first byte not to be one.
    let is_likely = has_quote && matches!(text.as_bytes().get(cursor.at() + 1), Some(b'$' | b'\\'));
    if is_likely { likely_special(cursor, text, out) } else { None }
}

fn likely_special<'a>(mut cursor: Cursor<'a>, text: &'a str, out: &mut impl Sink) -> Option<Cursor<'a>> {
    let key = cursor.key().ok()?.of(text);
    let kind = if is(key, "$bin") {
        None
    } else if is(key, "$ext") {
        cursor.take(b'[').then_some(())?;
        cursor.token();
        let start = cursor.at();
        (cursor, _) = cursor.literal().ok()?;
        let kind: i8 = text[start..cursor.at()].parse().ok()?;
        cursor.take(b',').then_some(())?;
        Some(kind)
    } else {
        return None;
    };
    let digits = cursor.string().ok()?.of(text);
    if kind.is_some() {
        cursor.take(b']').then_some(())?;
    }
    cursor.take(b'}').then_some(())?;
    let mut length = Count::default();
    base64::decode(digits, &mut length)?;
    match kind {
        None => pack::binary_header(length.0, out),
        Some(kind) => pack::extension_header(kind, length.0, out),
    }
    base64::decode(digits, out)?;
    Some(cursor)
}

/// Whether a string's contents stand for this text.
fn is(contents: &str, expected: &str) -> bool {
    let mut rest = Some(expected);
    text::pieces(contents, |piece| rest = rest.and_then(|rest| rest.strip_prefix(piece)));
    rest == Some("")
}
