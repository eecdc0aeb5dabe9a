//! Direct messages that are kept for who is away.

use super::deeds::Deed;
use super::ledger::Ask;
use super::payload::checksum;
use super::publish::Draft;
use super::requests::noted;
use super::session::Stage;
use super::{Client, State, Town};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class};

impl Client {
    /// Says whether a publish is to be kept: a direct one for who is away, now and then; whether that was said.
    pub(super) fn stores(
        &self,
        draft: &mut Draft,
        class: Class,
        (is_stored, is_ephemeral): (bool, bool),
        town: &mut Town,
    ) -> bool {
        if !is_stored {
            draft.envelope.push(r#""store":false"#.to_owned());
        }
        let is_keepable = class == Class::Inbox && is_stored && !is_ephemeral;
        if !is_keepable || !town.chaos.is_on(Fault::Resume) || town.chaos.below(Fault::Resume, 2) == 0 {
            return false;
        }
        town.deeds.did(Deed::Stored);
        draft.envelope.push(r#""store":true"#.to_owned());
        true
    }

    /// Writes to somebody who is away, while all is quiet.
    pub fn write_to_who_is_away(&mut self, town: &mut Town) {
        let State::Up(session) = &mut self.state else { return };
        let is_well = session.stage == Stage::Open && session.is_established && !session.is_deaf;
        let away: Vec<ChannelIndex> = town.oracle.away().collect();
        if !is_well || session.kind.is_echo || session.kind.is_demo || away.is_empty() {
            return;
        }
        let inbox = away[town.chaos.below(Fault::Resume, away.len())];
        town.deeds.did(Deed::Stored);
        let by = session.serial;
        let n = town.oracle.publishes(by, inbox, "e0", (true, false));
        town.oracle.stores((by, n), inbox);
        let (sum, who) = (checksum(by, n), &session.name);
        let payload = format!(r#"{{"ev":"e0","by":{by},"n":{n},"sum":{sum},"e":false,"who":"{who}"}}"#);
        let ask = Ask::Publish { channel: inbox, number: n, is_ephemeral: false };
        let id = noted(session.ledger.ask(vec![ask]), town);
        let name = &town.names.channels[usize::from(inbox)].name;
        let envelope = format!(r#""type":"publish","id":{id},"to":"{name}","store":true,"event":"e0""#);
        session.message(town, &format!(r#"{{{envelope},"payload":{payload}}}"#), &mut self.rng);
    }
}
