//! What is kept of channels, as queries for it are answered, and what repetitions of publishes are answered.

use super::{Check, Checked, Failure, Oracle, Seen, Serial};
use crate::names::{ChannelIndex, Class};

/// A query for what is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryQuery {
    /// So many messages at most.
    pub limit: u64,
    /// What follows this position, or comes before it.
    pub since: Option<(String, u64)>,
    /// From the newest to the oldest.
    pub is_backward: bool,
}

fn wrong(what: String) -> Checked {
    Err(Failure::new(Check::Answers, what))
}

impl Oracle {
    /// A message came as a part of what is kept.
    ///
    /// # Errors
    /// If it is not the one of its position, or was never published.
    pub fn kept(&mut self, seen: &Seen<'_>) -> Checked {
        let truth = &mut self.truths[usize::from(seen.channel)];
        let result = if seen.is_ephemeral {
            wrong("something ephemeral was kept".to_owned())
        } else if !truth.saw(seen.from) {
            wrong(format!("message {} of connection {} was never published", seen.from.1, seen.from.0))
        } else {
            truth.note(seen.position, seen.from, true)
        };
        result.map_err(|failure| self.on(seen.channel, failure))
    }

    /// A page of a history: the offsets of its messages, and whether there are more behind them.
    ///
    /// # Errors
    /// If something is missing that is kept.
    pub fn history(
        &mut self,
        channel: ChannelIndex,
        query: &HistoryQuery,
        position: (&str, u64),
        page: &[u64],
        has_more: bool,
    ) -> Checked {
        let result = self.check_page(channel, query, position, page, has_more);
        result.map_err(|failure| self.on(channel, failure))
    }

    fn check_page(
        &mut self,
        channel: ChannelIndex,
        query: &HistoryQuery,
        position: (&str, u64),
        page: &[u64],
        has_more: bool,
    ) -> Checked {
        let truth = &mut self.truths[usize::from(channel)];
        let count = page.len() as u64;
        if truth.class != Class::Numbered && count > 0 || count > query.limit {
            return wrong(format!(
                "{count} messages came, at most {} of what is kept were wanted",
                query.limit
            ));
        }
        // Where nothing ever was, the epoch is not one yet.
        if truth.class != Class::Numbered || position.1 == 0 {
            return Ok(());
        }
        let (epoch, offset) = truth.at(position);
        let step = if query.is_backward { u64::wrapping_sub } else { u64::wrapping_add };
        if page.windows(2).any(|two| two[1] != step(two[0], 1)) {
            return wrong(format!("the messages {page:?} do not follow each other"));
        }
        let since = query.since.as_ref().map(|(_, since)| *since);
        if since == Some(0) && query.is_backward {
            return if count == 0 {
                Ok(())
            } else {
                wrong(format!("{page:?} came before the first message"))
            };
        }
        let start = match (since, query.is_backward) {
            (Some(since), false) => Some(since + 1),
            (Some(since), true) => since.checked_sub(1),
            (None, true) => Some(offset),
            (None, false) => None,
        };
        if let (Some(start), Some(first)) = (start, page.first())
            && start != *first
        {
            return wrong(format!("the page begins with {first} instead of {start}"));
        }
        let last = page.last().copied();
        if !query.is_backward && has_more == (last.or(since).unwrap_or(offset) == offset) && query.limit > 0 {
            return wrong(format!("up to {last:?} of {offset}, and `more` is {has_more}"));
        }
        // What is certainly kept from there on must have come, or be said to be left.
        let newest = start.filter(|_| query.is_backward).unwrap_or(offset);
        let oldest_due = newest.saturating_sub(query.limit);
        let is_short = query.is_backward && !has_more && count < query.limit.min(newest);
        if is_short && truth.keeps_since((epoch, oldest_due), offset, self.now_us) && oldest_due < newest {
            let what =
                format!("{count} messages up to {newest} came, and those behind {oldest_due} are kept");
            return Err(Failure::new(Check::Delivery, what));
        }
        Ok(())
    }

    /// A query for what follows a position, or comes before it, was refused.
    ///
    /// # Errors
    /// If all of it is kept.
    pub fn history_refused(&mut self, channel: ChannelIndex, query: &HistoryQuery) -> Checked {
        let truth = &self.truths[usize::from(channel)];
        let Some((epoch, since)) = query.since.as_ref() else { return Ok(()) };
        // Only where the last epoch can't have ended meanwhile it is the channel's.
        let is_known = !self.is_forgetful && truth.known_epoch(epoch).is_some();
        let Some(epoch) = truth.known_epoch(epoch).filter(|_| is_known) else { return Ok(()) };
        let highest = truth.highest(epoch);
        // More may have come that nobody was told of.
        if *since == highest && highest > 0 || !truth.keeps_twice_since((epoch, *since), highest, self.now_us)
        {
            return Ok(());
        }
        let what = format!("history since {since} is refused, and all of it is kept up to {highest}");
        Err(self.on(channel, Failure::new(Check::Delivery, what)))
    }

    /// A client is about to send a publish once more: whether the first one has certainly arrived.
    pub fn repeats(&mut self, channel: ChannelIndex, from: (Serial, u32)) -> bool {
        self.truths[usize::from(channel)].repeats(from)
    }

    /// A publish with an idempotency key was repeated: whether it was answered as a repetition, and the first one had
    /// arrived by then.
    ///
    /// # Errors
    /// If it was none although the first one had arrived, or is said to be at another position.
    pub fn repeated(
        &mut self,
        from: (Serial, u32),
        channel: ChannelIndex,
        position: (&str, u64),
        (is_duplicate, is_late): (bool, bool),
    ) -> Checked {
        let truth = &mut self.truths[usize::from(channel)];
        let result = if !is_duplicate && is_late {
            wrong("a repetition was taken for a new message".to_owned())
        } else {
            truth.note(position, from, true)
        };
        truth.answered(from);
        result.map_err(|failure| self.on(channel, failure))
    }
}
