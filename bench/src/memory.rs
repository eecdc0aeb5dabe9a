//! What memory connections take: of the server's process as the kernel counts it, and of the kernel itself. Lines through
//! several counts, and what they say of more connections.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// The kernel's own memory in KiB, of the whole machine, from `/proc/meminfo` and `/proc/net/sockstat`.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Kernel {
    /// Sockets, inodes, descriptors, requests of io_uring and large allocations.
    pub(crate) slab_kib: i64,
    /// Tables of descriptors, mostly.
    pub(crate) vmalloc_kib: i64,
    pub(crate) page_tables_kib: i64,
    pub(crate) stacks_kib: i64,
    pub(crate) per_cpu_kib: i64,
    /// Whether slab is that of the objects in use. All of it, which is what everybody may read, holds also what is free
    /// in slabs that were not given back, and what file systems keep of files that somebody else looked at.
    pub(crate) is_by_object: bool,
    /// What waits in sockets' buffers; lies in slab too and is no part of the sum.
    pub(crate) buffers_kib: i64,
}

impl Kernel {
    pub(crate) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut it = Self::parse(&read("/proc/meminfo"), &read("/proc/net/sockstat"));
        // Only root may read it.
        if let Some(slab_kib) = objects_kib(&read("/proc/slabinfo")) {
            (it.slab_kib, it.is_by_object) = (slab_kib, true);
        }
        it
    }

    /// When what was closed before has been given back, which takes the kernel a moment; or after ten seconds.
    pub(crate) fn settled() -> Self {
        let until = Instant::now() + Duration::from_secs(10);
        let mut last = Self::now();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let it = Self::now();
            if last.slab_kib - it.slab_kib < SETTLED_KIB || Instant::now() > until {
                return it;
            }
            last = it;
        }
    }

    fn parse(meminfo: &str, sockstat: &str) -> Self {
        let of = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|it| it.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
        let pages = tcp.split_whitespace().skip_while(|it| *it != "mem").nth(1);
        Self {
            slab_kib: of("Slab"),
            vmalloc_kib: of("VmallocUsed"),
            page_tables_kib: of("PageTables"),
            stacks_kib: of("KernelStack"),
            per_cpu_kib: of("Percpu"),
            is_by_object: false,
            buffers_kib: pages.and_then(|it| it.parse::<i64>().ok()).unwrap_or(0) * PAGE_KIB,
        }
    }

    /// All that connections may have caused.
    pub(crate) fn sum(&self) -> f64 {
        let Self { slab_kib, vmalloc_kib, page_tables_kib, stacks_kib, per_cpu_kib, .. } = self;
        (slab_kib + vmalloc_kib + page_tables_kib + stacks_kib + per_cpu_kib) as f64
    }

    /// By how much each has grown since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            slab_kib: self.slab_kib - before.slab_kib,
            vmalloc_kib: self.vmalloc_kib - before.vmalloc_kib,
            page_tables_kib: self.page_tables_kib - before.page_tables_kib,
            stacks_kib: self.stacks_kib - before.stacks_kib,
            per_cpu_kib: self.per_cpu_kib - before.per_cpu_kib,
            is_by_object: self.is_by_object,
            buffers_kib: self.buffers_kib - before.buffers_kib,
        }
    }
}

/// It gives back less than this in half a second: nothing that would show in thousands of connections.
const SETTLED_KIB: i64 = 128;
/// The share of all slabs that is in use, but for what belongs to files: none where it can't be read.
fn objects_kib(slabinfo: &str) -> Option<i64> {
    let caches = slabinfo.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let numbers: Vec<f64> = words.filter_map(|it| it.parse().ok()).collect();
        // Objects in use, all objects, size, objects and pages of a slab; three tunables; slabs in use, all slabs, shared.
        let [active, all, _, _, pages, _, _, _, _, slabs, _] = *numbers else { return None };
        let is_of_files = (name.ends_with("_inode_cache") && name != "sock_inode_cache")
            || FILE_CACHES.iter().any(|it| name.starts_with(it));
        (all > 0.0 && !is_of_files).then(|| active / all * slabs * pages * PAGE_KIB as f64)
    });
    let sum = caches.sum::<f64>();
    (sum > 0.0).then_some(sum as i64)
}

const FILE_CACHES: [&str; 6] = ["radix_tree_node", "buffer_head", "ext4_", "btrfs_", "xfs_", "overlay"];
/// On every machine this runs on.
const PAGE_KIB: i64 = 4;

/// A line through points, by least squares.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Line {
    pub(crate) slope: f64,
    pub(crate) base: f64,
    /// How far the farthest point is from it.
    pub(crate) off_by: f64,
}

impl Line {
    /// Through at least two points.
    pub(crate) fn through(points: &[(f64, f64)]) -> Self {
        let count = points.len() as f64;
        let (mean_x, mean_y) = (
            points.iter().map(|it| it.0).sum::<f64>() / count,
            points.iter().map(|it| it.1).sum::<f64>() / count,
        );
        let over: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let under: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let slope = over / under;
        let base = mean_y - slope * mean_x;
        let off_by = points.iter().map(|(x, y)| (y - base - slope * x).abs()).fold(0.0, f64::max);
        Self { slope, base, off_by }
    }

    fn at(&self, x: f64) -> f64 {
        self.base + self.slope * x
    }
}

/// With so many connections.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Point {
    pub(crate) connections: usize,
    /// Of them, how many answered a ping at that moment.
    pub(crate) answered: usize,
    /// Resident memory of the server's process.
    pub(crate) user_kib: f64,
    /// The kernel's, without the other ends' half of the sockets.
    pub(crate) kernel_kib: f64,
    /// By how much the kernel's has grown since the server had started, with both ends of every connection.
    pub(crate) both_ends: Kernel,
}

/// All that is known of a server's memory.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Memory {
    pub(crate) points: Vec<Point>,
    /// KiB of the kernel for a connection between two programs that only hold sockets: half of it is the other end's.
    pub(crate) pair_kib: f64,
    pub(crate) user: Line,
    pub(crate) kernel: Line,
    /// Of the server's process.
    pub(crate) descriptors_max: Option<u64>,
    /// Connections of each shard, at the end.
    pub(crate) shards: Vec<u64>,
}

impl Memory {
    /// `points` hold both ends' kernel memory; what is not the server's is taken off.
    pub(crate) fn new(mut points: Vec<Point>, pair_kib: f64) -> Self {
        for it in &mut points {
            it.kernel_kib = it.both_ends.sum() - pair_kib / 2.0 * it.connections as f64;
        }
        let line = |of: fn(&Point) -> f64| {
            Line::through(&points.iter().map(|it| (it.connections as f64, of(it))).collect::<Vec<_>>())
        };
        let (user, kernel) = (line(|it| it.user_kib), line(|it| it.kernel_kib));
        Self { points, pair_kib, user, kernel, descriptors_max: None, shards: Vec::new() }
    }

    /// What a million connections would take, in GiB: in user space and in the kernel.
    pub(crate) fn million_gib(&self) -> (f64, f64) {
        (self.user.at(1e6) / KIB_PER_GIB, self.kernel.at(1e6) / KIB_PER_GIB)
    }
}

const KIB_PER_GIB: f64 = 1_048_576.0;

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "connections  answered  user KiB  kernel KiB   both ends: slab  vmalloc  page tables  stacks  per cpu  buffers"
        )?;
        for it in &self.points {
            let Kernel {
                slab_kib, vmalloc_kib, page_tables_kib, stacks_kib, per_cpu_kib, buffers_kib, ..
            } = it.both_ends;
            writeln!(
                f,
                "{:>11} {:>9} {:>9.0} {:>11.0} {slab_kib:>17} {vmalloc_kib:>8} {page_tables_kib:>12} {stacks_kib:>7} {per_cpu_kib:>8} {buffers_kib:>8}",
                it.connections, it.answered, it.user_kib, it.kernel_kib
            )?;
        }
        for (what, line) in [("user space", self.user), ("kernel", self.kernel)] {
            let Line { slope, base, off_by } = line;
            writeln!(
                f,
                "{what}: {slope:.2} KiB per connection and {base:.0} KiB, no point off by more than {off_by:.0} KiB"
            )?;
        }
        let is_by_object = self.points.iter().all(|it| it.both_ends.is_by_object);
        let slab = if is_by_object { "objects in use of /proc/slabinfo, files' left out," } else { "Slab" };
        writeln!(
            f,
            "sources: user space is Rss of /proc/PID/smaps_rollup; the kernel is {slab} + VmallocUsed + PageTables + KernelStack \
             + Percpu of /proc/meminfo since the server stood empty, less {:.2} KiB per connection for the other end: half of \
             the {:.2} KiB that a connection between two programs takes which only hold sockets",
            self.pair_kib / 2.0,
            self.pair_kib
        )?;
        let (user, kernel) = self.million_gib();
        writeln!(
            f,
            "1,000,000 connections by these lines: {user:.2} GiB in user space, {kernel:.2} GiB in the kernel"
        )?;
        if !self.shards.is_empty() {
            writeln!(f, "connections of each shard: {:?}", self.shards)?;
        }
        match self.descriptors_max {
            Some(most) => writeln!(f, "the server's descriptor limit: {most}"),
            None => Ok(()),
        }
    }
}

/// How many descriptors a process may have.
pub(crate) fn descriptors_max(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let meminfo = "MemTotal: 9 kB\nSlab:             100 kB\nSUnreclaim: 1 kB\nKernelStack: 2 kB\nPageTables: 3 kB\nVmallocUsed: 4 kB\nPercpu: 5 kB\n";
        let it = Kernel::parse(
            meminfo,
            "sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 30\nUDP: mem 7\n",
        );
        assert_eq!((it.sum(), it.buffers_kib), (114.0, 120));
        assert!(Kernel::now().sum() > 0.0 && descriptors_max(std::process::id()).is_some());
    }

    #[test]
    fn slabs_count_by_what_is_in_use_of_them() {
        let head = "slabinfo - version: 2.1\n# name <active_objs> ...\n";
        let line = |name: &str| format!("{name} 5 10 2048 16 8 : tunables 0 0 0 : slabdata 3 4 0\n");
        let text = [
            head,
            &line("TCP"),
            &line("sock_inode_cache"),
            &line("ext4_inode_cache"),
            &line("radix_tree_node"),
        ]
        .concat();
        assert_eq!(objects_kib(&text), Some(2 * 4 * 8 * 4 / 2), "half of four slabs of eight pages, twice");
        assert_eq!(objects_kib(""), None, "not root");
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let it = Line::through(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0)]);
        assert_eq!((it.slope, it.base, it.off_by), (2.0, 3.0, 0.0));
        let it = Line::through(&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)]);
        assert_eq!((it.slope, it.base, it.off_by), (0.0, 1.0, 2.0));
    }

    #[test]
    fn the_other_ends_half_is_taken_off() {
        let point = |connections: usize| Point {
            connections,
            answered: connections,
            user_kib: 10_000.0 + connections as f64,
            kernel_kib: 0.0,
            both_ends: Kernel { slab_kib: 7 * connections as i64, ..Kernel::default() },
        };
        let it = Memory::new(vec![point(100), point(200)], 6.0);
        assert_eq!((it.user.slope, it.kernel.slope), (1.0, 4.0));
        assert!((it.million_gib().1 - 4e6 / KIB_PER_GIB).abs() < 1e-9);
        assert!(it.to_string().contains("less 3.00 KiB per connection"), "{it}");
    }
}
