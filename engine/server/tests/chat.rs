//! Conversations on the real binary: what clients are told, in which order, on one shard and on four.

mod support;

use serde_json::{Value, json};
use support::{Start, on_all_layouts, on_both_drivers};

on_all_layouts!(two_clients_chat);
on_both_drivers!(a_new_connection_is_told_where_it_is);

fn a_new_connection_is_told_where_it_is(start: Start) {
    let server = start.set("node.name", "here").set("limits.message_bytes", 65_536).start();
    let client = server.connect("/ws/demo");
    let told = &client.established;
    let id = told["client_id"].as_str().expect("a text");
    assert!(!id.is_empty());
    assert_eq!(told["participant"], format!("demo:{id}"));
    assert_eq!(told["node"], "here");
    assert_eq!(told["shard"], 0);
    assert_eq!(told["heartbeat_interval_ms"], 30_000);
    assert_eq!(told["max_message_bytes"], 65_536);
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert!(told["resume_window_ms"].is_u64());
    client.close();
}

fn two_clients_chat(start: Start) {
    let server = start.start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut bob = server.connect("/ws/demo?as=bob");
    let before = ann.subscribe("conversation:1");
    assert_eq!(bob.subscribe("conversation:1")["epoch"], before["epoch"]);
    for round in 1..=20 {
        let result = ann.publish("conversation:1", &json!({"round": round}));
        assert_eq!(result["epoch"], before["epoch"]);
        assert_eq!(result["offset"], round);
        assert_eq!(result["durability"], "memory");
        let message = bob.expect("message");
        assert_eq!(message["offset"], round);
        assert_eq!(message["epoch"], before["epoch"]);
        assert_eq!(message["channel"], "conversation:1");
        assert_eq!(message["publisher"], "demo:ann");
        assert_eq!(message["payload"], json!({"round": round}));
        assert!(message["timestamp"].is_u64(), "{message}");
        assert_eq!(message["id"], Value::Null);
    }
}
