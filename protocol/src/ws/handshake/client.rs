//! The client's side of the handshake, for load generators and tests.

use crate::ws::deflate::{Negotiated, Offer};
use crate::ws::handshake::accept_key;

/// Why the server's answer is no handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientError {
    /// Not HTTP.
    Malformed,
    /// Another status than 101.
    Status(u16),
    /// `Upgrade` or `Connection` is missing.
    Upgrade,
    /// The accept key does not fit ours.
    Key,
    /// An extension that was not offered, or not so.
    Extension,
}

/// Appends a request; `key` is 16 random bytes in base64, `headers` complete lines, as [`Offer::line`] is one.
pub fn write_client_request(host: &str, path: &str, key: &str, headers: &str, out: &mut Vec<u8>) {
    for part in [
        "GET ",
        path,
        " HTTP/1.1\r\nHost: ",
        host,
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
        key,
        "\r\n",
        headers,
        "\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Reads the server's answer: the length of its head, or `None` if bytes are missing.
///
/// # Errors
/// What is no acceptance, or accepts what was not offered.
pub fn parse_client_response(bytes: &[u8], key: &str) -> Result<Option<usize>, ClientError> {
    Ok(parse_client_answer(bytes, key, None)?.map(|(consumed, _)| consumed))
}

/// Reads the server's answer to a request with an offer: the length of its head and what was agreed, or `None` if
/// bytes are missing.
///
/// # Errors
/// What is no acceptance, or accepts what was not offered.
pub fn parse_client_answer(
    bytes: &[u8],
    key: &str,
    offer: Option<&Offer>,
) -> Result<Option<(usize, Option<Negotiated>)>, ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let consumed = match response.parse(bytes) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(ClientError::Malformed),
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return Err(ClientError::Status(status));
    }
    // RFC 6455 section 4.1: "If the response lacks an |Upgrade| header field … the client MUST Fail the WebSocket
    // Connection."
    let has = |name: &str, token: &str| {
        response.headers.iter().any(|it| {
            let value = std::str::from_utf8(it.value).unwrap_or_default();
            it.name.eq_ignore_ascii_case(name)
                && value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
        })
    };
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err(ClientError::Upgrade);
    }
    let accept = response.headers.iter().find(|it| it.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if accept.map(|it| it.value) != Some(&accept_key(key.as_bytes())) {
        return Err(ClientError::Key);
    }
    let is_extension = |it: &&httparse::Header<'_>| it.name.eq_ignore_ascii_case("sec-websocket-extensions");
    let extensions: Vec<&[u8]> = response.headers.iter().filter(is_extension).map(|it| it.value).collect();
    let agreed = Offer::answered(offer, &extensions).map_err(|_| ClientError::Extension)?;
    Ok(Some((consumed, agreed)))
}
