//! The query `session`: what a connection's session is.

use corecast_protocol::envelope::command::RequestId;
use corecast_protocol::envelope::event::{self, Session};

use crate::channel::LocalChannels;
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::remote::base36;

impl Hub {
    /// Answers whose session this is and what it is subscribed to.
    pub(crate) fn session_query(&self, conn: ConnKey, id: Option<RequestId<'_>>, fx: &mut Effects) {
        let Some(member) = self.members.find(conn) else { return };
        let names = member.subscriptions.iter().filter_map(|it| {
            let channel = self.channels.get(it.channel)?;
            let star = if LocalChannels::is_pattern(it.channel) { "*" } else { "" };
            Some(format!("{}{star}", channel.name))
        });
        let names: Vec<_> = names.collect();
        self.reply(fx, conn, |out, format| {
            let mut buffer = [0; 13];
            let session = Session {
                participant: &member.participant,
                client_id: base36(member.client_id, &mut buffer),
                state: member.session.name(),
                resume_window_ms: self.config.limits.resume_window_ms,
            };
            event::session(out, format, id, &session, names.iter().map(String::as_str));
        });
    }
}
