//! The opening handshake (RFC 6455 section 4) and the paths of the wire contract, section 1.
//!
//! Requests are read and judged, answers written; who is admitted beyond that is not decided here.

mod client;
mod refusal;
mod request;
mod route;

pub use crate::envelope::Format;
pub use client::{ClientError, parse_client_answer, parse_client_response, write_client_request};
pub use refusal::Refusal;
pub use request::{HttpRequest, Parsed, REQUEST_BYTES_MAX, parse};
pub use route::{Endpoint, Mode, Policy, Route, Upgrade, route};

use base64::Engine;
use sha1::{Digest, Sha1};

/// The subprotocol in which the hub sends JSON.
pub const SUBPROTOCOL_JSON: &str = "agent-protocol-v1";

/// The subprotocol in which the hub sends MessagePack.
pub const SUBPROTOCOL_MSGPACK: &str = "agent-protocol-v1.msgpack";

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
pub(crate) fn accept_key(key: &[u8]) -> [u8; 28] {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut out = [0; 28];
    let written = base64::engine::general_purpose::STANDARD.encode_slice(hash.finalize(), &mut out);
    debug_assert_eq!(written, Ok(28), "20 bytes are 28 characters in base64");
    out
}

/// Appends the 101 response.
pub fn write_accept(upgrade: &Upgrade<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&upgrade.accept_key);
    if let Some(subprotocol) = upgrade.subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if let Some(deflate) = &upgrade.deflate {
        deflate.write(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a complete plain response; the connection closes behind it.
pub fn write_plain(status: u16, reason: &str, headers: &str, body: &str, out: &mut Vec<u8>) {
    use std::io::Write;
    let length = body.len();
    // Writing to a vector can't fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n{headers}\r\n{body}"
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(&super::accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
