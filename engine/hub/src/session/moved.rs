//! Sessions that wait, on their way to another node or from one.

use std::sync::Arc;

use crate::config::Now;
use crate::effect::ConnKey;
use crate::filter::Filter;
use crate::hub::Hub;
use crate::remote::Epoch;
use crate::session::token::{Token, Tokens};
use crate::session::{Kept, State, Waiting};
use crate::state::{PositionState, SessionState, SubscriptionState, text_of};

impl Hub {
    /// Sessions that wait on this shard.
    pub(crate) fn exported_sessions(&self) -> Vec<SessionState> {
        let session = |waiting: &Waiting| SessionState {
            participant: waiting.participant.to_string(),
            token: waiting.tokens.current.bytes().to_vec(),
            former_token: waiting.tokens.former.map(|token| token.bytes().to_vec()),
            subscriptions: Kept::each(&waiting.kept).map(subscription).collect(),
        };
        self.suspended.in_order().map(session).collect()
    }

    /// Lets a session wait on this shard, which is its participant's home. The window begins anew: nobody could
    /// resume while there was no node.
    pub(crate) fn import_session(&mut self, now: Now, number: u32, it: &SessionState) {
        let token = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(Token::from_bytes);
        let Some(current) = token(&it.token) else { return };
        let tokens = Tokens { current, former: it.former_token.as_deref().and_then(token) };
        // No slot has such a number, so no connection will ever have this key.
        let session = ConnKey { index: u32::MAX - number, generation: 0 };
        let hash = self.hasher.of(&*it.participant);
        self.home_sessions.restore(hash, (self.config.shard, session), tokens);
        self.participants.session_restored(hash, &it.participant);
        let mut kept = Vec::new();
        for subscription in &it.subscriptions {
            let stem = subscription.channel.strip_suffix('*');
            let name = stem.unwrap_or(&subscription.channel);
            if name.len() > usize::from(u8::MAX) {
                continue;
            }
            let acked = subscription.acked.as_ref().and_then(|it| Some((Epoch::read(&it.epoch)?, it.offset)));
            let is_pattern = stem.is_some();
            let (wants_presence, wants_ack) = (subscription.presence, subscription.ack);
            let events = subscription.events.iter().map(|it| &**it);
            // Nobody has both: what is acknowledged is all of it.
            let filter = Filter::new(events, subscription.max_rate).ok().flatten().filter(|_| !wants_ack);
            let filter = filter.map(|it| it.packed());
            let filter = filter.as_deref();
            // Nobody could draw from a bucket while there was no node.
            Kept { wants_presence, wants_ack, acked, filter, ..Kept::of(name, is_pattern) }.write(&mut kept);
            if !is_pattern {
                self.subscription_kept(&it.participant, name);
            }
        }
        let participant = Arc::from(&*it.participant);
        let lost = self.suspended.lost(now.instant, None);
        let waiting = Waiting { participant, tokens, kept: kept.into(), state: State::Suspended, lost };
        self.suspend(now, session, waiting);
    }
}

fn subscription(it: Kept<'_>) -> SubscriptionState {
    let filter = it.filter.and_then(Filter::unpacked);
    SubscriptionState {
        channel: if it.is_pattern { format!("{}*", it.name) } else { it.name.to_owned() },
        presence: it.wants_presence,
        ack: it.wants_ack,
        acked: it.acked.map(|(epoch, offset)| PositionState { epoch: text_of(epoch), offset }),
        events: filter.iter().flat_map(|it| it.events()).map(str::to_owned).collect(),
        max_rate: filter.and_then(|it| it.max_rate()),
    }
}
