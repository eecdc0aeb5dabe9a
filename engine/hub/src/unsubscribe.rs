//! Unsubscribing: how a subscription ends, and how its channel's home hears of it.

use corecast_protocol::ErrorCode;
use corecast_protocol::envelope::command::{Channels, RequestId};
use corecast_protocol::envelope::event;
use corecast_protocol::envelope::name;

use crate::canary::{self, Canary};
use crate::channel::Left;
use crate::config::Now;
use crate::effect::{ConnKey, Effects};
use crate::format::Format;
use crate::hub::Hub;
use crate::member::Subscription;
use crate::remote::ToHome;

impl Hub {
    pub(crate) fn unsubscribe(
        &mut self,
        conn: ConnKey,
        id: Option<RequestId<'_>>,
        channels: &Channels<'_>,
        fx: &mut Effects,
    ) {
        let names = channels.as_slice();
        if !self.may_name(conn, id, names.len(), fx) {
            return;
        }
        for text in names {
            if text == name::SYSTEM || text == name::INBOX {
                let why = "everybody gets `system` and `@me`: they can't be unsubscribed";
                self.error(fx, conn, id, Some(text), ErrorCode::Forbidden, why);
                continue;
            }
            let (stem, is_pattern) = text.strip_suffix('*').map_or((&**text, false), |stem| (stem, true));
            let index = self.channels.find(self.hasher.of(stem), stem, is_pattern);
            let Some(member) = self.members.find_mut(conn) else { return };
            let at = index.and_then(|index| member.subscriptions.iter().position(|it| it.channel == index));
            match at {
                Some(at) => {
                    if !canary::strikes(Canary::UnsubscribedStillServed) {
                        let subscription = member.subscriptions.swap_remove(at);
                        let (format, participant) = (member.format, member.participant.clone());
                        self.stop_watching(conn, &subscription);
                        self.drop_subscription(conn, format, &subscription);
                        if !is_pattern {
                            self.subscription_ended(&participant, stem);
                        }
                    }
                    self.reply_fixed(fx, conn, |out, format| {
                        event::unsubscribed(out, format, id, text, None)
                    });
                }
                None => self.error(
                    fx,
                    conn,
                    id,
                    Some(text),
                    ErrorCode::NotSubscribed,
                    "this connection has no such subscription",
                ),
            }
        }
        self.forget_later(conn, fx);
    }

    /// Takes a subscription, already removed from its member, out of its channel.
    pub(crate) fn drop_subscription(&mut self, conn: ConnKey, format: Format, subscription: &Subscription) {
        let index = subscription.channel;
        self.drop_acks(conn, subscription);
        match subscription.place {
            Some(place) => {
                if subscription.extra.as_ref().is_some_and(|it| it.awaited > 0)
                    && let Some(channel) = self.channels.get_mut(index)
                {
                    channel.looked_back(conn);
                }
                self.leave_place(conn, format, (index, place, subscription.filter().is_some()));
            }
            None => {
                let Some(channel) = self.channels.get_mut(index) else { return };
                *channel.pending.of_mut(format) -= 1;
                if subscription.extra.as_ref().is_some_and(|it| it.held.is_some()) {
                    channel.caught_up(conn);
                }
                if subscription.cursor().is_some() {
                    channel.caught_up(conn);
                    if let Some(member) = self.members.find_mut(conn) {
                        member.behind -= 1;
                    }
                }
            }
        }
        self.channels.mark(index);
    }

    /// Tells the home, or all of them, that nobody on this shard is left.
    pub(crate) fn leave(&mut self, now: Now, left: &Left, fx: &mut Effects) {
        let formats = left.formats;
        if left.is_pattern {
            for home in 0..self.config.shards {
                self.ask(now, home, &ToHome::LeavePattern { prefix: &left.name, formats }, fx);
            }
        } else {
            let home = self.home(left.hash);
            self.ask(now, home, &ToHome::Leave { channel: &left.name, formats }, fx);
        }
    }
}
