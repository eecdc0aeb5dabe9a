//! What is published: a sequence number and the moment at which it was due, for the audit, and something to carry.
//!
//! Everything that costs time is made before the run; publishing copies.

use corecast_protocol::envelope::Format;
use corecast_protocol::ws::frame::Opcode;

use super::dialect::{Dialect, Payload};
use super::wire;

/// Different messages of one kind: enough that none compresses by being like the one before it.
const VARIANTS: u64 = 64;

/// Writes messages.
#[derive(Debug)]
pub(super) struct Composer {
    format: Format,
    /// Before the room's number: the command, and the channel's name up to there.
    is_echo: bool,
    name: String,
    /// Of a payload with padding.
    size: Option<usize>,
    variants: Vec<Variant>,
    out: Vec<u8>,
}

/// A payload around its two numbers.
#[derive(Debug)]
struct Variant {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Composer {
    /// Of rooms whose names begin with `name`; `size` is that of payloads that are padded.
    pub(super) fn new(dialect: Dialect, name: &str, is_echo: bool, size: usize) -> Self {
        let format = dialect.format();
        let size = matches!(dialect.payload, Payload::Padding | Payload::Random).then_some(size);
        let variants = (0..VARIANTS).map(|number| {
            let mut random = fastrand::Rng::with_seed(number + 1);
            match (dialect.payload, size) {
                (Payload::Chat, _) => Variant::of(format, &chat(&mut random)),
                (Payload::Metrics, _) => Variant::of(format, &metrics(&mut random)),
                (Payload::Random, Some(size)) => Variant::padding(format, &letters(&mut random, size)),
                (_, size) => Variant::padding(format, &"x".repeat(size.unwrap_or(0))),
            }
        });
        Self { format, is_echo, name: name.to_owned(), size, variants: variants.collect(), out: Vec::new() }
    }

    /// What stands before a payload's sequence number, in every message.
    pub(super) fn mark(dialect: Dialect) -> Vec<u8> {
        let it = Self::new(dialect, "", false, 0);
        let mut mark = match it.format {
            Format::Json => b"\"payload\":".to_vec(),
            Format::MessagePack => wire::value(it.format, "\"payload\""),
        };
        mark.extend_from_slice(&it.variants[0].head);
        mark
    }

    /// The message with this number of its room.
    pub(super) fn compose(&mut self, room: u64, sequence: u64, due: u64) -> (Opcode, &[u8]) {
        let Self { format, out, .. } = self;
        let format = *format;
        out.clear();
        let channel = format!("{}{room}", self.name);
        match (format, self.is_echo) {
            (Format::Json, false) => out.extend_from_slice(b"{\"type\":\"publish\","),
            (Format::Json, true) => out.push(b'{'),
            (Format::MessagePack, false) => {
                out.push(0x83);
                out.extend(wire::member(format, "type", "publish"));
            }
            (Format::MessagePack, true) => out.push(0x82),
        }
        out.extend(wire::member(format, "channel", &channel));
        match format {
            Format::Json => out.extend_from_slice(b",\"payload\":"),
            Format::MessagePack => wire::write_text("payload", out),
        }
        let start = out.len();
        let variant = &self.variants[(sequence % VARIANTS) as usize];
        out.extend_from_slice(&variant.head);
        wire::write_number(format, sequence, out);
        out.extend_from_slice(between(format));
        wire::write_number(format, due, out);
        match self.size {
            None => out.extend_from_slice(&variant.tail),
            Some(size) => pad(format, &variant.tail, size, start, out),
        }
        if format == Format::Json {
            out.push(b'}');
        }
        (wire::opcode(format), out)
    }
}

/// Between the two numbers.
pub(super) fn between(format: Format) -> &'static [u8] {
    match format {
        Format::Json => b",\"t\":",
        Format::MessagePack => b"\xa1t",
    }
}

/// Ends a payload that began at `start` with as many of the letters as it takes to `size` bytes.
fn pad(format: Format, letters: &[u8], size: usize, start: usize, out: &mut Vec<u8>) {
    let written = out.len() - start;
    match format {
        Format::Json => {
            out.extend_from_slice(b",\"x\":\"");
            let length = size.saturating_sub(written + 8);
            out.extend_from_slice(&letters[..length]);
            out.extend_from_slice(b"\"}");
        }
        Format::MessagePack => {
            out.extend_from_slice(b"\xa1x");
            let left = size.saturating_sub(written + 2);
            // Of which its head takes some: the more the longer it is.
            let length = match left {
                0..=32 => left.saturating_sub(1),
                33..=257 => left - 2,
                258..=65_538 => left - 3,
                _ => left - 5,
            };
            wire::write_text_head(length, out);
            out.extend_from_slice(&letters[..length]);
        }
    }
}

impl Variant {
    /// With these members, written as JSON.
    fn of(format: Format, members: &str) -> Self {
        let whole = wire::value(format, &format!("{{\"s\":0,\"t\":0,{members}}}"));
        // Both numbers are one byte now.
        let (head, between) = match format {
            Format::Json => (b"{\"s\":".len(), between(format).len()),
            // `s` and its length stand behind the map's head, of one byte or three.
            Format::MessagePack => (if whole[0] & 0xf0 == 0x80 { 3 } else { 5 }, between(format).len()),
        };
        Self { head: whole[..head].to_vec(), tail: whole[head + between + 2..].to_vec() }
    }

    /// With a text of letters, of which as many are used as fit.
    fn padding(format: Format, letters: &str) -> Self {
        Self { head: Self::of(format, "\"x\":\"\"").head, tail: letters.as_bytes().to_vec() }
    }
}

/// Letters as base64 has them: six bits each.
fn letters(random: &mut fastrand::Rng, count: usize) -> String {
    (0..count).map(|_| random.alphanumeric()).collect()
}

/// A message of a conversation between people and a model, some 300 bytes with the numbers before it.
fn chat(random: &mut fastrand::Rng) -> String {
    const SENTENCES: [&str; 8] = [
        "The second deployment failed because the certificate had expired; I renewed it and started again.",
        "Could you summarise what we decided about the retention of messages in the support channels?",
        "I'd compare the two plans by what they cost per month, and leave the migration for the end.",
        "Here is the query that you asked for: it groups orders by region and counts those still open.",
        "Sounds good to me. Let's meet on Thursday at ten, and invite the people from operations too.",
        "No, the numbers in the report are from last week; the new ones come in tonight after the import.",
        "When the connection drops, the client waits a moment, connects again and asks for what it missed.",
        "Thanks! One more question: does the limit count per participant, or for everybody in the room?",
    ];
    let (role, author) = if random.bool() { ("user", "participant") } else { ("assistant", "model") };
    let sentence = SENTENCES[random.usize(..SENTENCES.len())];
    format!(
        "\"id\":\"msg_{}\",\"role\":\"{role}\",\"{author}\":\"{}\",\"content\":\"{sentence}\",\"reply_to\":\"msg_{}\",\"tokens\":{},\"final\":true",
        letters(random, 20),
        letters(random, 10),
        letters(random, 20),
        random.u32(20..60)
    )
}

/// Twenty numbers as a host reports them: counters, levels and shares.
fn metrics(random: &mut fastrand::Rng) -> String {
    const COUNTERS: [&str; 8] =
        ["requests", "errors", "bytes_in", "bytes_out", "connections", "messages", "reads", "writes"];
    const SHARES: [&str; 8] =
        ["cpu_user", "cpu_system", "cpu_idle", "memory_used", "disk_used", "cache_hits", "load", "swap_used"];
    const TIMES: [&str; 4] = ["p50_us", "p95_us", "p99_us", "max_us"];
    let mut members = Vec::new();
    members.extend(COUNTERS.iter().map(|it| {
        let digits = random.u32(3..9);
        format!("\"{it}\":{}", random.u64(..10u64.pow(digits)))
    }));
    members.extend(SHARES.iter().map(|it| format!("\"{it}\":{:.4}", random.f64())));
    members.extend(TIMES.iter().map(|it| format!("\"{it}\":{}", random.u32(50..20_000))));
    members.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::dialect::Encoding;

    fn composer(format: Encoding, payload: Payload, size: usize) -> (Composer, Dialect) {
        let dialect = Dialect { format, payload, is_deflated: false };
        (Composer::new(dialect, "room-", false, size), dialect)
    }

    /// A message as JSON, whatever it was.
    fn json(format: Format, bytes: &[u8]) -> serde_json::Value {
        let mut text = Vec::new();
        match format {
            Format::Json => text.extend_from_slice(bytes),
            Format::MessagePack => corecast_protocol::envelope::transcode(format, bytes, &mut text),
        }
        serde_json::from_slice(&text).expect("JSON")
    }

    #[test]
    fn all_payloads_are_the_same_in_both_encodings() {
        for payload in [Payload::Padding, Payload::Chat, Payload::Metrics, Payload::Random] {
            for (sequence, due) in [(0, 0), (7, 4_000_000_000), (100_000, 77)] {
                let both = [Encoding::Json, Encoding::Msgpack].map(|format| {
                    let (mut it, dialect) = composer(format, payload, 300);
                    let bytes = it.compose(5, sequence, due).1.to_vec();
                    let mark = Composer::mark(dialect);
                    let at = memchr::memmem::find(&bytes, &mark).expect("the mark is there") + mark.len();
                    assert_eq!(wire::number(dialect.format(), &bytes[at..]).0, sequence);
                    json(dialect.format(), &bytes)
                });
                let [mut a, mut b] = both;
                assert_eq!((a["channel"].as_str(), a["payload"]["t"].as_u64()), (Some("room-5"), Some(due)));
                // Padding fills up to the same size, and so is not equally long.
                for it in [&mut a, &mut b] {
                    it["payload"].as_object_mut().expect("an object").remove("x");
                }
                assert_eq!(a, b, "{payload:?}");
            }
        }
    }

    #[test]
    fn padded_payloads_have_their_size() {
        for size in [64, 100, 290, 5000] {
            let (mut it, _) = composer(Encoding::Json, Payload::Padding, size);
            let around = "{\"type\":\"publish\",\"channel\":\"room-1\",\"payload\":}".len();
            assert_eq!(it.compose(1, 12, 345_678).1.len() - around, size);
            let (mut it, _) = composer(Encoding::Msgpack, Payload::Random, size);
            let around = 1 + "type_publish_channel_room-1_payload_".len();
            assert_eq!(it.compose(1, 12, 345_678).1.len() - around, size, "{size} in MessagePack");
        }
    }

    #[test]
    fn real_messages_have_their_size_and_differ() {
        let lengths = |payload| -> Vec<usize> {
            let (mut it, _) = composer(Encoding::Json, payload, 64);
            (0..VARIANTS).map(|number| it.compose(0, number, 4_000_000_000).1.len()).collect()
        };
        assert!(
            lengths(Payload::Chat).iter().all(|it| (250..400).contains(it)),
            "{:?}",
            lengths(Payload::Chat)
        );
        let (mut it, _) = composer(Encoding::Json, Payload::Metrics, 64);
        let first = it.compose(0, 0, 0).1.to_vec();
        assert_eq!(json(Format::Json, &first)["payload"].as_object().map(serde_json::Map::len), Some(22));
        assert_ne!(first, it.compose(0, 1, 0).1);
    }
}
