//! What MessagePack costs in memory: a publish nothing, a length that claims gigabytes nothing but the words that
//! refuse it. One test, for the counting allocator sees the whole process.

use corecast_protocol::envelope::{Format, Scanner, parse_msgpack, transcode, transcoded_len};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What a refusal may take: its words, and a list that is still empty.
const REFUSAL_BYTES_MAX: u64 = 2048;

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

    let json = br#"{"text":"a\u00e4\ud800b","list":[1,-2.5,{"$bin":"AAEC"},{"$ext":[1,"AA=="]},null]}"#;
    let mut msgpack = Vec::with_capacity(1024);
    assert_eq!(cost(|| assert!(transcoded_len(Format::Json, json) > 0)), (0, 0), "a length");
    assert_eq!(cost(|| transcode(Format::Json, json, &mut msgpack)), (0, 0), "to MessagePack");
    let mut back = Vec::with_capacity(1024);
    assert_eq!(cost(|| assert!(transcoded_len(Format::MessagePack, &msgpack) > 0)), (0, 0), "a length");
    assert_eq!(cost(|| transcode(Format::MessagePack, &msgpack, &mut back)), (0, 0), "to JSON");
    assert!(!back.is_empty());
}
