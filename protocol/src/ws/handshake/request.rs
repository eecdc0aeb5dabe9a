//! A request's head: read by `httparse`, bounded, and kept as borrowed parts.

use crate::ws::handshake::Refusal;

/// Bytes of a request's head at most.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Headers of a request at most.
const HEADERS_MAX: usize = 64;

/// What was found in the bytes so far.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for one call")]
pub enum Parsed<'a> {
    /// More bytes are needed.
    Partial,
    /// A complete head.
    Complete {
        /// What is asked.
        request: HttpRequest<'a>,
        /// Bytes of the head; what follows belongs to the next layer.
        consumed: usize,
    },
}

/// The parts of a request's head that matter here. `Debug` shows neither query nor credentials.
#[derive(Clone, Default)]
pub struct HttpRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) minor_version: u8,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) host: Option<&'a [u8]>,
    pub(crate) origin: Option<&'a [u8]>,
    pub(crate) authorization: Option<&'a [u8]>,
    pub(crate) key: Option<&'a [u8]>,
    /// What is wrong with a header that came twice and may come once only.
    pub(crate) repeated: Option<&'static str>,
    pub(crate) version: Option<&'a [u8]>,
    pub(crate) protocols: Vec<&'a [u8]>,
    /// The values of `Sec-WebSocket-Extensions`, line by line.
    pub(crate) extensions: Vec<&'a [u8]>,
    pub(crate) has_upgrade: bool,
    pub(crate) has_connection: bool,
    pub(crate) has_body: bool,
}

impl std::fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Reads a request's head from the front of `bytes`.
///
/// # Errors
/// 400 for what is no HTTP/1.1 head, 431 above 8 KiB or 64 headers.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    // What lies beyond the bound is not looked at: the verdict must not depend on how much arrived at once.
    let consumed = match head.parse(&bytes[..bytes.len().min(REQUEST_BYTES_MAX)]) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Ok(Parsed::Partial),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::HeadTooLarge);
        }
        Err(_) => return Err(Refusal::BadRequest("this is not an HTTP/1.1 request")),
    };
    let target = origin_form(head.path.unwrap_or("/"));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut request = HttpRequest {
        method: head.method.unwrap_or_default(),
        minor_version: head.version.unwrap_or_default(),
        path,
        query,
        ..HttpRequest::default()
    };
    for header in head.headers.iter() {
        request.note(header.name, header.value);
    }
    Ok(Parsed::Complete { request, consumed })
}

/// RFC 9112 section 3.2.2: "a server MUST accept the absolute-form in requests".
fn origin_form(target: &str) -> &str {
    let scheme = ["http://", "https://", "ws://", "wss://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else { return target };
    let authority = &target[scheme.len()..];
    authority.find(['/', '?']).map_or("/", |end| &authority[end..])
}

impl<'a> HttpRequest<'a> {
    fn note(&mut self, name: &str, value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // Of two values a proxy before us may have judged the other one.
        let (place, twice) = if is("host") {
            (&mut self.host, "Host must be given once")
        } else if is("origin") {
            (&mut self.origin, "Origin must be given once")
        } else if is("authorization") {
            (&mut self.authorization, "Authorization must be given once")
        } else if is("sec-websocket-key") {
            (&mut self.key, "Sec-WebSocket-Key must be given once")
        } else if is("sec-websocket-version") {
            (&mut self.version, "Sec-WebSocket-Version must be given once")
        } else {
            return self.note_list(name, value);
        };
        if place.replace(value.trim_ascii()).is_some() {
            self.repeated = Some(twice);
        }
    }

    /// Headers that may come in several lines, which together are one list.
    fn note_list(&mut self, name: &str, value: &'a [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("sec-websocket-protocol") {
            self.protocols.extend(list(value));
        } else if is("sec-websocket-extensions") {
            self.extensions.push(value);
        } else if is("upgrade") {
            self.has_upgrade |= list(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        } else if is("connection") {
            self.has_connection |= list(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        } else if is("transfer-encoding") || (is("content-length") && value.trim_ascii() != b"0") {
            self.has_body = true;
        }
    }

    /// Whether it asks for the upgrade at all.
    pub fn is_upgrade(&self) -> bool {
        self.has_upgrade || self.key.is_some()
    }
}

fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
