//! Who is in a channel, on the real binary: queries, joins and leaves, a member whose connection breaks, typing.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::SockRef;
use support::{Client, Server, Start, on_all_layouts, on_both_drivers};

on_all_layouts!(
    who_comes_and_goes_is_told_to_those_who_ask,
    a_member_whose_connection_breaks_leaves,
    a_crowd_that_comes_and_goes_is_known_by_its_events,
);

on_both_drivers!(typing_ends_by_itself);

const CHANNEL: &str = "conversation:lobby";

fn watch(client: &mut Client) {
    client.send_json(&json!({"type": "subscribe", "channel": CHANNEL, "presence": true}));
    assert_eq!(client.next()["type"], "subscribed");
}

fn ask(client: &mut Client, method: &str, params: Value) -> Value {
    client.send_json(&json!({"type": "query", "id": "q", "method": method, "params": params}));
    loop {
        let message = client.next();
        if message["type"] == "response" {
            assert_eq!(message["id"], "q");
            return message["result"].clone();
        }
    }
}

/// Reads events until one of this name is about this participant.
fn hears(client: &mut Client, name: &str, participant: &str) -> Value {
    loop {
        let event = client.expect("event");
        assert_eq!(event["channel"], CHANNEL);
        let participants = event["participants"].as_array().expect("few are listed");
        if event["name"] == name && participants.iter().any(|it| it == participant) {
            return event;
        }
    }
}

fn who_comes_and_goes_is_told_to_those_who_ask(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut bob = server.connect("/ws/demo?as=bob");
    watch(&mut ann);
    hears(&mut ann, "join", "demo:ann");
    // Two tabs are one member.
    bob.subscribe(CHANNEL);
    let mut tab = server.connect("/ws/demo?as=bob");
    tab.subscribe(CHANNEL);
    assert_eq!(hears(&mut ann, "join", "demo:bob")["count"], 2);
    let there = ask(&mut ann, "presence", json!({"channel": CHANNEL}));
    let expected = json!({
        "channel": CHANNEL, "count": 2, "participants": ["demo:ann", "demo:bob"], "more": false,
    });
    assert_eq!(there, expected);
    let page = ask(&mut ann, "presence", json!({"channel": CHANNEL, "limit": 1, "after": "demo:ann"}));
    assert_eq!((&page["participants"], &page["more"]), (&json!(["demo:bob"]), &json!(false)));
    let counted = ask(&mut tab, "presence", json!({"channel": CHANNEL, "count_only": true}));
    assert_eq!(counted, json!({"channel": CHANNEL, "count": 2}));
    let stats = ask(&mut tab, "presence_stats", json!({"channel": CHANNEL}));
    assert_eq!(stats, json!({"channel": CHANNEL, "participants": 2, "connections": 3}));
    tab.close();
    bob.send_json(&json!({"type": "unsubscribe", "channel": CHANNEL}));
    assert_eq!(bob.next()["type"], "unsubscribed", "who did not ask hears nothing of all this");
    assert_eq!(hears(&mut ann, "leave", "demo:bob")["count"], 1);
}

fn a_member_whose_connection_breaks_leaves(start: Start) {
    let server = start
        .set("limits.resume_window_ms", 300)
        .set("limits.connections_per_participant", 0)
        .set("limits.connections_per_ip", 0)
        .start();
    let mut ann = server.connect("/ws/demo?as=ann");
    watch(&mut ann);
    let mut bobs = server.connect_on_every_shard("/ws/demo?as=bob");
    for bob in &mut bobs {
        bob.subscribe(CHANNEL);
    }
    assert_eq!(hears(&mut ann, "join", "demo:bob")["count"], 2);
    let last = bobs.pop().expect("there is a shard");
    bobs.into_iter().for_each(reset);
    // Had he left by now, this would pass over it, and it would not be heard below.
    ask(&mut ann, "presence_stats", json!({"channel": CHANNEL}));
    reset(last);
    assert_eq!(hears(&mut ann, "leave", "demo:bob")["count"], 1);
    let there = ask(&mut ann, "presence", json!({"channel": CHANNEL}));
    assert_eq!(there["participants"], json!(["demo:ann"]));
}

/// The connection breaks: no close frame, no FIN.
fn reset(client: Client) {
    SockRef::from(client.socket.get_ref()).set_linger(Some(Duration::ZERO)).expect("it is TCP");
}

fn a_crowd_that_comes_and_goes_is_known_by_its_events(start: Start) {
    let server = start.set("limits.resume_window_ms", 300).start();
    let mut ann = server.connect("/ws/demo?as=ann");
    watch(&mut ann);
    hears(&mut ann, "join", "demo:ann");
    let mut crowd: Vec<_> = (0..20).map(|number| member(&server, number)).collect();
    crowd.drain(..10).enumerate().for_each(
        |(number, client)| {
            if number % 2 == 0 { client.close() } else { reset(client) }
        },
    );
    crowd.extend((5..8).map(|number| member(&server, number)));
    let there = ask(&mut ann, "presence", json!({"channel": CHANNEL}));
    let mut known: BTreeSet<_> = names(&there).collect();
    // Whoever leaves last is heard of last: with what it changed, everything before it is known.
    crowd.drain(..2).for_each(Client::close);
    let wanted: BTreeSet<_> = [5, 6, 7].into_iter().chain(12..20).map(name).chain([name_of("ann")]).collect();
    while known != wanted {
        let event = ann.expect("event");
        for name in names(&event) {
            if event["name"] == "join" {
                known.insert(name)
            } else {
                known.remove(&name)
            };
        }
    }
    assert_eq!(
        names(&ask(&mut ann, "presence", json!({"channel": CHANNEL}))).collect::<BTreeSet<_>>(),
        wanted
    );
}

fn member(server: &Server, number: u32) -> Client {
    let mut client = server.connect(&format!("/ws/demo?as=member{number}"));
    client.subscribe(CHANNEL);
    client
}

fn name(number: u32) -> String {
    name_of(&format!("member{number}"))
}

fn name_of(participant: &str) -> String {
    format!("demo:{participant}")
}

fn names(message: &Value) -> impl Iterator<Item = String> + '_ {
    let names = message["participants"].as_array().expect("few are listed").iter();
    names.map(|it| it.as_str().expect("names are text").to_owned())
}

fn typing_ends_by_itself(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    watch(&mut ann);
    let mut bob = server.connect("/ws/demo?as=bob");
    bob.subscribe(CHANNEL);
    hears(&mut ann, "join", "demo:bob");
    bob.send_json(&json!({"type": "user_typing", "channel": CHANNEL}));
    assert_eq!(ann.expect("message")["event"], "user_typing");
    let there = ask(&mut ann, "presence", json!({"channel": CHANNEL}));
    assert_eq!(there["typing"], json!(["demo:bob"]));
    hears(&mut ann, "typing_expired", "demo:bob");
    assert_eq!(ask(&mut ann, "presence", json!({"channel": CHANNEL})).get("typing"), None);
}
