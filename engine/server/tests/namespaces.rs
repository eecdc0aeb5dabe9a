//! Namespaces from the configuration: what they let in, how they treat messages, and what contradicts itself.

mod support;

use corecast_hub::rules::Mode;
use corecast_hub::{HubLimits, SlowPolicy};
use corecast_server::config::{ConfigFile, Settings, Sources};
use serde_json::json;
use support::configuration::{File, assert_contains, problems, valid};
use support::{Start, on_all_layouts};

on_all_layouts!(
    a_new_namespace_keeps_its_order,
    payloads_are_bounded_per_namespace,
    owners_and_backends_are_told_apart,
    a_built_in_namespace_can_be_changed,
    a_publisher_that_is_killed_midway_leaves_each_namespace_its_promise,
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
        (9, "there is no key `speed` of a namespace, but mode, history_size"),
        (10, "`namespaces.files.mode` must be one of best_effort, ordered, reliable"),
        (12, "`namespaces.system.subscribe` can't be changed"),
        (13, "`namespaces.system.demo` can't be changed"),
        (15, "`namespaces.room` must be a table"),
    ]);
}

#[test]
fn what_is_kept_and_promised_fits_together() {
    let file = File::new(
        "promises",
        "[namespaces.chat]\nmode = \"reliable\"\nslow_consumer = \"drop_oldest\"\n\
         [namespaces.desk]\nmode = \"ordered\"\nhistory_size = 0\n\
         [namespaces.conversation]\nhistory_size = 0\n\
         [namespaces.news]\nhistory_age_ms = 1000\n\
         [namespaces.metrics]\nhistory_size = 0\nhistory_bytes = 1000\n\
         [namespaces.room]\npresence_members = 10\n\
         [namespaces.hall]\npresence = false\npresence_members = 10\n\
         [namespaces.big]\nhistory_size = 100001\n\
         [namespaces.system]\nhistory_size = 20\nmode = \"reliable\"\npresence = true\n",
    );
    file.assert_problems(&[
        (3, "`namespaces.chat.slow_consumer` contradicts its mode: a reliable namespace has no gaps"),
        (6, "`namespaces.desk.history_size` contradicts its mode: an ordered namespace recovers from its history"),
        (8, "`namespaces.conversation.history_size` contradicts its mode: a reliable namespace"),
        (10, "`namespaces.news.history_age_ms` is of no use: the namespace keeps nothing"),
        (13, "`namespaces.metrics.history_bytes` is of no use: the namespace keeps nothing"),
        (15, "`namespaces.room.presence_members` is of no use: set `namespaces.room.presence` to true"),
        (18, "`namespaces.hall.presence_members` is of no use"),
        (20, "`namespaces.big.history_size` must be a whole number from 0 to 100000"),
        (22, "`namespaces.system.history_size` can't be changed"),
        (23, "`namespaces.system.mode` can't be changed"),
        (24, "`namespaces.system.presence` can't be changed"),
    ]);
}

#[test]
fn what_is_configured_is_what_the_hub_is_told() {
    let text = "[namespaces.deal]\nmode = \"ordered\"\n\
                [namespaces.chat]\nmode = \"reliable\"\nhistory_size = 7\nhistory_age_ms = 1500\nhistory_bytes = 70000\npresence = true\n\
                presence_members = 3\n\
                [namespaces.ticker]\nhistory_size = 5\nslow_consumer = \"conflate\"\n\
                [namespaces.conversation]\nhistory_age_ms = 1000\npresence = false\n\
                [namespaces.agent]\nmode = \"best_effort\"\n\
                [namespaces.user]\nmode = \"best_effort\"\nhistory_size = 0\n\
                [limits]\nhistory_bytes = 1\ninbox_messages = 2\ninbox_age_ms = 3\nsessions = 4\nresume_window_ms = 5\n\
                ack_timeout_ms = 6\nack_attempts = 7\nidempotency_keys = 8\n";
    let configured = loaded(text, "");
    let told = |name: &str| {
        let it = configured.namespaces.named(name).expect("it is configured");
        (it.mode, it.history.messages, it.history.age.as_millis(), it.presence, it.policy)
    };
    assert_eq!(told("deal"), (Mode::Ordered, 100, 300_000, false, SlowPolicy::Disconnect));
    assert_eq!(told("chat"), (Mode::Reliable, 7, 1500, true, SlowPolicy::Disconnect));
    assert_eq!(
        configured.namespaces.named("chat").map(|it| (it.presence_members, it.history.bytes)),
        Some((3, 70_000))
    );
    assert_eq!(
        configured.namespaces.named("deal").map(|it| it.history.bytes),
        Some(u64::MAX),
        "the node's alone"
    );
    assert_eq!(told("ticker"), (Mode::BestEffort, 5, 300_000, false, SlowPolicy::Conflate));
    assert_eq!(told("conversation"), (Mode::Reliable, 100, 1000, false, SlowPolicy::Disconnect));
    assert_eq!(told("agent"), (Mode::BestEffort, 100, 300_000, false, SlowPolicy::DropOldest));
    assert_eq!(told("user"), (Mode::BestEffort, 0, 0, false, SlowPolicy::DropOldest));
    let told = |limits: HubLimits| {
        (
            limits.history_bytes,
            limits.inbox_messages,
            limits.inbox_age_ms,
            limits.sessions,
            limits.resume_window_ms,
        )
    };
    assert_eq!(told(configured.hub_limits), (1, 2, 3, 4, 5));
    assert_eq!((configured.hub_limits.ack_timeout_ms, configured.hub_limits.ack_attempts), (6, 7));
    assert_eq!(configured.hub_limits.idempotency_keys, 8);
    assert_eq!(loaded("", "").hub_limits, HubLimits::default());
    let lifted = loaded("no_limits = true\n", text).hub_limits;
    assert_eq!(told(lifted), (1, 2, 3, 0, 5), "rates and counts are lifted, sizes and time-outs are not");
}

/// Settings from a file of these two parts.
fn loaded(first: &str, second: &str) -> Settings {
    let contents = Ok([first, second].concat().into_bytes());
    let file = Some(ConfigFile { name: "test.toml".into(), contents });
    Settings::load(&Sources { file, ..Sources::default() }).expect("it is valid")
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

/// It published to three namespaces in turn and is gone in the middle of a frame: what came of it is a beginning of what
/// it sent, each namespace numbers and keeps it as configured, and who publishes next goes on behind it.
fn a_publisher_that_is_killed_midway_leaves_each_namespace_its_promise(start: Start) {
    const CHANNELS: [&str; 3] = ["deal:1", "ticker:1", "room"];
    let server = start
        .set("namespaces.deal.mode", "ordered")
        .set("namespaces.deal.demo", true)
        .set("namespaces.ticker.history_size", 5)
        .set("namespaces.ticker.slow_consumer", "conflate")
        .set("namespaces.ticker.demo", true)
        .start();
    let mut ann = server.connect("/ws/demo?as=ann");
    let mut bob = server.connect("/ws/demo?as=bob");
    let mut eve = server.connect("/ws/demo?as=eve");
    for channel in CHANNELS {
        bob.subscribe(channel);
    }
    for number in 1..=100 {
        for channel in CHANNELS {
            ann.send_json(&json!({"type": "publish", "channel": channel, "payload": number}));
        }
    }
    // Some of it has come; the rest is under way, and the last frame stays half.
    let mut first = Some(bob.expect("message"));
    let stream = ann.socket.get_mut();
    std::io::Write::write_all(stream, &[0x81, 0x85, 1, 2, 3]).expect("it is open");
    socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO)).expect("it is TCP");
    drop(ann);
    server.wait_for_metric("connections", |connections| connections == 2);
    let last = CHANNELS.map(|channel| eve.publish(channel, &json!("next"))["offset"].clone());
    let (mut seen, mut came, mut ended) = ([0; 3], [0; 3], [0; 3]);
    while ended != [1; 3] {
        let message = first.take().unwrap_or_else(|| bob.expect("message"));
        let index = CHANNELS.iter().position(|it| message["channel"] == *it).expect("it subscribed to it");
        came[index] += 1;
        let Some(number) = message["payload"].as_u64() else {
            assert_eq!(message["offset"], last[index], "{message}");
            ended[index] += 1;
            continue;
        };
        assert!(number > seen[index], "in order: {message}");
        seen[index] = number;
        if index < 2 {
            // What is on its way between shards may come behind who publishes next.
            assert_eq!(message["offset"], number + ended[index], "numbered as it was sent: {message}");
        }
    }
    assert_eq!((came[0], came[2]), (seen[0] + 1, seen[2] + 1), "nothing was left out");
    assert!(came[1] <= seen[1] + 1, "only here the latest may stand for others");
    for (channel, most) in [("deal:1", 100), ("ticker:1", 5)] {
        eve.send_json(
            &json!({"type": "query", "id": 1, "method": "history", "params": {"channel": channel}}),
        );
        let page = eve.expect("response")["result"].clone();
        let kept = page["messages"].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(Some(kept), page["offset"].as_u64().map(|offset| offset.min(most)), "{page}");
    }
}
