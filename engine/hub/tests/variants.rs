//! One message for subscribers by many patterns, in both encodings, some with ISO 8601 times: everybody gets a variant,
//! and it is kept once.

mod harness;

use corecast_hub::HubLimits;
use harness::{Net, binary, development};
use serde_json::{Value, json};

const PATTERNS: usize = 40;
const PAYLOAD_BYTES: usize = 100_000;

#[test]
fn a_message_lies_there_once_however_many_variants_it_has() {
    let limits = HubLimits {
        connections_per_ip: 0,
        connections_per_participant: 0,
        subscriptions_per_connection: 0,
        ..HubLimits::default()
    };
    let mut net = Net::new(1, 1, limits);
    let channel = format!("conversation:{}", "a".repeat(PATTERNS));
    let mut clients = Vec::new();
    for index in 0..PATTERNS * 4 {
        let (format, is_iso, length) = (index % 2, index / 2 % 2 == 1, index / 4);
        let name = format!("p{index}");
        let mut open = if format == 0 { development(&name) } else { binary(&name) };
        open.is_time_iso = is_iso;
        let client = net.open_with(0, index as u32, open);
        let pattern = format!("conversation:{}*", "a".repeat(length));
        net.ask(client, &json!({"type": "subscribe", "channel": pattern}).to_string());
        net.take(client);
        clients.push((client, is_iso, pattern));
    }
    let payload = "x".repeat(PAYLOAD_BYTES);
    net.effects_bytes_max = 0;
    net.send(clients[0].0, &json!({"type": "publish", "channel": channel, "payload": payload}).to_string());
    net.run();
    for (client, is_iso, pattern) in &clients {
        let messages = net.take(*client);
        assert_eq!(messages.len(), 1, "each gets it once");
        assert_eq!((&messages[0]["pattern"], &messages[0]["payload"]), (&json!(pattern), &json!(payload)));
        let is_number = matches!(messages[0]["timestamp"], Value::Number(_));
        assert_eq!(is_number, !is_iso, "{}", messages[0]["timestamp"]);
    }
    let bytes = net.effects_bytes_max;
    assert!(bytes > 2 * PAYLOAD_BYTES, "both encodings are there");
    assert!(bytes < 3 * PAYLOAD_BYTES, "{bytes} bytes for {} variants of {PAYLOAD_BYTES}", clients.len());
}
