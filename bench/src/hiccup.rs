//! What the machine itself does to a loop that wants nothing: the floor of every tail.

use std::fmt;
use std::time::{Duration, Instant};

/// What every core did.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Hiccups(Vec<Hiccup>);

#[derive(Clone, Debug, serde::Serialize)]
struct Hiccup {
    core: usize,
    /// Of windows of 100 us, the share that was held up over 50 us.
    late_share: f64,
    worst_us: u64,
}

impl Hiccups {
    /// Each core's number, share of late windows and longest gap in us.
    pub(crate) fn cores(&self) -> impl Iterator<Item = (usize, f64, u64)> {
        self.0.iter().map(|it| (it.core, it.late_share, it.worst_us))
    }
}

impl fmt::Display for Hiccups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Hiccup { core, late_share, worst_us } in &self.0 {
            write!(f, "core {core}: {:.3}% over 50 us, worst {worst_us} us  ", late_share * 100.0)?;
        }
        Ok(())
    }
}

/// Spins on every core for a while.
pub(crate) fn measure(seconds: u64) -> Hiccups {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let threads: Vec<_> = cores
        .into_iter()
        .map(|core| {
            std::thread::spawn(move || {
                core_affinity::set_for_current(core);
                let (late_share, worst_us) = spin(Duration::from_secs(seconds));
                Hiccup { core: core.id, late_share, worst_us }
            })
        })
        .collect();
    Hiccups(threads.into_iter().filter_map(|thread| thread.join().ok()).collect())
}

/// The share of 100 us windows in which a gap of over 50 us began, and the longest gap in us.
fn spin(time: Duration) -> (f64, u64) {
    let start = Instant::now();
    let (mut last, mut late, mut worst) = (start, 0u64, Duration::ZERO);
    while last - start < time {
        let now = Instant::now();
        let gap = now - last;
        late += u64::from(gap > Duration::from_micros(50));
        worst = worst.max(gap);
        last = now;
    }
    let windows = (time.as_micros() / 100).max(1) as f64;
    (late as f64 / windows, worst.as_micros() as u64)
}
