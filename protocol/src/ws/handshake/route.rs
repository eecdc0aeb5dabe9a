//! Which endpoint a request means, and whether its handshake is one.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::envelope::Format;
use crate::ws::deflate::{Contexts, Negotiated, negotiate};
use crate::ws::handshake::{HttpRequest, Refusal, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, accept_key};

/// How strict the node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Everybody may try it.
    Demo,
    /// Names are believed, origins not checked.
    Development,
    /// Nobody in who doesn't belong.
    Production,
}

/// What the operator decided about handshakes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Precedes every path; empty or `/…` without a slash at the end.
    pub prefix: String,
    /// How strict the node is.
    pub mode: Mode,
    /// Whether `/ws/demo` exists outside demo mode.
    pub demo_endpoint: bool,
    /// Whether `/ws/echo` exists.
    pub echo: bool,
    /// Origins that may connect, as `scheme://host[:port]` or `*`; empty for those of the same host name.
    pub allowed_origins: Vec<String>,
}

/// What a client connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint<'a> {
    /// `/ws`.
    Ws,
    /// `/ws/demo`.
    Demo,
    /// `/ws/dev`.
    Dev,
    /// `/ws/{resource}/{id}`.
    Resource {
        /// The namespace.
        resource: Cow<'a, str>,
        /// The rest of the channel's name.
        id: Cow<'a, str>,
    },
    /// `/ws/echo`.
    Echo,
}

/// A handshake that may be accepted. `Debug` does not show credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// Where to.
    pub endpoint: Endpoint<'a>,
    /// What the hub sends.
    pub format: Format,
    /// The subprotocol to be named in the answer.
    pub subprotocol: Option<&'static str>,
    /// The value of `Sec-WebSocket-Accept`.
    pub accept_key: [u8; 28],
    /// What is agreed about compression: nothing, until [`accept_deflate`](Self::accept_deflate).
    pub deflate: Option<Negotiated>,
    /// The values of `Sec-WebSocket-Extensions`.
    extensions: Vec<&'a [u8]>,
    /// Whether there was an `Origin` (and it is allowed): a browser, which can't read refusals.
    pub has_origin: bool,
    /// The token, from the header or the query.
    pub token: Option<Cow<'a, str>>,
    /// `?resume=`.
    pub resume: Option<Cow<'a, str>>,
    /// `?as=`.
    pub as_name: Option<Cow<'a, str>>,
    /// `?time=iso`.
    pub is_time_iso: bool,
    /// `?heartbeat=message`.
    pub pings_as_messages: bool,
    /// `?batch=1`.
    pub takes_batches: bool,
}

impl Upgrade<'_> {
    /// Agrees on permessage-deflate, if there is an offer that can be accepted.
    pub fn accept_deflate(&mut self, contexts: Contexts) {
        self.deflate = negotiate(&self.extensions, contexts);
    }
}

impl std::fmt::Debug for Upgrade<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade")
            .field("endpoint", &self.endpoint)
            .field("as_name", &self.as_name)
            .finish_non_exhaustive()
    }
}

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route<'a> {
    /// A WebSocket.
    Upgrade(Upgrade<'a>),
    /// `GET /health`.
    Health,
    /// `GET /ready`.
    Ready,
}

/// Judges a request.
///
/// # Errors
/// Every refusal that needs no state: 400, 403, 404, 405, 426.
pub fn route<'a>(request: &HttpRequest<'a>, policy: &Policy) -> Result<Route<'a>, Refusal> {
    let path = request.path.strip_prefix(policy.prefix.as_str());
    // Probes of load balancers may or may not know the prefix.
    for path in [path, Some(request.path)].into_iter().flatten() {
        match path {
            "/health" => return plain(request, Route::Health),
            "/ready" => return plain(request, Route::Ready),
            _ => {}
        }
    }
    let endpoint = endpoint(path.ok_or(Refusal::NotFound)?, policy)?;
    check_handshake(request)?;
    let is_origin_checked = !matches!(endpoint, Endpoint::Dev);
    if is_origin_checked && !is_origin_allowed(request, policy) {
        return Err(Refusal::Forbidden);
    }
    let (format, subprotocol) = subprotocol(request)?;
    let key = request.key.unwrap_or_default();
    let mut upgrade = Upgrade {
        endpoint,
        format,
        subprotocol,
        accept_key: accept_key(key),
        deflate: None,
        extensions: request.extensions.clone(),
        has_origin: request.origin.is_some(),
        token: bearer(request),
        resume: None,
        as_name: None,
        is_time_iso: false,
        pings_as_messages: false,
        takes_batches: false,
    };
    options(request.query.unwrap_or_default(), &mut upgrade)?;
    Ok(Route::Upgrade(upgrade))
}

fn plain<'a>(request: &HttpRequest<'_>, route: Route<'a>) -> Result<Route<'a>, Refusal> {
    if request.method == "GET" || request.method == "HEAD" { Ok(route) } else { Err(Refusal::Method) }
}

fn endpoint<'a>(path: &'a str, policy: &Policy) -> Result<Endpoint<'a>, Refusal> {
    let rest = match path.strip_prefix("/ws") {
        Some("" | "/") => return Ok(Endpoint::Ws),
        Some(rest) => rest.strip_prefix('/').ok_or(Refusal::NotFound)?,
        None => return Err(Refusal::NotFound),
    };
    match rest.split_once('/') {
        None => match rest {
            "demo" if policy.mode == Mode::Demo || policy.demo_endpoint => Ok(Endpoint::Demo),
            "dev" if policy.mode == Mode::Development => Ok(Endpoint::Dev),
            "echo" if policy.echo && policy.mode != Mode::Production => Ok(Endpoint::Echo),
            _ => Err(Refusal::NotFound),
        },
        Some((resource, id)) if !resource.is_empty() && !id.is_empty() && !id.contains('/') => {
            Ok(Endpoint::Resource { resource: decode(resource)?, id: decode(id)? })
        }
        Some(_) => Err(Refusal::NotFound),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| Refusal::BadRequest("percent-encoded bytes in the URL must be valid UTF-8"))
}

/// RFC 6455 section 4.2.1.
fn check_handshake(request: &HttpRequest<'_>) -> Result<(), Refusal> {
    if request.method != "GET" {
        return Err(Refusal::Method);
    }
    let bad = |what| Err(Refusal::BadRequest(what));
    if request.minor_version != 1 {
        return bad("HTTP/1.1 is needed");
    }
    if let Some(what) = request.repeated {
        return bad(what);
    }
    if request.host.is_none() {
        return bad("the Host header is missing");
    }
    if !request.has_upgrade || !request.has_connection {
        return bad("this is a WebSocket endpoint: Upgrade: websocket and Connection: Upgrade are needed");
    }
    if request.version != Some(b"13") {
        return Err(Refusal::Version);
    }
    if request.has_body {
        return bad("a handshake has no body");
    }
    // "a base64-encoded value that, when decoded, is 16 bytes in length"
    let is_key = |key: &[u8]| {
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(is_base64)
    };
    if !request.key.is_some_and(is_key) {
        return bad("Sec-WebSocket-Key must be 16 bytes in base64");
    }
    Ok(())
}

fn is_origin_allowed(request: &HttpRequest<'_>, policy: &Policy) -> bool {
    let Some(origin) = request.origin else { return true };
    let Ok(origin) = std::str::from_utf8(origin) else { return false };
    if !policy.allowed_origins.is_empty() {
        let is_same = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
        return policy.allowed_origins.iter().any(is_same);
    }
    let host = request.host.and_then(|host| std::str::from_utf8(host).ok()).map(host_name);
    let origin = origin.split_once("://").map(|(_, authority)| host_name(authority));
    matches!((host, origin), (Some(host), Some(origin)) if host.eq_ignore_ascii_case(origin))
}

/// The host without its port.
fn host_name(authority: &str) -> &str {
    let authority = authority.trim();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn subprotocol(request: &HttpRequest<'_>) -> Result<(Format, Option<&'static str>), Refusal> {
    for offered in &request.protocols {
        for (format, ours) in [(Format::Json, SUBPROTOCOL_JSON), (Format::MessagePack, SUBPROTOCOL_MSGPACK)] {
            if *offered == ours.as_bytes() {
                return Ok((format, Some(ours)));
            }
        }
    }
    if request.protocols.is_empty() {
        return Ok((Format::Json, None));
    }
    let what = "unknown subprotocol: offer agent-protocol-v1, agent-protocol-v1.msgpack, or none";
    Err(Refusal::BadRequest(what))
}

fn bearer<'a>(request: &HttpRequest<'a>) -> Option<Cow<'a, str>> {
    let value = std::str::from_utf8(request.authorization?).ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Cow::Borrowed(token.trim()))
}

fn options<'a>(query: &'a str, upgrade: &mut Upgrade<'a>) -> Result<(), Refusal> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "token" if upgrade.token.is_none() => upgrade.token = Some(decode(value)?),
            "resume" => upgrade.resume = Some(decode(value)?),
            "as" => upgrade.as_name = Some(decode(value)?),
            "time" => upgrade.is_time_iso = value == "iso",
            "heartbeat" => upgrade.pings_as_messages = value == "message",
            "batch" => upgrade.takes_batches = value == "1",
            _ => {}
        }
    }
    Ok(())
}
