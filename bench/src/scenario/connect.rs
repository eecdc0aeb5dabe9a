//! Handshakes only, from several threads on the client's cores so that the server never waits for one of them.

use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Result, anyhow};
use indicatif::ProgressBar;

use super::{Scenario, client_core, cores};
use crate::client::{is_open, open};
use crate::report::RunResult;
use crate::server::Server;
use crate::{cpu, progress};

const THREADS: usize = 8;
/// A thread tells the bar so often.
const STRIDE: usize = 64;

impl Scenario {
    pub(super) fn run_connect(&self, what: &str) -> Result<RunResult> {
        let placement = self.placement();
        let server = Server::start(what, placement)?;
        let before = cpu::process(server.pid()).ran;
        let (port, threads) = (server.port, THREADS.min(self.connections));
        let spare = cores().saturating_sub(placement.cores).max(1);
        let bar = progress::bar(self.connections, self.name);
        let begin = Instant::now();
        let openers: Vec<_> = (0..threads)
            .map(|thread| {
                let numbers: Vec<usize> = (thread..self.connections).step_by(threads).collect();
                let core = client_core(placement, thread % spare, cores());
                let bar = bar.clone();
                std::thread::spawn(move || open_all(port, &numbers, core, &bar))
            })
            .collect();
        let mut streams = Vec::new();
        for opener in openers {
            streams.extend(opener.join().map_err(|_| anyhow!("an opener panicked"))??);
        }
        let mut result = RunResult::new(self.name, what, self.connections, 0);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        result.server_cpu_seconds = cpu::process(server.pid()).ran - before;
        bar.finish_and_clear();
        result.judge_connect(placement.cores);
        let open = streams.iter_mut().filter_map(|it| is_open(it).then_some(())).count();
        result.check_connected(&server, open);
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.note = format!(
            "{open} handshakes in {:.2} s, server {:.0}% busy",
            result.connect_seconds,
            result.server_busy_share.unwrap_or(0.0) * 100.0
        );
        Ok(result)
    }
}

fn open_all(port: u16, numbers: &[usize], core: usize, bar: &ProgressBar) -> Result<Vec<TcpStream>> {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let mut streams = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(STRIDE) {
        for number in numbers {
            streams.push(open(port, *number, "/ws")?.stream);
        }
        bar.inc(numbers.len() as u64);
    }
    Ok(streams)
}
