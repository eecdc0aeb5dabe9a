//! Memory of channels: a great many with one subscriber each, from connections that have a hundred of them. Once with
//! names whose messages are kept, once with bare ones.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Scenario, apart, client_core, cores};
use crate::client::{Crowd, Gathering, Layout};
use crate::figure::Figure;
use crate::report::RunResult;
use crate::server::Server;
use crate::{cpu, progress};

/// Channels of each connection.
const EACH: usize = 100;
/// Connections that publish, to see that the channels work.
const PUBLISHERS: usize = 4;
/// Memory is looked at after so many parts of the connections have subscribed.
const STEPS: usize = 4;
/// For the server to give back what it needed for the moment.
const SETTLE: Duration = Duration::from_millis(500);
const KIB_MAX: f64 = 1.0;

impl Scenario {
    /// One server for each kind of name.
    pub(super) fn run_channels(&self, what: &str) -> Result<RunResult> {
        let kinds = [("numbered", "conversation:"), ("bare", "")];
        let runs = kinds.map(|(kind, namespace)| {
            let scenario = Self { namespace, ..self.clone() };
            let mut part = apart(|| scenario.run_channels_of(what))?;
            part.note = format!("{kind}: {}", part.note);
            Ok(part)
        });
        let parts = runs.into_iter().collect::<Result<Vec<RunResult>>>()?;
        let notes: Vec<String> = parts.iter().map(|it| it.note.clone()).collect();
        let figures = kinds.iter().zip(&parts).flat_map(|((kind, _), part)| {
            part.figures.iter().map(move |it| Figure { name: format!("{kind}: {}", it.name), ..it.clone() })
        });
        let figures = figures.collect();
        Ok(RunResult { note: notes.join("; "), figures, ..RunResult::worst_of(parts) })
    }

    fn run_channels_of(&self, what: &str) -> Result<RunResult> {
        let server = Server::start(what, self.placement())?;
        let job = Gathering {
            port: server.port,
            clients: self.connections,
            layout: Layout::Own(EACH),
            publishers: PUBLISHERS,
            watchers: 0,
            name: format!("{}c", self.namespace),
            rate: self.rate,
            size: self.size,
            is_numbered: !self.namespace.is_empty(),
            core: client_core(self.placement(), 0, cores()),
        };
        let bar = progress::bar(self.connections + PUBLISHERS, "connecting");
        let begin = Instant::now();
        let mut crowd = Crowd::open(job, || bar.inc(1))?;
        bar.finish_and_clear();
        let mut result = RunResult::new(self.name, what, self.connections + PUBLISHERS, self.size);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        crowd.settle_down();
        let resident = || {
            std::thread::sleep(SETTLE);
            cpu::resident_kib(server.pid()) as f64
        };
        let (empty, cpu_before) = (resident(), cpu::process(server.pid()).ran);
        let (mut seconds, mut steps) = (0.0, vec![empty]);
        let bar = progress::bar(self.connections, "subscribing");
        for step in 0..STEPS {
            let part = |step| self.connections * step / STEPS;
            seconds += crowd.subscribe(part(step), part(step + 1))?.as_secs_f64();
            bar.set_position(part(step + 1) as u64);
            steps.push(resident());
        }
        bar.finish_and_clear();
        let cpu_seconds = cpu::process(server.pid()).ran - cpu_before;
        result.server_cpu_seconds = cpu_seconds;
        result.tell_channels(self.connections * EACH, &steps, (seconds, cpu_seconds));
        // Now that they were counted: they work.
        crowd.publish();
        crowd.go_on(self.time())?;
        crowd.finish()?;
        result.rate = self.rate;
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.totals = server.counters();
        result.check_connected(&server, self.connections + PUBLISHERS);
        result.tell_crowd(&crowd);
        Ok(result)
    }
}

impl RunResult {
    /// `steps` are the server's resident KiB without any channel, and behind each part of them.
    fn tell_channels(&mut self, channels: usize, steps: &[f64], (seconds, cpu_seconds): (f64, f64)) {
        let (empty, full) = (steps[0], steps[steps.len() - 1]);
        let each = (full - empty) / channels as f64;
        self.figures.push(Figure::new("resident per channel", each, "KiB").at_most(KIB_MAX));
        self.figures.push(Figure::new("resident without channels", empty, "KiB"));
        for (step, pair) in steps.windows(2).enumerate() {
            let own = (pair[1] - pair[0]) / (channels as f64 / (steps.len() - 1) as f64);
            self.figures.push(Figure::new(format!("resident per channel, part {}", step + 1), own, "KiB"));
        }
        self.figures.push(Figure::new("channels", channels as f64, ""));
        self.figures.push(Figure::new("time to subscribe", seconds, "s"));
        self.figures.push(Figure::new(
            "server cpu per subscription",
            cpu_seconds * 1e6 / channels as f64,
            "us",
        ));
        self.note = format!("{each:.3} KiB per channel, {channels} subscribed in {seconds:.1} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_not_counted_as_channels() {
        let mut result = RunResult::default();
        result.tell_channels(1000, &[5000.0, 5500.0, 6500.0], (2.0, 1.0));
        let value = |name: &str| result.figures.iter().find(|it| it.name == name).map(|it| it.value);
        assert_eq!(value("resident per channel"), Some(1.5));
        assert_eq!(value("resident per channel, part 1"), Some(1.0));
        assert_eq!(value("resident per channel, part 2"), Some(2.0));
        assert_eq!(value("server cpu per subscription"), Some(1000.0));
    }
}
