//! Namespaces from the configuration: what they let in, how they treat messages, and what contradicts itself.

mod support;

use serde_json::json;
use support::configuration::{File, assert_contains, problems, valid};
use support::{Start, on_all_layouts};

on_all_layouts!(
    a_new_namespace_keeps_its_order,
    payloads_are_bounded_per_namespace,
    owners_and_backends_are_told_apart,
    a_built_in_namespace_can_be_changed,
);

#[test]
fn contradictions_name_file_and_line() {
    let file = File::new(
        "contradictions",
        "[namespaces.chat]\nmode = \"ordered\"\nslow_consumer = \"conflate\"\n\
         [namespaces.conversation]\nslow_consumer = \"drop_oldest\"\n\
         [namespaces.Loud]\n\
         [namespaces.files]\npayload_bytes = 2000000\nspeed = 7\nmode = \"fast\"\n\
         [namespaces.system]\nsubscribe = \"owner\"\ndemo = false\n\
         [namespaces]\nroom = 1\n",
    );
    file.assert_problems(&[
        (3, "`namespaces.chat.slow_consumer` contradicts its mode"),
        (5, "`namespaces.conversation.slow_consumer` contradicts its mode"),
        (6, "`Loud` is no namespace"),
        (8, "`namespaces.files.payload_bytes` is 2000000, more than `limits.message_bytes`"),
        (9, "there is no key `speed` of a namespace, but mode, subscribe"),
        (10, "`namespaces.files.mode` must be one of best_effort, ordered"),
        (12, "`namespaces.system.subscribe` can't be changed"),
        (13, "`namespaces.system.demo` can't be changed"),
        (15, "`namespaces.room` must be a table"),
    ]);
}

#[test]
fn flags_and_the_environment_know_namespaces() {
    let args = ["--set", "namespaces.chat.slow_consumer=conflate", "--set", "namespaces.chat.mode=ordered"];
    assert_contains(
        &problems(&args, &[]),
        "--set namespaces.chat.slow_consumer=conflate: `namespaces.chat.slow_consumer` contradicts its mode",
    );
    let env = [("CORECAST_NAMESPACES__CHAT__MODE", "orderly")];
    assert_contains(
        &problems(&[], &env),
        "environment variable CORECAST_NAMESPACES__CHAT__MODE: `namespaces.chat.mode` must be one of",
    );
    let file = File::new("empty-table", "[namespaces.chat]\n");
    valid(&["--config", file.path()], &[]);
    // Ordered by default, so that only both together make sense.
    let args = ["--set", "namespaces.conversation.slow_consumer=conflate"];
    valid(&[&args[..], &["--set", "namespaces.conversation.mode=best_effort"]].concat(), &[]);
    assert_eq!(problems(&args, &[]).len(), 1);
}

fn a_new_namespace_keeps_its_order(start: Start) {
    let server = start.set("namespaces.deal.mode", "ordered").set("namespaces.deal.demo", true).start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut bob = server.connect("/ws/demo?as=bob");
    let position = bob.subscribe("deal:1");
    assert_eq!(position["offset"], 0);
    for number in 1..=5 {
        assert_eq!(ann.publish("deal:1", &json!(number))["offset"], number);
        let message = bob.expect("message");
        assert_eq!((&message["offset"], &message["payload"]), (&json!(number), &json!(number)));
        assert_eq!(message["epoch"], position["epoch"]);
    }
    ann.send_json(&json!({"type": "publish", "id": 1, "channel": "deals:1", "payload": 1}));
    let error = ann.expect_error("INVALID_CHANNEL");
    assert!(
        error["message"].as_str().is_some_and(|why| why.contains("deal")),
        "it names those there are: {error}"
    );
}

fn payloads_are_bounded_per_namespace(start: Start) {
    let server = start.set("namespaces.conversation.payload_bytes", 20).start();
    let mut ann = server.connect("/ws/demo?as=ann");
    assert_eq!(ann.publish("conversation:1", &json!("x".repeat(18)))["offset"], 1);
    ann.send_json(
        &json!({"type": "publish", "id": 7, "channel": "conversation:1", "payload": "x".repeat(19)}),
    );
    let error = ann.expect_error("MESSAGE_TOO_LARGE");
    assert_eq!(error["id"], 7);
    assert_eq!(error["message"], "a payload in conversation has at most 20 bytes, this one 21");
    assert_eq!(ann.publish("conversation:1", &json!(1))["offset"], 2, "nothing of it was numbered");
    ann.publish("room", &json!("x".repeat(1000)));
}

fn owners_and_backends_are_told_apart(start: Start) {
    let server = start
        .arg("--mode=development")
        .set("namespaces.desk.subscribe", "owner")
        .set("namespaces.news.publish", "backends")
        .set("namespaces.news.demo", true)
        .set("namespaces.status.publish", "owner")
        .set("namespaces.status.demo", true)
        .set("namespaces.audit.subscribe", "backends")
        .set("demo_endpoint", true)
        .start();
    let mut ann = server.connect("/ws/dev?as=ann");
    ann.subscribe("desk:ann");
    ann.send_json(&json!({"type": "subscribe", "id": 1, "channel": "desk:bob"}));
    ann.expect_error("FORBIDDEN");
    ann.subscribe("audit:1");
    let mut visitor = server.connect("/ws/demo?as=bob");
    // Anybody may listen, and only the owner speaks: that a demo has it too changes nothing.
    visitor.subscribe("status:ann");
    visitor.send_json(&json!({"type": "publish", "id": 1, "channel": "status:ann", "payload": 1}));
    visitor.expect_error("FORBIDDEN");
    let own = format!("status:{}", visitor.participant());
    visitor.publish(&own, &json!(1));
    visitor.publish("metrics:any", &json!(1));
    visitor.subscribe("news:today");
    visitor.send_json(&json!({"type": "publish", "id": 1, "channel": "news:today", "payload": 1}));
    visitor.expect_error("FORBIDDEN");
    ann.publish("news:today", &json!(1));
    assert_eq!(visitor.expect("message")["payload"], 1);
}

fn a_built_in_namespace_can_be_changed(start: Start) {
    let server =
        start.set("namespaces.metrics.demo", false).set("namespaces.metrics.priority", "low").start();
    let mut ann = server.connect("/ws/demo?as=ann");
    ann.send_json(&json!({"type": "subscribe", "id": 1, "channel": "metrics:1"}));
    let error = ann.expect_error("FORBIDDEN");
    assert!(error["message"].as_str().is_some_and(|why| why.contains("open to demos")), "{error}");
    ann.subscribe("conversation:1");
}
