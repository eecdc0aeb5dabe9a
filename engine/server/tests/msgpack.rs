//! MessagePack on the real binary: clients of both encodings on one node. What the server writes is read by `rmpv`, what
//! it reads is written by it.

mod support;

use std::time::Instant;

use rmpv::Value as Packed;
use serde_json::{Value, json};
use support::{Client, DEADLINE, Server, Start, masked, on_all_layouts, on_both_drivers};
use tungstenite::Message;

on_all_layouts!(
    both_encodings_chat,
    payloads_between_peers_are_untouched,
    what_json_does_not_know_arrives_all_the_same,
    everybody_gets_system,
    who_dies_is_sent_nothing_more,
);

on_both_drivers!(
    what_is_offered_first_is_spoken,
    both_frames_are_understood_on_any_connection,
    ten_malformed_messages_end_a_connection,
    what_grows_too_large_is_refused,
    a_batch_that_grows_closes_nobody,
    a_batch_is_its_messages_in_order,
    times_are_iso_where_wanted,
    heartbeats_are_messages_where_wanted,
    a_drain_is_announced,
);

const SUBPROTOCOL: &str = "agent-protocol-v1.msgpack";

/// A client that is sent MessagePack.
struct Peer(Client);

impl Peer {
    #[track_caller]
    fn connect(server: &Server, path: &str) -> Self {
        let mut peer = Self(server.to(path).protocol(SUBPROTOCOL).open_only());
        peer.expect("connection_established");
        peer
    }

    #[track_caller]
    fn send(&mut self, message: &Packed) {
        self.0.send(Message::binary(bytes_of(message)));
    }

    /// The next binary message, as bytes.
    #[track_caller]
    fn next_bytes(&mut self) -> Vec<u8> {
        loop {
            match self.0.socket.read().expect("the connection is open") {
                Message::Binary(bytes) => return bytes.to_vec(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("MessagePack was awaited, not {other:?}"),
            }
        }
    }

    #[track_caller]
    fn next(&mut self) -> Packed {
        value_of(&self.next_bytes())
    }

    #[track_caller]
    fn expect(&mut self, kind: &str) -> Packed {
        let message = self.next();
        assert_eq!(message["type"].as_str(), Some(kind), "{message}");
        message
    }

    #[track_caller]
    fn subscribe(&mut self, channel: &str) {
        self.send(&map(&[("type", "subscribe".into()), ("channel", channel.into())]));
        assert_eq!(self.expect("subscribed")["channel"].as_str(), Some(channel));
    }
}

fn map(members: &[(&str, Packed)]) -> Packed {
    Packed::Map(members.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
}

fn publish(channel: &str, payload: Packed) -> Packed {
    map(&[("type", "publish".into()), ("channel", channel.into()), ("payload", payload)])
}

fn bytes_of(value: &Packed) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory takes it");
    bytes
}

#[track_caller]
fn value_of(mut bytes: &[u8]) -> Packed {
    let value = rmpv::decode::read_value(&mut bytes).expect("MessagePack");
    assert!(bytes.is_empty(), "nothing follows: {bytes:?}");
    value
}

fn both_encodings_chat(start: Start) {
    let server = start.start();
    let mut texts = server.connect_on_every_shard("/ws/demo");
    let mut peers: Vec<Peer> = (0..texts.len()).map(|_| Peer::connect(&server, "/ws/demo")).collect();
    texts.iter_mut().for_each(|client| drop(client.subscribe("conversation:1")));
    peers.iter_mut().for_each(|peer| peer.subscribe("conversation:1"));
    for round in 0..10u64 {
        let payload = json!({"round": round, "text": "caf\u{e9} \"\n"});
        texts[0].send_json(&json!({"type": "publish", "channel": "conversation:1", "payload": payload}));
        let packed =
            map(&[("round", (round + 100).into()), ("list", Packed::Array(vec![Packed::Nil, 0.5.into()]))]);
        for client in &mut texts {
            assert_eq!(client.expect("message")["payload"], payload);
        }
        for peer in &mut peers {
            let message = peer.expect("message");
            let got = (&message["payload"]["round"], message["payload"]["text"].as_str());
            assert_eq!(got, (&round.into(), payload["text"].as_str()));
            assert_eq!(message["offset"].as_u64(), Some(2 * round + 1));
        }
        peers[0].send(&publish("conversation:1", packed.clone()));
        for client in &mut texts {
            let message = client.expect("message");
            assert_eq!(message["payload"], json!({"round": round + 100, "list": [null, 0.5]}));
            assert_eq!(message["offset"], 2 * round + 2);
        }
        for peer in &mut peers {
            assert_eq!(peer.expect("message")["payload"], packed);
        }
    }
    server.wait_for_metric("transcoded_total", |count| count == 20);
}

/// Odd ways to write it: nobody shortens them.
fn payloads_between_peers_are_untouched(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (Peer::connect(&server, "/ws/demo"), Peer::connect(&server, "/ws/demo"));
    bob.subscribe("conversation:1");
    for payload in [
        &b"\xd9\x01a"[..],
        b"\xcf\0\0\0\0\0\0\0\x01",
        b"\xdf\0\0\0\x01\xdb\0\0\0\x01k\xdd\0\0\0\x01\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xca\x7f\xc0\0\0",
        b"\xc4\x03\0\xff\x80",
        b"\xc7\0\x05",
        b"\xd6\xff\0\0\0\0",
    ] {
        let mut bytes = b"\x83\xa4type\xa7publish\xa7channel\xaeconversation:1\xa7payload".to_vec();
        bytes.extend(payload);
        ann.0.send(Message::binary(bytes));
        let got = bob.next_bytes();
        let mut whole = b"\xa7payload".to_vec();
        whole.extend(payload);
        assert!(got.windows(whole.len()).any(|it| it == whole), "{payload:?} in {got:?}");
        value_of(&got);
    }
    // On one channel nobody else is subscribed: nothing had to be transcoded.
    assert_eq!(server.metric("transcoded_total"), 0);
}

fn what_json_does_not_know_arrives_all_the_same(start: Start) {
    let server = start.start();
    let (mut ann, mut bob) = (Peer::connect(&server, "/ws/demo"), server.connect("/ws/demo"));
    ann.subscribe("conversation:1");
    bob.subscribe("conversation:1");
    for (packed, expected) in [
        (Packed::Binary(vec![1, 2, 3]), json!({"$bin": "AQID"})),
        (Packed::Ext(-5, vec![0, 1]), json!({"$ext": [-5, "AAE="]})),
        (f64::NAN.into(), Value::Null),
        (f32::INFINITY.into(), Value::Null),
        (u64::MAX.into(), json!(u64::MAX)),
        (i64::MIN.into(), json!(i64::MIN)),
        (0.1f64.into(), json!(0.1)),
        ("\u{1f600}\0".into(), json!("\u{1f600}\0")),
    ] {
        ann.send(&publish("conversation:1", packed.clone()));
        assert_eq!(bob.expect("message")["payload"], expected, "{packed}");
        ann.expect("message");
        bob.send_json(&json!({"type": "publish", "channel": "conversation:1", "payload": expected}));
        let back = ann.expect("message")["payload"].clone();
        bob.expect("message");
        if expected != Value::Null {
            assert_eq!(back, packed, "and back again");
        }
    }
    bob.send_text(
        r#"{"type":"publish","channel":"conversation:1","payload":["\ud800",1e400,18446744073709551616]}"#,
    );
    let payload = ann.expect("message")["payload"].clone();
    assert_eq!(payload[0].as_str(), Some("\u{fffd}"));
    assert_eq!(payload[2].as_f64(), Some(18_446_744_073_709_551_616.0), "{payload}");
}

fn everybody_gets_system(start: Start) {
    let server = start.mode("development").set("demo_endpoint", true).start();
    let mut backend = server.connect("/ws/dev?as=backend");
    let (mut ann, mut bob) = (Peer::connect(&server, "/ws/demo"), server.connect("/ws/demo"));
    backend.send_json(&json!({"type": "publish", "channel": "system", "payload": "hear"}));
    assert_eq!(ann.expect("broadcast")["payload"].as_str(), Some("hear"));
    assert_eq!(bob.expect("broadcast")["payload"], "hear");
    assert_eq!(backend.expect("broadcast")["payload"], "hear");
}

/// Nothing at the home remembers it: what is published later is transcoded for nobody.
fn who_dies_is_sent_nothing_more(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo");
    ann.subscribe("conversation:1");
    for channel in ["conversation:1", "conversation:*"] {
        let mut dies = Peer::connect(&server, "/ws/demo");
        dies.subscribe(channel);
        let before = server.metric("transcoded_total");
        ann.publish("conversation:1", &json!(1));
        dies.expect("message");
        server.wait_for_metric("transcoded_total", |count| count == before + 1);
        // In the middle of a message, and without a word.
        let stream = dies.0.socket.get_mut();
        std::io::Write::write_all(stream, &masked(0x82, &[0x90; 100])[..50]).expect("it is open");
        stream.shutdown(std::net::Shutdown::Both).expect("it is open");
        server.wait_for_metric("clients", |count| count == 1);
        let until = Instant::now() + DEADLINE;
        loop {
            let before = server.metric("transcoded_total");
            (0..10).for_each(|number| drop(ann.publish("conversation:1", &json!(number))));
            // Each was answered behind its turn: all but the last are counted.
            if server.metric("transcoded_total") == before {
                break;
            }
            assert!(Instant::now() < until, "its home remembers who is gone");
        }
    }
}

fn what_is_offered_first_is_spoken(start: Start) {
    let server = start.start();
    for (offers, expected) in [
        (&[SUBPROTOCOL][..], SUBPROTOCOL),
        (&["other", SUBPROTOCOL, "agent-protocol-v1"], SUBPROTOCOL),
        (&["agent-protocol-v1", SUBPROTOCOL], "agent-protocol-v1"),
    ] {
        let connect = offers.iter().fold(server.to("/ws/demo"), |connect, offer| connect.protocol(offer));
        let mut client = connect.open_only();
        assert_eq!(client.response.headers().get("sec-websocket-protocol").expect("it is named"), expected);
        let first = client.socket.read().expect("connection_established");
        assert_eq!(first.is_binary(), expected == SUBPROTOCOL, "{first:?}");
    }
    let refused = server.to("/ws/demo").protocol("other").try_open().err().unwrap_or_default();
    assert!(refused.contains("400"), "{refused}");
}

fn both_frames_are_understood_on_any_connection(start: Start) {
    let server = start.start();
    let (mut text, mut binary) = (server.connect("/ws/demo"), Peer::connect(&server, "/ws/demo"));
    text.subscribe("conversation:1");
    binary.subscribe("conversation:1");
    let ping = map(&[("type", "ping".into()), ("id", "a\"b".into())]);
    text.send(Message::binary(bytes_of(&ping)));
    assert_eq!(text.expect("pong")["id"], "a\"b");
    binary.0.send_text(r#"{"type":"ping","id":"\u0061\"b"}"#);
    assert_eq!(binary.expect("pong")["id"].as_str(), Some("a\"b"));
    text.send(Message::binary(bytes_of(&publish("conversation:1", 1.into()))));
    binary.0.send_json(&json!({"type": "publish", "channel": "conversation:1", "payload": 2}));
    // Two publishers: which comes first is nobody's promise.
    let mut texts = [text.expect("message"), text.expect("message")].map(|it| it["payload"].as_u64());
    let mut binaries = [binary.expect("message"), binary.expect("message")].map(|it| it["payload"].as_u64());
    texts.sort_unstable();
    binaries.sort_unstable();
    assert_eq!((texts, binaries), ([Some(1), Some(2)], [Some(1), Some(2)]));
}

fn ten_malformed_messages_end_a_connection(start: Start) {
    let server = start.start();
    let mut ann = Peer::connect(&server, "/ws/demo");
    let malformed: [&[u8]; 10] = [
        b"\xc1",
        b"",
        b"\x81\xa4type",
        b"\x90",
        b"\x80\x80",
        b"\x81\x01\x02",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1\xff\x01",
        b"\x82\xa4type\xa4ping\xa4type\xa4ping",
        b"\xa4ping",
    ];
    for bytes in malformed {
        ann.0.send(Message::binary(bytes.to_vec()));
        let error = ann.expect("error");
        let code = error["code"].as_str().unwrap_or_default();
        assert!(support::ERROR_CODES.split(' ').any(|it| it == code), "{error}");
    }
    ann.0.assert_closed(1008, "INVALID_MESSAGE");
    server.wait_for_metric("clients", |count| count == 0);
}

fn what_grows_too_large_is_refused(start: Start) {
    let server = start.set("limits.message_bytes", 10_000).start();
    let (mut ann, mut bob) = (Peer::connect(&server, "/ws/demo"), server.connect("/ws/demo"));
    ann.subscribe("conversation:1");
    bob.subscribe("conversation:1");
    // Each byte becomes five in JSON.
    for (count, is_fitting) in [(1_999, true), (2_000, false), (9_000, false)] {
        ann.send(&publish("conversation:1", Packed::Array(vec![Packed::Nil; count])));
        if is_fitting {
            assert_eq!(bob.expect("message")["payload"].as_array().map(Vec::len), Some(count));
            ann.expect("message");
            continue;
        }
        let error = ann.expect("error");
        assert_eq!(error["code"].as_str(), Some("MESSAGE_TOO_LARGE"));
        let why = error["message"].as_str().unwrap_or_default();
        assert!(why.contains("JSON") && why.contains(&(5 * count + 1).to_string()), "{why}");
        bob.assert_quiet();
    }
}

fn a_batch_that_grows_closes_nobody(start: Start) {
    let server = start.set("limits.message_bytes", 65_536).set("limits.outbox_bytes", 131_072).start();
    let (mut ann, mut bob) = (Peer::connect(&server, "/ws/demo"), server.connect("/ws/demo"));
    bob.subscribe("conversation:1");
    // Each becomes 40 KB in JSON: together twice what may wait for a connection.
    let message = publish("conversation:1", Packed::Array(vec![Packed::Nil; 8_000]));
    ann.send(&map(&[("type", "batch".into()), ("messages", Packed::Array(vec![message; 7]))]));
    for _ in 1..7 {
        assert_eq!(ann.expect("error")["code"].as_str(), Some("OVERLOADED"));
    }
    assert_eq!(bob.expect("message")["payload"].as_array().map(Vec::len), Some(8_000));
    bob.assert_quiet();
}

fn a_batch_is_its_messages_in_order(start: Start) {
    let server = start.start();
    let mut ann = Peer::connect(&server, "/ws/demo");
    let messages = [
        map(&[("type", "subscribe".into()), ("channel", "conversation:1".into())]),
        publish("conversation:1", "a".into()),
        map(&[("type", "batch".into()), ("messages", Packed::Array(Vec::new()))]),
        publish("conversation:1", "b".into()),
        map(&[("type", "ping".into()), ("id", 7.into())]),
    ];
    ann.send(&map(&[("type", "batch".into()), ("messages", Packed::Array(messages.to_vec()))]));
    ann.expect("subscribed");
    assert_eq!(ann.expect("message")["payload"].as_str(), Some("a"));
    assert_eq!(ann.expect("error")["code"].as_str(), Some("INVALID_MESSAGE"));
    assert_eq!(ann.expect("message")["payload"].as_str(), Some("b"));
    assert_eq!(ann.expect("pong")["id"].as_u64(), Some(7));
}

fn times_are_iso_where_wanted(start: Start) {
    let server = start.start();
    let (mut iso, mut ann) = (Peer::connect(&server, "/ws/demo?time=iso"), server.connect("/ws/demo"));
    iso.subscribe("conversation:*");
    ann.send_json(&json!({"type": "publish", "channel": "conversation:1", "timestamp": 1_704_067_200_000u64, "payload": 1}));
    let message = iso.expect("message");
    assert_eq!(message["timestamp"].as_str(), Some("2024-01-01T00:00:00.000Z"), "{message}");
    assert_eq!(message["pattern"].as_str(), Some("conversation:*"));
}

fn heartbeats_are_messages_where_wanted(start: Start) {
    let server =
        start.set("limits.heartbeat_interval_ms", 30).set("limits.pong_timeout_ms", 3_600_000).start();
    let mut ann = Peer::connect(&server, "/ws/demo?heartbeat=message");
    for _ in 0..3 {
        assert!(ann.expect("ping")["timestamp"].is_u64());
        ann.send(&map(&[("type", "pong".into())]));
    }
}

fn a_drain_is_announced(start: Start) {
    let mut server = start.start();
    let mut ann = Peer::connect(&server, "/ws/demo");
    server.signal("TERM");
    assert!(ann.expect("reconnect")["after_ms"].is_u64());
    ann.0.assert_closed(1001, "DRAINING");
    assert!(server.wait_for_exit().success());
}
