//! What presence is told of a session's subscriptions.

use corecast_protocol::envelope::name;

use crate::canary::{self, Canary};
use crate::hub::Hub;

impl Hub {
    /// A subscription by name is over for good on this shard: it was unsubscribed, its session ended, or goes on
    /// elsewhere. Being suspended does not end it.
    pub(crate) fn subscription_ended(&mut self, participant: &str, channel: &str) {
        if self.knows_presence(channel) && !canary::strikes(Canary::LeaveForgotten) {
            self.presence.local.exit(channel, participant);
        }
    }

    /// A session came to wait on this shard that had no connection here, with this subscription by name.
    pub(crate) fn subscription_kept(&mut self, participant: &str, channel: &str) {
        if self.knows_presence(channel) {
            self.presence.local.enter(channel, participant);
        }
    }

    fn knows_presence(&self, channel: &str) -> bool {
        let space = name::channel(channel).ok();
        space.and_then(|space| self.config.namespaces.find(space)).is_some_and(|(_, rule)| rule.presence)
    }
}
