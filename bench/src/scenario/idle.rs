//! Memory of connections that do nothing. The other end lives in processes of its own: 20,000 descriptors are the
//! limit of one.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Scenario;
use crate::report::RunResult;
use crate::server::Server;
use crate::{cpu, progress};

/// Open before memory is looked at for the first time: what these cost is not told.
const FIRST: usize = 100;
/// Of one helper.
const HELD_MAX: usize = 9000;

impl Scenario {
    pub(super) fn run_idle(&self, what: &str) -> Result<RunResult> {
        if self.connections <= FIRST {
            bail!(
                "{} compares with the first {FIRST} connections: --connections is more than that",
                self.name
            );
        }
        let server = Server::start(what, self.placement())?;
        let bar = progress::bar(self.connections, self.name);
        let begin = Instant::now();
        let mut helpers = vec![Helper::start(server.port, 0, FIRST)?];
        let base = cpu::resident_kib(server.pid());
        let mut opened = FIRST;
        while opened < self.connections {
            bar.set_position(opened as u64);
            let next = HELD_MAX.min(self.connections - opened);
            helpers.push(Helper::start(server.port, opened, next)?);
            opened += next;
        }
        bar.finish_and_clear();
        let mut result = RunResult::new(self.name, what, self.connections, 0);
        result.connect_seconds = begin.elapsed().as_secs_f64();
        result.resident_kib = cpu::resident_kib(server.pid());
        result.descriptors = cpu::descriptors(server.pid());
        result.server_cpu_seconds = cpu::process(server.pid()).ran;
        let mut open = 0;
        for helper in &mut helpers {
            open += helper.open()?;
        }
        result.check_connected(&server, open);
        let each = result.resident_kib.saturating_sub(base) as f64 / (opened - FIRST) as f64;
        result.note = format!("{each:.2} KiB resident per connection beyond the first {FIRST} ({base} KiB)");
        result.kib_per_connection = each;
        Ok(result)
    }
}

impl RunResult {
    /// Fails where not everybody is connected any more: memory and time of those that are gone say nothing.
    pub(super) fn check_connected(&mut self, server: &Server, open: usize) {
        if open != self.connections {
            self.failures.push(format!("only {open} of {} connections are open", self.connections));
        }
        let until = Instant::now() + Duration::from_secs(1);
        // The server counts a moment later than it answers.
        while let Some(&clients) = server.counters().get("clients")
            && clients != self.connections as u64
        {
            if Instant::now() > until {
                let counted = format!("the server has {clients} clients, not {}", self.connections);
                return self.failures.push(counted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process that opens connections and holds them until it is ended.
struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    fn start(port: u16, first: usize, count: usize) -> Result<Self> {
        let own = std::env::current_exe().context("this program has no path")?;
        let mut child = Command::new(own)
            .args(["reference", &format!("hold:{first}:{count}"), "--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a helper can't be started")?;
        let stdin = child.stdin.take().context("a helper has no input")?;
        let stdout = BufReader::new(child.stdout.take().context("a helper has no output")?);
        let mut helper = Self { child, stdin, stdout };
        let line = helper.line()?;
        if line != "ready" {
            bail!("a helper could not open its connections: {line}");
        }
        Ok(helper)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("a helper says nothing")?;
        Ok(line.trim().to_owned())
    }

    /// How many of its connections are still open.
    fn open(&mut self) -> Result<usize> {
        self.stdin.write_all(b"\n").context("a helper does not listen")?;
        self.line()?.parse().context("a helper counts wrong")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
