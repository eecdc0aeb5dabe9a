//! How a worker spends its time: what share of it was left, and how long one turn's reading took.
//!
//! Times are nanoseconds since the run's start.

use hdrhistogram::Histogram;

use super::inbox::histogram;

/// Where the time between two moments went.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    from: u64,
    to: u64,
    turn_began: Option<u64>,
    reading_began: Option<u64>,
    waited: u64,
    is_busy: bool,
    busy_ns: u64,
    span_ns: u64,
    /// What turns that read anything spent on it: a message that comes meanwhile is seen as much later.
    pub(crate) reading_ns: Histogram<u64>,
}

impl Effort {
    /// Counts turns that begin in `[from, to)`.
    pub(crate) fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            turn_began: None,
            reading_began: None,
            waited: 0,
            is_busy: false,
            busy_ns: 0,
            span_ns: 0,
            reading_ns: histogram(),
        }
    }

    /// A turn begins, and so the one before it is over.
    pub(crate) fn turn(&mut self, now: u64) {
        if let Some(began) = self.turn_began.replace(now)
            && (self.from..self.to).contains(&began)
        {
            let time = now.saturating_sub(began);
            self.span_ns += time;
            if self.is_busy {
                self.busy_ns += time.saturating_sub(self.waited);
            }
            if let Some(began) = self.reading_began {
                self.reading_ns.saturating_record(now.saturating_sub(began).max(1));
            }
        }
        (self.is_busy, self.waited, self.reading_began) = (false, 0, None);
    }

    /// This turn found something to do.
    pub(crate) fn is_busy(&mut self) {
        self.is_busy = true;
    }

    /// This turn slept so long.
    pub(crate) fn waited(&mut self, time_ns: u64) {
        self.waited += time_ns;
    }

    /// This turn has something to read, from now to its end.
    pub(crate) fn reads(&mut self, now: u64) {
        self.is_busy = true;
        self.reading_began = Some(now);
    }

    /// Of all time, the share in which there was nothing to do.
    pub(crate) fn idle_share(&self) -> f64 {
        if self.span_ns == 0 { 1.0 } else { (self.span_ns - self.busy_ns) as f64 / self.span_ns as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_time_not_of_turns() {
        let mut effort = Effort::new(0, 1_000);
        // Nine short turns without work, and one long one with it.
        for turn in 0..9 {
            effort.turn(turn * 10);
        }
        effort.turn(90);
        effort.is_busy();
        effort.turn(900);
        assert_eq!(effort.idle_share(), 0.1);
    }

    #[test]
    fn sleep_is_no_work() {
        let mut effort = Effort::new(0, 1_000);
        effort.turn(0);
        effort.waited(75);
        effort.is_busy();
        effort.turn(100);
        assert_eq!(effort.idle_share(), 0.75);
    }

    #[test]
    fn only_the_window_counts() {
        let mut effort = Effort::new(100, 200);
        assert_eq!(effort.idle_share(), 1.0, "nothing was done yet");
        effort.turn(0);
        effort.is_busy();
        effort.turn(100);
        effort.turn(200);
        effort.is_busy();
        effort.turn(300);
        assert_eq!(effort.idle_share(), 1.0, "busy before and after");
    }

    #[test]
    fn reading_is_timed_to_the_end_of_its_turn() {
        let mut effort = Effort::new(0, 1_000);
        effort.turn(0);
        effort.reads(40);
        effort.turn(100);
        effort.turn(200);
        assert_eq!((effort.reading_ns.len(), effort.reading_ns.max()), (1, 60));
    }
}
