//! A thousand bad handshakes of every kind beside a thousand good connections that talk all the time: every bad one
//! gets its answer, no good one misses a message, and nothing is left behind.

mod support;

use support::{
    Crowd, Gauges, HANDSHAKE, Raw, Response, Server, Start, masked, need_descriptors, on_both_drivers,
};

on_both_drivers!(a_thousand_bad_beside_a_thousand_good);

/// How often each kind is sent.
const PEERS_PER_KIND: usize = 36;

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// This status, and the end.
    Status(u16),
    /// The end, without a word: the peer was the first to give up.
    Nothing,
    /// The handshake, which was good, and then a close frame with 1002.
    Violation,
}

use Answer::{Nothing, Status, Violation};

/// The handshake for `/ws/demo` with a part of it replaced.
fn bent(from: &str, to: &str) -> Vec<u8> {
    let request = format!("GET /ws/demo{HANDSHAKE}");
    assert!(request.contains(from), "{from:?} is part of a handshake");
    request.replacen(from, to, 1).into_bytes()
}

fn behind(head: Vec<u8>, junk: &[u8]) -> Vec<u8> {
    [head.as_slice(), junk].concat()
}

/// All kinds: what is sent, and what is answered.
fn kinds() -> Vec<(Vec<u8>, Answer)> {
    let good = || bent("", "");
    let long = format!("Host: {}\r\nHost:", "x".repeat(9000));
    let client_hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\x5a\x0d\x0a\x0d\x0a".as_slice();
    vec![
        // Not HTTP at all.
        (b"\x00\x01\x02\x03\xff\xfe\xfd\xfc".repeat(100), Status(400)),
        (client_hello.to_vec(), Status(400)),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), Status(400)),
        (b"EHLO mail.example\r\n".to_vec(), Status(400)),
        (b"{\"type\":\"ping\"}\r\n\r\n".to_vec(), Status(400)),
        (masked(0x81, br#"{"type":"ping"}"#), Status(400)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Status(400)),
        // HTTP, but no handshake of ours.
        (b"GET /ws/demo HTTP/1.0\r\nHost: x\r\n\r\n".to_vec(), Status(400)),
        (bent("HTTP/1.1", "HTTP/1.0"), Status(400)),
        (bent("HTTP/1.1", "HTTP/9"), Status(400)),
        (b"GET /ws/demo HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Status(400)),
        (bent("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), Status(400)),
        (bent("dGhlIHNhbXBsZSBub25jZQ==", "short"), Status(400)),
        (bent("Host: 127.0.0.1\r\n", ""), Status(400)),
        (bent("Host: ", "Ho\0st: "), Status(400)),
        (bent("Host: ", "Content-Length: 1000000\r\nHost: "), Status(400)),
        (bent("Host: ", "Transfer-Encoding: chunked\r\nHost: "), Status(400)),
        (bent("Host: ", "Sec-WebSocket-Protocol: soap\r\nHost: "), Status(400)),
        (bent("Version: 13", "Version: 8"), Status(426)),
        (bent("GET", "POST"), Status(405)),
        (bent("/ws/demo", "/nowhere"), Status(404)),
        (bent("Host: ", "Origin: https://evil.example\r\nHost: "), Status(403)),
        // Too much of it.
        (bent("Host:", &long), Status(431)),
        (bent("Host:", &format!("{}Host:", "X: y\r\n".repeat(100))), Status(431)),
        (behind(b"GET /".to_vec(), &[b'a'; 20_000]), Status(431)),
        (b"\r\n".repeat(5000), Status(431)),
        // With more behind it.
        (behind(bent("/ws/demo", "/nowhere"), &[0xff; 5000]), Status(404)),
        (behind(bent("Version: 13", "Version: 8"), &good()), Status(426)),
        (behind(good(), b"\x81\x02hi"), Violation),
        (behind(good(), &good()), Violation),
        // Less than a request.
        (Vec::new(), Nothing),
        (good()[..100].to_vec(), Nothing),
    ]
}

#[track_caller]
fn assert_answered(peer: &mut Raw, sent: &[u8], answer: Answer) {
    let (bytes, _) = peer.read_to_end();
    let text = String::from_utf8_lossy(&bytes);
    let sent = String::from_utf8_lossy(&sent[..sent.len().min(100)]);
    match answer {
        Nothing => assert!(bytes.is_empty(), "{sent:?}: {text}"),
        Status(status) => {
            let response = Response::parse(&bytes);
            assert_eq!(response.status, status, "{sent:?}: {text}");
            let length = response.header("content-length").and_then(|it| it.parse().ok());
            assert_eq!(length, Some(response.body.len()), "one answer, and a whole one: {text}");
        }
        Violation => {
            assert!(bytes.starts_with(b"HTTP/1.1 101 "), "{sent:?}: {text}");
            let close = [&1002_u16.to_be_bytes(), b"INVALID_MESSAGE".as_slice()].concat();
            assert!(bytes.windows(close.len()).any(|it| it == close), "{sent:?}: {text}");
        }
    }
}

/// Sends all of them at once, then hears them all.
#[track_caller]
fn send_bad_handshakes(server: &Server) {
    let mut peers = Vec::new();
    for _ in 0..PEERS_PER_KIND {
        for (bytes, answer) in kinds() {
            let mut peer = server.raw();
            peer.send(&bytes);
            if answer == Nothing {
                peer.finish();
            }
            peers.push((peer, bytes, answer));
        }
    }
    assert!(peers.len() >= 1000, "{} bad ones", peers.len());
    for (peer, bytes, answer) in &mut peers {
        assert_answered(peer, bytes, *answer);
    }
}

fn a_thousand_bad_beside_a_thousand_good(start: Start) {
    need_descriptors(4000);
    let server = start.arg("--no-limits").start();
    let mut crowd = Crowd::connect(server.clients, 100, 10);
    assert_eq!(crowd.len(), 1000);
    crowd.round();
    let chatting = crowd.chat();
    // Once to warm up: afterwards memory does not grow any more.
    send_bad_handshakes(&server);
    server.wait_for_metric("connections", |connections| connections == 1000);
    let (refused, violations) = (server.metric("refused_total"), server.metric("violations_total"));
    let before_kib = server.resident_kib();
    send_bad_handshakes(&server);
    chatting.wait_for_rounds(1);
    server.wait_for_metric("connections", |connections| connections == 1000);
    let after_kib = server.resident_kib();
    crowd = chatting.stop();
    let of = |wanted: fn(Answer) -> bool| {
        (PEERS_PER_KIND * kinds().iter().filter(|(_, answer)| wanted(*answer)).count()) as u64
    };
    assert_eq!(server.metric("refused_total") - refused, of(|it| matches!(it, Status(_))));
    assert_eq!(server.metric("violations_total") - violations, of(|it| it == Violation));
    eprintln!("resident memory was {before_kib} KiB and is {after_kib} KiB");
    assert!(after_kib <= before_kib + before_kib / 20, "{before_kib} KiB became {after_kib} KiB");
    crowd.round();
    drop(crowd);
    Gauges::assert_nothing_is_left(&server);
}
