//! `close_codes.json`: close codes, and the error codes with the close that follows them.

use corecast_protocol::error::Blame;
use corecast_protocol::{CloseCode, ErrorCode};
use serde::Deserialize;

use crate::runner::{Case, cases, same, section_tests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Code {
    code: u16,
    means: String,
    reconnect: bool,
}

impl Case for Code {
    const FILE: &'static str = "close_codes";
    const SECTION: &'static str = "codes";
    const EXPECTATIONS: &'static [&'static str] = &["means", "reconnect"];

    fn check(&self) -> Result<(), String> {
        let code = CloseCode::from_wire(self.code).ok_or("refused")?;
        same("number", code.code(), self.code)?;
        same("meaning", meaning(code), &self.means)?;
        same("reconnect", code.reconnect(), self.reconnect)
    }
}

fn meaning(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Normal => "normal",
        CloseCode::GoingAway => "going_away",
        CloseCode::Protocol => "protocol",
        CloseCode::Unsupported => "unsupported",
        CloseCode::InvalidPayload => "invalid_payload",
        CloseCode::Policy => "policy",
        CloseCode::TooLarge => "too_large",
        CloseCode::Internal => "internal",
        CloseCode::Restart => "restart",
        CloseCode::TryAgainLater => "try_again_later",
        CloseCode::SlowConsumer => "slow_consumer",
        CloseCode::NoPong => "no_pong",
        CloseCode::Idle => "idle",
        CloseCode::Reconnect => "reconnect",
        CloseCode::Disconnected => "disconnected",
        CloseCode::ConnectionLimit => "connection_limit",
        CloseCode::TakenOver => "taken_over",
        CloseCode::Other(_) => "other",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forbidden {
    code: u16,
    forbidden: bool,
}

impl Case for Forbidden {
    const FILE: &'static str = "close_codes";
    const SECTION: &'static str = "forbidden";
    const EXPECTATIONS: &'static [&'static str] = &["forbidden"];

    fn check(&self) -> Result<(), String> {
        same("forbidden", CloseCode::from_wire(self.code).is_none(), self.forbidden)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Error {
    code: String,
    blame: String,
    close: Option<u16>,
}

impl Case for Error {
    const FILE: &'static str = "close_codes";
    const SECTION: &'static str = "errors";
    const EXPECTATIONS: &'static [&'static str] = &["code", "blame", "close"];

    fn check(&self) -> Result<(), String> {
        let code = ErrorCode::ALL.iter().find(|code| code.as_str() == self.code).ok_or("unknown")?;
        let blame = match code.blame() {
            Blame::Peer => "peer",
            Blame::Operator => "operator",
            Blame::Us => "us",
        };
        same("blame", blame, &self.blame)?;
        same("close", code.close().map(CloseCode::code), self.close)
    }
}

section_tests!(codes, Code);
section_tests!(forbidden, Forbidden);
section_tests!(errors, Error);

#[test]
fn the_list_of_error_codes_is_complete_and_in_the_order_of_the_contract() {
    let listed: Vec<String> = cases::<Error>().into_iter().map(|(name, _)| name).collect();
    let known: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, known);
}
