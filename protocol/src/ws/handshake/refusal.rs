//! Handshakes that are refused: as HTTP, or, where a browser must learn the reason, as an upgrade that closes.

use crate::CloseCode;
use crate::ws::handshake::write_plain;

/// Why a request was refused. Every answer says whose fault it is and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 400: not a handshake as RFC 6455 section 4.2.1 wants it.
    BadRequest(&'static str),
    /// 401: the token.
    Unauthorized(&'static str),
    /// 403: the origin.
    Forbidden,
    /// 404: nothing at this path.
    NotFound,
    /// 405: only GET.
    Method,
    /// 426: not version 13.
    Version,
    /// 429: a connection limit of this client.
    TooMany(String),
    /// 431: the head is too large.
    HeadTooLarge,
    /// 408: the request did not come in time.
    Timeout,
    /// 503: the node is full.
    Full,
    /// 503: the node is going away.
    Draining,
}

impl Refusal {
    /// A connection limit that this client is over.
    pub fn too_many(limit: String) -> Self {
        Self::TooMany(limit)
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.line().0
    }

    /// How a browser is told after a completed upgrade, where the contract wants that: token, limit and drain.
    pub fn close(&self) -> Option<(CloseCode, String)> {
        match self {
            Self::Unauthorized(what) => Some((CloseCode::Policy, format!("AUTH_INVALID: {what}"))),
            Self::TooMany(limit) => Some((CloseCode::ConnectionLimit, format!("CONNECTION_LIMIT: {limit}"))),
            Self::Full => Some((CloseCode::TryAgainLater, "OVERLOADED: this node is full".to_owned())),
            Self::Draining => {
                Some((CloseCode::TryAgainLater, "DRAINING: this node is going away".to_owned()))
            }
            _ => None,
        }
    }

    /// Appends the complete response.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (status, reason, text) = self.line();
        let headers = match self {
            Self::Version => "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n",
            Self::Unauthorized(_) => "WWW-Authenticate: Bearer\r\n",
            Self::Method => "Allow: GET\r\n",
            Self::TooMany(_) => "Retry-After: 10\r\n",
            Self::Full | Self::Draining => "Retry-After: 2\r\n",
            _ => "",
        };
        write_plain(status, reason, headers, &format!("{text}\n"), out);
    }

    fn line(&self) -> (u16, &'static str, String) {
        match self {
            Self::BadRequest(what) => (400, "Bad Request", format!("bad handshake: {what}")),
            Self::Unauthorized(what) => (401, "Unauthorized", format!("token refused: {what}")),
            Self::Forbidden => (
                403,
                "Forbidden",
                "origin refused: pages of this host name may connect; the operator can add others to allowed_origins"
                    .to_owned(),
            ),
            Self::NotFound => (
                404,
                "Not Found",
                "nothing here: connect a WebSocket to /ws, /ws/demo or /ws/{resource}/{id} below http.prefix"
                    .to_owned(),
            ),
            Self::Method => (405, "Method Not Allowed", "only GET is answered here".to_owned()),
            Self::Version => {
                (426, "Upgrade Required", "this server speaks Sec-WebSocket-Version 13".to_owned())
            }
            Self::TooMany(limit) => (429, "Too Many Requests", format!("connection limit reached: {limit}")),
            Self::HeadTooLarge => {
                (431, "Request Header Fields Too Large", "at most 8 KiB and 64 header fields".to_owned())
            }
            Self::Timeout => (408, "Request Timeout", "the request did not arrive in time".to_owned()),
            Self::Full => (503, "Service Unavailable", "this node is full; try again, or another node".to_owned()),
            Self::Draining => {
                (503, "Service Unavailable", "this node is going away; try again, or another node".to_owned())
            }
        }
    }
}
