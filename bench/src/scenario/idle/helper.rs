//! A process that holds the other ends of connections, and what it is asked.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Opens connections and holds them until it is ended.
pub(super) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Returns when all are open.
    pub(super) fn start(port: u16, first: usize, count: usize) -> Result<Self> {
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

    /// How many of its connections answer a ping.
    pub(super) fn ping(&mut self) -> Result<usize> {
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
