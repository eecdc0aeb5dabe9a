//! Whether a server may end a connection as it did, or keep it waiting: who keeps to the contract is never closed.

use super::session::{Reading, Session, Stage};
use super::{Client, End, State, Town};
use crate::net::Net;

impl Session {
    /// Whether a drain ended it, and not its own 1001 that was answered.
    pub(super) fn is_sent_away(&self, end: &End) -> bool {
        *end == End::Closed(1001) && self.close_reason.starts_with("DRAINING")
    }

    /// Whether a drain that begins now must tell this client to go: it is open, reads and keeps to the contract.
    fn is_owed_farewell(&self) -> bool {
        let is_open = self.stage == Stage::Open && self.is_established && self.closed_by.is_none();
        is_open && self.reading == Reading::All && !self.was_slow && !self.has_vanished
    }

    /// Whether it got what a drain owed it when it began: `reconnect`, and a close frame that says why.
    pub(super) fn is_farewell(&self, end: &End, town: &Town) -> bool {
        // Before it was told it may have been given up or taken over, as at any other time.
        let is_given_up = matches!(end, End::Closed(4000 | 4001 | 4502));
        let is_told = self.is_sent_away(end) && (self.was_told_to_go || self.kind.is_echo);
        !self.farewell_is_due || is_told || is_given_up || town.is_overdue()
    }

    /// Whether there was nothing for which the server could have ended it.
    pub(super) fn may_not_be_ended(&self, town: &Town) -> bool {
        let habits = &town.habits;
        let is_patient_enough = !self.was_slow && !self.is_byte_by_byte && !habits.jumps;
        is_patient_enough && !habits.has_small_outboxes && !self.was_away(town) && !town.is_draining
    }

    /// Whether the server may end this connection like that.
    pub(super) fn may_end(&self, end: &End, town: &Town) -> bool {
        let habits = &town.habits;
        let is_patient_enough = !self.was_slow && !self.is_byte_by_byte && !habits.jumps;
        let is_last_word =
            self.said_close.is_some() || self.stage == Stage::Silent || self.stage == Stage::Closing;
        // In a small town, those who vanished may take all places.
        let is_packed = town.net.len().max(self.neighbours) + 2 >= habits.room_here;
        let is_full = habits.is_crowded || is_packed || habits.jumps || town.is_draining;
        match *end {
            End::Own => true,
            End::Closed(code) if self.said_close == Some(code) || self.close_due == Some(code) => true,
            End::Refused(status) if self.status_due == Some(status) => true,
            End::Closed(1001) => town.is_draining && self.is_sent_away(end),
            End::Closed(4000) => self.was_slow || habits.has_small_outboxes,
            End::Closed(4502) => habits.sessions.window_ms > 0 && self.kind.is_named,
            End::Closed(4001) => !is_patient_enough,
            // Browsers can't read statuses.
            End::Closed(1013) => self.kind.is_browser && !self.is_established && is_full,
            End::Closed(4501) => self.kind.is_browser && !self.is_established && habits.limits_who,
            End::Closed(_) => false,
            End::Refused(200) => self.kind.probe.is_some(),
            End::Refused(503) if self.kind.probe.is_some() => {
                town.is_draining && self.kind.probe == Some("/ready")
            }
            // The homes' answer may come too late when clocks jump.
            End::Refused(503) => !self.kind.is_browser && is_full,
            End::Refused(429) => !self.kind.is_browser && habits.limits_who,
            // Time that passes while a shard is kept from its work is taken from its handshakes too.
            End::Refused(408) => {
                !is_patient_enough || self.was_away(town) || town.is_draining || town.is_settling
            }
            End::Refused(_) => false,
            // Without a close frame only those who would not have read or answered one.
            End::Fin | End::Reset if self.is_established => {
                is_last_word || self.was_slow || self.was_away(town) || town.is_overdue()
            }
            End::Fin | End::Reset => {
                let is_hasty = self.is_pipelined || self.status_due.is_some();
                let may_be_refused = is_full || habits.limits_who || self.status_due.is_some();
                is_last_word || is_hasty && may_be_refused || !is_patient_enough || town.is_draining
            }
        }
    }

    /// Whether time jumped so far, just now, that the server may have given up a close frame before it was read.
    fn was_away(&self, town: &Town) -> bool {
        self.was_away_at_us.is_some_and(|at| town.now_us - at < town.habits.close_timeout_us)
    }

    /// What it did, for reports.
    pub(super) fn deeds(&self) -> String {
        let mut deeds = format!("{:?} in {:?}", self.kind, self.stage);
        for (is, what) in [
            (self.was_slow, "slow to read"),
            (self.is_byte_by_byte, "slow to write"),
            (self.status_due.is_some() || self.close_due.is_some(), "rude"),
            (self.is_pipelined, "hasty"),
            (self.deflate.is_some(), "compressing"),
            (self.said_close.is_some(), "said goodbye"),
        ] {
            if is {
                deeds.push_str(", ");
                deeds.push_str(what);
            }
        }
        deeds
    }
}

impl Client {
    /// A drain begins: who is there now is told to go.
    pub fn awaits_farewell(&mut self) {
        if let State::Up(session) = &mut self.state {
            session.farewell_is_due = session.is_owed_farewell();
        }
    }

    /// Whether it waits for nothing: all is sent, read and answered.
    pub fn is_still(&self, net: &mut Net) -> bool {
        let State::Up(session) = &self.state else { return true };
        let link = net.at(session.link);
        if session.reading == Reading::Deaf {
            return !link.down.reset && !link.down.fin;
        }
        session.outbox.is_empty()
            && link.up.is_empty()
            && link.down.is_empty()
            && !link.down.reset
            && !link.down.fin
            && session.ledger.is_empty()
            && session.echoes_due.is_empty()
            && session.pongs_due.is_empty()
            && session.stage == Stage::Open
    }

    /// Whether it waits for the server, with nothing under way: only a client that did wrong or says goodbye may have
    /// to wait for a deadline of the server.
    pub fn is_let_down(&self, town: &mut Town) -> bool {
        let State::Up(session) = &self.state else { return false };
        let may_wait = match session.stage {
            Stage::Opening => {
                session.status_due.is_some() || town.habits.is_crowded || town.habits.limits_who
            }
            Stage::Open => false,
            Stage::Closing | Stage::Silent => true,
        };
        let link = town.net.at(session.link);
        let is_quiet = link.down.is_empty()
            && !link.down.reset
            && !link.down.fin
            && (session.outbox.is_empty() || link.up.room() == 0);
        !may_wait && is_quiet && !self.is_still(&mut town.net)
    }

    /// What it waits for, for reports.
    pub fn waits_for(&self, net: &mut Net) -> String {
        let State::Up(session) = &self.state else { return "nothing".to_owned() };
        let link = net.at(session.link);
        format!(
            "client {} (connection {}, {:?}, {:?}): {} bytes to write, {} on their way up, {} down, {} pongs \
             due, asks {:?}",
            self.index,
            session.serial,
            self.temper,
            session.stage,
            session.outbox.len(),
            link.up.len(),
            link.down.len(),
            session.pongs_due.len(),
            session.ledger.examples()
        )
    }
}
