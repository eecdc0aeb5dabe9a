//! From a written message to its recipients on this shard, each once.

use corecast_protocol::envelope::event;
use corecast_protocol::envelope::name;

use crate::effect::{ConnKey, Delivery, Effect, Effects, SlowPolicy};
use crate::hub::Hub;
use crate::remote::Written;

/// Direct messages and `system` are no channels of a shard: they order against each other only.
const INBOX_CHANNEL: u32 = u32::MAX;
const SYSTEM_CHANNEL: u32 = u32::MAX - 2;

impl Hub {
    /// A message of a channel, whose name has this hash.
    pub(crate) fn deliver(&mut self, hash: u64, written: &Written<'_>, fx: &mut Effects) {
        if written.target == name::SYSTEM {
            return self.deliver_system(written, fx);
        }
        let index = self.channels.exact.find(hash, written.target).map(|slot| slot << 1);
        let channel = index.and_then(|index| self.channels.get(index));
        let has_patterns = !self.channels.lengths.is_empty();
        if let (Some(index), Some(channel)) = (index, channel) {
            let delivery = self.delivery(index, channel.rule, written);
            let start = fx.recipients.len();
            // The usual case copies the whole list.
            if written.exclude.is_none() && self.iso_members == 0 && !has_patterns {
                fx.recipients.extend_from_slice(&channel.subscribers);
                return push(fx, start, written.json, delivery);
            }
            self.choices += 1;
            let subscribers = channel.subscribers.iter().copied();
            fx.recipients.extend(subscribers.filter(|conn| Some(*conn) != written.exclude));
            for conn in &fx.recipients[start..] {
                if let Some(member) = self.members.find_mut(*conn) {
                    member.chosen_for = self.choices;
                }
            }
            self.push_variants(fx, start, written, None, delivery);
        } else {
            self.choices += 1;
        }
        if has_patterns {
            self.deliver_patterns(written, fx);
        }
    }

    fn deliver_patterns(&mut self, written: &Written<'_>, fx: &mut Effects) {
        let mut matching = Vec::new();
        for prefix in self.channels.lengths.prefixes(written.target) {
            matching.extend(self.channels.patterns.find(self.hash(prefix), prefix));
        }
        for slot in matching {
            let Some(pattern) = self.channels.patterns.get(slot) else { continue };
            let text = format!("{}*", pattern.name);
            let delivery = self.delivery(slot << 1 | 1, pattern.rule, written);
            let start = fx.recipients.len();
            for conn in &pattern.subscribers {
                if Some(*conn) == written.exclude {
                    continue;
                }
                if let Some(member) = self.members.find_mut(*conn)
                    && member.chosen_for != self.choices
                {
                    member.chosen_for = self.choices;
                    fx.recipients.push(*conn);
                }
            }
            self.push_variants(fx, start, written, Some(&text), delivery);
        }
    }

    fn deliver_system(&mut self, written: &Written<'_>, fx: &mut Effects) {
        let start = fx.recipients.len();
        let all = self.members.admitted().map(|(conn, _)| conn);
        fx.recipients.extend(all.filter(|conn| Some(*conn) != written.exclude));
        let delivery = Delivery {
            priority: written.priority,
            policy: SlowPolicy::Disconnect,
            channel: SYSTEM_CHANNEL,
            conflate: 0,
        };
        self.push_variants(fx, start, written, None, delivery);
    }

    /// A message for all connections of a participant.
    pub(crate) fn deliver_direct(&mut self, written: &Written<'_>, fx: &mut Effects) {
        let start = fx.recipients.len();
        let hash = self.hash(written.target);
        fx.recipients.extend_from_slice(self.participants.conns(hash, written.target));
        let delivery = Delivery {
            priority: written.priority,
            policy: SlowPolicy::Disconnect,
            channel: INBOX_CHANNEL,
            conflate: 0,
        };
        self.push_variants(fx, start, written, None, delivery);
    }

    fn delivery(&self, channel: u32, rule: u16, written: &Written<'_>) -> Delivery {
        let policy = self.config.namespaces.at(rule).policy;
        Delivery { priority: written.priority, policy, channel, conflate: written.conflate }
    }

    /// The recipients from `start` on get the message, those who want ISO 8601 times in a variant of its own.
    fn push_variants(
        &self,
        fx: &mut Effects,
        start: usize,
        written: &Written<'_>,
        pattern: Option<&str>,
        delivery: Delivery,
    ) {
        let is_iso = |conn: &ConnKey| self.members.find(*conn).is_some_and(|member| member.is_time_iso);
        let mut others = Vec::new();
        if self.iso_members > 0 {
            others.extend(fx.recipients[start..].iter().copied().filter(is_iso));
            let mut at = start;
            while at < fx.recipients.len() {
                if is_iso(&fx.recipients[at]) {
                    fx.recipients.swap_remove(at);
                } else {
                    at += 1;
                }
            }
        }
        match pattern {
            None => push(fx, start, written.json, delivery),
            Some(_) => {
                push_with(fx, start, delivery, |out| {
                    event::variant(out, written.json, written.seams, pattern, None)
                });
            }
        }
        let start = fx.recipients.len();
        fx.recipients.append(&mut others);
        let time = Some(written.timestamp);
        push_with(fx, start, delivery, |out| event::variant(out, written.json, written.seams, pattern, time));
    }
}

fn push(fx: &mut Effects, start: usize, json: &[u8], delivery: Delivery) {
    push_with(fx, start, delivery, |out| out.extend_from_slice(json));
}

/// One delivery to the recipients from `start` on, if there are any.
fn push_with(fx: &mut Effects, start: usize, delivery: Delivery, write: impl FnOnce(&mut Vec<u8>)) {
    let end = fx.recipients.len();
    if start == end {
        return;
    }
    let message = fx.write(write);
    fx.list.push(Effect::Deliver { message, recipients: (start as u32, end as u32), delivery });
}
