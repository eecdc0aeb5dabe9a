//! What this host allows: which driver runs here, and how many connections there may be.
//!
//! It asks the host and explains its answers; it starts nothing.

use anyhow::{Context, Result, bail};
use corecast_driver::limits;
use corecast_driver::uring::{Uring, probe};

use corecast_server::config::{DriverChoice, Settings};

/// Descriptors that are not connections: rings, listeners, eventfds, log, admin.
const DESCRIPTORS_KEPT: usize = 256;

/// Slots of each table that answer 503, so that clients beyond the limit are not left without an answer.
const MARGIN: usize = 256;

/// Memory of one connection that is idle, in user space and in the kernel, and what it needs when it is not: about
/// 1 KiB, 3 KiB and as much again.
const CONNECTION_BYTES: u64 = 8 << 10;

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// On the node.
    pub(crate) connections: usize,
    /// Slots of each shard's table.
    pub(crate) table: usize,
    /// Slots of each table for those that are answered 503.
    pub(crate) margin: usize,
    /// What the number of connections follows from.
    pub(crate) bound: &'static str,
}

impl Capacity {
    /// As configured; or what descriptors and memory allow.
    ///
    /// # Errors
    /// If the host allows fewer than configured, or hardly any.
    pub(crate) fn of(settings: &Settings, driver: DriverChoice, shards: usize) -> Result<Self> {
        let descriptors = limits::raise_descriptors().context("the descriptor limit can't be read")?;
        let memory = available_memory().map_or(usize::MAX, |bytes| (bytes / 2 / CONNECTION_BYTES) as usize);
        Self::within(settings.connections, driver, shards, (descriptors, memory))
    }

    fn within(
        wanted: usize,
        driver: DriverChoice,
        shards: usize,
        (descriptors, memory): (usize, usize),
    ) -> Result<Self> {
        let table_max = descriptors.saturating_sub(DESCRIPTORS_KEPT);
        if table_max < 64 {
            bail!("{descriptors} descriptors are too few: raise the limit (ulimit -n) to 1,024 or more");
        }
        // Direct descriptors count per ring, ordinary ones per process.
        let tables = if driver == DriverChoice::Uring { shards } else { 1 };
        let margin = MARGIN.min(table_max / 4);
        let most = (table_max - margin) * tables;
        if wanted > most {
            bail!(
                "limits.connections = {wanted}, but {descriptors} descriptors allow {most}: raise ulimit -n or add shards"
            );
        }
        let (connections, bound) = match wanted {
            0 if memory < most => (memory.max(1), "memory allows no more"),
            0 => (most, "descriptors allow no more"),
            wanted => (wanted, "limits.connections"),
        };
        // The kernel spreads connections over shards by hash: a table has room for an uneven share.
        let share = if shards == 1 { connections } else { connections.div_ceil(shards) * 5 / 4 + 64 };
        Ok(Self { connections, table: (share + margin).min(table_max), margin, bound })
    }
}

/// io_uring unless it is refused; one line says why not.
///
/// # Errors
/// If the driver that was asked for can't run here.
pub(crate) fn choose_driver(settings: &Settings, shards: usize) -> Result<DriverChoice> {
    if settings.driver == DriverChoice::Epoll {
        return Ok(DriverChoice::Epoll);
    }
    #[cfg(feature = "glommio")]
    if settings.driver == DriverChoice::Glommio {
        let refusal = corecast_driver::glommio::Glommio::refusal(settings.queue_entries, shards);
        return refusal.map_or(Ok(DriverChoice::Glommio), |why| bail!("glommio can't run here: {why}"));
    }
    let Err(why) = uring_runs_here(settings, shards) else { return Ok(DriverChoice::Uring) };
    if settings.driver == DriverChoice::Uring {
        bail!("io_uring is not available here ({why}): use --driver epoll");
    }
    tracing::warn!("io_uring is refused ({why}): using epoll, which is slower");
    Ok(DriverChoice::Epoll)
}

fn uring_runs_here(settings: &Settings, shards: usize) -> Result<(), String> {
    let probe = probe();
    let release = &probe.release;
    if let Err(error) = probe.available {
        let lacks = if probe.missing.is_empty() {
            String::new()
        } else {
            format!(", lacks {}", probe.missing.join(", "))
        };
        return Err(format!("{error}, kernel {release}{lacks}"));
    }
    let needed = Uring::locked_bytes(settings.queue_entries, settings.recv_buffers) * shards as u64;
    match limits::locked_memory() {
        // Linux 6.14 and later count it; on earlier kernels the check only warns too early.
        Some(allowed) if needed > allowed => Err(format!(
            "{shards} rings need {needed} bytes of locked memory and the limit is {allowed}, kernel {release}; \
             raise ulimit -l, or lower shard.queue_entries"
        )),
        _ => Ok(()),
    }
}

/// Bytes that the kernel would give without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(wanted: usize, driver: DriverChoice, shards: usize, host: (usize, usize)) -> Result<Capacity> {
        Capacity::within(wanted, driver, shards, host)
    }

    #[test]
    fn direct_descriptors_count_per_shard_and_ordinary_ones_per_process() {
        let uring = within(0, DriverChoice::Uring, 4, (20_000, 1 << 30)).expect("enough");
        let epoll = within(0, DriverChoice::Epoll, 4, (20_000, 1 << 30)).expect("enough");
        assert_eq!((uring.connections, epoll.connections), (4 * 19_488, 19_488));
        assert!(uring.table <= 20_000 - DESCRIPTORS_KEPT);
        assert_eq!(uring.bound, "descriptors allow no more");
    }

    #[cfg(feature = "glommio")]
    #[test]
    fn sockets_of_glommio_count_per_process() {
        let it = within(0, DriverChoice::Glommio, 4, (20_000, 1 << 30)).expect("enough");
        assert_eq!(it.connections, 19_488);
    }

    #[test]
    fn memory_is_a_bound_too() {
        let it = within(0, DriverChoice::Uring, 64, (1 << 20, 50_000)).expect("enough");
        assert_eq!((it.connections, it.bound), (50_000, "memory allows no more"));
        assert!(it.table < 2_000, "tables are not larger than connections may come: {}", it.table);
    }

    #[test]
    fn what_is_wanted_leaves_room_for_refusals() {
        let most = 20_000 - DESCRIPTORS_KEPT - MARGIN;
        let it = within(most, DriverChoice::Uring, 1, (20_000, 1)).expect("the operator knows the memory");
        assert_eq!((it.connections, it.table - it.margin), (most, most));
        let refused = within(most + 1, DriverChoice::Uring, 1, (20_000, 1)).expect_err("one too many");
        assert!(refused.to_string().contains(&format!("allow {most}")), "{refused}");
        assert!(within(0, DriverChoice::Uring, 1, (300, 1)).is_err(), "too few descriptors");
    }
}
