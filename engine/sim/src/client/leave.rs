//! How connections are ended from this side: politely, abruptly, and in between.

use super::deeds::Deed;
use super::session::{Session, Stage};
use super::{Client, End, LONG_BATCH_MESSAGES, Town};
use crate::chaos::Fault;

/// Codes that a client may send (RFC 6455, section 7.4).
const CODES: [u16; 12] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4000, 4999];

impl Client {
    /// `Some` if it left, or began to.
    pub(super) fn leave(&mut self, session: &mut Session, town: &mut Town) -> Option<Option<End>> {
        if town.chaos.strikes(Fault::PeerReset) {
            if self.rng.u32(..4) == 0 && !session.kind.is_echo {
                town.deeds.did(Deed::ResetBehindBatch);
                self.batch(session, town, LONG_BATCH_MESSAGES);
                session.write(town, &mut self.rng);
            }
            let link = town.net.at(session.link);
            link.up.reset = true;
            // What was under way may be lost with it.
            let kept = self.rng.usize(..=link.up.len());
            link.up.truncate(kept);
            return Some(Some(End::Own));
        }
        if town.chaos.strikes(Fault::TornFrame) {
            if session.kind.is_echo {
                session.data(town, super::wire::TEXT, b"never complete", &mut self.rng);
            } else {
                self.request_or_publish(session, town);
            }
            session.outbox.truncate(session.outbox.len() - self.rng.usize(1..8));
            session.write(town, &mut self.rng);
            town.net.at(session.link).up.fin = true;
            session.outbox.clear();
            self.keep_no_books(session);
            return Some(None);
        }
        match self.rng.u32(..160) {
            0..6 => self.say_goodbye(session, town),
            6 => {
                // What was asked before must leave no trace that is not allowed; how much of it is answered is open.
                town.deeds.did(Deed::HalfClose);
                for _ in 0..self.rng.u32(1..10) {
                    if !session.kind.is_echo {
                        self.request_or_publish(session, town);
                    }
                }
                session.fin_follows = true;
                self.keep_no_books(session);
            }
            _ => return None,
        }
        Some(None)
    }

    fn keep_no_books(&mut self, session: &mut Session) {
        session.stage = Stage::Silent;
        session.ledger.clear();
        session.echoes_due.clear();
    }

    fn say_goodbye(&mut self, session: &mut Session, town: &mut Town) {
        let code = CODES[self.rng.usize(..CODES.len())];
        if self.rng.u32(..4) == 0 {
            town.deeds.did(Deed::CloseWithoutCode);
            session.say_close(None, "", &mut self.rng);
        } else {
            town.deeds.did(Deed::CloseWithCode);
            let reason = ["", "bye", "Ω".repeat(61).as_str()][self.rng.usize(..3)].to_owned();
            session.say_close(Some(code), &reason, &mut self.rng);
        }
        if self.rng.u32(..3) == 0 {
            // Nobody must ever see it: nobody knows a message of this number.
            town.deeds.did(Deed::DataBehindClose);
            let channel = &town.names.channels[self.rng.usize(..town.names.open)].name;
            let payload = format!(r#"{{"by":{},"n":4000000000,"e":false,"sum":0}}"#, session.serial);
            let text = format!(r#"{{"type":"publish","channel":"{channel}","payload":{payload}}}"#);
            session.text(town, &text, &mut self.rng);
        }
        if self.rng.u32(..3) == 0 {
            town.deeds.did(Deed::FinBehindClose);
            session.fin_follows = true;
        }
    }
}
