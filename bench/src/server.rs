//! Starts the server that is measured, pinned, on a free port, and always ends it.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    /// Of corecast: where its statistics are.
    pub(crate) admin_port: u16,
}

/// How to run it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) shards: usize,
    /// Cores 0 to `cores - 1` are the server's.
    pub(crate) cores: usize,
}

impl Server {
    /// `corecast`, a reference's name, or a command line with `{port}`.
    pub(crate) fn start(what: &str, placement: Placement) -> Result<Self> {
        let (port, admin_port) = (free_port()?, free_port()?);
        let own = std::env::current_exe().context("this program has no path")?;
        let mut words: Vec<String> = match what.split_whitespace().next().unwrap_or_default() {
            "floor" | "raw" | "tungstenite" => {
                let own = own.display().to_string();
                [&own, "reference", what, "--port", &port.to_string(), "--cpu", "0"]
                    .map(str::to_owned)
                    .to_vec()
            }
            "corecast" => {
                let binary = own.with_file_name("corecast").display().to_string();
                let cpus = (0..placement.cores).map(|core| core.to_string()).collect::<Vec<_>>().join(",");
                let mut words: Vec<String> = [
                    &binary,
                    "serve",
                    "--mode",
                    "development",
                    "--no-limits",
                    "--echo",
                    "--listen",
                    &format!("127.0.0.1:{port}"),
                    "--admin",
                    &format!("127.0.0.1:{admin_port}"),
                    "--shards",
                    &placement.shards.to_string(),
                    "--cpus",
                    &cpus,
                ]
                .map(str::to_owned)
                .to_vec();
                words.extend(what.split_whitespace().skip(1).map(str::to_owned));
                words
            }
            _ => what.split_whitespace().map(|word| word.replace("{port}", &port.to_string())).collect(),
        };
        if words.is_empty() {
            bail!("no server was named");
        }
        let program = words.remove(0);
        let child = Command::new(&program)
            .args(&words)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} can't be started"))?;
        let mut server = Self { child, port, admin_port };
        server.await_ready()?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().context("the server can't be watched")? {
                bail!("the server ended at once: {status}");
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the server does not answer on port {}", self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A counter of corecast summed over its shards; `None` for other servers.
    pub(crate) fn counter(&self, name: &str) -> Option<u64> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        stream.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let json: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1)?).ok()?;
        Some(json["shards"].as_array()?.iter().filter_map(|shard| shard[name].as_u64()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr().context("no address")?.port())
}
