//! `deflate.json`: what is agreed about compression, and what compressed messages hold.

use corecast_protocol::ws::Role;
use corecast_protocol::ws::deflate::{ClientWindow, Contexts, Negotiated, Offer, negotiate};
use corecast_protocol::ws::handshake::{ClientError, parse_client_answer};
use serde::Deserialize;

use crate::frames::Reading;
use crate::runner::{Case, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Negotiation {
    offers: Vec<String>,
    per_connection: Option<String>,
    shared: Option<String>,
}

impl Case for Negotiation {
    const FILE: &'static str = "deflate";
    const SECTION: &'static str = "negotiation";
    const EXPECTATIONS: &'static [&'static str] = &["per_connection", "shared"];

    fn check(&self) -> Result<(), String> {
        let offers: Vec<&[u8]> = self.offers.iter().map(String::as_bytes).collect();
        for (contexts, expected) in
            [(Contexts::PerConnection, &self.per_connection), (Contexts::Shared, &self.shared)]
        {
            let accepted = negotiate(&offers, contexts).map(|negotiated| {
                let mut line = Vec::new();
                negotiated.write(&mut line);
                String::from_utf8_lossy(&line).into_owned()
            });
            let expected = expected.as_ref().map(|value| format!("Sec-WebSocket-Extensions: {value}\r\n"));
            same(&format!("{contexts:?}"), accepted, expected)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    offer: Option<String>,
    answers: Vec<String>,
    agreed: Option<Agreed>,
    #[serde(default)]
    refused: bool,
}

/// What holds then, said or not.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Agreed {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: u8,
    client_max_window_bits: u8,
}

impl From<Negotiated> for Agreed {
    fn from(it: Negotiated) -> Self {
        Self {
            server_no_context_takeover: !it.takes_over_sent(Role::Server),
            client_no_context_takeover: !it.takes_over_received(Role::Server),
            server_max_window_bits: it.window_bits_sent(Role::Server),
            client_max_window_bits: it.window_bits_received(Role::Server),
        }
    }
}

/// An offer as the cases write it down.
fn offer(text: &str) -> Result<Offer, String> {
    let mut offer = Offer::default();
    for parameter in text.split("; ").skip(1) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let bits = value.parse::<u8>();
        match (name, bits) {
            ("server_no_context_takeover", _) => offer.server_no_context_takeover = true,
            ("client_no_context_takeover", _) => offer.client_no_context_takeover = true,
            ("server_max_window_bits", Ok(bits)) => offer.server_max_window_bits = Some(bits),
            ("client_max_window_bits", Ok(bits)) => offer.client_max_window_bits = ClientWindow::AtMost(bits),
            ("client_max_window_bits", Err(_)) => offer.client_max_window_bits = ClientWindow::Any,
            _ => return Err(format!("not an offer: {text}")),
        }
    }
    same("the offer's line", offer.line(), format!("Sec-WebSocket-Extensions: {text}\r\n"))?;
    Ok(offer)
}

/// What a client makes of the answers.
pub(crate) fn answered(offer: Option<&Offer>, answers: &[String]) -> Result<Option<Negotiated>, ClientError> {
    let lines: String = answers.iter().map(|it| format!("sec-websocket-extensions: {it}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{lines}\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let (consumed, agreed) = parse_client_answer(head.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==", offer)?
        .expect("the head is complete");
    assert_eq!(consumed, head.len());
    Ok(agreed)
}

impl Case for Answer {
    const FILE: &'static str = "deflate";
    const SECTION: &'static str = "answers";
    const EXPECTATIONS: &'static [&'static str] = &["agreed", "refused"];

    fn check(&self) -> Result<(), String> {
        let offer = self.offer.as_deref().map(offer).transpose()?;
        match answered(offer.as_ref(), &self.answers) {
            Ok(agreed) if !self.refused => {
                same("agreed", agreed.map(Agreed::from).as_ref(), self.agreed.as_ref())
            }
            Err(error) => same("refused", (error, true), (ClientError::Extension, self.refused)),
            Ok(agreed) => Err(format!("not refused: {agreed:?}")),
        }
    }
}

/// Compressed messages are read as other frames are, where it is agreed.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Inflating(Reading);

impl Case for Inflating {
    const FILE: &'static str = "deflate";
    const SECTION: &'static str = "reading";
    const EXPECTATIONS: &'static [&'static str] = Reading::EXPECTATIONS;

    fn check(&self) -> Result<(), String> {
        self.0.check()
    }
}

section_tests!(negotiation, Negotiation);
section_tests!(answers, Answer);
section_tests!(reading, Inflating);
