//! What serde_json makes of a message, beside what the envelope makes of it; shared with the fuzz target.
//!
//! Nothing here looks into the scanner: what must be there is read with serde_json alone.

use std::collections::BTreeMap;
use std::fmt;

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Channels, Command, Publish, Request, RequestId, Target};
use corecast_protocol::envelope::{Format, Rejection, Scanner, batch_messages, event, parse};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub(crate) const DEPTH: usize = 64;

/// What is made of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Json,
    NotJson,
    TooDeep,
}

impl Verdict {
    fn of<T>(parsed: &Result<T, Rejection>) -> Self {
        match parsed {
            Ok(_) => Self::Json,
            Err(rejection) if rejection.code == ErrorCode::InvalidJson => Self::NotJson,
            Err(rejection) if rejection.message.contains("json_depth") => Self::TooDeep,
            Err(_) => Self::Json,
        }
    }
}

pub(crate) fn ours(text: &str) -> Verdict {
    Verdict::of(&parse(text, &mut Scanner::new(DEPTH)))
}

/// Raw, because a value would refuse lone surrogates and numbers that no double holds.
pub(crate) fn twin(text: &str) -> Verdict {
    if serde_json::from_str::<&RawValue>(text).is_ok() { Verdict::Json } else { Verdict::NotJson }
}

/// The raw members of an object as serde_json sees them.
pub(crate) fn raw_members(text: &str) -> BTreeMap<String, &str> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).expect("an object");
    members.into_iter().map(|(key, value)| (key, value.get())).collect()
}

/// The envelope's keys that may come once only, as the contract names them.
const KEYS: &str = "type id channel channels to event events payload priority store idempotency_key receipt echo \
    exclude tags timestamp traceparent signature key_id nonce token session_id positions recover history presence \
    ack epoch offset messages method params capabilities call result error partial max_rate";

/// Those of a publish: what else is there is payload where `payload` is absent.
const PUBLISH_KEYS: &str = "type id channel to event payload priority store idempotency_key receipt echo exclude \
    tags timestamp traceparent signature key_id nonce";

/// The members of an object in their order, duplicates too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl<'a> Members<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.get())
    }

    /// The member as a string; none where a lone surrogate makes it no text for serde_json.
    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.find(name)?).ok()
    }

    fn is_there_twice(&self, name: &str) -> bool {
        // The contract knows `session_id` by two names.
        let is = |key: &str| key == name || (name == "session_id" && key == "sessionId");
        self.0.iter().filter(|(key, _)| is(key)).count() > 1
    }
}

/// How deep arrays and objects are nested at most, up to where the text ends.
pub(crate) fn depth(text: &str) -> usize {
    let (mut open, mut most, mut in_string, mut is_escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => open += 1,
            b']' | b'}' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Everything that must hold for one message, whatever it is.
pub(crate) fn check(text: &str) {
    let mut scanner = Scanner::new(DEPTH);
    let parsed = parse(text, &mut scanner);
    match (Verdict::of(&parsed), twin(text)) {
        // What is nested too deep is refused before its end was looked at.
        (Verdict::TooDeep, _) => assert!(depth(text) > DEPTH, "{text:?}"),
        (ours, twin) => assert_eq!(ours, twin, "{text:?}"),
    }
    if let Err(rejection) = &parsed
        && let Some(id) = &rejection.id
    {
        assert_eq!(twin(&echoed(id.as_id())), Verdict::Json, "the id is echoed: {id:?}");
    }
    let members = serde_json::from_str::<Members<'_>>(text);
    match (parsed, members) {
        (Ok(request), Ok(members)) => check_request(&request, &members, text),
        (Ok(_), Err(_)) => {
            assert!(text.contains("\\u"), "an object that only a lone surrogate hides: {text:?}");
        }
        (Err(_), _) => {}
    }
}

/// The id as it is echoed, cut out of an answer.
fn echoed(id: RequestId<'_>) -> String {
    let mut out = Vec::new();
    event::response(&mut out, Format::Json, Some(id), b"0");
    let text = String::from_utf8(out).expect("the id is a text");
    let id =
        text.strip_prefix("{\"type\":\"response\",\"id\":").and_then(|it| it.strip_suffix(",\"result\":0}"));
    id.expect("a response").to_owned()
}

fn check_request(request: &Request<'_>, members: &Members<'_>, text: &str) {
    let twice = KEYS.split_whitespace().find(|key| members.is_there_twice(key));
    assert_eq!(twice, None, "accepted with a key that is there twice: {text:?}");
    let id = request.id.map(echoed);
    assert_eq!(id.as_deref(), members.find("id").filter(|id| *id != "null"), "{text:?}");
    match &request.command {
        Command::Publish(publish) => check_publish(publish, members, text),
        Command::Batch { messages } => {
            let seen: Vec<&RawValue> =
                serde_json::from_str(members.find("messages").expect("it has messages")).expect("a list");
            let seen: Vec<&str> = seen.into_iter().map(RawValue::get).collect();
            assert_eq!(batch_messages(&text[messages.clone()]).collect::<Vec<_>>(), seen);
        }
        Command::Call(call) => {
            assert_eq!(call.params, members.find("params").map(str::as_bytes));
            same_text(&call.method, members.text("method"));
        }
        Command::Response { result, error, .. } => {
            assert_eq!(*result, members.find("result").map(str::as_bytes));
            assert_eq!(*error, members.find("error").map(str::as_bytes));
        }
        Command::Authenticate { token } | Command::Refresh { token } => {
            same_text(token, members.text("token"));
        }
        _ => {}
    }
}

fn check_publish(publish: &Publish<'_>, members: &Members<'_>, text: &str) {
    let payload = std::str::from_utf8(publish.payload.bytes()).expect("parts of a text");
    if let Some(expected) = members.find("payload") {
        assert_eq!(payload, expected);
    } else {
        let mut expected = Members(members.0.clone());
        expected.0.retain(|(key, _)| !PUBLISH_KEYS.split_whitespace().any(|it| it == key));
        let Members(got) = serde_json::from_str(payload).expect("what is passed on is an object");
        let raw = |members: Vec<(String, &RawValue)>| {
            members.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(raw(got), raw(expected.0), "{text:?}");
    }
    match (&publish.event, members.find("event")) {
        // A short form's event is its type, whatever it says besides.
        (Some(event), _) if members.text("type").is_none_or(|it| it != "publish") => {
            same_text(event, members.text("type"));
        }
        (Some(event), _) => same_text(event, members.text("event")),
        (None, seen) => assert!(matches!(seen, None | Some("null")), "{text:?}"),
    }
    match &publish.target {
        Target::Channel(channel) => same_text(channel, members.text("channel")),
        Target::Participants(Channels::One(to)) => same_text(to, members.text("to")),
        Target::Participants(Channels::Many(all)) => {
            let seen = members.find("to").and_then(|to| serde_json::from_str::<Vec<String>>(to).ok());
            if let Some(seen) = seen {
                assert_eq!(*all, seen);
            }
        }
    }
}

/// Equal, unless serde_json can't say it: a lone surrogate is U+FFFD here and no text there.
fn same_text(ours: &str, twin: Option<String>) {
    match twin {
        Some(twin) => assert_eq!(ours, twin),
        None => assert!(ours.contains('\u{fffd}'), "{ours:?} is no string for serde_json"),
    }
}
