//! What is kept of a session without a connection: its subscriptions, as one piece of bytes.
//!
//! The same bytes wait in memory and travel between shards, so a session that waits costs one allocation beside its
//! place in two tables. Only this program writes them: what can't be read is our defect and ends the reading.

use std::time::Duration;

use crate::remote::Epoch;

/// One subscription of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kept<'a> {
    /// The channel, or the pattern's prefix.
    pub(crate) name: &'a str,
    pub(crate) is_pattern: bool,
    /// Whether it asked to be told who comes and goes.
    pub(crate) wants_presence: bool,
    /// Whether it promised to acknowledge.
    pub(crate) wants_ack: bool,
    /// The last position that it acknowledged.
    pub(crate) acked: Option<(Epoch, u64)>,
    /// What of the channel it wants, if not all: a packed [`Filter`](crate::filter::Filter).
    pub(crate) filter: Option<&'a [u8]>,
    /// How long it takes until the bucket of its rate is full: while it waits from the shard's origin on, on its way
    /// from now on.
    pub(crate) full_in: Duration,
}

const IS_PATTERN: u8 = 1;
const WANTS_PRESENCE: u8 = 2;
const WANTS_ACK: u8 = 4;
const HAS_ACKED: u8 = 8;
const HAS_FILTER: u8 = 16;
const HAS_DRAWN: u8 = 32;

impl<'a> Kept<'a> {
    /// A channel, or a pattern's prefix, of which nothing more is known.
    pub(crate) fn of(name: &'a str, is_pattern: bool) -> Self {
        Self {
            name,
            is_pattern,
            wants_presence: false,
            wants_ack: false,
            acked: None,
            filter: None,
            full_in: Duration::ZERO,
        }
    }

    /// Appends it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        // A name has 255 bytes at most.
        out.push(self.name.len() as u8);
        out.extend_from_slice(self.name.as_bytes());
        let flags = [
            (self.is_pattern, IS_PATTERN),
            (self.wants_presence, WANTS_PRESENCE),
            (self.wants_ack, WANTS_ACK),
            (self.acked.is_some(), HAS_ACKED),
            (self.filter.is_some(), HAS_FILTER),
            (!self.full_in.is_zero(), HAS_DRAWN),
        ];
        out.push(flags.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum());
        if let Some((epoch, offset)) = self.acked {
            out.extend_from_slice(epoch.text());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        if let Some(filter) = self.filter {
            // A filter has little more than a thousand bytes at most.
            out.extend_from_slice(&(filter.len() as u16).to_le_bytes());
            out.extend_from_slice(filter);
        }
        if !self.full_in.is_zero() {
            // Of five centuries at most.
            out.extend_from_slice(&(self.full_in.as_nanos() as u64).to_le_bytes());
        }
    }

    /// Takes the first one from these bytes.
    fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (flags, mut rest) = rest.split_first()?;
        let mut acked = None;
        if flags & HAS_ACKED != 0 {
            let (epoch, after) = rest.split_at_checked(8)?;
            let (offset, after) = after.split_first_chunk::<8>()?;
            acked = Some((Epoch::read(std::str::from_utf8(epoch).ok()?)?, u64::from_le_bytes(*offset)));
            rest = after;
        }
        let mut filter = None;
        if flags & HAS_FILTER != 0 {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (packed, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            filter = Some(packed);
            rest = after;
        }
        let mut full_in = Duration::ZERO;
        if flags & HAS_DRAWN != 0 {
            let (nanos, after) = rest.split_first_chunk::<8>()?;
            full_in = Duration::from_nanos(u64::from_le_bytes(*nanos));
            rest = after;
        }
        *bytes = rest;
        Some(Self {
            name: std::str::from_utf8(name).ok()?,
            is_pattern: flags & IS_PATTERN != 0,
            wants_presence: flags & WANTS_PRESENCE != 0,
            wants_ack: flags & WANTS_ACK != 0,
            acked,
            filter,
            full_in,
        })
    }

    /// All in these bytes.
    pub(crate) fn each(mut bytes: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let read = if bytes.is_empty() { None } else { Self::read(&mut bytes) };
            debug_assert!(read.is_some() || bytes.is_empty(), "what is kept comes from this program alone");
            read
        })
    }

    /// These bytes, less what is named twice: who lost its connection while a session was restored there may have had
    /// by itself what was still to come. The first one is the connection's own, which was asked for last.
    pub(crate) fn each_once(bytes: &'a [u8]) -> Box<[u8]> {
        let mut once = Vec::with_capacity(bytes.len());
        let mut seen = std::collections::HashSet::new();
        for it in Self::each(bytes).filter(|it| seen.insert((it.name, it.is_pattern))) {
            it.write(&mut once);
        }
        once.into()
    }

    /// These bytes with other times until buckets are full, where they are not.
    pub(crate) fn with_buckets(bytes: Box<[u8]>, full_in: impl Fn(Duration) -> Duration) -> Box<[u8]> {
        if Kept::each(&bytes).all(|it| it.full_in.is_zero()) {
            return bytes;
        }
        let mut others = Vec::with_capacity(bytes.len());
        for it in Kept::each(&bytes) {
            let full_in = if it.full_in.is_zero() { it.full_in } else { full_in(it.full_in) };
            Kept { full_in, ..it }.write(&mut others);
        }
        others.into()
    }

    /// The first one, and how many bytes it has.
    pub(crate) fn first(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut rest = bytes;
        let first = if rest.is_empty() { None } else { Self::read(&mut rest) };
        first.map(|it| (it, bytes.len() - rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_comes_back(
            names in proptest::collection::vec("\\PC{0,40}", 0..6), bits in any::<u8>(), offset in any::<u64>(),
            filter in proptest::collection::vec(any::<u8>(), 0..1200),
        ) {
            let kept: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(index, name)| Kept {
                    name,
                    is_pattern: bits >> index & 1 == 1,
                    wants_presence: bits >> (index + 1) & 1 == 1,
                    wants_ack: bits >> (index + 2) & 1 == 1,
                    acked: (bits >> (7 - index) & 1 == 1).then_some((Epoch::new(offset), offset)),
                    filter: (bits >> (6 - index) & 1 == 1).then_some(&*filter),
                    full_in: Duration::from_nanos(7_000) * u32::from(bits >> (5 - index) & 1),
                })
                .collect();
            let mut bytes = Vec::new();
            kept.iter().for_each(|it| it.write(&mut bytes));
            prop_assert_eq!(Kept::each(&bytes).collect::<Vec<_>>(), kept.clone());
            prop_assert_eq!(Kept::first(&bytes).map(|(it, _)| it), kept.first().copied());
            let fill = |full_in: Duration| full_in.saturating_sub(Duration::from_nanos(5_000));
            let later = Kept::with_buckets(bytes.into(), fill);
            let filled = kept.iter().map(|it| Kept { full_in: fill(it.full_in), ..*it });
            prop_assert!(Kept::each(&later).eq(filled));
        }
    }
}
