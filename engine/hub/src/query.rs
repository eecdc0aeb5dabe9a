//! Queries that the hub answers itself: one arm for each, which reads its parameters and asks whoever knows.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Call, RequestId};
use corecast_protocol::envelope::event;
use corecast_protocol::envelope::name;
use corecast_protocol::envelope::query::HistoryQuery;

use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::presence::query::PresenceMethod;
use crate::remote::{Epoch, Extent, ToHome};

/// Messages of a `history` query that names no limit.
const HISTORY_DEFAULT: u64 = 100;

impl Hub {
    /// `query` and `command`.
    pub(crate) fn call(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        call: &Call<'_>,
        fx: &mut Effects,
    ) {
        match (call.is_command, &*call.method) {
            (false, "session") => self.session_query(conn, id, fx),
            (false, "history") => self.query_history(now, conn, id, call, fx),
            (false, "presence") => {
                self.query_presence(now, conn, id, (PresenceMethod::Members, call), fx);
            }
            (false, "presence_stats") => {
                self.query_presence(now, conn, id, (PresenceMethod::Stats, call), fx);
            }
            (true, _) => {
                self.refuse_call(conn, id, ErrorCode::NoHandler, "no agent registered this capability", fx);
            }
            (false, _) => {
                let why = "this server answers no queries of this name";
                self.refuse_call(conn, id, ErrorCode::NoHandler, why, fx);
            }
        }
    }

    /// A call's answer is a `response`, also where it is an error.
    pub(crate) fn refuse_call(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        code: ErrorCode,
        why: &str,
        fx: &mut Effects,
    ) {
        self.reply(fx, conn, |out, format| event::response_error(out, format, id, code, why));
    }

    fn query_history(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        call: &Call<'_>,
        fx: &mut Effects,
    ) {
        let query = match HistoryQuery::read(call.format, call.params) {
            Ok(query) => query,
            Err(why) => return self.refuse_call(conn, id, ErrorCode::InvalidMessage, why, fx),
        };
        let channel = &*query.channel;
        match self.may_subscribe(conn, channel) {
            _ if channel == name::INBOX => {}
            Ok((_, _, false)) => {}
            Ok((_, _, true)) => {
                let why = "a pattern has no history: name one channel";
                return self.refuse_call(conn, id, ErrorCode::InvalidChannel, why, fx);
            }
            Err(refused) => return self.refuse_call(conn, id, refused.code, &refused.why, fx),
        }
        if !self.takes_bulk(conn) {
            let why = "too many answers with messages at once: wait for some of them";
            return self.refuse_call(conn, id, ErrorCode::Overloaded, why, fx);
        }
        let Some(member) = self.members.find(conn) else { return };
        let format = member.format;
        let extent = Extent {
            limit: query.limit.unwrap_or(HISTORY_DEFAULT).min(u32::MAX.into()) as u32,
            since: query.since.as_ref().map(|it| Epoch::read(&it.epoch).map(|epoch| (epoch, it.offset))),
            is_backward: query.backward,
        };
        if channel == name::INBOX {
            return self.inbox_history(now, conn, id, extent, fx);
        }
        let home = self.home(self.hasher.of(channel));
        self.ask(now, home, &ToHome::History { conn, id, channel, format, extent }, fx);
    }
}
