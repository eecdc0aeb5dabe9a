//! What no client should send, and what it must be answered.

use super::Client;
use super::Town;
use super::deeds::Deed;
use super::ledger::Ask;
use super::requests::noted;
use super::session::{Session, Stage};
use super::wire;

impl Client {
    /// Bytes for which the server must close the connection.
    pub(super) fn bad_frame(&mut self, session: &mut Session, town: &mut Town) {
        let limited = if session.kind.is_echo { 0 } else { 2 };
        let kind = self.rng.usize(..wire::BAD + limited);
        let (message_bytes, fragments) = (town.habits.message_bytes, town.habits.fragments_max as usize);
        let code = match kind.checked_sub(wire::BAD) {
            None => {
                if kind >= wire::BAD_CLOSE {
                    town.deeds.did(Deed::BadClose);
                }
                let reserved = if session.deflate.is_some() { 0x20 } else { wire::PACKED };
                wire::bad(kind, self.rng.u32(..), reserved, &mut session.outbox)
            }
            Some(0) => {
                town.deeds.did(Deed::AboveMessageLimit);
                let text = "x".repeat(message_bytes + 1);
                let pieces = if self.rng.bool() { 1 } else { 3 };
                session.pieces(town, wire::TEXT, text.as_bytes(), pieces, &mut self.rng);
                1009
            }
            Some(_) => {
                town.deeds.did(Deed::AboveFragmentLimit);
                session.pieces(town, wire::TEXT, b"{\"type\":\"ping\"}", fragments + 1, &mut self.rng);
                1009
            }
        };
        session.must_end(code);
    }

    /// Messages that can't be understood: one, or some in a row, or so many that they end the connection.
    pub(super) fn bad_messages(&mut self, session: &mut Session, town: &mut Town) {
        let count = if self.rng.u32(..4) == 0 { self.rng.u32(5..12) } else { 1 };
        for _ in 0..count {
            if session.stage == Stage::Open {
                let text = self.invalid(session, town);
                session.invalid_message(town, 1, &text, &mut self.rng);
            }
        }
    }

    /// One that can't be understood, where all of them must be JSON.
    pub(super) fn invalid_in_batch(&mut self, session: &mut Session) -> String {
        let (code, text) = [
            ("INVALID_MESSAGE", "[]"),
            ("INVALID_MESSAGE", "7"),
            ("INVALID_MESSAGE", r#"{"type":"batch","messages":[]}"#),
            ("INVALID_MESSAGE", r#"{"type":"publish","payload":1}"#),
            ("UNKNOWN_TYPE", r#"{"type":"dance"}"#),
        ][self.rng.usize(..5)];
        session.ledger.ask_nameless(Ask::Refused { code, channel: None });
        text.to_owned()
    }

    fn invalid(&mut self, session: &mut Session, town: &mut Town) -> String {
        let deep = town.habits.json_depth;
        let (code, has_id, text) = match self.rng.u32(..16) {
            0 => ("INVALID_JSON", false, "nonsense".to_owned()),
            1 => ("INVALID_JSON", false, r#"{"type":"publish","channel":"room","payload":{}"#.to_owned()),
            2 => ("INVALID_JSON", false, r#"{"type":"ping"} {"type":"ping"}"#.to_owned()),
            3 => ("INVALID_MESSAGE", false, "[1]".to_owned()),
            4 => ("INVALID_MESSAGE", false, r#"{"type":"ping","id":1.5}"#.to_owned()),
            5 => ("INVALID_MESSAGE", false, r#"{"type":"ping","id":""}"#.to_owned()),
            6 => ("UNKNOWN_TYPE", true, r#""type":"dance""#.to_owned()),
            7 => ("INVALID_MESSAGE", true, r#""channel":"room""#.to_owned()),
            8 => ("INVALID_MESSAGE", true, r#""type":"ping","type":"ping""#.to_owned()),
            9 => ("INVALID_MESSAGE", true, r#""type":"subscribe","channels":[]"#.to_owned()),
            10 => ("INVALID_MESSAGE", true, r#""type":"publish","channel":"room","to":"p0""#.to_owned()),
            11 => ("INVALID_MESSAGE", true, r#""type":"chat_message","to":"p0""#.to_owned()),
            12 => (
                "INVALID_MESSAGE",
                true,
                r#""type":"publish","channel":"room","priority":"urgent","payload":1"#.to_owned(),
            ),
            13 => (
                "INVALID_MESSAGE",
                true,
                r#""type":"publish","channel":"room","timestamp":"2023-02-30T00:00:00Z""#.to_owned(),
            ),
            14 => {
                let names: Vec<String> = (0..257).map(|index| format!("\"room{index}\"")).collect();
                ("INVALID_MESSAGE", true, format!(r#""type":"subscribe","channels":[{}]"#, names.join(",")))
            }
            _ => {
                town.deeds.did(Deed::AboveDepth);
                let (open, close) = ("[".repeat(deep), "]".repeat(deep));
                let text = format!(r#"{{"type":"publish","channel":"room","payload":{open}{close}}}"#);
                ("INVALID_MESSAGE", false, text)
            }
        };
        let ask = Ask::Refused { code, channel: None };
        if !has_id {
            session.ledger.ask_nameless(ask);
            return text;
        }
        let id = session.ledger.ask(vec![ask]);
        // In front, so that it is found whatever follows.
        format!(r#"{{"id":{},{text}}}"#, noted(id, town))
    }
}
