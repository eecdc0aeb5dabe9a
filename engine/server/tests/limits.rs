//! Every limit on what clients send and hold, and what becomes of those who break it.

mod support;

use serde_json::{Value, json};
use support::{Client, End, Raw, Server, Start, masked, on_all_layouts, on_both_drivers};
use tungstenite::Message;

on_both_drivers!(
    a_message_may_have_so_many_bytes,
    a_large_header_is_enough_to_be_refused,
    a_message_may_have_so_many_fragments,
    fragments_add_up,
    depth_is_an_error_only,
    ten_invalid_messages_in_a_row_are_too_many,
    a_good_message_forgives_the_invalid_ones,
    frames_that_break_the_protocol_end_it,
    text_that_is_not_utf8_ends_it,
    no_limits_lifts_counts_but_no_sizes,
);

on_all_layouts!(
    subscriptions_are_counted_per_connection,
    connections_are_counted_per_participant,
    connections_are_counted_per_address,
);

/// A connection past its handshake and `connection_established`.
#[track_caller]
fn raw(server: &Server) -> Raw {
    let mut raw = server.raw_upgraded("/ws/demo");
    assert_eq!(raw.frame().opcode, 1, "connection_established");
    raw
}

/// Fails unless the next frame closes with this code, for a reason that begins with this text, and nothing but
/// the end of the connection follows.
#[track_caller]
fn assert_violated(mut raw: Raw, code: u16, reason: &str) {
    let (got, why) = raw.frame().close();
    assert_eq!(got, code, "{why}");
    assert!(why.starts_with(reason), "{why:?} begins with {reason:?}");
    support::assert_names_a_code(&why);
    raw.finish();
    assert_eq!(raw.read_to_end(), (Vec::new(), End::Fin));
}

/// A ping message of exactly so many bytes.
fn ping_of(bytes: usize) -> String {
    let empty = json!({"type": "ping", "filler": ""}).to_string().len();
    let text = json!({"type": "ping", "filler": "x".repeat(bytes - empty)}).to_string();
    assert_eq!(text.len(), bytes);
    text
}

fn a_message_may_have_so_many_bytes(start: Start) {
    let server = start.set("limits.message_bytes", 1000).start();
    let mut ann = server.connect("/ws/demo");
    assert_eq!(ann.established["max_message_bytes"], 1000);
    ann.send_text(&ping_of(1000));
    ann.expect("pong");
    ann.send_text(&ping_of(1001));
    ann.assert_closed(1009, "MESSAGE_TOO_LARGE");
    assert_eq!(server.metric("violations_total"), 1);
}

/// The limit is enforced before a byte of the message is kept.
fn a_large_header_is_enough_to_be_refused(start: Start) {
    let server = start.start();
    for header in [
        [0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0x01, 1, 2, 3, 4],
        [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
    ] {
        let mut raw = raw(&server);
        raw.send(&header);
        assert_violated(raw, 1009, "MESSAGE_TOO_LARGE");
    }
    assert_eq!(server.metric("assembly_bytes"), 0);
}

fn a_message_may_have_so_many_fragments(start: Start) {
    let server = start.set("limits.message_fragments", 4).start();
    let text = json!({"type": "ping", "id": 1}).to_string();
    let (first, rest) = text.as_bytes().split_at(5);
    let mut raw = raw(&server);
    raw.send(&masked(0x01, first));
    raw.send(&masked(0x00, b""));
    raw.send(&masked(0x89, b"between"));
    raw.send(&masked(0x00, rest));
    raw.send(&masked(0x80, b""));
    assert_eq!(raw.frame().payload, b"between", "control frames are no fragments");
    let pong: Value = serde_json::from_slice(&raw.frame().payload).expect("JSON");
    assert_eq!((&pong["type"], &pong["id"]), (&json!("pong"), &json!(1)));
    raw.send(&masked(0x01, b""));
    for _ in 0..4 {
        raw.send(&masked(0x00, b""));
    }
    assert_violated(raw, 1009, "MESSAGE_TOO_LARGE: above limits.message_fragments");
}

fn fragments_add_up(start: Start) {
    let server = start.set("limits.message_bytes", 1000).start();
    let text = ping_of(1000);
    let (first, rest) = text.as_bytes().split_at(600);
    let mut raw = raw(&server);
    raw.send(&masked(0x01, first));
    raw.send(&masked(0x80, rest));
    assert_eq!(raw.frame().opcode, 1, "1,000 bytes are allowed");
    raw.send(&masked(0x01, first));
    raw.send(&masked(0x00, &rest[..399]));
    raw.send(&masked(0x80, b"xx"));
    assert_violated(raw, 1009, "MESSAGE_TOO_LARGE");
}

fn depth_is_an_error_only(start: Start) {
    let server = start.set("limits.json_depth", 8).start();
    let mut ann = server.connect("/ws/demo");
    // The message itself is one level.
    let nested = |levels: usize| {
        let payload = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"type":"publish","id":1,"channel":"conversation:1","payload":{payload}}}"#)
    };
    ann.send_text(&nested(7));
    ann.expect("response");
    ann.send_text(&nested(8));
    let error = ann.expect_error("INVALID_MESSAGE");
    assert!(error["message"].as_str().is_some_and(|it| it.contains("limits.json_depth")), "{error}");
    ann.send_text(&nested(100_000));
    ann.expect_error("INVALID_MESSAGE");
    ann.assert_quiet();
}

fn subscriptions_are_counted_per_connection(start: Start) {
    let server = start.set("limits.subscriptions_per_connection", 3).start();
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    ann.subscribe("conversation:1");
    ann.subscribe("conversation:2");
    ann.subscribe("conversation:a*");
    ann.send_json(&json!({"type": "subscribe", "id": 4, "channel": "conversation:4"}));
    let error = ann.expect_error("SUBSCRIPTION_LIMIT");
    assert_eq!((&error["id"], &error["channel"]), (&json!(4), &json!("conversation:4")));
    ann.send_json(&json!({"type": "subscribe", "channel": "conversation:*"}));
    ann.expect_error("SUBSCRIPTION_LIMIT");
    // What it has can be named again, what it gave up is free, `system` is nobody's choice.
    ann.subscribe("conversation:1");
    ann.subscribe("system");
    ann.send_json(&json!({"type": "unsubscribe", "channel": "conversation:2"}));
    ann.expect("unsubscribed");
    ann.subscribe("conversation:4");
    bob.subscribe("conversation:4");
    bob.send_json(
        &json!({"type": "subscribe", "channels": ["conversation:1", "conversation:2", "conversation:3"]}),
    );
    let mut answers: Vec<Value> = (0..3).map(|_| bob.next()["type"].clone()).collect();
    answers.sort_by_key(ToString::to_string);
    assert_eq!(answers, ["error", "subscribed", "subscribed"], "each channel is judged by itself");
}

fn connections_are_counted_per_participant(start: Start) {
    let server = start.set("limits.connections_per_participant", 2).start();
    let first = server.connect("/ws/demo?as=ann");
    let mut second = server.connect("/ws/demo?as=ann");
    let refusal = server.to("/ws/demo?as=ann").try_open().err().expect("two are enough");
    assert!(refusal.contains("429"), "{refusal}");
    // Others are others, and without a name everybody is.
    let others: Vec<Client> = ["?as=bob", "?as=bob", "", "", ""]
        .iter()
        .map(|it| server.connect(&format!("/ws/demo{it}")))
        .collect();
    second.assert_quiet();
    first.close();
    server.connect_when_free("/ws/demo?as=ann").close();
    drop(others);
}

fn connections_are_counted_per_address(start: Start) {
    let server = start.set("limits.connections_per_ip", 4).start();
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect("/ws/demo")).collect();
    let refusal = server.to("/ws/demo").try_open().err().expect("four are enough");
    assert!(refusal.contains("429"), "{refusal}");
    clients.iter_mut().for_each(Client::assert_quiet);
    // However a connection ends, its place is free again.
    clients.pop().expect("a client").close();
    drop(clients.pop());
    for _ in 0..2 {
        clients.push(server.connect_when_free("/ws/demo"));
    }
    let refusal = server.to("/ws/demo").try_open().err().expect("four are enough");
    assert!(refusal.contains("429"), "{refusal}");
    // Probes and refused requests never held one.
    assert_eq!(server.get("/health").status, 200);
}

fn ten_invalid_messages_in_a_row_are_too_many(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    let texts = ["{", "[]", "null", r#"{"type":1}"#, r#"{"type":"x"}"#, r#"{"type":"ping","type":"ping"}"#];
    let codes: Vec<&str> = [
        "INVALID_JSON",
        "INVALID_MESSAGE",
        "INVALID_MESSAGE",
        "INVALID_MESSAGE",
        "UNKNOWN_TYPE",
        "INVALID_MESSAGE",
    ]
    .into_iter()
    .cycle()
    .take(10)
    .collect();
    for text in texts.iter().cycle().take(10) {
        ann.send_text(text);
    }
    // Behind the tenth nothing is acted on.
    ann.send_json(&json!({"type": "ping"}));
    for code in codes {
        ann.expect_error(code);
    }
    match ann.socket.read() {
        Ok(Message::Close(Some(frame))) => {
            assert_eq!(u16::from(frame.code), 1008);
            support::assert_names_a_code(&frame.reason);
        }
        other => panic!("a close frame was awaited, not {other:?}"),
    }
}

fn a_good_message_forgives_the_invalid_ones(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    for _ in 0..2 {
        for _ in 0..9 {
            ann.send_text("{");
            ann.expect_error("INVALID_JSON");
        }
        // What is understood but refused is not invalid.
        ann.send_json(&json!({"type": "publish", "channel": "agent:x", "payload": 1}));
        ann.expect_error("FORBIDDEN");
    }
    for _ in 0..9 {
        ann.send_text("{");
        ann.expect_error("INVALID_JSON");
    }
    ann.assert_quiet();
    for _ in 0..9 {
        ann.send_text("{");
        ann.expect_error("INVALID_JSON");
    }
    ann.send_text("{");
    ann.assert_closed(1008, "INVALID_JSON: 10 invalid messages in a row");
}

fn frames_that_break_the_protocol_end_it(start: Start) {
    let server = start.start();
    let whole: &[u8] = br#"{"type":"ping"}"#;
    let mut unmasked = vec![0x81, whole.len() as u8];
    unmasked.extend(whole);
    let mut not_minimal = vec![0x81, 0x80 | 126, 0, 5, 0, 0, 0, 0];
    not_minimal.extend(b"hello");
    let mut inside = masked(0x01, b"{");
    inside.extend(masked(0x81, whole));
    for bytes in [
        unmasked,
        not_minimal,
        inside,
        masked(0x80, b"nothing to continue"),
        masked(0xc1, whole),         // RSV1 without an extension
        masked(0x83, whole),         // a reserved opcode
        masked(0x8b, b""),           // a reserved control opcode
        masked(0x09, b"fragmented"), // a control frame in fragments
        masked(0x89, &[b'x'; 126]),  // a control frame above 125 bytes
        masked(0x88, &[3]),          // a close frame with half a code
        masked(0x88, &[0x03, 0xee]), // 1006
    ] {
        let mut raw = raw(&server);
        raw.send(&bytes);
        // What follows is not read any more.
        raw.try_send(&masked(0x81, whole));
        assert_violated(raw, 1002, "INVALID_MESSAGE");
    }
    assert_eq!(server.metric("violations_total"), 11);
}

fn text_that_is_not_utf8_ends_it(start: Start) {
    let server = start.start();
    let mut cases =
        vec![masked(0x81, b"{\"a\":\"\xff\"}"), masked(0x81, b"\xed\xa0\x80"), masked(0x81, b"\xc3")];
    // Said as soon as it is sure, in the middle of a message.
    cases.push(masked(0x01, b"\xf4\x90"));
    let mut split = masked(0x01, b"\xc3");
    split.extend(masked(0x80, b"("));
    cases.push(split);
    cases.push(masked(0x88, b"\x03\xe8\xff"));
    for bytes in cases {
        let mut raw = raw(&server);
        raw.send(&bytes);
        assert_violated(raw, 1007, "INVALID_MESSAGE");
    }
}

fn no_limits_lifts_counts_but_no_sizes(start: Start) {
    let server = start
        .arg("--no-limits")
        .set("limits.connections_per_participant", 1)
        .set("limits.subscriptions_per_connection", 1)
        .set("limits.message_bytes", 1000)
        .start();
    let mut anns: Vec<Client> = (0..7).map(|_| server.connect("/ws/demo?as=ann")).collect();
    for channel in 0..60 {
        anns[0].subscribe(&format!("conversation:{channel}"));
    }
    anns[0].send_text(&ping_of(1001));
    anns[0].assert_closed(1009, "MESSAGE_TOO_LARGE");
}
