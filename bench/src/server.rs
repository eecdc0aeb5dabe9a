//! Starts the server that is measured, pinned, on a free port, and always ends it.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
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
    /// `corecast` or its path and more of its flags, a reference's name, or a command line, pinned to the server's cores, with
    /// `{port}`, `{admin_port}`, `{cpus}` and `{shards}`.
    pub(crate) fn start(what: &str, placement: Placement) -> Result<Self> {
        let (port, admin_port) = (free_port()?, free_port()?);
        let own = std::env::current_exe().context("this program has no path")?;
        let (program, words) = command(what, placement, (port, admin_port), &own)?;
        let child = Command::new(&program)
            .args(&words)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| match program.as_str() {
                TASKSET => {
                    "taskset pins the server to its cores: install it (apt-get install util-linux)".to_owned()
                }
                _ => format!("{program} can't be started"),
            })?;
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

    /// The counters of corecast, summed over its shards; none of other servers.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (name, value) in self.shards().unwrap_or_default().into_iter().flatten() {
            *sums.entry(name).or_default() += value;
        }
        sums
    }

    /// How many connections each shard of corecast has.
    pub(crate) fn clients_by_shard(&self) -> Vec<u64> {
        let shards = self.shards().unwrap_or_default();
        shards.iter().filter_map(|it| it.get("clients").copied()).collect()
    }

    fn shards(&self) -> Option<Vec<BTreeMap<String, u64>>> {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        stream.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let json: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
        let counters = |shard: &serde_json::Value| {
            let counters = shard.as_object()?.iter();
            Some(counters.map(|(name, value)| (name.clone(), value.as_u64().unwrap_or(0))).collect())
        };
        json["shards"].as_array()?.iter().map(counters).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dead already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TASKSET: &str = "taskset";

/// Whether it is the hub, which has counters and takes settings.
pub(crate) fn is_corecast(what: &str) -> bool {
    let is_named = |it: &str| Path::new(it).file_name().is_some_and(|name| name == "corecast");
    // Whoever says where the port goes says everything.
    what.split_whitespace().next().is_some_and(is_named) && !what.contains("{port}")
}

/// Whether it is one of those that send the same bytes per message.
pub(crate) fn is_bundled(what: &str) -> bool {
    is_corecast(what) || REFERENCES.contains(&what)
}

const REFERENCES: [&str; 5] = ["floor", "raw", "tungstenite", "tungstenite-tuned", "keep"];

/// The program and its arguments.
fn command(
    what: &str,
    placement: Placement,
    (port, admin_port): (u16, u16),
    own: &Path,
) -> Result<(String, Vec<String>)> {
    let cpus = (0..placement.cores).map(|core| core.to_string()).collect::<Vec<_>>().join(",");
    let (port, admin_port, shards) = (port.to_string(), admin_port.to_string(), placement.shards.to_string());
    let own_words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    if REFERENCES.contains(&what) {
        let words = own_words(&["reference", what, "--port", &port, "--cpu", "0"]);
        return Ok((own.display().to_string(), words));
    }
    if is_corecast(what) {
        let more: Vec<String> = what.split_whitespace().skip(1).map(str::to_owned).collect();
        let mut words = own_words(&["serve", "--no-limits", "--echo"]);
        for (flag, value) in [
            ("--mode", "development"),
            ("--listen", &format!("127.0.0.1:{port}")),
            ("--admin", &format!("127.0.0.1:{admin_port}")),
            ("--shards", &shards),
            ("--cpus", &cpus),
        ] {
            // What was asked for replaces ours.
            if !more.iter().any(|it| it == flag) {
                words.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        words.extend(more);
        // A name alone is the one beside this program; a path is that of an older or newer one.
        let program = what.split_whitespace().next().filter(|it| it.contains('/'));
        let program = program.map_or_else(|| own.with_file_name("corecast"), PathBuf::from);
        return Ok((program.display().to_string(), words));
    }
    let mut words = own_words(&["-c", &cpus]);
    words.extend(what.split_whitespace().map(|word| {
        word.replace("{port}", &port)
            .replace("{admin_port}", &admin_port)
            .replace("{cpus}", &cpus)
            .replace("{shards}", &shards)
    }));
    if words.len() == 2 {
        bail!("no server was named");
    }
    Ok((TASKSET.to_owned(), words))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr().context("no address")?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &str) -> String {
        let placement = Placement { shards: 2, cores: 2 };
        let (program, words) =
            command(what, placement, (80, 81), Path::new("/x/corecast-bench")).expect("a command");
        format!("{program} {}", words.join(" "))
    }

    #[test]
    fn any_command_line_is_pinned() {
        assert_eq!(
            line("hub --port {port} --admin={admin_port} -t {shards} {cpus}"),
            "taskset -c 0,1 hub --port 80 --admin=81 -t 2 0,1"
        );
        assert!(command(" ", Placement { shards: 1, cores: 1 }, (1, 2), Path::new("x")).is_err());
    }

    #[test]
    fn what_is_asked_of_corecast_replaces_what_the_bench_says() {
        let line = line("corecast --shards 1 --set a.b=c");
        assert!(line.starts_with("/x/corecast serve"), "{line}");
        assert!(line.ends_with("--cpus 0,1 --shards 1 --set a.b=c"), "{line}");
        assert_eq!(line.matches("--shards").count(), 1, "{line}");
    }

    #[test]
    fn another_corecast_is_named_by_its_path() {
        let line = line("/old/corecast --driver epoll");
        assert!(line.starts_with("/old/corecast serve") && line.ends_with("--driver epoll"), "{line}");
        assert!(is_corecast("./corecast") && !is_corecast("/old/corecast-bench reference floor"));
    }
}
