//! MessagePack against rmpv and serde_json: what they write is understood and passed on untouched, what is damaged gets
//! the verdict of a slow twin, and values come out of the transcoding as these libraries see them.

mod msgpack;
mod seeded;

use corecast_protocol::envelope::command::{Command, RequestId, Target};
use corecast_protocol::envelope::event::{self, Changes, Message};
use corecast_protocol::envelope::{
    Format, Scanner, batch_messages_msgpack, parse, parse_msgpack, transcode, transcoded_len,
};
use msgpack::{DEPTH, check, check_round_trip, transcoded};
use proptest::prelude::*;
use proptest::sample::Index;
use rmpv::Value;
use seeded::seeded;
use serde_json::json;

fn leaf() -> impl Strategy<Value = Value> {
    let edge = prop::sample::select(vec![
        0u64,
        0x7f,
        0x80,
        0xff,
        0x100,
        0xffff,
        0x1_0000,
        0xffff_ffff,
        0x1_0000_0000,
        1 << 53,
        u64::MAX,
    ]);
    prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        edge.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (any::<i64>(), 0u32..64).prop_map(|(number, shift)| Value::from(number >> shift)),
        any::<f64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..70).prop_map(Value::from),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, data)| Value::Ext(kind, data)),
    ]
}

/// A value whose maps have string keys.
fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 60, 20, |inner| {
        let key = prop_oneof![4 => ".{0,6}", 1 => Just("$bin".to_owned()), 1 => Just("$ext".to_owned())];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..20).prop_map(map),
        ]
    })
}

fn map(members: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Map(members.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
}

fn object(members: &[(&str, Value)]) -> Vec<u8> {
    bytes_of(&map(members.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))))
}

fn bytes_of(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("a vector takes everything");
    bytes
}

fn read(mut bytes: &[u8]) -> Value {
    let value = rmpv::decode::read_value(&mut bytes).expect("MessagePack");
    assert!(bytes.is_empty(), "bytes are left");
    value
}

/// What the contract says that a value is in JSON.
fn as_json(value: &Value) -> serde_json::Value {
    use base64::Engine;
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    match value {
        Value::Nil => json!(null),
        Value::Boolean(it) => json!(it),
        Value::Integer(it) => it.as_u64().map_or_else(|| json!(it.as_i64()), |it| json!(it)),
        Value::F32(it) => json!(f64::from(*it)),
        Value::F64(it) => json!(it),
        Value::String(it) => json!(it.as_str()),
        Value::Binary(it) => json!({"$bin": base64(it)}),
        Value::Ext(kind, it) => json!({"$ext": [kind, base64(it)]}),
        Value::Array(items) => items.iter().map(as_json).collect(),
        Value::Map(members) => {
            let member =
                |(key, value): &(Value, Value)| (key.as_str().unwrap_or("?").to_owned(), as_json(value));
            serde_json::Value::Object(members.iter().map(member).collect())
        }
    }
}

/// The other way; `as_json` of it is the same value again.
fn as_msgpack(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(it) => Value::from(*it),
        serde_json::Value::Number(it) => match (it.as_u64(), it.as_i64(), it.as_f64()) {
            (Some(it), ..) => Value::from(it),
            (_, Some(it), _) => Value::from(it),
            (.., it) => Value::from(it.unwrap_or_default()),
        },
        serde_json::Value::String(it) => Value::from(it.as_str()),
        serde_json::Value::Array(items) => items.iter().map(as_msgpack).collect::<Vec<_>>().into(),
        serde_json::Value::Object(members) => {
            map(members.iter().map(|(key, value)| (key.clone(), as_msgpack(value))))
        }
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    // Keys of one character: none of them makes an object a special one.
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,40}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 60, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
            prop::collection::btree_map(".", inner, 0..20).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(seeded(1000))]

    #[test]
    fn a_publish_is_understood_and_its_payload_passed_on_untouched(
        payload in value(), others in prop::collection::vec(value(), 0..4), turn in 0usize..7, channel in ".{0,40}",
        id in 0u64..1 << 53,
    ) {
        let names = ["x0", "x1", "x2", "x3"];
        let mut members = vec![
            ("type", "publish".into()), ("channel", channel.as_str().into()), ("payload", payload.clone()), ("id", id.into()),
        ];
        members.extend(names.into_iter().zip(others));
        let turn = turn % members.len();
        members.rotate_left(turn);
        let bytes = object(&members);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse_msgpack(&bytes, &mut scanner).expect("a good publish");
        prop_assert_eq!(request.id, Some(RequestId::Number(id)));
        let Command::Publish(publish) = request.command else { panic!("not a publish") };
        prop_assert_eq!(publish.payload.bytes(), bytes_of(&payload));
        prop_assert_eq!((publish.target, publish.format), (Target::Channel(channel.into()), Format::MessagePack));
    }

    #[test]
    fn without_a_payload_the_rest_is_passed_on(others in prop::collection::vec(value(), 0..20), turn in 0usize..20) {
        let names: Vec<String> = (0..others.len()).map(|index| format!("x{index}")).collect();
        let rest: Vec<(&str, Value)> = names.iter().map(String::as_str).zip(others).collect();
        let mut members = rest.clone();
        members.insert(turn % (members.len() + 1), ("type", "chat_message".into()));
        members.insert(turn % (members.len() + 1), ("channel", "c".into()));
        let bytes = object(&members);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse_msgpack(&bytes, &mut scanner).expect("a good message");
        let Command::Publish(publish) = request.command else { panic!("not a publish") };
        prop_assert_eq!(publish.payload.bytes(), object(&rest));
    }

    #[test]
    fn a_batchs_messages_are_passed_on_untouched(messages in prop::collection::vec(value(), 0..20)) {
        let bytes = object(&[("type", "batch".into()), ("messages", messages.clone().into())]);
        let mut scanner = Scanner::new(DEPTH);
        let request = parse_msgpack(&bytes, &mut scanner).expect("a good batch");
        let Command::Batch { messages: range } = request.command else { panic!("not a batch") };
        let seen: Vec<Vec<u8>> = batch_messages_msgpack(&bytes[range]).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(seen, messages.iter().map(bytes_of).collect::<Vec<_>>());
    }

    #[test]
    fn damaged_messages_get_the_verdict_of_the_slow_twin(
        payload in value(), at in any::<Index>(), cut in 0usize..3, noise in prop::collection::vec(any::<u8>(), 0..3),
        end in any::<Index>(), is_cut in any::<bool>(),
    ) {
        let mut bytes = object(&[("type", "publish".into()), ("channel", "c".into()), ("payload", payload)]);
        check(&bytes);
        let start = at.index(bytes.len());
        let behind = (start + cut).min(bytes.len());
        bytes.splice(start..behind, noise);
        if is_cut {
            bytes.truncate(end.index(bytes.len() + 1));
        }
        check(&bytes);
    }

    #[test]
    fn any_bytes_get_the_verdict_of_the_slow_twin(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        check(&bytes);
    }

    #[test]
    fn what_rmpv_wrote_is_the_same_in_json(value in value()) {
        let bytes = bytes_of(&value);
        let json = transcoded(Format::MessagePack, &bytes);
        prop_assert!(json.len() <= 8 * bytes.len());
        let seen: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        prop_assert_eq!(seen, as_json(&value));
        check_round_trip(Format::MessagePack, &bytes);
    }

    #[test]
    fn what_serde_json_wrote_is_the_same_in_messagepack(value in json_value(), is_pretty in any::<bool>()) {
        let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.expect("a value can be written");
        let bytes = transcoded(Format::Json, text.as_bytes());
        prop_assert!(bytes.len() <= 8 * text.len());
        prop_assert_eq!(&bytes, &bytes_of(&as_msgpack(&value)));
        prop_assert_eq!(as_json(&read(&bytes)), value);
        check_round_trip(Format::Json, text.as_bytes());
    }

    #[test]
    fn ids_come_back_in_both_encodings(text in any::<String>()) {
        let bytes = object(&[("type", "ping".into()), ("id", text.as_str().into())]);
        let quoted = json!({"type": "ping", "id": text}).to_string();
        let (mut scanner, mut other) = (Scanner::new(DEPTH), Scanner::new(DEPTH));
        let (plain, escaped) = (parse_msgpack(&bytes, &mut scanner), parse(&quoted, &mut other));
        prop_assert_eq!(plain.is_ok(), (1..=64).contains(&text.len()));
        prop_assert_eq!(plain.is_ok(), escaped.is_ok());
        for request in [plain, escaped].into_iter().flatten() {
            let (mut json, mut msgpack) = (Vec::new(), Vec::new());
            event::pong(&mut json, Format::Json, request.id, 0, false);
            event::pong(&mut msgpack, Format::MessagePack, request.id, 0, false);
            let answer: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
            prop_assert_eq!(&answer["id"], &json!(text));
            let answer = read(&msgpack);
            prop_assert_eq!(answer["id"].as_str(), Some(text.as_str()));
        }
    }

    #[test]
    fn what_the_hub_writes_is_one_message_in_both_encodings(
        channel in any::<String>(), name in prop::option::of(any::<String>()), publisher in ".{0,300}",
        pattern in any::<String>(), payload in value(), timestamp in 0u64..1 << 53, offset in 0u64..1 << 53,
        skipped in 0u64..1 << 53, attempt in 0u32..9,
    ) {
        let write = |format, payload: &[u8]| {
            let mut out = b"before".to_vec();
            let seams = event::message(&mut out, format, &Message {
                channel: &channel, event: name.as_deref(), payload, publisher: Some(&publisher), epoch: b"e", offset,
                timestamp, priority: None, to: None,
            });
            let plain = out.split_off("before".len());
            assert_eq!(event::name_of(format, &plain, seams).as_deref(), name.as_deref());
            let changes = Changes { pattern: Some(&pattern), iso_timestamp: Some(timestamp), skipped, attempt };
            event::variant(&mut out, format, &plain, seams, &changes);
            (plain, out.split_off("before".len()))
        };
        let payload = bytes_of(&payload);
        let (plain, variant) = write(Format::MessagePack, &payload);
        let mut payload_json = Vec::new();
        transcode(Format::MessagePack, &payload, &mut payload_json);
        let (plain_json, variant_json) = write(Format::Json, &payload_json);
        for (msgpack, json) in [(plain, plain_json), (variant, variant_json)] {
            prop_assert_eq!(as_json(&read(&msgpack)), serde_json::from_slice::<serde_json::Value>(&json).expect("JSON"));
            prop_assert_eq!(transcoded_len(Format::MessagePack, &msgpack), json.len());
        }
    }
}
