//! What happened, in order: always as a hash, and as lines where somebody wants to read them.

use std::collections::VecDeque;
use std::fmt::Write;

/// Of what was read so many bytes are shown: payloads may be large.
const SHOWN_BYTES: usize = 240;

/// The hash, and the last lines if they are kept.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Virtual microseconds and the tick, for lines.
    pub(crate) now_us: u64,
    pub(crate) tick: u64,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    /// A trace that keeps the last `lines_max` lines.
    pub fn new(lines_max: usize) -> Self {
        Self { lines_max, ..Self::default() }
    }

    /// Something happened.
    pub fn note(&mut self, what: &str, values: &[u64]) {
        self.mix_bytes(what.as_bytes());
        values.iter().for_each(|value| self.mix(*value));
        self.events += 1;
        if self.lines_max > 0 {
            let mut line = what.to_owned();
            for value in values {
                let _ = write!(line, " {value}");
            }
            self.line(&line);
        }
    }

    /// Bytes came to somebody.
    pub fn bytes(&mut self, what: &str, who: u64, bytes: &[u8]) {
        self.mix(who);
        self.mix_bytes(bytes);
        self.events += 1;
        if self.lines_max > 0 {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]);
            let more = if bytes.len() > SHOWN_BYTES { "..." } else { "" };
            self.line(&format!("{what} {who}: {}{more} ({} bytes)", shown.escape_debug(), bytes.len()));
        }
    }

    fn line(&mut self, line: &str) {
        if self.lines.len() == self.lines_max {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("tick {} at {} us: {line}", self.tick, self.now_us));
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines that were kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
