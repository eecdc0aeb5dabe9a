//! `system`, which everybody gets without asking: what is said of its past is all there is to come.

mod harness;

use harness::sessions::{join, net};
use serde_json::{Value, json};

const SYSTEM: &str = "system";

fn offsets(messages: &Value) -> Vec<u64> {
    messages.as_array().into_iter().flatten().filter_map(|it| it["offset"].as_u64()).collect()
}

/// More than one answer holds can't follow it, because it is live already.
#[test]
fn its_past_comes_whole_or_not_at_all() {
    for shards in 1..=4 {
        let mut net = net(shards);
        let (ann, _) = join(&mut net, 0, 0, "ann");
        let large = "x".repeat(150_000);
        for _ in 0..5 {
            net.ask(ann, &json!({"type": "publish", "channel": SYSTEM, "payload": large}).to_string());
        }
        let (bob, _) = join(&mut net, shards - 1, 1, "bob");
        let at = net.ask(bob, &json!({"type": "subscribe", "id": 1, "channel": SYSTEM}).to_string());
        let mut recover = |offset| {
            let position = json!({"epoch": at[0]["epoch"], "offset": offset});
            net.ask(
                bob,
                &json!({"type": "subscribe", "id": 1, "channel": SYSTEM, "recover": position}).to_string(),
            )
        };
        let whole = &recover(4)[0];
        assert_eq!((&whole["recovered"], offsets(&whole["messages"])), (&json!(true), vec![5]));
        let answers = recover(1);
        let told = &answers[0];
        assert_eq!(
            (answers.len(), &told["recovered"], &told["offset"]),
            (1, &json!(false), &json!(5)),
            "{told}"
        );
        assert_eq!((offsets(&told["messages"]), &told["more"]), (vec![], &Value::Null));
        let mut seen = Vec::new();
        while seen.last() != Some(&5) {
            let since = json!({"epoch": told["epoch"], "offset": seen.last().unwrap_or(&1)});
            let params = json!({"channel": SYSTEM, "since": since});
            let page = net.ask(
                bob,
                &json!({"type": "query", "id": 1, "method": "history", "params": params}).to_string(),
            );
            seen.extend(offsets(&page[0]["result"]["messages"]));
        }
        assert_eq!(seen, [2, 3, 4, 5], "it can be read all the same");
    }
}
