//! Who came and went in a watched channel lately, for watchers that were away: bounded in time, number and bytes.
//!
//! What was told to a connection that was lost may have been lost with it, so a watcher that comes back is told how it
//! stands with everybody who came or went from a while before that on. Also of who came and went again: it may have
//! been told the one and not the other, by a connection that was lost in between.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::presence::names::Names;

/// So long before a connection counts as lost, what it was sent may not have arrived: until heartbeats find that out.
pub(crate) const UNSEEN: Duration = Duration::from_secs(60);

/// Changes of one channel at most.
const CHANGES_MAX: usize = 200;

/// And what they take at most, in bytes.
const BYTES_MAX: usize = 16 * 1024;

/// What a change takes beside the name.
const CHANGE_BYTES: usize = 48;

/// One who came, went, or is only now listed.
#[derive(Debug)]
struct Noted {
    at: Instant,
    name: Box<str>,
}

impl Noted {
    fn bytes(&self) -> usize {
        self.name.len() + CHANGE_BYTES
    }
}

/// What changed in one channel.
#[derive(Debug)]
pub(crate) struct Log {
    changes: VecDeque<Noted>,
    bytes: usize,
    /// Who was lost before it began may have missed what nobody knows any more.
    began: Instant,
    /// Of what was until then, not all is known any more.
    unknown_until: Option<Instant>,
    /// Nobody watches: it is kept so long for those who may come back.
    pub(crate) kept_until: Option<Instant>,
    /// It is looked at again then.
    pub(crate) queued_until: Option<Instant>,
}

/// Who is to be told of to somebody who comes back.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    /// Lists for [`Names`].
    pub(crate) joined: Vec<u8>,
    pub(crate) left: Vec<u8>,
    pub(crate) names: usize,
}

impl Log {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            began: now,
            unknown_until: None,
            kept_until: None,
            queued_until: None,
        }
    }

    /// What it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Somebody came or went, or is listed who was only counted.
    pub(crate) fn note(&mut self, now: Instant, name: &str, reach: Duration) {
        let noted = Noted { at: now, name: name.into() };
        self.bytes += noted.bytes();
        self.changes.push_back(noted);
        while let Some(first) = self.changes.front()
            && (self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX || first.at + reach < now)
        {
            self.unknown_until = Some(first.at);
            self.bytes -= first.bytes();
            self.changes.pop_front();
        }
    }

    /// Something changed that is not to be listed, or that there is no place for.
    pub(crate) fn forget(&mut self, now: Instant) {
        (self.changes, self.bytes, self.unknown_until) = (VecDeque::new(), 0, Some(now));
    }

    /// What somebody is to be told who was lost at this time, and may have missed something from an earlier one on;
    /// nothing if not all of that is known.
    pub(crate) fn since(
        &self,
        (unseen_from, lost_at): (Instant, Instant),
        is_member: impl Fn(&str) -> bool,
    ) -> Option<Missed> {
        if lost_at < self.began || self.unknown_until.is_some_and(|until| until > unseen_from) {
            return None;
        }
        let unseen = self.changes.iter().filter(|it| it.at > unseen_from);
        let names: BTreeSet<&str> = unseen.map(|it| &*it.name).collect();
        let mut missed = Missed { names: names.len(), ..Missed::default() };
        for name in names {
            Names::push(if is_member(name) { &mut missed.joined } else { &mut missed.left }, name);
        }
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACH: Duration = Duration::from_secs(180);

    struct Rig {
        log: Log,
        start: Instant,
    }

    impl Rig {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn crossed(&mut self, seconds: u64, name: &str) {
            self.log.note(self.at(seconds), name, REACH);
        }

        /// Of whom is told, as members or not.
        fn since(&self, from: u64, lost: u64, members: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
            let missed = self.log.since((self.at(from), self.at(lost)), |name| members.contains(&name))?;
            let list = |bytes: &[u8]| {
                Names::read(bytes).expect("it is a list").iter().map(str::to_owned).collect::<Vec<_>>()
            };
            let lists = (list(&missed.joined), list(&missed.left));
            assert_eq!(missed.names, lists.0.len() + lists.1.len());
            Some(lists)
        }
    }

    fn rig() -> Rig {
        let start = Instant::now();
        Rig { log: Log::new(start), start }
    }

    fn lists(joined: &[&str], left: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some((owned(joined), owned(left)))
    }

    #[test]
    fn who_comes_back_is_told_how_it_stands_with_everybody_who_came_or_went() {
        let mut rig = rig();
        ["ann", "bob", "cid"].into_iter().for_each(|name| rig.crossed(70, name));
        ["ann", "bob", "dan"].into_iter().for_each(|name| rig.crossed(110, name));
        rig.crossed(111, "dan");
        assert_eq!(rig.since(60, 100, &["bob"]), lists(&["bob"], &["ann", "cid", "dan"]), "lost in between");
        assert_eq!(rig.since(80, 100, &["bob"]), lists(&["bob"], &["ann", "dan"]), "only since");
        assert_eq!(rig.since(60, 110, &["ann", "dan"]), lists(&["ann", "dan"], &["bob", "cid"]));
        assert_eq!(rig.since(112, 115, &[]), lists(&[], &[]));
        let late = Log::new(rig.at(101));
        assert!(late.since((rig.at(60), rig.at(100)), |_| true).is_none(), "it began behind the loss");
        assert!(late.since((rig.at(60), rig.at(101)), |_| true).is_some_and(|it| it.names == 0));
    }

    #[test]
    fn it_says_when_it_does_not_reach_back() {
        let mut rig = rig();
        for second in 0..=CHANGES_MAX as u64 {
            rig.crossed(10 + second / 101, &format!("p{second}"));
        }
        assert_eq!((rig.log.changes.len(), rig.since(9, 50, &[])), (CHANGES_MAX, None));
        assert!(rig.since(10, 50, &[]).is_some());
        rig.crossed(300, "ann");
        assert_eq!((rig.log.changes.len(), rig.since(10, 50, &[])), (1, None), "too old");
        let long = "n".repeat(300);
        (0..100).for_each(|_| rig.crossed(301, &long));
        assert!(rig.log.bytes() <= BYTES_MAX && rig.log.changes.len() > 40);
        rig.log.forget(rig.at(310));
        assert_eq!((rig.log.bytes(), rig.since(309, 311, &[])), (0, None));
        assert_eq!(rig.since(310, 311, &[]), lists(&[], &[]));
    }
}
