//! The queries `presence` and `presence_stats`: who may subscribe to a channel may ask who is there.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Call, RequestId};
use corecast_protocol::envelope::event::{self, PresenceAnswer};
use corecast_protocol::envelope::query::PresenceQuery;

use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::hub::Hub;
use crate::presence::list;
use crate::refused::Refused;
use crate::remote::{FromHome, MembersPage, PresenceAsk, ToHome};

/// Names of one answer, where the query does not say.
const LIMIT: u64 = 100;
/// At most.
const LIMIT_MAX: u64 = 1_000;
/// Bytes of the names in one answer; the rest is for the next page.
const ANSWER_BYTES_MAX: u64 = 32 * 1024;
/// So many names of an answer count as one name of its batch: what a frame asks for must fit into an outbox.
const NAMES_OF_ONE: u64 = 8;

/// Which of the two queries it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PresenceMethod {
    Members,
    Stats,
}

impl Hub {
    pub(crate) fn query_presence(
        &mut self,
        now: Now,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        (method, call): (PresenceMethod, &Call<'_>),
        fx: &mut Effects,
    ) {
        let refused = match PresenceQuery::read(call.format, call.params) {
            Ok(query) => match self.asks_presence(conn, method, &query) {
                Ok(ask) => {
                    let names = match ask {
                        PresenceAsk::Members { limit, .. } => u64::from(limit).div_ceil(NAMES_OF_ONE),
                        PresenceAsk::Count | PresenceAsk::Stats => 1,
                    };
                    if self.may_name(conn, id, names as usize, fx) {
                        let home = self.home(self.hasher.of(&*query.channel));
                        let record = ToHome::Presence { conn, id, channel: &query.channel, ask };
                        self.ask(now, home, &record, fx);
                    }
                    return;
                }
                Err(refused) => refused,
            },
            Err(why) => Refused::new(ErrorCode::InvalidMessage, why),
        };
        self.refuse_call(conn, id, refused.code, &refused.why, fx);
    }

    fn asks_presence<'q>(
        &self,
        conn: ConnKey,
        method: PresenceMethod,
        query: &'q PresenceQuery<'_>,
    ) -> Result<PresenceAsk<'q>, Refused> {
        let (rule, _, is_pattern) = self.may_subscribe(conn, &query.channel)?;
        if is_pattern {
            return Err(Refused::new(
                ErrorCode::InvalidChannel,
                "who is there is known of channels, not of patterns",
            ));
        }
        if !self.config.namespaces.at(rule).presence {
            let why = "this namespace does not keep who is on its channels (option `presence`)";
            return Err(Refused::new(ErrorCode::NotFound, why));
        }
        let limit = query.limit.unwrap_or(LIMIT);
        match method {
            PresenceMethod::Stats => Ok(PresenceAsk::Stats),
            PresenceMethod::Members if query.count_only => Ok(PresenceAsk::Count),
            PresenceMethod::Members if (1..=LIMIT_MAX).contains(&limit) => {
                Ok(PresenceAsk::Members { limit: limit as u32, after: query.after.as_deref() })
            }
            PresenceMethod::Members => Err(Refused::new(
                ErrorCode::InvalidMessage,
                "`limit` is 1 to 1000; the rest comes with `after`",
            )),
        }
    }

    /// At the channel's home.
    pub(crate) fn presence_at_home(
        &mut self,
        now: Now,
        from: u16,
        (conn, id, channel): (ConnKey, Option<RequestId<'_>>, &str),
        ask: &PresenceAsk<'_>,
        fx: &mut Effects,
    ) {
        let hash = self.hasher.of(channel);
        let home = &mut self.presence.home;
        match *ask {
            PresenceAsk::Members { limit, after } => {
                let bytes_max = ANSWER_BYTES_MAX.min(self.config.message_bytes / 2) as usize;
                let page = home.page(hash, channel, after, (limit as usize, bytes_max));
                let page = MembersPage {
                    count: page.count,
                    members: list(&page.members),
                    typing: list(&page.typing),
                    has_more: page.has_more,
                };
                self.answer_to(now, from, &FromHome::Members { conn, id, channel, page }, fx);
            }
            PresenceAsk::Count => {
                let (participants, connections) = (home.count(hash, channel), None);
                let answer = FromHome::PresenceStats { conn, id, channel, participants, connections };
                self.answer_to(now, from, &answer, fx);
            }
            PresenceAsk::Stats => {
                let (participants, connections) = home.stats(hash, channel);
                let connections = Some(connections);
                let answer = FromHome::PresenceStats { conn, id, channel, participants, connections };
                self.answer_to(now, from, &answer, fx);
            }
        }
    }

    /// An answer stays behind the events that were queued before it, and before those that follow: with both, whoever
    /// asks knows who is there.
    pub(crate) fn presence_page(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        page: &MembersPage<'_>,
        fx: &mut Effects,
    ) {
        self.reply_fixed(fx, conn, |out, format| {
            let answer = PresenceAnswer {
                channel,
                count: page.count,
                participants: page.members.iter(),
                typing: page.typing.iter(),
                more: page.has_more,
            };
            event::presence(out, format, id, answer);
        });
    }

    pub(crate) fn presence_stats(
        &self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channel: &str,
        (participants, connections): (u64, Option<u64>),
        fx: &mut Effects,
    ) {
        self.reply_fixed(fx, conn, |out, format| match connections {
            None => event::presence_count(out, format, id, channel, participants),
            Some(connections) => event::presence_stats(out, format, id, channel, participants, connections),
        });
    }
}
