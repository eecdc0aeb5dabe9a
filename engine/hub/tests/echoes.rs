//! What an answer repeats of its request: it must not grow with it.

mod harness;

use corecast_hub::HubLimits;
use harness::{Net, binary, development};
use serde_json::{Value, json};

/// Bytes of an error with the longest name, each byte of it escaped in JSON.
const ERROR_BYTES_MAX: usize = 2048;

#[test]
fn a_name_that_can_be_none_is_not_repeated() {
    let mut net = Net::new(2, 1, HubLimits::default());
    let clients = [net.open_with(0, 1, development("a")), net.open_with(1, 1, binary("b"))];
    net.run();
    let requests = |name: &str| {
        let with = |mut message: Value| {
            message["id"] = json!(7);
            message
        };
        [
            with(json!({"type": "subscribe", "channel": name})),
            with(json!({"type": "subscribe", "channels": [name]})),
            with(json!({"type": "unsubscribe", "channel": name})),
            with(json!({"type": "publish", "channel": name, "payload": 1})),
            with(json!({"type": "chat_message", "channel": name, "payload": 1})),
            with(json!({"type": "publish", "to": name, "payload": 1})),
            with(json!({"type": "ack", "channel": name, "epoch": "a", "offset": 1})),
            with(json!({"type": "query", "method": name})),
            with(json!({"type": name})),
        ]
    };
    for name in ["\u{1}".repeat(100_000), "x".repeat(256), format!("conversation:{}*", "x".repeat(256))] {
        for (client, request) in clients.iter().flat_map(|client| requests(&name).map(|it| (*client, it))) {
            for answers in [net.ask(client, &request.to_string()), net.ask_packed(client, &request)] {
                assert_eq!(answers.len(), 1, "{answers:?}");
                assert_eq!(answers[0]["id"], 7, "{answers:?}");
                assert_eq!(answers[0].get("channel"), None, "too long for any name");
                assert!(answers[0].to_string().len() <= ERROR_BYTES_MAX, "{}", answers[0]);
            }
            // Not understood ten times in a row would end the connection.
            net.ask(client, r#"{"type":"ping"}"#);
        }
    }
}

#[test]
fn a_name_that_may_be_one_is_repeated() {
    let mut net = Net::new(1, 1, HubLimits::default());
    let clients = [net.open_with(0, 1, development("a")), net.open_with(0, 2, binary("b"))];
    net.run();
    let long = format!("conversation:{}", "x".repeat(255 - "conversation:".len()));
    for name in [long.clone(), format!("{long}*"), "\u{1}".repeat(255), String::new()] {
        for client in clients {
            let request = json!({"type": "unsubscribe", "id": 7, "channel": name});
            let answers = net.ask(client, &request.to_string());
            assert_eq!((&answers[0]["type"], &answers[0]["channel"]), (&json!("error"), &json!(name)));
            assert!(answers[0].to_string().len() <= ERROR_BYTES_MAX, "{}", answers[0]);
        }
    }
}
