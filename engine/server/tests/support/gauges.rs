//! What a server holds: its own gauges, its resident memory, and the kernel's memory for one of its sockets.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::server::Server;

/// The gauges that must return to where they began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gauges(Vec<(&'static str, u64)>);

impl Gauges {
    /// As they are now.
    #[track_caller]
    fn of(server: &Server) -> Self {
        let names =
            ["connections", "clients", "frames_in_use", "held_bytes", "spilled_bytes", "assembly_bytes"];
        Self(names.map(|name| (name, server.metric(name))).to_vec())
    }

    /// As they are once nothing is under way. A client may have read what its shard does not yet know to be sent.
    #[track_caller]
    pub(crate) fn settled(server: &Server) -> Self {
        let until = Instant::now() + DEADLINE;
        loop {
            let now = Self::of(server);
            if now.is_idle() {
                return now;
            }
            assert!(Instant::now() < until, "a server to which nothing happens holds something: {now:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether there is nothing but connections.
    fn is_idle(&self) -> bool {
        self.0.iter().all(|&(name, value)| value == 0 || matches!(name, "connections" | "clients"))
    }

    /// Connections in whatever state.
    pub(crate) fn connections(&self) -> u64 {
        self.0[0].1
    }

    /// Waits until nobody is connected and nothing is left of anybody.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(server: &Server) {
        server.wait_for_metric("connections", |connections| connections == 0);
        let left = Self::settled(server);
        assert!(left.0.iter().all(|&(_, value)| value == 0), "something is left: {left:?}");
    }

    /// Waits until the server is where it was.
    #[track_caller]
    pub(crate) fn assert_back(&self, server: &Server) {
        let until = Instant::now() + DEADLINE;
        loop {
            let now = Self::of(server);
            if now == *self {
                return;
            }
            if Instant::now() >= until {
                let page = server.admin_get("/metrics").body;
                // One more turn of the loop: does it count wrong, or does it hold something?
                assert_eq!(server.get("/health").status, 200);
                let later = Self::of(server);
                panic!("{now:?}, and after another turn {later:?}, is not where it began: {self:?}\n{page}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Server {
    /// Resident memory in KiB.
    #[track_caller]
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }

    /// Bytes that the kernel holds for the server's end of a connection: received, queued, reserved. Nothing if
    /// there is no such connection any more.
    #[track_caller]
    pub(crate) fn kernel_bytes(&self, peer: SocketAddr) -> Option<u64> {
        let text = self.socket(peer, "-tmnHO");
        let memory = text.split("skmem:(").nth(1)?.split(')').next()?;
        Some(memory.split(',').map(bytes_held).sum())
    }

    /// Bytes that the server may send on a connection before they are acknowledged, as far as the peer is concerned.
    #[track_caller]
    pub(crate) fn send_window(&self, peer: SocketAddr) -> u64 {
        let text = self.socket(peer, "-tinHO");
        let window = text.split_whitespace().find_map(|word| word.strip_prefix("snd_wnd:"));
        let window = window.unwrap_or_else(|| panic!("ss and the kernel tell windows (Linux 5.4): {text:?}"));
        window.parse().expect("a number")
    }

    /// What `ss` says of the server's end of a connection.
    #[track_caller]
    fn socket(&self, peer: SocketAddr, options: &str) -> String {
        let network =
            |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it has a network");
        let pid = self.pid().to_string();
        let mut command = Command::new("ss");
        // Only root may look into the network of a server that has its own.
        if network("self") != network(&pid) {
            command = Command::new("nsenter");
            command.args([&format!("--net=/proc/{pid}/ns/net"), "ss"]);
        }
        let filter = format!("( sport = :{} and dport = :{} )", self.clients.port(), peer.port());
        let output = match command.args([options, &filter]).output() {
            Ok(output) => output,
            Err(error) => panic!("ss (iproute2) or nsenter (util-linux) is missing: {command:?}: {error}"),
        };
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Of one of `ss`'s figures: `r` for receiving, `w` queued for sending, `f` reserved, `bl` backlog; others are limits
/// or counted in these already.
fn bytes_held(figure: &str) -> u64 {
    let digits = figure.trim_start_matches(|it: char| it.is_ascii_lowercase());
    let is_held = matches!(&figure[..figure.len() - digits.len()], "r" | "w" | "f" | "bl");
    if is_held { digits.parse().expect("a number") } else { 0 }
}
