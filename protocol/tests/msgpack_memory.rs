//! What MessagePack costs in memory: a publish nothing, a length that claims gigabytes nothing but the words that
//! refuse it, and a long list of tiny values, here in either encoding, no more than is allowed of it. One test, for
//! the counting allocator sees the whole process.

use corecast_protocol::envelope::{Format, Scanner, parse, parse_msgpack, transcode, transcoded_len};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What a refusal may take: its words, and a list that is still empty.
const REFUSAL_BYTES_MAX: u64 = 2048;

/// What a list of names or positions may take: 257 of them while the list grows to that, and the words of a refusal.
const LIST_BYTES_MAX: u64 = 64 << 10;

/// What a scanner may keep for its next message: twice 64 KiB.
const KEPT_BYTES_MAX: usize = 128 << 10;

/// Blocks and bytes that `work` takes.
fn cost(work: impl FnOnce()) -> (u64, u64) {
    let before = dhat::HeapStats::get();
    work();
    let after = dhat::HeapStats::get();
    (after.total_blocks - before.total_blocks, after.total_bytes - before.total_bytes)
}

/// The head of a publish whose payload follows.
fn publish(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x84\xa4type\xa7publish\xa2id\xa17\xa7channel\xaeconversation:1\xa7payload".to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A message with a list or map of so many equal items as its last member, in each encoding.
fn of_many(count: usize, json: (&str, &str, &str), msgpack: (&[u8], &[u8])) -> (String, Vec<u8>) {
    let (head, item, tail) = json;
    let text = format!("{head}{}{tail}", vec![item; count].join(","));
    let (head, item) = msgpack;
    let bytes = [head, &(count as u32).to_be_bytes(), &item.repeat(count)].concat();
    (text, bytes)
}

/// Real values, as many as a message of 1 MiB holds: they are there, and so nothing may be kept of each.
fn lists_are_not_believed(scanner: &mut Scanner) {
    let names = of_many(
        340_000,
        (r#"{"type":"subscribe","channels":["#, r#""""#, "]}"),
        (b"\x82\xa4type\xa9subscribe\xa8channels\xdd", b"\xa0"),
    );
    let positions = of_many(
        110_000,
        (r#"{"type":"resume","token":"a","positions":{"#, r#""":["",0]"#, "}}"),
        (b"\x83\xa4type\xa6resume\xa5token\xa1a\xa9positions\xdf", b"\xa0\x92\xa0\x00"),
    );
    for ((text, bytes), is_understood) in [(names, true), (positions, false)] {
        let (_, in_json) = cost(|| assert_eq!(parse(&text, scanner).is_ok(), is_understood));
        let (_, in_msgpack) = cost(|| assert_eq!(parse_msgpack(&bytes, scanner).is_ok(), is_understood));
        assert!(in_json > 0 && in_msgpack > 0, "some are noted");
        assert!(in_json <= LIST_BYTES_MAX, "{in_json} bytes for {}", &text[..40]);
        assert!(in_msgpack <= LIST_BYTES_MAX, "{in_msgpack} bytes for {}", &text[..40]);
    }
}

/// What one message of many members took is given back.
fn members_are_forgotten(scanner: &mut Scanner, understand: impl Fn(&mut Scanner)) {
    understand(scanner);
    let before = dhat::HeapStats::get().curr_bytes;
    for kind in ["ping", "chat_message"] {
        let long = "x".repeat(100_000);
        let (text, bytes) = of_many(
            100_000,
            (&format!(r#"{{"type":"{kind}","channel":"a","x":"{long}","#), r#""":null"#, "}"),
            (b"\xdf", b"\xa0\xc0"),
        );
        assert!(parse(&text, scanner).is_ok(), "unknown members are allowed");
        assert!(parse_msgpack(&bytes, scanner).is_err(), "none of the members is a type");
        drop((text, bytes, long));
        assert!(dhat::HeapStats::get().curr_bytes > before + KEPT_BYTES_MAX, "the members were noted");
        understand(scanner);
        let kept = dhat::HeapStats::get().curr_bytes.saturating_sub(before);
        assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes are kept behind a {kind}");
    }
}

#[test]
fn a_publish_allocates_nothing_and_a_claimed_length_no_more_than_its_refusal() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut scanner = Scanner::new(64);
    let good = publish(b"\x82\xa4text\xa5hello\xa4list\x93\x01\xcb\x3f\xf8\0\0\0\0\0\0\xc4\x01\x00");
    let understand = |scanner: &mut Scanner| assert!(parse_msgpack(&good, scanner).is_ok());
    understand(&mut scanner);
    assert_eq!(cost(|| understand(&mut scanner)), (0, 0), "a publish");

    for head in [b"\xdb", b"\xc6", b"\xc9", b"\xdd", b"\xdf"] {
        let claim = publish(&[head.as_slice(), b"\xff\xff\xff\xff\x01\x01"].concat());
        let (_, bytes) = cost(|| assert!(parse_msgpack(&claim, &mut scanner).is_err()));
        assert!(bytes > 0, "a refusal has words: the allocator counts");
        assert!(bytes <= REFUSAL_BYTES_MAX, "{head:02x?} costs {bytes} bytes");
    }

    lists_are_not_believed(&mut scanner);
    members_are_forgotten(&mut scanner, understand);
    assert_eq!(cost(|| understand(&mut scanner)), (0, 0), "a publish behind all that");

    let json = br#"{"text":"a\u00e4\ud800b","list":[1,-2.5,{"$bin":"AAEC"},{"$ext":[1,"AA=="]},null]}"#;
    let mut msgpack = Vec::with_capacity(1024);
    assert_eq!(cost(|| assert!(transcoded_len(Format::Json, json) > 0)), (0, 0), "a length");
    assert_eq!(cost(|| transcode(Format::Json, json, &mut msgpack)), (0, 0), "to MessagePack");
    let mut back = Vec::with_capacity(1024);
    assert_eq!(cost(|| assert!(transcoded_len(Format::MessagePack, &msgpack) > 0)), (0, 0), "a length");
    assert_eq!(cost(|| transcode(Format::MessagePack, &msgpack, &mut back)), (0, 0), "to JSON");
    assert!(!back.is_empty());
}
