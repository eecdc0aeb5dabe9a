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
    pub(crate) fn of(server: &Server) -> Self {
        let names = ["connections", "clients", "frames_in_use", "assembly_bytes"];
        Self(names.map(|name| (name, server.metric(name))).to_vec())
    }

    /// Connections in whatever state.
    pub(crate) fn connections(&self) -> u64 {
        self.0[0].1
    }

    /// Nothing, where nobody is connected.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(_, value)| value).sum()
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
        let filter = format!("( sport = :{} and dport = :{} )", self.clients.port(), peer.port());
        // Of the server's network, which may be its own.
        let network = format!("--net=/proc/{}/ns/net", self.pid());
        let output = Command::new("nsenter").args([&network, "ss", "-tmnHO", &filter]).output();
        let output = output.expect("nsenter can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "ss (iproute2) is needed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let memory = text.split("skmem:(").nth(1)?.split(')').next()?;
        Some(memory.split(',').map(bytes_held).sum())
    }
}

/// Of one of `ss`'s figures: `r` for receiving, `w` queued for sending, `f` reserved, `bl` backlog; others are limits
/// or counted in these already.
fn bytes_held(figure: &str) -> u64 {
    let digits = figure.trim_start_matches(|it: char| it.is_ascii_lowercase());
    let is_held = matches!(&figure[..figure.len() - digits.len()], "r" | "w" | "f" | "bl");
    if is_held { digits.parse().expect("a number") } else { 0 }
}
