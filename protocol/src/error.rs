//! What can go wrong, by whose fault it is, and the one table that maps it to the wire.
//!
//! The codes are those of the wire contract, section 5. This module knows no encoding and no state.

/// How a WebSocket connection ends: RFC 6455 section 7.4 and the application range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseCode {
    /// 1000: asked for by the client.
    Normal,
    /// 1001: this node drains.
    GoingAway,
    /// 1002: the peer broke RFC 6455.
    Protocol,
    /// 1003: an encoding that is disabled.
    Unsupported,
    /// 1007: invalid UTF-8 in a text message.
    InvalidPayload,
    /// 1008: authentication failed, timed out or expired; repeated invalid messages.
    Policy,
    /// 1009: message above its limit, or too many fragments.
    TooLarge,
    /// 1011: our fault.
    Internal,
    /// 1012: restart.
    Restart,
    /// 1013: overloaded.
    TryAgainLater,
    /// 4000: the consumer was too slow.
    SlowConsumer,
    /// 4001: no pong.
    NoPong,
    /// 4002: idle.
    Idle,
    /// 4003: an operator asks to reconnect.
    Reconnect,
    /// 4500: disconnected by an operator.
    Disconnected,
    /// 4501: connection limit.
    ConnectionLimit,
    /// 4502: the session was taken over by another connection.
    TakenOver,
    /// Any other valid code; only ever received.
    Other(u16),
}

impl CloseCode {
    const TABLE: [(Self, u16, bool); 17] = [
        (Self::Normal, 1000, false),
        (Self::GoingAway, 1001, true),
        (Self::Protocol, 1002, false),
        (Self::Unsupported, 1003, false),
        (Self::InvalidPayload, 1007, false),
        (Self::Policy, 1008, false),
        (Self::TooLarge, 1009, false),
        (Self::Internal, 1011, true),
        (Self::Restart, 1012, true),
        (Self::TryAgainLater, 1013, true),
        (Self::SlowConsumer, 4000, true),
        (Self::NoPong, 4001, true),
        (Self::Idle, 4002, true),
        (Self::Reconnect, 4003, true),
        (Self::Disconnected, 4500, false),
        (Self::ConnectionLimit, 4501, false),
        (Self::TakenOver, 4502, false),
    ];

    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => Self::TABLE.iter().find(|(it, _, _)| *it == known).map_or(1011, |(_, code, _)| *code),
        }
    }

    /// Whether a client should reconnect, and resume, after this close.
    pub fn reconnect(self) -> bool {
        match self {
            Self::Other(code) => (4000..4500).contains(&code),
            known => Self::TABLE.iter().any(|(it, _, reconnect)| *it == known && *reconnect),
        }
    }

    /// The code that a peer sent; `None` if RFC 6455 section 7.4 forbids it in a close frame.
    pub fn from_wire(code: u16) -> Option<Self> {
        // 1004, 1005, 1006 and 1015 are reserved and "MUST NOT be set as a status code in a Close control frame".
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(
                Self::TABLE
                    .iter()
                    .find(|(_, number, _)| *number == code)
                    .map_or(Self::Other(code), |row| row.0),
            ),
            _ => None,
        }
    }
}

/// Who has to change something so that it does not happen again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Blame {
    /// The client sent or did it.
    Peer,
    /// The configuration, or the capacity that was given to us.
    Operator,
    /// A defect of this program.
    Us,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $blame:ident, $close:expr;)*) => {
        /// The `code` of an `error` message.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// All codes, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Whose fault it is.
            pub fn blame(self) -> Blame {
                match self { $(Self::$variant => Blame::$blame,)* }
            }

            /// The close code, where this error ends a connection; most leave it open.
            pub fn close(self) -> Option<CloseCode> {
                match self { $(Self::$variant => $close,)* }
            }
        }
    };
}

error_codes! {
    /// Not JSON.
    InvalidJson = "INVALID_JSON", Peer, None;
    /// JSON, but not an envelope.
    InvalidMessage = "INVALID_MESSAGE", Peer, None;
    /// An unknown `type`.
    UnknownType = "UNKNOWN_TYPE", Peer, None;
    /// The payload does not fit its schema.
    SchemaViolation = "SCHEMA_VIOLATION", Peer, None;
    /// Nothing but `authenticate` is allowed yet.
    AuthRequired = "AUTH_REQUIRED", Peer, Some(CloseCode::Policy);
    /// The token is wrong.
    AuthInvalid = "AUTH_INVALID", Peer, Some(CloseCode::Policy);
    /// The token is too old.
    AuthExpired = "AUTH_EXPIRED", Peer, Some(CloseCode::Policy);
    /// Not permitted.
    Forbidden = "FORBIDDEN", Peer, None;
    /// Not a channel name.
    InvalidChannel = "INVALID_CHANNEL", Peer, None;
    /// Needs a subscription.
    NotSubscribed = "NOT_SUBSCRIBED", Peer, None;
    /// Too many subscriptions.
    SubscriptionLimit = "SUBSCRIPTION_LIMIT", Peer, None;
    /// Too many connections.
    ConnectionLimit = "CONNECTION_LIMIT", Peer, Some(CloseCode::ConnectionLimit);
    /// Above a size limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE", Peer, None;
    /// Above a rate limit.
    RateLimitExceeded = "RATE_LIMIT_EXCEEDED", Peer, None;
    /// A nonce was used before.
    Replayed = "REPLAYED", Peer, None;
    /// The signature does not fit.
    BadSignature = "BAD_SIGNATURE", Peer, None;
    /// Nobody answers this method or capability.
    NoHandler = "NO_HANDLER", Operator, None;
    /// No answer in time.
    Timeout = "TIMEOUT", Peer, None;
    /// The caller took it back.
    Cancelled = "CANCELLED", Peer, None;
    /// There is no such thing.
    NotFound = "NOT_FOUND", Peer, None;
    /// The history does not reach back that far.
    Unrecoverable = "UNRECOVERABLE", Operator, None;
    /// The consumer was too slow.
    SlowConsumer = "SLOW_CONSUMER", Peer, Some(CloseCode::SlowConsumer);
    /// No capacity left.
    Overloaded = "OVERLOADED", Operator, Some(CloseCode::TryAgainLater);
    /// This node is going away.
    Draining = "DRAINING", Operator, Some(CloseCode::GoingAway);
    /// A defect.
    Internal = "INTERNAL", Us, Some(CloseCode::Internal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_survive_the_wire() {
        for (code, number, _) in CloseCode::TABLE {
            assert_eq!((code.code(), CloseCode::from_wire(number)), (number, Some(code)));
        }
        assert_eq!(CloseCode::from_wire(3999), Some(CloseCode::Other(3999)));
    }

    #[test]
    fn reserved_close_codes_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(CloseCode::from_wire(code), None, "{code}");
        }
    }

    #[test]
    fn reconnecting_is_as_the_contract_says() {
        let yes: Vec<u16> = (1000..5000)
            .filter_map(CloseCode::from_wire)
            .filter(|c| c.reconnect())
            .map(CloseCode::code)
            .collect();
        let expected: Vec<u16> = [1001, 1011, 1012, 1013].into_iter().chain(4000..4500).collect();
        assert_eq!(yes, expected);
    }
}
