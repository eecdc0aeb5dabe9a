//! `handshake.json`: requests and what becomes of them, whole and at every cut; refusals as HTTP and as closes.

use std::collections::BTreeMap;

use corecast_protocol::ws::handshake::{
    Endpoint, Format, HttpRequest, Mode, Parsed, Policy, Refusal, Route, Upgrade, parse, route, write_accept,
};
use corecast_protocol::{CloseCode, ErrorCode};
use serde::Deserialize;

use crate::runner::{Bytes, Case, cases, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default)]
    policy: Rules,
    lines: Option<Vec<Bytes>>,
    bytes: Option<Bytes>,
    behind: Option<Bytes>,
    accepted: Option<Accepted>,
    plain: Option<String>,
    refused: Option<Refused>,
    #[serde(default)]
    partial: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Rules {
    prefix: String,
    mode: Named,
    demo_endpoint: bool,
    echo: bool,
    allowed_origins: Vec<String>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Named {
    #[default]
    Demo,
    Development,
    Production,
}

#[derive(Deserialize, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct Accepted {
    endpoint: String,
    resource: Option<String>,
    id: Option<String>,
    subprotocol: Option<String>,
    /// Compared only where the case names it.
    accept: Option<String>,
    origin: bool,
    token: Option<String>,
    resume: Option<String>,
    #[serde(rename = "as")]
    as_name: Option<String>,
    time_iso: bool,
    heartbeat_message: bool,
    batch: bool,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Refused {
    status: u16,
    mentions: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Request {
    fn head(&self) -> Result<Vec<u8>, String> {
        match (&self.bytes, &self.lines) {
            (Some(bytes), None) => bytes.read(),
            (None, Some(lines)) => {
                let mut head = Vec::new();
                for line in lines {
                    head.extend(line.read()?);
                    head.extend_from_slice(b"\r\n");
                }
                head.extend_from_slice(b"\r\n");
                Ok(head)
            }
            _ => Err("either `lines` or `bytes`".to_owned()),
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            prefix: self.policy.prefix.clone(),
            mode: match self.policy.mode {
                Named::Demo => Mode::Demo,
                Named::Development => Mode::Development,
                Named::Production => Mode::Production,
            },
            demo_endpoint: self.policy.demo_endpoint,
            echo: self.policy.echo,
            allowed_origins: self.policy.allowed_origins.clone(),
        }
    }

    fn judge<'a>(&self, request: &HttpRequest<'a>) -> Result<Route<'a>, Refusal> {
        route(request, &self.policy())
    }
}

impl Case for Request {
    const FILE: &'static str = "handshake";
    const SECTION: &'static str = "requests";
    const EXPECTATIONS: &'static [&'static str] = &["accepted", "plain", "refused", "partial"];

    fn check(&self) -> Result<(), String> {
        let head = self.head()?;
        let mut bytes = head.clone();
        if let Some(behind) = &self.behind {
            bytes.extend(behind.read()?);
        }
        let verdict = match parse(&bytes) {
            Ok(Parsed::Partial) => return same("incomplete", true, self.partial),
            Ok(Parsed::Complete { request, consumed }) => {
                same("bytes of the head", consumed, head.len())?;
                self.judge(&request)
            }
            Err(refusal) => Err(refusal),
        };
        same("incomplete", false, self.partial)?;
        match (verdict, &self.accepted, &self.plain, &self.refused) {
            (Ok(Route::Upgrade(upgrade)), Some(expected), None, None) => check_accepted(&upgrade, expected),
            (Ok(Route::Health), None, Some(expected), None) => same("plain", "health", expected),
            (Ok(Route::Ready), None, Some(expected), None) => same("plain", "ready", expected),
            (Err(refusal), None, None, Some(expected)) => check_refused(&refusal, expected),
            (verdict, ..) => Err(format!("got {verdict:?}")),
        }
    }
}

fn check_accepted(upgrade: &Upgrade<'_>, expected: &Accepted) -> Result<(), String> {
    let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let (endpoint, resource, id) = match &upgrade.endpoint {
        Endpoint::Ws => ("ws", None, None),
        Endpoint::Demo => ("demo", None, None),
        Endpoint::Dev => ("dev", None, None),
        Endpoint::Echo => ("echo", None, None),
        Endpoint::Resource { resource, id } => ("resource", Some(resource.to_string()), Some(id.to_string())),
    };
    let accept = std::str::from_utf8(&upgrade.accept_key).map_err(|error| error.to_string())?;
    let got = Accepted {
        endpoint: endpoint.to_owned(),
        resource,
        id,
        subprotocol: upgrade.subprotocol.map(str::to_owned),
        accept: expected.accept.is_some().then(|| accept.to_owned()),
        origin: upgrade.has_origin,
        token: owned(&upgrade.token),
        resume: owned(&upgrade.resume),
        as_name: owned(&upgrade.as_name),
        time_iso: upgrade.is_time_iso,
        heartbeat_message: upgrade.pings_as_messages,
        batch: upgrade.takes_batches,
    };
    same("accepted", &got, expected)?;
    let is_binary = expected.subprotocol.as_deref().is_some_and(|it| it.ends_with(".msgpack"));
    same("format", upgrade.format, if is_binary { Format::MessagePack } else { Format::Json })?;
    let mut out = Vec::new();
    write_accept(upgrade, &mut out);
    let answer = Answer::read(&out)?;
    same("status", answer.status, 101)?;
    same("body", answer.body, String::new())?;
    let mut headers = BTreeMap::from([
        ("connection".to_owned(), "Upgrade".to_owned()),
        ("upgrade".to_owned(), "websocket".to_owned()),
        ("sec-websocket-accept".to_owned(), accept.to_owned()),
    ]);
    headers.extend(upgrade.subprotocol.map(|it| ("sec-websocket-protocol".to_owned(), it.to_owned())));
    same("headers", answer.headers, headers)
}

fn check_refused(refusal: &Refusal, expected: &Refused) -> Result<(), String> {
    let answer = Answer::of(refusal)?;
    same("status", answer.status, expected.status)?;
    let mentioned = expected.mentions.as_deref().unwrap_or_default();
    same(&format!("{mentioned:?} in {:?}", answer.body), answer.body.contains(mentioned), true)?;
    answer.has(&expected.headers)
}

/// An HTTP answer as a client reads it.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn of(refusal: &Refusal) -> Result<Self, String> {
        let mut out = Vec::new();
        refusal.write(&mut out);
        let answer = Self::read(&out)?;
        same("status of the refusal", answer.status, refusal.status())?;
        let length = Some(answer.body.len().to_string());
        same("Content-Length", answer.headers.get("content-length"), length.as_ref())?;
        same("Connection", answer.headers.get("connection").map(String::as_str), Some("close"))?;
        Ok(answer)
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = response.parse(bytes) else {
            return Err(format!("not HTTP: {}", String::from_utf8_lossy(bytes)));
        };
        let mut all = BTreeMap::new();
        for header in response.headers.iter() {
            let value = String::from_utf8_lossy(header.value).into_owned();
            let twice = all.insert(header.name.to_ascii_lowercase(), value);
            same("the same header before", twice, None)?;
        }
        let body = String::from_utf8_lossy(&bytes[length..]).into_owned();
        Ok(Self { status: response.code.unwrap_or_default(), headers: all, body })
    }

    fn has(&self, expected: &BTreeMap<String, String>) -> Result<(), String> {
        expected
            .iter()
            .try_for_each(|(name, value)| same(name, self.headers.get(&name.to_lowercase()), Some(value)))
    }
}

section_tests!(requests, Request);

#[test]
fn a_head_cut_anywhere_is_incomplete_or_refused_as_the_whole() {
    for (name, case) in cases::<Request>() {
        let head = case.head().expect("the cases are well-formed");
        let step = if head.len() > 10_000 { 997 } else { 1 };
        for cut in (0..head.len()).step_by(step) {
            match parse(&head[..cut]) {
                Ok(Parsed::Partial) => {}
                Ok(Parsed::Complete { .. }) => panic!("{name}: complete after {cut} bytes"),
                Err(refusal) => {
                    let expected = case.refused.as_ref().map(|it| it.status);
                    assert_eq!(Some(refusal.status()), expected, "{name}, cut at {cut}");
                }
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refusing {
    refusal: String,
    status: u16,
    headers: BTreeMap<String, String>,
    close: Option<Ending>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ending {
    code: u16,
    error: String,
}

impl Case for Refusing {
    const FILE: &'static str = "handshake";
    const SECTION: &'static str = "refusals";
    const EXPECTATIONS: &'static [&'static str] = &["refusal", "status", "close"];

    fn check(&self) -> Result<(), String> {
        let refusal = match self.refusal.as_str() {
            "bad_request" => Refusal::BadRequest("x"),
            "unauthorized" => Refusal::Unauthorized("x"),
            "forbidden" => Refusal::Forbidden,
            "not_found" => Refusal::NotFound,
            "method" => Refusal::Method,
            "timeout" => Refusal::Timeout,
            "version" => Refusal::Version,
            "too_many" => Refusal::too_many("x".to_owned()),
            "head_too_large" => Refusal::HeadTooLarge,
            "full" => Refusal::Full,
            "draining" => Refusal::Draining,
            other => return Err(format!("no refusal {other}")),
        };
        let answer = Answer::of(&refusal)?;
        same("status", answer.status, self.status)?;
        answer.has(&self.headers)?;
        let close = refusal.close().map(|(code, reason)| (code.code(), reason));
        match (&close, &self.close) {
            (None, None) => Ok(()),
            (Some((code, reason)), Some(expected)) => {
                let error = reason.split(':').next().unwrap_or_default();
                same("close", (*code, error), (expected.code, expected.error.as_str()))?;
                let is_known = ErrorCode::ALL.iter().any(|it| it.as_str() == error);
                let is_sent = CloseCode::from_wire(*code).is_some();
                same("a known error code and an allowed close code", is_known && is_sent, true)
            }
            _ => Err(format!("close: got {close:?}")),
        }
    }
}

section_tests!(refusals, Refusing);
