//! What must hold of the shards after every turn, when nothing moves, and when everybody has left.

use corecast_hub::ShardSet;

use super::World;
use crate::chaos::Fault;
use crate::host::{Host, State};
use crate::oracle::{Check, Checked, Failure};

/// What a record has at most beyond what the client sent, and how many records a message causes at most: as a list of
/// names does, or one for so many of its bytes, and never more than that.
const RECORD_BYTES: u64 = 350;
const RECORDS_MIN: u64 = 12;
const MESSAGE_BYTES: u64 = 60;
const RECORDS_MAX: u64 = 511;

/// Things told to homes in one tick beyond the bound of a spill, and the bytes of one of them.
const TOLD_PER_TICK: u64 = 256;
const TOLD_BYTES: u64 = 44;

impl World {
    /// What must hold after every turn.
    pub(super) fn check_bounds(&mut self, index: usize) -> Checked {
        let spills: Vec<ShardSet> = self.hosts.iter().map(Host::spills_to).collect();
        let both_ways =
            |from: usize, to: u16| usize::from(to) > from && spills[usize::from(to)].contains(from as u16);
        let are_full = (0..spills.len()).any(|from| spills[from].iter().any(|to| both_ways(from, to)));
        if are_full && !self.were_full {
            self.town.chaos.note(Fault::RingsFullBothWays);
        }
        self.were_full = are_full;
        let counters = &self.hosts[index].counters;
        let connections = counters.connections.value();
        let outbox = self.setup.limits.outbox.messages as u64 + 1_200;
        for (what, value, bound) in [
            ("bytes spilled", counters.spilled_bytes.value(), self.spill_max()),
            ("frames in use", counters.frames_in_use.value(), (connections + 4) * outbox),
            ("unfinished bytes", counters.assembly_bytes.value(), self.setup.limits.assembly_bytes as u64),
            ("connections", connections, self.setup.table as u64),
        ] {
            if value > bound {
                let what = format!("shard {index}: {value} {what}, at most {bound}");
                return Err(Failure::new(Check::Bounds, what));
            }
        }
        Ok(())
    }

    /// Bytes that may wait for room in all rings of one shard: to each other one and of each class, what must wait
    /// before nothing more is taken, and what one message of a client adds to it. Requests that the hub makes by
    /// itself come on top: what one tick tells homes, and one for every client that comes.
    ///
    /// A record has more around its payload than the message of the client that it comes of: the epoch, the publisher,
    /// who is to be answered.
    fn spill_max(&self) -> u64 {
        let peers = self.hosts.len() as u64 - 1;
        let bytes = self.town.largest_bytes;
        let message = bytes + RECORD_BYTES * (RECORDS_MIN + bytes / MESSAGE_BYTES).min(RECORDS_MAX);
        let path = self.setup.rings.spill_bytes as u64 + message;
        let told = (TOLD_PER_TICK + 2 * self.clients.len() as u64) * TOLD_BYTES;
        peers * (2 * path + told)
    }

    /// While nothing moves: what sleeps does so for lack of anything to do, not of a wake-up. Time has not passed yet
    /// that would wake it all the same.
    pub(super) fn check_asleep(&mut self) -> Checked {
        if !self.hosts.iter().all(Host::is_still) {
            return Ok(());
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let spilled = host.counters.spilled_bytes.value();
            if spilled > 0 && host.state != State::Stopped {
                let what =
                    format!("shard {index} sleeps on {spilled} spilled bytes, and nobody will wake it");
                return Err(Failure::new(Check::Progress, what));
            }
        }
        if self.clients.iter().any(|client| client.is_let_down(&mut self.town)) {
            return Err(self.stuck("all shards sleep"));
        }
        Ok(())
    }

    pub(super) fn stuck(&mut self, how: &str) -> Failure {
        let waiting: Vec<_> =
            self.clients.iter().filter(|client| !client.is_still(&mut self.town.net)).collect();
        let examples: Vec<String> =
            waiting.iter().take(3).map(|client| client.waits_for(&mut self.town.net)).collect();
        let net = &mut self.town.net;
        let hosts = self.hosts.iter().map(|host| {
            let counters = &host.counters;
            let (held, spilled) = (counters.held_bytes.value(), counters.spilled_bytes.value());
            format!("{:?}, {held} bytes held, {spilled} spilled, {:?}", host.state, host.io.describe(net))
        });
        let hosts: Vec<String> = hosts.collect();
        let what =
            format!("{how}: {} clients wait: {}; shards {hosts:?}", waiting.len(), examples.join("; "));
        Failure::new(Check::Progress, what)
    }

    /// Nobody is there any more, and everything that connections had has returned to where it began.
    pub(super) fn check_gone(&self) -> Checked {
        for (index, host) in self.hosts.iter().enumerate() {
            let counters = &host.counters;
            // What has come for connections that a shard did not wait for is still the kernel's.
            let buffers = if host.io.len() == 0 { host.io.buffers_out() as u64 } else { 0 };
            for (what, left) in [
                ("connections", counters.connections.value()),
                ("clients", counters.clients.value()),
                ("frames in use", counters.frames_in_use.value()),
                ("unfinished bytes", counters.assembly_bytes.value()),
                ("bytes held back", counters.held_bytes.value()),
                ("receive buffers", buffers),
            ] {
                if left > 0 {
                    return Err(Failure::new(Check::Leaks, format!("shard {index}: {left} {what} are left")));
                }
            }
            // What it tells others of its last clients, nobody may be there to hear.
            // That their copies are lost is news for publishers who have gone, too.
            let has_news = self.setup.habits.sessions.window_ms > 0 || self.town.chaos.is_on(Fault::Receipts);
            if self.hosts.len() == 1 && !(self.town.is_draining && has_news) {
                Self::check_host_empty(index, host)?;
            }
        }
        let clients = self.node.clients();
        if clients > 0 {
            let what = format!("{clients} clients are counted, and nobody is there");
            return Err(Failure::new(Check::Leaks, what));
        }
        Ok(())
    }

    /// No shard owes anything to another one or remembers who was there.
    pub(super) fn check_empty(&self) -> Checked {
        self.hosts.iter().enumerate().try_for_each(|(index, host)| Self::check_host_empty(index, host))
    }

    fn check_host_empty(index: usize, host: &Host) -> Checked {
        let spilled = host.counters.spilled_bytes.value();
        let what = if spilled > 0 {
            format!("shard {index}: {spilled} bytes spilled are left")
        } else if host.is_empty() {
            return Ok(());
        } else {
            format!("shard {index}: its pools or its hub are not empty")
        };
        Err(Failure::new(Check::Leaks, what))
    }
}
