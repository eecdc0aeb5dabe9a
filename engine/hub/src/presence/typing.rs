//! Who is typing in a channel, until when: each said so less than 6 seconds ago and has published nothing else since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long after the last `user_typing` nobody types any more.
pub(crate) const TYPING: Duration = Duration::from_secs(6);

/// The participants that type in one channel.
#[derive(Debug, Default)]
pub(crate) struct Typing {
    until: BTreeMap<Arc<str>, Instant>,
    by_time: BTreeSet<(Instant, Arc<str>)>,
}

impl Typing {
    /// One types: from now on for a while.
    pub(crate) fn mark(&mut self, participant: &str, now: Instant) {
        let until = now + TYPING;
        let name = match self.until.get_key_value(participant) {
            Some((_, known)) if *known == until => return,
            Some((name, known)) => {
                let name = name.clone();
                self.by_time.remove(&(*known, name.clone()));
                name
            }
            None => participant.into(),
        };
        self.by_time.insert((until, name.clone()));
        self.until.insert(name, until);
    }

    /// One types no more, and everybody knows why; whether it did.
    pub(crate) fn clear(&mut self, participant: &str) -> bool {
        let Some((name, until)) = self.until.remove_entry(participant) else { return false };
        self.by_time.remove(&(until, name));
        true
    }

    /// The next one whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.deadline()? > now {
            return None;
        }
        let (_, name) = self.by_time.pop_first()?;
        self.until.remove(&name);
        Some(name)
    }

    /// When the next one's time is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.by_time.first().map(|(until, _)| *until)
    }

    /// All of them, by name.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.until.keys().map(|name| &**name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expires_by_itself_and_marks_renew() {
        let (mut typing, start) = (Typing::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        typing.mark("ann", at(0));
        typing.mark("bob", at(1000));
        typing.mark("cid", at(1000));
        assert_eq!(typing.deadline(), Some(at(6000)));
        typing.mark("ann", at(2000));
        assert_eq!(typing.names().collect::<Vec<_>>(), ["ann", "bob", "cid"]);
        assert_eq!(typing.expire(at(6999)), None);
        assert!(typing.clear("cid") && !typing.clear("cid"));
        assert_eq!(typing.expire(at(7000)).as_deref(), Some("bob"));
        assert_eq!(typing.expire(at(7000)), None);
        assert_eq!(typing.deadline(), Some(at(8000)));
        assert_eq!(typing.expire(at(9000)).as_deref(), Some("ann"));
        assert!(typing.is_empty() && typing.by_time.is_empty() && typing.deadline().is_none());
    }
}
