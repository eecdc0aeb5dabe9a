//! Compressed messages on the real binary, read and written by an implementation that is not the server's.

mod support;

use std::collections::HashSet;

use serde_json::{Value, json};
use support::{Gauges, Packed, Start, masked, on_all_layouts, on_both_drivers, packed};

on_all_layouts!(everybody_gets_the_same_however_they_get_it);

on_both_drivers!(
    the_echo_keeps_to_what_was_agreed,
    a_bomb_stops_at_the_limit,
    bombs_keep_nobody_waiting,
    what_is_no_deflate_ends_the_connection,
    nothing_is_agreed_where_it_is_off,
    replies_are_compressed_too,
    what_does_not_pay_is_left_alone,
);

const NAME: &str = "permessage-deflate";

/// Text that compresses well, of about this many bytes.
fn text(bytes: usize) -> String {
    (0..).map(|n| format!("word{} ", n % 17)).take(bytes / 6 + 1).collect()
}

/// Text that hardly compresses.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'#' + ((state >> 33) % 91) as u8)
    };
    (0..bytes).map(next).map(|it| if it == '\\' { '!' } else { it }).collect()
}

fn everybody_gets_the_same_however_they_get_it(start: Start) {
    const SIZES: [usize; 6] = [10, 300, 900, 5_000, 60_000, 300_000];
    /// What the largest window is good for.
    const LARGEST: usize = 256 << 10;
    const EACH: usize = 6;
    let layout = start.set("compression.mode", "standard").set("limits.connections_per_ip", 0);
    let server = layout.start();
    let mut plain: Vec<_> = (0..EACH).map(|_| server.connect("/ws/demo")).collect();
    plain.iter_mut().for_each(|client| {
        client.subscribe("conversation:1");
    });
    let offers =
        [NAME.to_owned(), format!("{NAME}; server_max_window_bits=10"), format!("{NAME}; unknown, {NAME}")];
    let mut takers = Vec::new();
    // The shards on which somebody takes it compressed, by window.
    let mut shards = [HashSet::new(), HashSet::new()];
    for (index, offer) in offers.iter().enumerate().flat_map(|it| std::iter::repeat_n(it, EACH)) {
        let mut client = Packed::connect(&server, "/ws/demo", offer);
        let agreed = client.agreed.clone().expect("it is offered");
        assert!(agreed.contains("; server_no_context_takeover; client_no_context_takeover"), "{agreed}");
        let (established, _) = client.expect("connection_established");
        client.subscribe("conversation:1");
        let window: usize = if index == 1 { 1 << 10 } else { LARGEST };
        shards[usize::from(index != 1)].insert(established["shard"].as_u64());
        takers.push((client, window));
    }
    let skipped = server.metric("compression_skipped_total");
    let names = ["compressed_messages_total", "compression_bytes_in_total", "compression_bytes_out_total"];
    let before = names.map(|name| server.metric(name));
    let mut compressed = 0;
    let mut publisher = server.connect("/ws/demo");
    for size in SIZES {
        let payload = json!(text(size));
        publisher.publish("conversation:1", &payload);
        let expected: Value = plain[0].expect("message");
        assert_eq!(expected["payload"], payload);
        let bytes = expected.to_string().len();
        compressed += match bytes {
            256..=1024 => shards[0].union(&shards[1]).count() as u64,
            1025..=LARGEST => shards[1].len() as u64,
            _ => 0,
        };
        for client in &mut plain[1..] {
            assert_eq!(client.expect("message"), expected);
        }
        for (client, window) in &mut takers {
            let (message, is_packed) = client.expect("message");
            assert_eq!(message, expected);
            assert_eq!(is_packed, (256..=*window).contains(&bytes), "{bytes} bytes, a window of {window}");
        }
    }
    let after = names.map(|name| server.metric(name));
    assert!(compressed > 0);
    assert_eq!(after[0] - before[0], compressed, "once on each shard where somebody takes it");
    assert!((after[2] - before[2]) * 3 < after[1] - before[1], "it compresses well: {before:?} {after:?}");
    assert!(server.metric("compression_skipped_total") > skipped, "what is too small or too large");
    assert_eq!(server.metric("deflate_contexts"), 0, "the shards' own serve all");
}

fn the_echo_keeps_to_what_was_agreed(start: Start) {
    let server = start.arg("--echo").set("compression.mode", "standard").start();
    let before = Gauges::settled(&server);
    let flags = ["", "; server_no_context_takeover", "; client_no_context_takeover"];
    let both = "; server_no_context_takeover; client_no_context_takeover";
    let windows = |name: &str, values: &[&str]| -> Vec<String> {
        let named = values.iter().map(|value| format!("; {name}{value}"));
        std::iter::once(String::new()).chain(named).collect()
    };
    let server_windows = windows("server_max_window_bits", &["=8", "=9", "=12", "=15"]);
    let client_windows = windows("client_max_window_bits", &["", "=8", "=9", "=12", "=15"]);
    for flags in flags.into_iter().chain([both]) {
        for server_window in &server_windows {
            for client_window in &client_windows {
                let offer = format!("{NAME}{flags}{server_window}{client_window}");
                let mut client = Packed::connect(&server, "/ws/echo", &offer);
                // That the client would take any window asks for nothing.
                let expected = offer.trim_end_matches("; client_max_window_bits");
                assert_eq!(client.agreed.as_deref(), Some(expected), "as it was asked");
                // The second and third may refer to the first.
                for message in [text(200), text(200), text(250), String::new(), "ä".to_owned()] {
                    client.send(0x81, message.as_bytes());
                    let (echoed, is_packed) = client.message();
                    assert_eq!(String::from_utf8(echoed), Ok(message.clone()), "{offer}");
                    // Whoever keeps nothing is served by the shard's own, which leaves short messages as they are.
                    let is_own = flags != both
                        || !["", "; server_max_window_bits=15"].contains(&server_window.as_str());
                    let least = if is_own { 1 } else { 256 };
                    assert_eq!(is_packed, message.len() >= least, "{offer}");
                }
            }
        }
    }
    for size in [1_000, 100_000, 3_000_000] {
        let mut client = Packed::connect(&server, "/ws/echo", NAME);
        for seed in 0..3 {
            for message in [text(size), noise(size, seed)] {
                client.send(0x82, message.as_bytes());
                assert!(client.message() == (message.into_bytes(), true), "{size} bytes");
            }
        }
        assert_eq!(server.metric("deflate_contexts"), 2, "one for each direction");
    }
    let mut client = Packed::connect(&server, "/ws/echo", &format!("{NAME}; server_no_context_takeover"));
    for (size, is_packed) in [(256 << 10, true), ((256 << 10) + 6, false)] {
        let message = text(size).into_bytes()[..size].to_vec();
        client.send(0x82, &message);
        assert!(client.message() == (message, is_packed), "{size} bytes");
    }
    drop(client);
    before.assert_back(&server);
    server.wait_for_metric("deflate_contexts", |contexts| contexts == 0);
}

fn a_bomb_stops_at_the_limit(start: Start) {
    const LIMIT: usize = 1 << 20;
    let server = start.arg("--echo").set("compression.mode", "standard").start();
    let bomb = packed(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 128 << 10);
    let before = Gauges::settled(&server);
    for round in 1..=4 {
        let mut client = Packed::connect(&server, "/ws/demo", NAME);
        client.expect("connection_established");
        client.send_packed(0x81, &bomb);
        let (code, reason) = client.raw.frame_of(8).close();
        assert_eq!((code, reason.as_str()), (1009, "MESSAGE_TOO_LARGE: above limits.message_bytes"));
        let inflated = server.metric("inflated_bytes_total");
        assert!(inflated <= (round * LIMIT) as u64, "{inflated} bytes after {round} bombs");
    }
    let mut client = Packed::connect(&server, "/ws/echo", NAME);
    client.send_packed(0x81, &bomb);
    assert_eq!(client.raw.frame_of(8).close().0, 1009);
    drop(client);
    before.assert_back(&server);
    // As large as it may be is fine.
    let mut client = Packed::connect(&server, "/ws/echo", NAME);
    let message = vec![b' '; 16 << 20];
    client.send(0x82, &message);
    assert!(client.message() == (message, true));
}

fn bombs_keep_nobody_waiting(start: Start) {
    const MESSAGE: u64 = 1 << 20;
    /// What a tick does at most: what it may, and one message more.
    const TICK: u64 = 3 << 20;
    const BOMBERS: u64 = 20;
    const EACH: u64 = 40;
    let server =
        start.shards(1).set("compression.mode", "standard").set("limits.connections_per_ip", 0).start();
    let mut bomb = br#"{"type":"pong"}"#.to_vec();
    bomb.resize(MESSAGE as usize, b' ');
    let bomb = packed(&bomb);
    assert!(bomb.len() < 2 << 10);
    let bombs = masked(0x81 | 0x40, &bomb).repeat(EACH as usize);
    let mut plain = server.connect("/ws/demo");
    let mut honest = Packed::connect(&server, "/ws/demo", NAME);
    honest.expect("connection_established");
    let mut bombers: Vec<_> = (0..BOMBERS).map(|_| Packed::connect(&server, "/ws/demo", NAME)).collect();
    let names = ["ticks_total", "inflated_bytes_total"];
    let before = names.map(|name| server.metric(name));
    // As much as the socket takes: what is held back is not read.
    bombers.iter_mut().for_each(|bomber| bomber.raw.send(&bombs));
    // They say something in between, and are heard.
    for _ in 0..3 {
        plain.send_json(&json!({"type": "ping"}));
        plain.expect("pong");
    }
    honest.send(0x81, br#"{"type":"ping"}"#);
    honest.expect("pong");
    let all = BOMBERS * EACH * MESSAGE;
    let inflated = server.metric(names[1]) - before[1];
    assert!(inflated < all, "they were heard only when all of it was read");
    let inflated = server.wait_for_metric(names[1], |inflated| inflated >= before[1] + all) - before[1];
    let ticks = server.metric(names[0]) - before[0];
    assert!(ticks * TICK >= inflated, "{inflated} bytes in {ticks} ticks");
    assert_eq!(server.metric("violations_total"), 0);
    for mut bomber in bombers {
        bomber.expect("connection_established");
        bomber.send(0x81, br#"{"type":"ping"}"#);
        bomber.expect("pong");
    }
}

fn what_is_no_deflate_ends_the_connection(start: Start) {
    let server = start.arg("--echo").set("compression.mode", "standard").start();
    let not_text = packed(b"\xff\xfe");
    let cut = &packed(text(100).as_bytes())[..20];
    for (path, kind) in [("/ws/demo", true), ("/ws/echo", false)] {
        for (bytes, code) in
            [(&b"\x07\xff"[..], 1007), (&[0xff; 100], 1007), (not_text.as_slice(), 1007), (cut, 1007)]
        {
            let offer = format!("{NAME}; client_no_context_takeover");
            let mut client = Packed::connect(&server, path, &offer);
            if kind {
                client.expect("connection_established");
            }
            client.send_packed(0x81, bytes);
            let (got, reason) = client.raw.frame_of(8).close();
            assert_eq!(got, code, "{bytes:x?}: {reason}");
        }
        // RSV1 where it says nothing: on a continuation, a ping, and where nothing was agreed.
        for frames in [&[(0x01, false), (0x80, true)][..], &[(0x89, true)]] {
            let mut client = Packed::connect(&server, path, NAME);
            for (first, is_packed) in frames {
                let bits = if *is_packed { 0x40 } else { 0 };
                client.raw.send(&masked(first | bits, b""));
            }
            assert_eq!(client.raw.frame_of(8).close().0, 1002);
        }
        let mut client = server.raw_upgraded(path);
        client.send(&masked(0x81 | 0x40, &packed(b"{}")));
        assert_eq!(client.frame_of(8).close().0, 1002);
    }
    assert_eq!(server.metric("violations_total"), 14);
}

fn nothing_is_agreed_where_it_is_off(start: Start) {
    let server = start.arg("--echo").start();
    for path in ["/ws/demo", "/ws/echo"] {
        let mut client = Packed::connect(&server, path, NAME);
        assert_eq!(client.agreed, None);
        client.send_packed(0x81, &packed(b"{}"));
        assert_eq!(client.raw.frame_of(8).close().0, 1002);
    }
    let mut taker = Packed::connect(&server, "/ws/demo", NAME);
    let (_, is_packed) = taker.expect("connection_established");
    assert!(!is_packed);
    assert_eq!(server.metric("compressed_messages_total") + server.metric("compression_skipped_total"), 0);
}

fn replies_are_compressed_too(start: Start) {
    let server = start.set("compression.mode", "standard").set("compression.threshold_bytes", 100).start();
    let mut client = Packed::connect(&server, "/ws/demo", NAME);
    let (_, is_packed) = client.expect("connection_established");
    assert!(is_packed, "it is longer than that");
    client.send(0x81, br#"{"type":"ping","id":1}"#);
    let (_, is_packed) = client.expect("pong");
    assert!(!is_packed, "it is not");
    assert_eq!(
        (server.metric("compressed_messages_total"), server.metric("compression_skipped_total")),
        (1, 1)
    );
}

fn what_does_not_pay_is_left_alone(start: Start) {
    let server = start.set("compression.mode", "adaptive").start();
    let mut taker = Packed::connect(&server, "/ws/demo", NAME);
    taker.expect("connection_established");
    taker.subscribe("conversation:1");
    taker.subscribe("metrics:1");
    let mut publisher = server.connect("/ws/demo");
    let mut tried = |channel: &str, payload: &dyn Fn(u64) -> String| {
        let before = server.metric("compressed_messages_total");
        for round in 0..200 {
            let payload = json!(payload(round));
            publisher.publish(channel, &payload);
            assert_eq!(taker.expect("message").0["payload"], payload);
        }
        server.metric("compressed_messages_total") - before
    };
    assert_eq!(tried("conversation:1", &|_| text(1000)), 200, "it pays");
    let in_vain = tried("metrics:1", &|round| noise(1000, round));
    assert!((8..=15).contains(&in_vain), "until it is known, and then now and then: {in_vain}");
    assert_eq!(tried("conversation:1", &|_| text(1000)), 200, "the other namespace is another matter");
}
