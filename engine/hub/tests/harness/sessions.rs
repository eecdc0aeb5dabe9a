//! What tests of sessions do again and again.

use corecast_hub::HubLimits;
use serde_json::{Value, json};

use super::{Client, Net, unlimited};

pub(crate) const WINDOW_MS: u64 = 60_000;

/// So long a participant stays present where its session was.
pub(crate) const LINGER_MS: u64 = 2_000;

pub(crate) fn net(shards: u16) -> Net {
    Net::new(shards, 7, HubLimits { resume_window_ms: WINDOW_MS, ..unlimited() })
}

/// Connects and says what it was told.
pub(crate) fn join(net: &mut Net, shard: u16, slot: u32, name: &str) -> (Client, String) {
    let client = net.join(shard, slot, name);
    let told = net.take(client).remove(0);
    assert_eq!(told["resume_window_ms"], WINDOW_MS);
    let token = told["resume_token"].as_str().expect("a text").to_owned();
    assert_eq!(token.len(), 22);
    (client, token)
}

pub(crate) fn resume(token: &str) -> String {
    json!({"type": "resume", "id": 9, "token": token}).to_string()
}

/// Resumes and returns the answer.
pub(crate) fn resumed(net: &mut Net, client: Client, token: &str) -> Value {
    let answers = net.ask(client, &resume(token));
    let answer = answers.iter().find(|it| it["type"] == "resumed");
    answer.unwrap_or_else(|| panic!("{answers:?}")).clone()
}

pub(crate) fn refused(net: &mut Net, client: Client, token: &str) {
    let answers = net.ask(client, &resume(token));
    assert_eq!(answers[0]["code"], "UNRECOVERABLE", "{answers:?}");
    assert_eq!(answers[0]["id"], 9);
}

pub(crate) fn token_of(resumed: &Value) -> String {
    resumed["resume_token"].as_str().expect("a text").to_owned()
}

pub(crate) fn channels_of(resumed: &Value) -> Vec<&str> {
    let all = resumed["subscriptions"].as_array().expect("a list");
    let mut names: Vec<_> = all.iter().map(|it| it["channel"].as_str().expect("a text")).collect();
    names.sort_unstable();
    names
}

pub(crate) fn publish(net: &mut Net, client: Client, channel: &str, payload: &Value) {
    net.send(client, &json!({"type": "publish", "channel": channel, "payload": payload}).to_string());
}

pub(crate) fn session_of(net: &mut Net, client: Client) -> Value {
    let answers = net.ask(client, r#"{"type":"query","id":1,"method":"session"}"#);
    answers[0]["result"].clone()
}

/// From every shard to every shard.
pub(crate) fn moves(shards: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..shards).flat_map(move |from| (0..shards).map(move |to| (from, to)))
}
