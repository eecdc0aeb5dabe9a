//! Heads of requests: read whole and in pieces, judged under several policies, and compared with tungstenite's
//! server handshake.

use corecast_protocol::ErrorCode;
use corecast_protocol::ws::handshake::{
    HttpRequest, Mode, Parsed, Policy, REQUEST_BYTES_MAX, Refusal, Route, parse, route, write_accept,
};
use tungstenite::Error;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};

/// Everything that must hold for these bytes.
pub fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    cut(bytes, &whole);
    match whole {
        Ok(Parsed::Partial) => assert!(bytes.len() < REQUEST_BYTES_MAX, "more would never be enough"),
        Err(refusal) => check_refusal(&refusal),
        Ok(Parsed::Complete { request, consumed }) => {
            assert!(consumed <= bytes.len().min(REQUEST_BYTES_MAX));
            let head = &bytes[..consumed];
            assert!(head.ends_with(b"\n"), "a head ends with an empty line");
            let Ok(Parsed::Complete { request: alone, .. }) = parse(head) else { panic!("less than a head") };
            for policy in policies() {
                let verdict = route(&request, &policy);
                assert_eq!(route(&alone, &policy), verdict, "what follows the head changes nothing");
                check_verdict(&verdict);
                compare(head, &request, &verdict);
            }
        }
    }
}

/// A head in pieces is judged as the whole, no later than that and no sooner than it can be known.
fn cut(bytes: &[u8], whole: &Result<Parsed<'_>, Refusal>) {
    let step = bytes.len() / 100 + 1;
    let first = bytes.first().map_or(0, |first| usize::from(*first) % step);
    for end in (first..bytes.len()).step_by(step) {
        match (parse(&bytes[..end]), whole) {
            (Ok(Parsed::Partial), _) => {}
            (Err(early), Err(whole)) => assert_eq!(early, *whole, "cut at {end}"),
            (Ok(Parsed::Complete { consumed: early, .. }), Ok(Parsed::Complete { consumed, .. })) => {
                assert_eq!(early, *consumed, "cut at {end}");
                assert!(early <= end);
            }
            (early, whole) => panic!("cut at {end}: {early:?}, whole: {whole:?}"),
        }
    }
}

fn policies() -> [Policy; 3] {
    let policy = |prefix: &str, mode, is_open, origins: &[&str]| Policy {
        prefix: prefix.to_owned(),
        mode,
        demo_endpoint: is_open,
        echo: is_open,
        allowed_origins: origins.iter().map(|it| (*it).to_owned()).collect(),
    };
    [
        policy("", Mode::Demo, false, &[]),
        policy("", Mode::Development, true, &["*"]),
        policy("/api/v1", Mode::Production, true, &["https://app.example"]),
    ]
}

fn check_verdict(verdict: &Result<Route<'_>, Refusal>) {
    match verdict {
        Ok(Route::Upgrade(upgrade)) => {
            let mut out = Vec::new();
            write_accept(upgrade, &mut out);
            assert_eq!(status(&out), 101);
            let answer = String::from_utf8(out).expect("an answer is text");
            let key = std::str::from_utf8(&upgrade.accept_key).expect("base64 is text");
            assert!(answer.contains(&format!("Sec-WebSocket-Accept: {key}\r\n")));
        }
        Ok(Route::Health | Route::Ready) => {}
        Err(refusal) => check_refusal(refusal),
    }
}

fn check_refusal(refusal: &Refusal) {
    let mut out = Vec::new();
    refusal.write(&mut out);
    assert_eq!(status(&out), refusal.status());
    if let Some((_, reason)) = refusal.close() {
        assert!(ErrorCode::ALL.iter().any(|code| reason.starts_with(code.as_str())), "{reason}");
    }
}

fn status(answer: &[u8]) -> u16 {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    assert!(response.parse(answer).is_ok_and(|it| it.is_complete()), "an answer is HTTP");
    response.code.expect("a complete answer has a status")
}

/// What tungstenite says of the same head.
fn compare(head: &[u8], request: &HttpRequest<'_>, verdict: &Result<Route<'_>, Refusal>) {
    let theirs =
        Request::try_parse(head).and_then(|it| create_response(&it.expect("the head is complete").1));
    match (verdict, theirs) {
        (Ok(Route::Upgrade(upgrade)), Ok(response)) => {
            let accept = response.headers().get("Sec-WebSocket-Accept").expect("it accepts");
            assert_eq!(accept.as_bytes(), upgrade.accept_key);
        }
        (Ok(Route::Upgrade(_)), Err(error)) => assert!(is_stricter(head, &error), "{error}: {request:?}"),
        // Both ask for an upgrade, for version 13 and for GET; everything else that we ask for is ours alone.
        (Err(Refusal::Method | Refusal::Version | Refusal::HeadTooLarge), Ok(_)) => {
            panic!("{verdict:?}, and tungstenite accepts it: {request:?}")
        }
        (Err(Refusal::BadRequest(what)), Ok(_)) => assert!(
            // A list's tokens stand between commas (RFC 9110 section 5.6.1): tungstenite takes spaces for commas too.
            !what.contains("Upgrade: websocket")
                || values(head, "connection").iter().any(|it| it.contains(' ')),
            "{what}, and tungstenite accepts it: {request:?}"
        ),
        _ => {}
    }
}

/// tungstenite looks only at the first line of each header, and wants no list of upgrades: RFC 9110 section 5.3 makes
/// one list of several lines, RFC 6455 section 4.2.1 a list of the value.
fn is_stricter(head: &[u8], error: &Error) -> bool {
    let is_list = |name: &str| {
        let values = values(head, name);
        values.len() > 1 || values.iter().any(|it| it.contains([',', '\t']) || !it.is_ascii())
    };
    (error.to_string().to_lowercase().contains("upgrade") && (is_list("connection") || is_list("upgrade")))
        // The `http` crate counts bytes and fields of its own.
        || matches!(error, Error::HttpFormat(_) | Error::Capacity(_))
}

/// The values of a header in lower case, without the space around them.
fn values(head: &[u8], name: &str) -> Vec<String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).collect()
}
