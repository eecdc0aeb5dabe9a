//! Sessions on the real binary: what somebody expects whose connection breaks in the middle of a conversation.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;
use support::{Client, Server, Start, on_all_layouts, on_both_drivers};

on_all_layouts!(
    who_is_cut_off_goes_on_on_any_shard,
    what_was_missed_comes_once_while_others_publish,
    the_later_connection_takes_the_session,
    the_inbox_goes_on_from_its_position,
    a_dead_connection_gives_its_place_to_who_resumes_it,
);

on_both_drivers!(
    goodbye_ends_a_session_and_everything_else_suspends_it,
    a_session_that_nobody_resumes_is_over,
    the_url_may_name_the_token,
);

const CHANNEL: &str = "conversation:42";

fn unlimited(start: Start) -> Start {
    start.set("limits.connections_per_participant", 0).set("limits.connections_per_ip", 0)
}

/// As when its process is killed: the kernel resets the connection.
fn cut_off(client: Client) {
    SockRef::from(client.socket.get_ref()).set_linger(Some(Duration::ZERO)).expect("it is TCP");
}

fn token(told: &Value) -> String {
    told["resume_token"].as_str().expect("a text").to_owned()
}

fn resume(client: &mut Client, token: &str, positions: &Value) -> Value {
    client.send_json(&json!({"type": "resume", "id": 7, "token": token, "positions": positions}));
    client.expect("resumed")
}

fn suspended(server: &Server, count: u64) {
    server.wait_for_metric("sessions_suspended", |it| it == count);
}

fn who_is_cut_off_goes_on_on_any_shard(start: Start) {
    let server = unlimited(start).start();
    let mut bob = server.connect("/ws/demo?as=bob");
    let first = server.connect("/ws/demo?as=ann");
    let mut token = token(&first.established);
    let mut ann = first;
    let epoch = ann.subscribe(CHANNEL)["epoch"].clone();
    let mut at = bob.publish(CHANNEL, &json!("read"))["offset"].as_u64().expect("an offset");
    ann.expect("message");
    for mut again in server.connect_on_every_shard("/ws/demo?as=ann") {
        cut_off(ann);
        bob.publish(CHANNEL, &json!("missed"));
        let answer = resume(&mut again, &token, &json!({CHANNEL: [epoch, at]}));
        assert_eq!(answer["id"], 7);
        let told = json!({"channel": CHANNEL, "epoch": epoch, "offset": at, "recovered": true});
        assert_eq!(answer["subscriptions"], json!([told]));
        bob.publish(CHANNEL, &json!("new"));
        for payload in ["missed", "new"] {
            at += 1;
            let message = again.expect("message");
            assert_eq!((&message["payload"], &message["offset"]), (&json!(payload), &json!(at)));
        }
        again.assert_quiet();
        token = self::token(&answer);
        ann = again;
    }
}

fn what_was_missed_comes_once_while_others_publish(start: Start) {
    const ROUNDS: usize = 8;
    let server = unlimited(start).start();
    let mut bob = server.connect("/ws/demo?as=bob");
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut token = token(&ann.established);
    let epoch = ann.subscribe(CHANNEL)["epoch"].clone();
    let (mut said, mut seen) = (0, Vec::new());
    let mut say = |count: u64| {
        for _ in 0..count {
            said += 1;
            bob.send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": said}));
        }
        said
    };
    say(3);
    for _ in 0..ROUNDS {
        for _ in 0..2 {
            seen.push(ann.expect("message")["payload"].as_u64().expect("a number"));
        }
        say(2);
        cut_off(ann);
        let mut again = server.connect("/ws/demo?as=ann");
        say(3);
        again.send_json(
            &json!({"type": "resume", "token": token, "positions": {CHANNEL: [epoch, seen.len()]}}),
        );
        say(2);
        let answer = again.expect("resumed");
        assert_eq!(answer["subscriptions"][0]["recovered"], true);
        token = self::token(&answer);
        ann = again;
    }
    let last = say(1);
    while seen.last() != Some(&last) {
        seen.push(ann.expect("message")["payload"].as_u64().expect("a number"));
    }
    assert_eq!(seen, (1..=last).collect::<Vec<_>>());
}

fn the_later_connection_takes_the_session(start: Start) {
    let server = unlimited(start).start();
    let mut bob = server.connect("/ws/demo?as=bob");
    bob.subscribe(CHANNEL);
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut token = token(&ann.established);
    ann.subscribe(CHANNEL);
    for (round, mut again) in server.connect_on_every_shard("/ws/demo?as=ann").into_iter().enumerate() {
        let round = round as u64;
        // Both publish without waiting: what the old connection said comes first.
        ann.send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": 2 * round}));
        bob.expect("message");
        again.send_json(&json!({"type": "resume", "token": token}));
        again.send_json(&json!({"type": "publish", "channel": CHANNEL, "payload": 2 * round + 1}));
        assert_eq!(bob.expect("message")["payload"], 2 * round + 1);
        ann.assert_closed(4502, "CANCELLED");
        token = self::token(&again.expect("resumed"));
        ann = again;
    }
    let shards = server.connect_on_every_shard("/ws/demo?as=eve").len() as u64;
    assert_eq!(server.metric("sessions_taken_over_total"), shards);
    assert_eq!(server.metric("sessions_resumed_total"), shards);
}

fn goodbye_ends_a_session_and_everything_else_suspends_it(start: Start) {
    use tungstenite::protocol::CloseFrame;
    let server = unlimited(start).start();
    let closes = |code: Option<u16>| {
        let mut ann = server.connect("/ws/demo?as=ann");
        let token = token(&ann.established);
        ann.subscribe(CHANNEL);
        let frame = code.map(|code| CloseFrame { code: code.into(), reason: "".into() });
        ann.socket.close(frame).expect("it is open");
        while ann.socket.read().is_ok() {}
        let mut again = server.connect("/ws/demo?as=ann");
        again.send_json(&json!({"type": "resume", "token": token}));
        let answer = again.next();
        again.close();
        answer
    };
    for code in [None, Some(1000)] {
        let answer = closes(code);
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("UNRECOVERABLE")),
            "{code:?}"
        );
    }
    suspended(&server, 0);
    for code in [1001, 3000, 4000, 4999] {
        assert_eq!(closes(Some(code))["type"], "resumed", "{code}");
    }
    suspended(&server, 0);
    cut_off(server.connect("/ws/demo?as=ann"));
    suspended(&server, 1);
}

fn a_session_that_nobody_resumes_is_over(start: Start) {
    let server = unlimited(start).set("limits.resume_window_ms", 300).start();
    let mut ann = server.connect("/ws/demo?as=ann");
    assert_eq!(ann.established["resume_window_ms"], 300);
    let token = token(&ann.established);
    ann.subscribe(CHANNEL);
    cut_off(ann);
    server.wait_for_metric("sessions_expired_total", |it| it == 1);
    suspended(&server, 0);
    let mut again = server.connect("/ws/demo?as=ann");
    again.send_json(&json!({"type": "resume", "token": token}));
    again.expect_error("UNRECOVERABLE");
    // It goes on with a session of its own.
    again.subscribe(CHANNEL);
}

fn the_url_may_name_the_token(start: Start) {
    let server = unlimited(start).start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let token = token(&ann.established);
    ann.subscribe(CHANNEL);
    cut_off(ann);
    suspended(&server, 1);
    let mut again = server.connect(&format!("/ws/demo?as=ann&resume={token}"));
    assert_eq!(again.expect("resumed")["subscriptions"][0]["channel"], CHANNEL);
    again.send_json(&json!({"type": "query", "id": 1, "method": "session"}));
    let session = again.expect("response")["result"].clone();
    assert_eq!((&session["participant"], &session["state"]), (&json!("demo:ann"), &json!("authenticated")));
    assert_eq!(session["subscriptions"], json!([CHANNEL]));
    assert!(!server.log().iter().any(|line| line.contains(&token)), "tokens are not logged");
}

fn the_inbox_goes_on_from_its_position(start: Start) {
    let server = unlimited(start).mode("development").start();
    let mut bob = server.connect("/ws/dev?as=bob");
    let mut ann = server.connect("/ws/dev?as=ann");
    let mut token = token(&ann.established);
    let mut send = |payload: u64| {
        bob.send_json(&json!({"type": "publish", "id": 1, "to": "ann", "store": true, "payload": payload}));
        bob.expect("response")["result"]["offset"].clone()
    };
    let mut number = 1;
    send(number);
    let epoch = ann.expect("message")["epoch"].clone();
    cut_off(ann);
    suspended(&server, 1);
    for _ in 0..4 {
        number += 2;
        send(number - 1);
        // Without a word the first of these would come by itself, and again behind `resumed`.
        let mut again = server.connect("/ws/dev?as=ann");
        let answer = resume(&mut again, &token, &json!({"@me": [epoch, number - 2]}));
        let told = json!({"channel": "@me", "epoch": epoch, "offset": number - 2, "recovered": true});
        assert_eq!(answer["subscriptions"], json!([told]));
        assert_eq!(send(number), number);
        for payload in [number - 1, number] {
            let message = again.expect("message");
            assert_eq!((&message["payload"], &message["offset"]), (&json!(payload), &json!(payload)));
        }
        again.assert_quiet();
        token = self::token(&answer);
        cut_off(again);
        suspended(&server, 1);
    }
}

fn a_dead_connection_gives_its_place_to_who_resumes_it(start: Start) {
    let server = start.set("limits.connections_per_participant", 1).start();
    // Nobody knows that it is dead.
    let mut dead = server.connect("/ws/demo?as=ann");
    let token = token(&dead.established);
    assert!(server.to("/ws/demo?as=ann").try_open().is_err());
    let mut again = server.connect(&format!("/ws/demo?as=ann&resume={token}"));
    again.expect("resumed");
    dead.assert_closed(4502, "CANCELLED: the session goes on in another connection");
}
