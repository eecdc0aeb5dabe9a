//! What presence is told of a session's subscriptions.

use corecast_protocol::envelope::name;

use crate::alarm::Alarm;
use crate::canary::{self, Canary};
use crate::config::Now;
use crate::hub::Hub;

impl Hub {
    /// A subscription by name is over for good: it was unsubscribed, or its session ended. Being suspended does not end
    /// it.
    pub(crate) fn subscription_ended(&mut self, participant: &str, channel: &str) {
        if self.knows_presence(channel) && !canary::strikes(Canary::LeaveForgotten) {
            self.presence.local.exit(channel, participant);
        }
    }

    /// A subscription by name goes on elsewhere with its session: its participant stays until it is known to be there.
    pub(crate) fn subscription_moves(&mut self, now: Now, participant: &str, channel: &str) {
        if self.knows_presence(channel)
            && let Some(at) = self.presence.local.exit_later(channel, participant, now.instant)
        {
            self.alarms.set(at, Alarm::Linger);
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
