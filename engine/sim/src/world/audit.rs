//! At rest the counters are compared with what clients saw: what was not read was dropped, and was counted.

use super::World;
use crate::books::Book;
use crate::host::Host;
use crate::oracle::{Check, Checked, Failure};

/// One shard's counters and its clients' book, at an earlier rest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Statement {
    book: Book,
    /// Of what is published, and of what is kept.
    deliveries: u64,
    /// Dropped or replaced; and dropped alone.
    missed: u64,
    dropped: u64,
    /// Connections that the shard held and no client did: they may have got messages that nobody read.
    held: u64,
}

impl Statement {
    fn of(host: &Host, book: Book) -> Self {
        let counters = &host.counters;
        let dropped = counters.dropped.value();
        Self {
            book,
            deliveries: counters.deliveries.value() + counters.replayed.value(),
            missed: dropped + counters.conflated.value(),
            dropped,
            held: (host.io.len() as u64).saturating_sub(book.sessions),
        }
    }

    /// Whether since `earlier` everything that the shard queued was either dropped or read by somebody.
    fn is_exact_since(&self, earlier: &Self) -> bool {
        self.held == 0 && earlier.held == 0 && self.book.loose_ends == earlier.book.loose_ends
    }

    /// Every copy that was queued since `earlier` was read, or was dropped and counted. A message that was dropped
    /// before it was queued is no delivery, so that drops leave some doubt.
    fn check_copies(&self, earlier: &Self) -> Result<(), String> {
        let read = self.book.copies - earlier.book.copies;
        let doubtful = self.book.doubtful - earlier.book.doubtful;
        let delivered = self.deliveries - earlier.deliveries;
        let dropped = self.dropped - earlier.dropped;
        let told =
            || format!("clients read {read} messages, {delivered} were delivered and {dropped} dropped");
        if read > delivered {
            return Err(told());
        }
        if self.is_exact_since(earlier) && read + doubtful < delivered.saturating_sub(dropped) {
            return Err(format!("{}: the rest is nowhere", told()));
        }
        Ok(())
    }

    /// What clients were told was counted.
    fn check_ends(&self, host: &Host) -> Result<(), String> {
        let (book, counters) = (&self.book, &host.counters);
        for (what, seen, counter) in [
            ("closed as slow consumers", book.slow, &counters.slow_disconnects),
            ("closed for a broken protocol", book.violations, &counters.violations),
            ("refused", book.refused, &counters.refused),
            ("closed by a time-out", book.timeouts, &counters.timeouts),
        ] {
            let counted = counter.value();
            if seen > counted {
                return Err(format!("{seen} connections were {what}, and {counted} were counted"));
            }
        }
        Ok(())
    }

    /// What is there now is what clients know to be there.
    fn check_levels(&self, host: &Host) -> Result<(), String> {
        let (book, counters) = (&self.book, &host.counters);
        let connections = book.sessions + self.held;
        let clients = counters.clients.value();
        if counters.connections.value() != connections || clients < book.open || clients > connections {
            return Err(format!(
                "{} connections and {clients} clients are counted, {connections} are there and {} of them open",
                counters.connections.value(),
                book.open
            ));
        }
        for (what, left) in [
            ("frames in use", counters.frames_in_use.value()),
            ("bytes held back", counters.held_bytes.value()),
            ("unfinished bytes", counters.assembly_bytes.value()),
        ] {
            if left > 0 && self.held == 0 {
                return Err(format!("{left} {what}, and everybody has all that was sent"));
            }
        }
        Ok(())
    }
}

impl World {
    /// Everything rests: was all that was published delivered, or dropped and counted?
    pub(super) fn check_settled(&mut self) -> Checked {
        let mut now = Vec::with_capacity(self.hosts.len());
        for (index, host) in self.hosts.iter().enumerate() {
            let statement = Statement::of(host, self.town.books[index]);
            let accounting = |what| Failure::new(Check::Accounting, format!("shard {index}: {what}"));
            statement.check_copies(&self.settled_at[index]).map_err(accounting)?;
            statement.check_ends(host).map_err(accounting)?;
            let leaks = |what| Failure::new(Check::Leaks, format!("shard {index}: {what}"));
            statement.check_levels(host).map_err(leaks)?;
            now.push(statement);
        }
        let (all_are_known, waiting) = (self.all_are_known(), self.sessions_waiting());
        let has_jumped = self.setup.habits.jumps;
        self.town.oracle.sessions_rest((all_are_known, has_jumped), waiting)?;
        let clients: u64 = self.hosts.iter().map(|host| host.counters.clients.value()).sum();
        if self.node.clients() as u64 != clients {
            let what = format!("the node counts {} clients, its shards {clients}", self.node.clients());
            return Err(Failure::new(Check::Leaks, what));
        }
        let missed = |all: &[Statement]| all.iter().map(|it| it.missed).sum::<u64>();
        let dropped = |all: &[Statement]| all.iter().map(|it| it.dropped).sum::<u64>();
        let is_exact = now.iter().zip(&self.settled_at).all(|(now, earlier)| now.is_exact_since(earlier));
        let of_those = dropped(&now) - dropped(&self.settled_at);
        let replaced = missed(&now) - missed(&self.settled_at) - of_those;
        self.town.oracle.settle(of_those, replaced, is_exact)?;
        self.town.trace.note("settled", &[missed(&now)]);
        self.settled_at = now;
        self.settled += 1;
        Ok(())
    }

    /// All shards have stopped, and everybody has read what they left.
    pub(super) fn check_drained(&mut self) -> Checked {
        for (index, host) in self.hosts.iter().enumerate() {
            let statement = Statement::of(host, self.town.books[index]);
            let accounting = |what| Failure::new(Check::Accounting, format!("shard {index}: {what}"));
            statement.check_copies(&self.settled_at[index]).map_err(accounting)?;
            statement.check_ends(host).map_err(accounting)?;
        }
        self.town.oracle.settle_parted()
    }
}
