//! The members of the envelope: their names, and sets of them.

use crate::envelope::text;

macro_rules! keys {
    ($($variant:ident = $($text:literal)|+,)*) => {
        /// The members of the envelope; `Unknown` stands for all others.
        #[expect(clippy::enum_variant_names, reason = "the wire has a member `key_id`")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Key { $($variant,)* Unknown }

        impl Key {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            #[inline(always)]
            pub(crate) fn find(name: &[u8]) -> Self {
                // Each is one comparison of a length and mostly of one number, the usual ones first.
                $(if $(name == $text)||+ {
                    return Self::$variant;
                })*
                Self::Unknown
            }

            pub(crate) fn name(self) -> &'static str {
                const TEXTS: &[&[&[u8]]] = &[$(&[$($text),+]),*];
                std::str::from_utf8(TEXTS[self as usize][0]).unwrap_or("")
            }
        }
    };
}

keys! {
    Type = b"type",
    Id = b"id",
    Channel = b"channel",
    Channels = b"channels",
    To = b"to",
    Event = b"event",
    Events = b"events",
    Payload = b"payload",
    Priority = b"priority",
    Store = b"store",
    IdempotencyKey = b"idempotency_key",
    Receipt = b"receipt",
    Echo = b"echo",
    Exclude = b"exclude",
    Tags = b"tags",
    Timestamp = b"timestamp",
    Traceparent = b"traceparent",
    Signature = b"signature",
    KeyId = b"key_id",
    Nonce = b"nonce",
    Token = b"token",
    SessionId = b"session_id" | b"sessionId",
    Positions = b"positions",
    Recover = b"recover",
    History = b"history",
    Presence = b"presence",
    Ack = b"ack",
    Epoch = b"epoch",
    Offset = b"offset",
    Messages = b"messages",
    Method = b"method",
    Params = b"params",
    Capabilities = b"capabilities",
    Call = b"call",
    Result = b"result",
    Error = b"error",
    Partial = b"partial",
    MaxRate = b"max_rate",
}

impl Key {
    /// The bits of those that belong to the envelope of a publish; everything else is payload where `payload` is
    /// absent.
    pub(crate) const OF_PUBLISH: u64 =
        (2 << Self::Nonce as u32) - 1 - Self::Channels.bit() - Self::Events.bit();

    /// A key in whose contents there are escapes: rare, but the same key.
    #[cold]
    pub(crate) fn find_escaped(contents: &str) -> Self {
        Self::find(text::unescape(contents).as_bytes())
    }

    /// Its bit in a set of keys.
    pub(crate) const fn bit(self) -> u64 {
        const { assert!((Self::Unknown as usize) < 64, "a set of keys is a number of 64 bits") };
        1 << self as u32
    }
}
