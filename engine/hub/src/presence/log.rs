//! Who came and went in a watched channel lately, for watchers that were away: bounded in time, number and bytes.
//!
//! What was told to a connection that was lost may have been lost with it, so a watcher that comes back is told how it
//! stands with everybody who came or went from a while before that on. Of what changed only while it was certainly
//! away, what cancels out is not told.

use std::collections::{BTreeMap, VecDeque};
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

/// What is known of one who came, went, or is only now listed.
#[derive(Debug)]
struct Noted {
    at: Instant,
    name: Box<str>,
    /// Otherwise it was a member before, and not listed.
    has_crossed: bool,
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
    /// Of what was until then, not all is known any more.
    unknown_until: Option<Instant>,
    /// Nobody watches: it is kept so long for those who may come back.
    pub(crate) kept_until: Option<Instant>,
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
    pub(crate) fn new(unknown_until: Option<Instant>) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, unknown_until, kept_until: None }
    }

    /// What it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Somebody came or went.
    pub(crate) fn crossed(&mut self, now: Instant, name: &str, reach: Duration) {
        self.note(Noted { at: now, name: name.into(), has_crossed: true }, reach);
    }

    /// Somebody is listed who was only counted.
    pub(crate) fn named(&mut self, now: Instant, name: &str, reach: Duration) {
        self.note(Noted { at: now, name: name.into(), has_crossed: false }, reach);
    }

    fn note(&mut self, noted: Noted, reach: Duration) {
        let now = noted.at;
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
        if self.unknown_until.is_some_and(|until| until > unseen_from) {
            return None;
        }
        // Whether it may be known otherwise, and how often it came or went since.
        let mut known = BTreeMap::<&str, (bool, u32)>::new();
        for it in self.changes.iter().filter(|it| it.at > unseen_from) {
            let (is_uncertain, crossings) = known.entry(&it.name).or_default();
            *is_uncertain |= it.at <= lost_at || !it.has_crossed;
            *crossings += 1;
        }
        let mut missed = Missed::default();
        for (name, (is_uncertain, crossings)) in known {
            if is_uncertain || crossings % 2 == 1 {
                Names::push(if is_member(name) { &mut missed.joined } else { &mut missed.left }, name);
                missed.names += 1;
            }
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
            self.log.crossed(self.at(seconds), name, REACH);
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
        Rig { log: Log::new(None), start: Instant::now() }
    }

    fn lists(joined: &[&str], left: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Some((owned(joined), owned(left)))
    }

    #[test]
    fn what_cancels_out_is_told_only_where_it_may_have_been_seen_by_halves() {
        let mut rig = rig();
        ["ann", "bob", "cid"].into_iter().for_each(|name| rig.crossed(70, name));
        ["ann", "bob", "dan"].into_iter().for_each(|name| rig.crossed(110, name));
        rig.crossed(111, "dan");
        assert_eq!(rig.since(60, 100, &["bob"]), lists(&["bob"], &["ann", "cid"]), "lost in between");
        assert_eq!(rig.since(80, 100, &["bob"]), lists(&["bob"], &["ann"]), "only since");
        assert_eq!(rig.since(60, 110, &["ann", "dan"]), lists(&["ann", "dan"], &["bob", "cid"]));
        assert_eq!(rig.since(112, 115, &[]), lists(&[], &[]));
        rig.log.named(rig.at(120), "eva", REACH);
        assert_eq!(
            rig.since(112, 115, &["eva"]),
            lists(&["eva"], &[]),
            "whoever is listed now was not before"
        );
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
        assert_eq!(
            Log::new(Some(rig.at(5))).since((rig.at(4), rig.at(6)), |_| true).map(|it| it.names),
            None
        );
    }
}
