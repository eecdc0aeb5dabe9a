//! Handshakes that are refused, and what the refused are told: by status, by body, or by an immediate close.

mod support;

use support::{HANDSHAKE, Response, Server, Start, on_all_layouts, on_both_drivers};

on_both_drivers!(
    what_is_no_handshake_is_a_bad_request,
    other_pages_are_forbidden,
    allowed_origins_replace_the_own_host,
    nothing_is_where_nothing_should_be,
    only_version_13_is_spoken,
    only_get_is_answered,
    a_large_head_is_refused,
    a_prefix_precedes_every_path,
    subprotocols_that_nobody_speaks_are_refused,
    health_is_told_to_everybody,
);

on_all_layouts!(
    a_full_node_says_when_to_retry,
    a_browser_learns_of_limits,
    a_browser_learns_that_the_node_is_full
);

/// Sends a request as it is; the whole answer.
#[track_caller]
fn ask(server: &Server, request: &str) -> Response {
    let mut raw = server.raw();
    raw.send(request.as_bytes());
    raw.response()
}

/// The handshake for `/ws/demo` with a part of it replaced.
#[track_caller]
fn bent(from: &str, to: &str) -> String {
    let request = format!("GET /ws/demo{HANDSHAKE}");
    assert!(request.contains(from), "{from:?} is part of a handshake");
    request.replacen(from, to, 1)
}

/// Fails unless the answer is this refusal: complete, final, and with a body that names the fault.
#[track_caller]
fn assert_refused(response: &Response, status: u16, names: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert!(response.body.contains(names), "{names:?} is in {:?}", response.body);
    assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()));
    assert_eq!(response.header("connection"), Some("close"));
    assert!(response.header("content-type").is_some_and(|it| it.starts_with("text/plain")));
}

fn what_is_no_handshake_is_a_bad_request(start: Start) {
    let server = start.start();
    for (from, to, names) in [
        ("Upgrade: websocket\r\n", "", "Upgrade: websocket"),
        ("Upgrade: websocket", "Upgrade: h2c", "Upgrade: websocket"),
        ("Connection: Upgrade", "Connection: keep-alive", "Connection: Upgrade"),
        ("Host: 127.0.0.1\r\n", "", "Host"),
        ("HTTP/1.1", "HTTP/1.0", "HTTP/1.1"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "16 bytes in base64"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j*Q==", "16 bytes in base64"),
        ("Host:", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nHost:", "once"),
        ("Host:", "Content-Length: 5\r\nHost:", "no body"),
        ("/ws/demo ", "/ws/demo?as=%FF ", "UTF-8"),
        ("/ws/demo ", "/ws/demo?as=a%20b ", "?as="),
        ("/ws/demo ", "/ws/demo?as= ", "?as="),
        ("Host: 127.0.0.1", "Host 127.0.0.1", "bad handshake"),
    ] {
        let response = ask(&server, &bent(from, to));
        assert_refused(&response, 400, names);
        assert!(response.body.starts_with("bad handshake: "), "{}", response.body);
    }
    assert_refused(&ask(&server, "\u{16}\u{3}\u{1}hello\r\n\r\n"), 400, "bad handshake");
    // The shape of what may vary: names in any case, lists, white space.
    let odd = bent(
        "Upgrade: websocket\r\nConnection: Upgrade",
        "uPGRADE:WebSocket\r\nconnection: keep-alive , upgrade",
    );
    let mut raw = server.raw();
    raw.send(odd.as_bytes());
    assert!(raw.read_head().starts_with("HTTP/1.1 101 "));
}

fn other_pages_are_forbidden(start: Start) {
    let server = start.start();
    for origin in
        ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost", "127.0.0.1"]
    {
        let response = ask(&server, &bent("Host:", &format!("Origin: {origin}\r\nHost:")));
        assert_refused(&response, 403, "allowed_origins");
    }
    for origin in ["http://127.0.0.1", "https://127.0.0.1:9000"] {
        server.to("/ws/demo").header("origin", origin).open().close();
    }
}

fn allowed_origins_replace_the_own_host(start: Start) {
    let server = start.set("allowed_origins", "https://a.example,https://b.example:8443").start();
    for origin in ["https://a.example", "https://b.example:8443", "HTTPS://A.example"] {
        server.to("/ws/demo").header("origin", origin).open().close();
    }
    for origin in ["https://b.example", "http://a.example", "http://127.0.0.1"] {
        let response = ask(&server, &bent("Host:", &format!("Origin: {origin}\r\nHost:")));
        assert_refused(&response, 403, "allowed_origins");
    }
}

fn nothing_is_where_nothing_should_be(start: Start) {
    let development = start.clone().mode("development").start();
    let demo = start.start();
    for path in ["/", "/wss", "/ws/dev", "/ws/echo", "/ws/demo/", "/ws/a/b/c", "/ws/nowhere", "/demo", "/WS"]
    {
        assert_refused(&ask(&demo, &format!("GET {path}{HANDSHAKE}")), 404, "/ws/{resource}/{id}");
    }
    assert_refused(&ask(&development, &format!("GET /ws/demo{HANDSHAKE}")), 404, "/ws/{resource}/{id}");
    development.connect("/ws/dev").close();
    demo.connect("/ws").close();
}

fn only_version_13_is_spoken(start: Start) {
    let server = start.start();
    for (from, to) in [("Version: 13", "Version: 8"), ("Sec-WebSocket-Version: 13\r\n", "")] {
        let response = ask(&server, &bent(from, to));
        assert_refused(&response, 426, "13");
        assert_eq!(response.header("sec-websocket-version"), Some("13"));
    }
}

fn only_get_is_answered(start: Start) {
    let server = start.start();
    for request in [bent("GET /ws/demo", "POST /ws/demo"), bent("GET /ws/demo", "POST /health")] {
        let response = ask(&server, &request);
        assert_refused(&response, 405, "GET");
        assert_eq!(response.header("allow"), Some("GET"));
    }
}

fn a_large_head_is_refused(start: Start) {
    let server = start.start();
    let long = bent("Host:", &format!("X-Filler: {}\r\nHost:", "x".repeat(9000)));
    assert_refused(&ask(&server, &long), 431, "8 KiB");
    let many = bent("Host:", &format!("{}Host:", "X: y\r\n".repeat(80)));
    assert_refused(&ask(&server, &many), 431, "64 header fields");
    // Without an end, the limit is what ends it.
    assert_refused(&ask(&server, &format!("GET /ws/demo HTTP/1.1\r\nX: {}", "x".repeat(9000))), 431, "8 KiB");
}

fn a_prefix_precedes_every_path(start: Start) {
    let server = start.env("WS_ENDPOINT", "/api/v1/ws/demo").start();
    server.wait_for_line("/api/v1/ws/demo");
    server.connect("/api/v1/ws/demo").close();
    assert_refused(&ask(&server, &format!("GET /ws/demo{HANDSHAKE}")), 404, "http.prefix");
    for path in ["/api/v1/health", "/health", "/api/v1/ready", "/ready"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
}

fn subprotocols_that_nobody_speaks_are_refused(start: Start) {
    let server = start.start();
    for offered in ["graphql-ws", "agent-protocol-v2, AGENT-PROTOCOL-V1"] {
        let request = bent("Host:", &format!("Sec-WebSocket-Protocol: {offered}\r\nHost:"));
        assert_refused(&ask(&server, &request), 400, "agent-protocol-v1");
    }
}

fn health_is_told_to_everybody(start: Start) {
    let server = start.set("limits.connections", 1).start();
    let client = server.connect("/ws/demo");
    // A full node is healthy and ready: it serves those whom it has.
    for (path, body) in [("/health", "ok\n"), ("/ready", "ready\n")] {
        let response = server.get(path);
        assert_eq!((response.status, response.body.as_str()), (200, body), "{path}");
        let response = server.admin_get(path);
        assert_eq!((response.status, response.body.as_str()), (200, body), "admin {path}");
    }
    client.close();
}

fn a_full_node_says_when_to_retry(start: Start) {
    let server = start.set("limits.connections", 3).start();
    let mut clients: Vec<_> = (0..3).map(|_| server.connect("/ws/demo")).collect();
    for _ in 0..3 {
        let response = ask(&server, &format!("GET /ws/demo{HANDSHAKE}"));
        assert_refused(&response, 503, "full");
        let after = response.header("retry-after").and_then(|it| it.parse::<u64>().ok());
        assert!(after.is_some_and(|seconds| seconds > 0), "{response:?}");
    }
    // Those who are in notice nothing, and a place that is given back is a place.
    clients.iter_mut().for_each(support::Client::assert_quiet);
    clients.pop().expect("three").close();
    server.connect_when_free("/ws/demo").assert_quiet();
}

fn a_browser_learns_of_limits(start: Start) {
    let server =
        start.set("limits.connections_per_participant", 2).set("limits.connections_per_ip", 3).start();
    let anns: Vec<_> = (0..2).map(|_| server.connect("/ws/demo?as=ann")).collect();
    let mut third = server.to("/ws/demo?as=ann").browser().open_only();
    third.assert_closed(4501, "CONNECTION_LIMIT: 2 connections per participant");
    let bob = server.connect_when_free("/ws/demo?as=bob");
    let mut eve = server.to("/ws/demo?as=eve").browser().open_only();
    eve.assert_closed(4501, "CONNECTION_LIMIT: 3 connections per address");
    // Without an Origin the same is told by status.
    let response = ask(&server, &format!("GET /ws/demo?as=eve{HANDSHAKE}"));
    assert_refused(&response, 429, "limits.connections_per_ip");
    assert!(response.header("retry-after").is_some());
    drop((anns, bob));
}

fn a_browser_learns_that_the_node_is_full(start: Start) {
    let server = start.set("limits.connections", 1).start();
    let first = server.connect("/ws/demo");
    let mut second = server.to("/ws/demo").browser().open_only();
    second.assert_closed(1013, "OVERLOADED");
    // A page of elsewhere is not worth an upgrade.
    let response = ask(&server, &bent("Host:", "Origin: https://evil.example\r\nHost:"));
    assert_refused(&response, 403, "origin");
    drop(first);
}
