//! The inbox of a session that goes on: from its client's position, or from what it acknowledged last.
//!
//! A new connection that may be about to resume is held at the beginning of its inbox, so that nothing comes by itself
//! that the session's position covers. It goes on with `resumed`, with its refusal, with the first other request, or
//! after a second.

use corecast_protocol::envelope::command::Command;
use corecast_protocol::envelope::name;

use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::inbox::Progress;
use crate::remote::{InboxAsk, Page, Past, Reader, ToHome};
use crate::session::RESUMING;

impl Hub {
    /// Everything else was asked for: where the inbox goes on, if the client said so.
    pub(super) fn restore_inbox(&mut self, now: Now, conn: ConnKey, fx: &mut Effects) {
        let Some(member) = self.members.find_mut(conn) else { return };
        let Some(resuming) = member.resuming.as_mut() else { return };
        let position = resuming.seen(name::INBOX).or(member.inbox_acked);
        if !resuming.takes_inbox() || position.is_none() {
            return self.resumed_if_complete(conn, fx);
        }
        resuming.awaits_one();
        let (participant, format) = (member.participant.clone(), member.format);
        let home = self.home(self.hasher.of(&*participant));
        let reader = Reader { conn, participant: &participant, format };
        let past = Past { position: Some(position), is_held: true, ..Past::default() };
        let ask = InboxAsk::Subscribe { reader, id: Some(RESUMING), past };
        self.ask(now, home, &ToHome::Inbox(ask), fx);
    }

    /// The home knows the position, or has nothing behind it any more: then what nobody has got comes at least.
    pub(crate) fn inbox_restored(&mut self, conn: ConnKey, page: &Page<'_>, fx: &mut Effects) {
        let Some(member) = self.members.find(conn).filter(|it| it.resuming.is_some()) else { return };
        let mut position = (page.epoch, page.offset);
        match member.reading.as_ref().filter(|it| !it.is_live()) {
            Some(reading) if !page.is_recovered => position = reading.position(),
            // Who is live gets what comes before `resumed` once more: everything follows the position that is named there.
            _ => self.rewind(conn, position, Progress::Held),
        }
        self.restored(conn, (name::INBOX, Some(position)), page.is_recovered, fx);
    }

    /// A client that says something else first does not resume.
    #[cold]
    pub(crate) fn reads_on_unless_resuming(
        &mut self,
        conn: ConnKey,
        command: &Command<'_>,
        fx: &mut Effects,
    ) {
        let may_resume = matches!(
            command,
            Command::Resume { .. } | Command::Authenticate { .. } | Command::Ping | Command::Pong
        );
        if !may_resume {
            self.inbox_goes_on(conn, fx);
        }
    }

    /// An inbox was held for as long as it may be; who is resuming goes on with `resumed`.
    pub(crate) fn inbox_held(&mut self, conn: ConnKey, serial: u32, fx: &mut Effects) {
        let Some(member) = self.members.find(conn).filter(|it| it.resuming.is_none()) else { return };
        if member.reading.as_ref().is_some_and(|it| it.is_held(serial)) {
            self.inbox_goes_on(conn, fx);
        }
    }
}
