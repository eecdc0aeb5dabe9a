//! What a client does next: requests, publishes, batches, echoes, or what its temper brings.

use super::deeds::Deed;
use super::session::{Reading, Session, Stage};
use super::{BATCH_MESSAGES_MAX, Client, End, Temper, Town, resume, wire};
use crate::chaos::Fault;

/// Bytes of padding in messages of a batch, so that the whole stays below the limit of one message.
const BATCH_PAD_BYTES: usize = 2_000;

impl Client {
    /// Does something; the end of the connection if that was it.
    pub(super) fn act(&mut self, session: &mut Session, town: &mut Town) -> Option<End> {
        if (!town.is_steady || self.temper == Temper::SlowReader)
            && let Some(end) = self.misbehave(session, town)
        {
            return end;
        }
        if session.kind.is_echo {
            self.ask_echo(session, town);
            return None;
        }
        match self.rng.u32(if town.is_steady { 38..100 } else { 0..100 }) {
            0..38 => {
                let text = match self.rng.u32(..4) {
                    0 => self.unsubscribe(session, town),
                    _ => self.subscribe(session, town),
                };
                session.message(town, &text, &mut self.rng);
            }
            38..41 => session.ping(&mut self.rng),
            41..47 => {
                let count = self.rng.usize(1..=BATCH_MESSAGES_MAX);
                self.batch(session, town, count);
            }
            47..57 => self.request_or_publish(session, town),
            _ => {
                for _ in 0..self.rng.u32(1..=town.habits.burst) {
                    let text = self.publish(session, town, town.habits.large_bytes);
                    session.message(town, &text, &mut self.rng);
                }
            }
        }
        None
    }

    /// What the temper brings: `Some` if it did something, with the end that this was.
    fn misbehave(&mut self, session: &mut Session, town: &mut Town) -> Option<Option<End>> {
        match self.temper {
            Temper::Good | Temper::SlowWriter => return None,
            Temper::SlowReader => {
                if town.chaos.strikes(Fault::ReadingStops) {
                    session.was_slow = true;
                    if !town.is_steady && self.rng.u32(..12) == 0 {
                        self.go_deaf(session, town);
                        return Some(None);
                    }
                    session.reading = Reading::StoppedUntil(town.now_us + self.rng.u64(100..200_000));
                } else if town.chaos.would_strike(Fault::SlowReading) {
                    session.reading = Reading::Slowly;
                    session.was_slow = true;
                }
                return None;
            }
            Temper::Flighty => return self.leave(session, town),
            Temper::Rude => {
                if session.deflate.is_some() && town.chaos.strikes(Fault::BadDeflate) {
                    self.bad_deflate(session, town);
                } else if town.chaos.strikes(Fault::BadFrame) {
                    self.bad_frame(session, town);
                } else if !session.kind.is_echo && town.chaos.strikes(Fault::BadMessage) {
                    self.bad_messages(session, town);
                } else {
                    return None;
                }
            }
            Temper::Vanishing => {
                if !town.chaos.strikes(Fault::HalfOpen) {
                    return None;
                }
                town.net.at(session.link).has_vanished = true;
                session.has_vanished = true;
                return Some(Some(End::Own));
            }
        }
        Some(None)
    }

    /// Never reads again, but goes on asking for a while.
    fn go_deaf(&mut self, session: &mut Session, town: &mut Town) {
        town.deeds.did(Deed::Deaf);
        for _ in 0..self.rng.u32(..40) {
            if session.kind.is_echo {
                self.ask_echo(session, town);
            } else {
                self.request_or_publish(session, town);
            }
            session.ping(&mut self.rng);
        }
        session.reading = Reading::Deaf;
        session.stage = Stage::Silent;
        session.ledger.clear();
        session.echoes_due.clear();
        // Of a connection that reads nothing, nothing can be wrong.
        let _ = resume::lost(session, &End::Reset, town);
        town.oracle.ended(session.serial, false, &[]);
        session.is_deaf = true;
        let book = &mut town.books[session.shard];
        book.sessions -= 1;
        book.open -= u64::from(session.is_established);
    }

    fn ask_echo(&mut self, session: &mut Session, town: &mut Town) {
        let bytes_max = if self.rng.u32(..30) == 0 { town.habits.large_bytes } else { 300 };
        let length = self.rng.usize(..=bytes_max);
        let mut bytes = vec![0; length];
        let is_text = self.rng.bool();
        for byte in &mut bytes {
            *byte = if is_text { self.rng.u8(b' '..=b'~') } else { self.rng.u8(..) };
        }
        if session.deflate.is_some() {
            // Few letters, which repeat themselves and what was sent before.
            bytes.iter_mut().for_each(|byte| *byte = b'a' + *byte % 4);
        }
        let opcode = if is_text { wire::TEXT } else { wire::BINARY };
        session.data(town, opcode, &bytes, &mut self.rng);
        session.echoes_due.push_back((opcode, bytes));
    }

    /// A batch of `count` messages of all kinds.
    pub(super) fn batch(&mut self, session: &mut Session, town: &mut Town, count: usize) {
        let is_rude = self.temper == Temper::Rude && !town.is_steady;
        let pad_max =
            if count > BATCH_MESSAGES_MAX { 0 } else { BATCH_PAD_BYTES.min(town.habits.large_bytes) };
        let mut texts = Vec::new();
        let mut has_errors = false;
        session.nesting = 2;
        for _ in 0..count {
            if is_rude && session.stage == Stage::Open && town.chaos.strikes(Fault::BadMessage) {
                has_errors = true;
                let text = self.invalid_in_batch(session);
                session.counts_as_invalid(town, 1);
                texts.push(text);
            } else if session.stage == Stage::Open {
                session.invalid = 0;
                texts.push(self.item(session, town, pad_max));
            }
        }
        session.nesting = 0;
        town.deeds.did(if has_errors { Deed::BatchWithErrors } else { Deed::MixedBatch });
        let text = format!(r#"{{"type":"batch","messages":[{}]}}"#, texts.join(", "));
        if has_errors {
            // What is wrong with them is wrong in JSON.
            return session.data(town, wire::TEXT, text.as_bytes(), &mut self.rng);
        }
        session.text(town, &text, &mut self.rng);
    }
}
