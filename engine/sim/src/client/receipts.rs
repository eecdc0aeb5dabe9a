//! Publishing with a receipt, and reading what became of it.

use super::answer::id;
use super::deeds::Deed;
use super::hear::Heard;
use super::publish::Draft;
use super::session::Session;
use super::{Client, Town};
use crate::chaos::Fault;
use crate::names::{ChannelIndex, Class};
use crate::oracle::{Check, Checked, Counts, Failure};

impl Client {
    /// A publish to one channel or participant wants to know what becomes of it, now and then.
    pub(super) fn receipt(
        &self,
        draft: &mut Draft,
        session: &Session,
        (channel, request, echoes): (ChannelIndex, u64, bool),
        town: &mut Town,
    ) {
        // What is replaced by a later one is nobody's to foresee.
        let is_fit = town.names.channels[usize::from(channel)].class != Class::Conflating;
        if is_fit && session.is_established && town.chaos.strikes(Fault::Receipts) {
            town.deeds.did(Deed::ReceiptWanted);
            for member in &mut draft.envelope {
                *member = member.replace(r#""receipt":false,"#, "");
            }
            draft.envelope.push(r#""receipt":true"#.to_owned());
            let what = (channel, draft.numbers[0]);
            town.oracle.wants_receipt((session.serial, request), &session.name, what, echoes);
        }
    }
}

/// A receipt was read.
pub(super) fn came(session: &Session, town: &mut Town, heard: &Heard<'_>) -> Checked {
    let (Some(epoch), Some(offset), Some(of)) = (heard.epoch, heard.offset, heard.of) else {
        return Err(Failure::new(Check::Receipts, "a receipt without a position or recipients"));
    };
    let (delivered, failed) = (heard.delivered.unwrap_or_default(), heard.failed.unwrap_or_default());
    town.deeds.did(if failed > 0 { Deed::ReceiptOfFailure } else { Deed::Receipt });
    let what = (heard.channel.as_deref(), (epoch, offset));
    let whose = (session.serial, id(heard)?);
    town.oracle.receipt(whose, &session.name, what, Counts { of, delivered, failed })
}
