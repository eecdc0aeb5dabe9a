//! Nothing lost, nothing twice, nothing out of order: every subscriber counts its publisher's messages.

/// What one subscriber has seen of one publisher.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    next: u64,
}

/// What went wrong, over all subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub(crate) struct Audit {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Came again, or after a later one: a sequence number below what was expected.
    pub(crate) repeated: u64,
    /// Came after a later one, where that is told from coming twice.
    pub(crate) reordered: u64,
    /// Came to somebody who did not subscribe to its channel.
    pub(crate) misdelivered: u64,
    /// Of those lost, the ones behind the last that came.
    pub(crate) missing_at_end: u64,
    /// Left out by a namespace that may replace messages by later ones.
    pub(crate) replaced: u64,
}

/// What one subscriber has seen of a channel whose messages are numbered from 1: what it missed may still come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    last: u64,
    missing: Vec<u64>,
}

/// More gaps of one channel than anybody has to tell apart.
const MISSING_MAX: u64 = 1000;

impl Track {
    /// The highest number that came.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

impl Audit {
    /// The message with this number arrived, or arrived again.
    pub(crate) fn numbered(&mut self, track: &mut Track, number: u64) {
        self.delivered += 1;
        if number > track.last {
            let gap = number - track.last - 1;
            self.lost += gap;
            track.missing.extend((track.last + 1..number).take(gap.min(MISSING_MAX) as usize));
            track.last = number;
        } else if let Some(index) = track.missing.iter().position(|it| *it == number) {
            track.missing.swap_remove(index);
            self.lost -= 1;
            self.reordered += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// The run is over, and so many messages were sent.
    pub(crate) fn numbered_end(&mut self, track: &Track, sent: u64) {
        let missing = sent.saturating_sub(track.last);
        self.lost += missing;
        self.missing_at_end += missing;
    }

    /// A message with this sequence number arrived.
    pub(crate) fn message(&mut self, seen: &mut Seen, sequence: u64) {
        self.delivered += 1;
        if sequence < seen.next {
            self.repeated += 1;
            return;
        }
        self.lost += sequence - seen.next;
        seen.next = sequence + 1;
    }

    /// The run is over and the publisher sent `sent` messages.
    pub(crate) fn end(&mut self, seen: &Seen, sent: u64) {
        let missing = sent.saturating_sub(seen.next);
        self.lost += missing;
        self.missing_at_end += missing;
    }

    /// Gaps are no loss where the server says that it replaced as many messages by later ones, and the latest came.
    pub(crate) fn allow_replaced(&mut self, replaced: u64) {
        if self.missing_at_end == 0 && self.lost <= replaced {
            self.replaced += std::mem::take(&mut self.lost);
        }
    }

    /// Adds another worker's findings.
    pub(crate) fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.misdelivered += other.misdelivered;
        self.missing_at_end += other.missing_at_end;
        self.replaced += other.replaced;
    }

    /// Whether all arrived, once, in order and nowhere else.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.reordered == 0 && self.misdelivered == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(sequences: &[u64], sent: u64) -> Audit {
        let (mut audit, mut seen) = (Audit::default(), Seen::default());
        for sequence in sequences {
            audit.message(&mut seen, *sequence);
        }
        audit.end(&seen, sent);
        audit
    }

    #[test]
    fn what_is_right_is_clean() {
        assert_eq!(audit(&[0, 1, 2], 3), Audit { delivered: 3, ..Audit::default() });
    }

    #[test]
    fn what_was_replaced_is_no_loss_but_the_latest_has_to_come() {
        let replaced = |sequences: &[u64], replaced| {
            let mut audit = audit(sequences, 5);
            audit.allow_replaced(replaced);
            audit
        };
        assert_eq!((replaced(&[0, 3, 4], 2).is_clean(), replaced(&[0, 3, 4], 2).replaced), (true, 2));
        assert!(!replaced(&[0, 4], 2).is_clean(), "more gaps than replacements");
        assert!(!replaced(&[0, 3], 9).is_clean(), "the latest is missing");
        assert!(!replaced(&[0, 3, 2, 4], 9).is_clean(), "out of order");
    }

    #[test]
    fn late_and_twice_are_told_apart() {
        let of = |numbers: &[u64], sent| {
            let (mut audit, mut track) = (Audit::default(), Track::default());
            for number in numbers {
                audit.numbered(&mut track, *number);
            }
            audit.numbered_end(&track, sent);
            (audit.lost, audit.repeated, audit.reordered, audit.missing_at_end)
        };
        assert_eq!(of(&[1, 2, 3], 3), (0, 0, 0, 0));
        assert_eq!(of(&[1, 3], 5), (3, 0, 0, 2), "one in between and two at the end");
        assert_eq!(of(&[1, 3, 2], 3), (0, 0, 1, 0), "late");
        assert_eq!(of(&[1, 2, 2, 1, 3], 3), (0, 2, 0, 0), "twice");
        assert_eq!(of(&[1, 3, 2, 2], 3), (0, 1, 1, 0), "late, and then again");
        assert!(!Audit { reordered: 1, ..Audit::default() }.is_clean());
    }

    #[test]
    fn every_fault_is_seen() {
        assert_eq!(audit(&[0, 2], 3).lost, 1, "a gap");
        assert_eq!(audit(&[0, 1], 3).lost, 1, "the end is missing");
        assert_eq!(audit(&[0, 1, 1, 2], 3).repeated, 1, "twice");
        assert_eq!(audit(&[0, 1, 2, 2], 3).repeated, 1, "twice at the end");
        assert!(!audit(&[0, 2, 1], 3).is_clean(), "out of order");
        assert!(!Audit { misdelivered: 1, ..Audit::default() }.is_clean(), "to a stranger");
    }
}
