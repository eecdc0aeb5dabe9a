//! The handshake of the extension: `Sec-WebSocket-Extensions` offered, accepted and written (RFC 7692 section 7.1).
//!
//! An offer that is not as the RFC wants it is declined, never an error: the connection works without it.

use std::fmt::Write;

use crate::ws::Role;
use crate::ws::deflate::{NAME, WINDOW_BITS_MAX};

/// What both ends keep to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Negotiated {
    /// The server forgets what it sent before each message.
    pub server_no_context_takeover: bool,
    /// The client does.
    pub client_no_context_takeover: bool,
    /// The server looks back 2 to the power of this many bytes at most, 8 to 15; 15 where it is not said.
    pub server_max_window_bits: Option<u8>,
    /// The client does.
    pub client_max_window_bits: Option<u8>,
}

/// Where the server keeps what later messages may refer to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contexts {
    /// Nowhere: one state serves all connections, and both ends begin each message anew.
    Shared,
    /// With each connection, as its client wants it.
    PerConnection,
}

/// What a client says of its own window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientWindow {
    /// Nothing: the server may not ask for a smaller one.
    #[default]
    Fixed,
    /// The server may ask for a smaller one.
    Any,
    /// It looks back 2 to the power of this many bytes at most.
    AtMost(u8),
}

/// What a client offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// The server is to forget what it sent before each message.
    pub server_no_context_takeover: bool,
    /// The client would do so.
    pub client_no_context_takeover: bool,
    /// The server is to look back 2 to the power of this many bytes at most, 8 to 15.
    pub server_max_window_bits: Option<u8>,
    /// The client's own window.
    pub client_max_window_bits: ClientWindow,
}

/// The server's answer is none to what was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unanswered;

impl Negotiated {
    /// Bits of the window of what this end sends.
    pub fn window_bits_sent(&self, role: Role) -> u8 {
        match role {
            Role::Server => self.server_max_window_bits,
            Role::Client => self.client_max_window_bits,
        }
        .unwrap_or(WINDOW_BITS_MAX)
    }

    /// Bits of the window of what this end receives.
    pub fn window_bits_received(&self, role: Role) -> u8 {
        self.window_bits_sent(role.other())
    }

    /// Whether what this end sends refers to earlier messages.
    pub fn takes_over_sent(&self, role: Role) -> bool {
        match role {
            Role::Server => !self.server_no_context_takeover,
            Role::Client => !self.client_no_context_takeover,
        }
    }

    /// Whether what this end receives refers to earlier messages.
    pub fn takes_over_received(&self, role: Role) -> bool {
        self.takes_over_sent(role.other())
    }

    /// Appends the header line with which a server accepts, with its end.
    pub fn write(&self, out: &mut Vec<u8>) {
        let client = match self.client_max_window_bits {
            Some(bits) => ClientWindow::AtMost(bits),
            None => ClientWindow::Fixed,
        };
        let parameters = Offer {
            server_no_context_takeover: self.server_no_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover,
            server_max_window_bits: self.server_max_window_bits,
            client_max_window_bits: client,
        };
        out.extend_from_slice(parameters.line().as_bytes());
    }
}

/// The first offer in these header values that can be accepted, accepted.
pub fn negotiate(values: &[&[u8]], contexts: Contexts) -> Option<Negotiated> {
    let mut offers = values.iter().flat_map(|value| parts(value, b',')).filter_map(Offer::parse);
    let offer = offers.next()?;
    let is_shared = contexts == Contexts::Shared;
    Some(Negotiated {
        // "a server MAY include" both, unasked (sections 7.1.1.1 and 7.1.1.2).
        server_no_context_takeover: is_shared || offer.server_no_context_takeover,
        client_no_context_takeover: is_shared || offer.client_no_context_takeover,
        // "A server accepts … by including this parameter with the same or a smaller value" (section 7.1.2.1).
        server_max_window_bits: offer.server_max_window_bits,
        client_max_window_bits: match offer.client_max_window_bits {
            ClientWindow::AtMost(bits) if !is_shared => Some(bits),
            // A shared state has the largest window anyway.
            _ => None,
        },
    })
}

impl Offer {
    /// A header line for a client's request, with its end.
    pub fn line(&self) -> String {
        let mut line = format!("Sec-WebSocket-Extensions: {NAME}");
        for (name, is_on) in [
            ("server_no_context_takeover", self.server_no_context_takeover),
            ("client_no_context_takeover", self.client_no_context_takeover),
        ] {
            if is_on {
                line.push_str("; ");
                line.push_str(name);
            }
        }
        // Writing to a string can't fail.
        if let Some(bits) = self.server_max_window_bits {
            let _ = write!(line, "; server_max_window_bits={bits}");
        }
        match self.client_max_window_bits {
            ClientWindow::Fixed => {}
            ClientWindow::Any => line.push_str("; client_max_window_bits"),
            ClientWindow::AtMost(bits) => {
                let _ = write!(line, "; client_max_window_bits={bits}");
            }
        }
        line.push_str("\r\n");
        line
    }

    /// What a server answered to this offer: `Ok(None)` if it declined.
    ///
    /// # Errors
    /// If the answer is none to this offer: "the client MUST _Fail the WebSocket Connection_" (section 5.1).
    pub(crate) fn answered(offer: Option<&Self>, values: &[&[u8]]) -> Result<Option<Negotiated>, Unanswered> {
        let mut answers = values.iter().flat_map(|value| parts(value, b','));
        let Some(first) = answers.next() else { return Ok(None) };
        let (Some(offer), Some(answer), None) = (offer, Self::parse(first), answers.next()) else {
            return Err(Unanswered);
        };
        let is_within = |answered: Option<u8>, offered: Option<u8>| match (answered, offered) {
            (Some(answered), Some(offered)) => answered <= offered,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        let client_max_window_bits = match (answer.client_max_window_bits, offer.client_max_window_bits) {
            // It need not ask for anything: the client keeps to its own bound.
            (ClientWindow::Fixed, ClientWindow::AtMost(own)) => Some(own),
            (ClientWindow::Fixed, _) => None,
            (ClientWindow::AtMost(bits), ClientWindow::Any) => Some(bits),
            (ClientWindow::AtMost(bits), ClientWindow::AtMost(own)) if bits <= own => Some(bits),
            _ => return Err(Unanswered),
        };
        if offer.server_no_context_takeover && !answer.server_no_context_takeover
            || !is_within(answer.server_max_window_bits, offer.server_max_window_bits)
        {
            return Err(Unanswered);
        }
        Ok(Some(Negotiated {
            server_no_context_takeover: answer.server_no_context_takeover,
            client_no_context_takeover: answer.client_no_context_takeover,
            server_max_window_bits: answer.server_max_window_bits,
            client_max_window_bits,
        }))
    }

    /// One element of the list, if it is this extension with parameters that are known, valid and given once
    /// (section 7.1: "A server MUST decline … if the negotiation offer contains" anything else).
    fn parse(element: &[u8]) -> Option<Self> {
        let mut parts = split(element, b';');
        if parts.next()?.trim_ascii() != NAME.as_bytes() {
            return None;
        }
        let mut offer = Self::default();
        for parameter in parts {
            let (name, value) = match parameter.iter().position(|byte| *byte == b'=') {
                Some(at) => (&parameter[..at], Some(parameter[at + 1..].trim_ascii())),
                None => (parameter, None),
            };
            match (name.trim_ascii(), value) {
                (b"server_no_context_takeover", None) if !offer.server_no_context_takeover => {
                    offer.server_no_context_takeover = true;
                }
                (b"client_no_context_takeover", None) if !offer.client_no_context_takeover => {
                    offer.client_no_context_takeover = true;
                }
                (b"server_max_window_bits", Some(value)) if offer.server_max_window_bits.is_none() => {
                    offer.server_max_window_bits = Some(window_bits(value)?);
                }
                (b"client_max_window_bits", value) if offer.client_max_window_bits == ClientWindow::Fixed => {
                    offer.client_max_window_bits = match value {
                        None => ClientWindow::Any,
                        Some(value) => ClientWindow::AtMost(window_bits(value)?),
                    };
                }
                _ => return None,
            }
        }
        Some(offer)
    }
}

/// "a decimal integer value without leading zeroes between 8 to 15, inclusive", as a token or quoted.
fn window_bits(value: &[u8]) -> Option<u8> {
    let mut digits = [0; 2];
    let mut count = 0;
    let mut put = |byte: u8| {
        *digits.get_mut(count)? = byte;
        count += 1;
        Some(())
    };
    if let Some(quoted) = value.strip_prefix(b"\"") {
        let mut quoted = quoted.strip_suffix(b"\"")?.iter();
        while let Some(byte) = quoted.next() {
            match byte {
                b'\\' => put(*quoted.next()?)?,
                b'"' => return None,
                byte => put(*byte)?,
            }
        }
    } else {
        value.iter().try_for_each(|byte| put(*byte))?;
    }
    match &digits[..count] {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The elements of a list, empty ones left out (RFC 9110 section 5.6.1.2).
fn parts(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    split(value, separator).map(<[u8]>::trim_ascii).filter(|part| !part.is_empty())
}

/// Splits where the separator is not quoted. A quote that is not closed reaches to the end.
fn split(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let here = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = here.iter().position(|byte| {
            let is_end = *byte == separator && !is_quoted;
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if is_quoted => is_escaped = true,
                b'"' => is_quoted = !is_quoted,
                _ => {}
            }
            is_end
        });
        rest = end.map(|end| &here[end + 1..]);
        Some(&here[..end.unwrap_or(here.len())])
    })
}
