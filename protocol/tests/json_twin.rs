//! The scanner against serde_json: the same verdict on random and on damaged documents, the same spans, the same names.
//!
//! The differences are those of the contract: nesting is limited, and an envelope's keys may not be there twice.

mod seeded;
mod twin;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Command, OwnedRequestId, Publish, RequestId, Target};
use corecast_protocol::envelope::event::{self, Changes, Message};
use corecast_protocol::envelope::{Format, Scanner, batch_messages, parse};
use proptest::prelude::*;
use proptest::sample::Index;
use seeded::seeded;
use serde_json::Value;
use serde_json::value::RawValue;
use twin::{DEPTH, Verdict, check, ours, raw_members, twin};

fn space() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \t\r\n]{0,3}"]
}

fn string() -> impl Strategy<Value = String> {
    let contents = prop_oneof![
        3 => "[a-z0-9 ,:{}\\[\\]]{0,20}",
        2 => "([a-zä€😀\u{7f}/']|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}){0,12}",
        1 => "(\\\\ud83d|\\\\ude00|\\\\u0000|a){0,4}",
    ];
    contents.prop_map(|contents| format!("\"{contents}\""))
}

fn number() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,8})?([eE][+-]?[0-9]{1,4})?"
}

/// A document as text, in forms that no writer would choose.
fn document() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["true", "false", "null", "[]", "{}"]).prop_map(str::to_owned);
    prop_oneof![word, number(), string()].prop_recursive(5, 40, 6, |inner| {
        let item = (space(), inner.clone(), space())
            .prop_map(|(before, value, after)| before + &value + &after)
            .boxed();
        let member = (space(), string(), space(), item.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            prop::collection::vec(item, 1..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 1..6).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// Replaces up to two characters at `at` by `noise`.
fn damage(text: &str, at: Index, cut: usize, noise: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let start = at.index(chars.len() + 1);
    let end = (start + cut).min(chars.len());
    chars.splice(start..end, noise.chars());
    chars.into_iter().collect()
}

const NOISE: &str = "[\\]\\[{}\",:\\\\0-9eE.+ a-zu\\x00-\\x20\u{a0}\u{feff}-]{0,2}";

/// Members of an envelope, in this order, with space between.
fn object(members: &[(String, String)], spaces: &[String]) -> String {
    let mut spaces = spaces.iter().map(String::as_str).cycle();
    let mut next = || spaces.next().unwrap_or_default();
    let mut text = format!("{}{{", next());
    for (index, (key, value)) in members.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        text += &[comma, next(), "\"", key, "\"", next(), ":", next(), value, next()].concat();
    }
    text + "}" + next()
}

fn spaces() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(space(), 1..9)
}

fn publish_of(command: Command<'_>) -> Publish<'_> {
    match command {
        Command::Publish(publish) => publish,
        other => panic!("not a publish: {other:?}"),
    }
}

/// `text` as JSON, every character for which `escapes` says so as an escape.
fn escaped(text: &str, escapes: &[bool]) -> String {
    let mut out = String::from("\"");
    for (char, escape) in text.chars().zip(escapes.iter().cycle()) {
        if *escape {
            let mut units = [0; 2];
            for unit in char.encode_utf16(&mut units) {
                out += &format!("\\u{unit:04x}");
            }
        } else {
            let quoted = serde_json::to_string(&char).expect("a character can be written");
            out += quoted.trim_start_matches('"').strip_suffix('"').unwrap_or("\\\"");
        }
    }
    out + "\""
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn random_documents_get_the_same_verdict(before in space(), text in document(), after in space()) {
        let text = before + &text + &after;
        prop_assert_eq!((ours(&text), twin(&text)), (Verdict::Json, Verdict::Json), "{}", text);
    }

    #[test]
    fn damaged_documents_get_the_same_verdict(
        text in document(), damages in prop::collection::vec((any::<Index>(), 0usize..3, NOISE), 1..3),
    ) {
        let text = damages.iter().fold(text, |text, (at, cut, noise)| damage(&text, *at, *cut, noise));
        prop_assert_eq!(ours(&text), twin(&text), "{:?}", text);
    }

    #[test]
    fn damaged_commands_get_the_same_verdict(
        payload in document(), spaces in spaces(), at in any::<Index>(), cut in 0usize..3, noise in NOISE,
    ) {
        let members = [("type", "\"publish\""), ("id", "7"), ("channel", "\"c\""), ("payload", &*payload)];
        let members = members.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let text = damage(&object(&members, &spaces), at, cut, &noise);
        check(&text);
        prop_assert_eq!(ours(&text), twin(&text), "{:?}", text);
    }

    #[test]
    fn any_text_gets_the_same_verdict(text in any::<String>(), jsonish in "[\\[\\]{}\",:0-9truefalsn\\\\ -]{0,24}") {
        prop_assert_eq!(ours(&text), twin(&text), "{:?}", text);
        prop_assert_eq!(ours(&jsonish), twin(&jsonish), "{:?}", jsonish);
        check(&text);
        check(&jsonish);
    }

    #[test]
    fn documented_difference_nesting_is_limited(kinds in prop::collection::vec(any::<bool>(), 1..130)) {
        let open: String = kinds.iter().map(|is_object| if *is_object { "{\"a\":" } else { "[" }).collect();
        let close: String = kinds.iter().rev().map(|is_object| if *is_object { "}" } else { "]" }).collect();
        let text = format!("{open}1{close}");
        let expected = if kinds.len() <= DEPTH { Verdict::Json } else { Verdict::TooDeep };
        prop_assert_eq!((ours(&text), twin(&text)), (expected, Verdict::Json));
    }

    #[test]
    fn documented_difference_envelope_keys_come_once(
        key in prop::sample::select(vec!["type", "id", "channel", "payload", "to", "event", "token", "offset", "messages"]),
        first in document(), second in document(), spaces in spaces(),
    ) {
        let members = [("type", "\"ping\"".to_owned()), (key, first), ("x", second.clone()), (key, second)];
        let text = object(&members.map(|(key, value)| (key.to_owned(), value)), &spaces);
        let rejection = parse(&text, &mut Scanner::new(DEPTH)).expect_err("a key is there twice");
        prop_assert_eq!((rejection.code, twin(&text)), (ErrorCode::InvalidMessage, Verdict::Json));
    }

    #[test]
    fn payloads_are_the_spans_that_serde_json_sees(
        payload in document(), others in prop::collection::vec(document(), 0..4), spaces in spaces(), turn in 0usize..7,
    ) {
        let mut members = vec![
            ("type".to_owned(), "\"publish\"".to_owned()),
            ("channel".to_owned(), "\"room:1\"".to_owned()),
            ("payload".to_owned(), payload),
        ];
        members.extend(others.into_iter().enumerate().map(|(index, value)| (format!("x{index}"), value)));
        let turn = turn % members.len();
        members.rotate_left(turn);
        let text = object(&members, &spaces);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse(&text, &mut scanner).expect("a good publish");
        let publish = publish_of(request.command);
        let seen = raw_members(&text);
        prop_assert_eq!(std::str::from_utf8(publish.payload.bytes()), Ok(seen["payload"]));
    }

    #[test]
    fn without_a_payload_the_rest_is_passed_on_as_serde_json_sees_it(
        others in prop::collection::vec(document(), 0..5), spaces in spaces(), turn in 0usize..7,
    ) {
        let mut members = vec![
            ("type".to_owned(), "\"chat_message\"".to_owned()),
            ("channel".to_owned(), "\"room:1\"".to_owned()),
            ("id".to_owned(), "\"i\"".to_owned()),
        ];
        members.extend(others.into_iter().enumerate().map(|(index, value)| (format!("x{index}"), value)));
        let turn = turn % members.len();
        members.rotate_left(turn);
        let text = object(&members, &spaces);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse(&text, &mut scanner).expect("a good message");
        let publish = publish_of(request.command);
        let payload = std::str::from_utf8(publish.payload.bytes()).expect("parts of a text");
        let mut expected = raw_members(&text);
        expected.retain(|key, _| key.starts_with('x'));
        prop_assert_eq!(raw_members(payload), expected);
    }

    #[test]
    fn a_batchs_messages_are_the_spans_that_serde_json_sees(
        messages in prop::collection::vec((space(), document(), space()), 0..8), spaces in spaces(),
    ) {
        let items: Vec<String> = messages.iter().map(|(before, it, after)| format!("{before}{it}{after}")).collect();
        let members = [("type", "\"batch\"".to_owned()), ("messages", format!("[{}]", items.join(",")))];
        let text = object(&members.map(|(key, value)| (key.to_owned(), value)), &spaces);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse(&text, &mut scanner).expect("a good batch");
        let Command::Batch { messages: range } = request.command else { panic!("not a batch") };
        let seen: Vec<&RawValue> = serde_json::from_str(raw_members(&text)["messages"]).expect("a list");
        let seen: Vec<&str> = seen.into_iter().map(RawValue::get).collect();
        prop_assert_eq!(batch_messages(&text[range]).collect::<Vec<_>>(), seen);
    }

    #[test]
    fn names_are_what_serde_json_reads(text in any::<String>(), escapes in prop::collection::vec(any::<bool>(), 1..5)) {
        let json = escaped(&text, &escapes);
        prop_assert_eq!(serde_json::from_str::<String>(&json).ok(), Some(text.clone()));
        let message = format!("{{\"type\":\"publish\",\"channel\":{json},\"event\":{json}}}");
        let mut scanner = Scanner::new(DEPTH);
        let publish = publish_of(parse(&message, &mut scanner).expect("a good publish").command);
        prop_assert_eq!(publish.target, Target::Channel(text.as_str().into()));
        prop_assert_eq!(publish.event.as_deref(), Some(&*text));
    }

    #[test]
    fn ids_come_back_as_they_were(text in any::<String>(), number in any::<u64>(), escapes in prop::collection::vec(any::<bool>(), 1..5)) {
        let echo = |id: &str| {
            let message = format!("{{\"type\":\"ping\",\"id\":{id}}}");
            let mut scanner = Scanner::new(DEPTH);
            let request = parse(&message, &mut scanner).ok()?;
            let mut out = Vec::new();
            event::pong(&mut out, Format::Json, request.id, 0, false);
            let answer: Value = serde_json::from_slice(&out).expect("what is written is JSON");
            Some(answer["id"].clone())
        };
        let fits = (1..=64).contains(&text.len());
        prop_assert_eq!(echo(&escaped(&text, &escapes)), fits.then(|| Value::from(text)));
        let number = number >> (number % 64);
        prop_assert_eq!(echo(&number.to_string()), (number < 1 << 53).then(|| Value::from(number)));
    }

    #[test]
    fn what_the_hub_writes_serde_json_reads(
        channel in any::<String>(), name in prop::option::of(any::<String>()), publisher in any::<String>(),
        pattern in any::<String>(), payload in document(), timestamp in 0u64..1 << 53,
        skipped in 1u64..1 << 53, attempt in 1u32..,
    ) {
        let mut out = Vec::new();
        let seams = event::message(&mut out, Format::Json, &Message {
            channel: &channel, event: name.as_deref(), payload: payload.as_bytes(), publisher: Some(&publisher),
            epoch: b"e", offset: 7, timestamp, priority: None, to: None,
        });
        let mut spliced = Vec::new();
        let read = event::name_of(Format::Json, &out, seams);
        prop_assert_eq!(read.as_deref(), name.as_deref());
        let changes = Changes { pattern: Some(&pattern), iso_timestamp: Some(timestamp), skipped, attempt };
        event::variant(&mut spliced, Format::Json, &out, seams, &changes);
        let (plain, spliced) = (String::from_utf8(out).expect("text"), String::from_utf8(spliced).expect("text"));
        let (plain, spliced) = (raw_members(&plain), raw_members(&spliced));
        let text = |raw: &str| serde_json::from_str::<String>(raw).expect("a string");
        prop_assert_eq!(text(plain["channel"]), channel);
        prop_assert_eq!(plain.get("event").map(|raw| text(raw)), name);
        prop_assert_eq!(text(plain["publisher"]), publisher);
        prop_assert_eq!(plain["payload"], payload.as_str());
        prop_assert_eq!(plain["timestamp"], timestamp.to_string());
        prop_assert_eq!(text(spliced["pattern"]), pattern);
        for (key, value) in &plain {
            prop_assert!(*key == "timestamp" || spliced[key] == *value, "{} differs", key);
        }
        prop_assert_eq!(spliced["skipped"], skipped.to_string());
        prop_assert_eq!(spliced["attempt"], attempt.to_string());
        prop_assert_eq!(spliced.len(), plain.len() + 3);
    }
}

#[test]
fn a_rejection_names_the_id_that_it_answers() {
    let rejection = parse("{\"id\":\"\\u0061\",\"type\":1}", &mut Scanner::new(DEPTH)).expect_err("no type");
    let id = rejection.id.as_ref().map(OwnedRequestId::as_id);
    assert_eq!(id, Some(RequestId::Text("\\u0061")));
    let mut out = Vec::new();
    event::error(&mut out, Format::Json, id, None, rejection.code, &rejection.message, None);
    let answer: Value = serde_json::from_slice(&out).expect("what is written is JSON");
    assert_eq!((&answer["id"], &answer["code"]), (&Value::from("a"), &Value::from("INVALID_MESSAGE")));
}
