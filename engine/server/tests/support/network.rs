//! Networks of a test's own, in which a peer can vanish: links between two network namespaces that can be cut.
//!
//! Nothing of it is left behind: the namespaces have no names and end with their processes.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use super::server::{ENDS_WITH_US, Server};

/// Set in the process that has a network of its own.
const MARK: &str = "CORECAST_TEST_NETWORK";

/// Set by who wants to go without these tests; they say so.
const SKIP: &str = "CORECAST_SKIP_NETWORK_TESTS";

/// What gets a server a network of its own.
pub(crate) const OWN_NETWORK: [&str; 3] = ["unshare", "--net", "--"];

/// Runs a test in a network of its own: this program once more, with this test alone. Where that can't be, the test
/// fails and says what is missing.
#[track_caller]
pub(crate) fn in_own_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    if let Err(missing) = probe() {
        assert!(
            std::env::var_os(SKIP).is_some(),
            "{test} needs root, unshare and nsenter (util-linux) and ip and ss (iproute2): {missing}\n\
             Set {SKIP}=1 to go without what is tested here."
        );
        eprintln!("SKIPPED: {test}: {missing}");
        return;
    }
    let this = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(ENDS_WITH_US[0]);
    command
        .args(&ENDS_WITH_US[1..])
        .args(OWN_NETWORK)
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(MARK, "1");
    let output = command.output().expect("it was probed");
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    assert!(said.contains("test result: ok. 1 passed"), "{test} is the name of a test: {said}");
}

fn probe() -> Result<(), String> {
    let output = Command::new(OWN_NETWORK[0])
        .args(&OWN_NETWORK[1..])
        .args(["sh", "-c", "ip link set lo up && ss -tmnHO && nsenter --net=/proc/self/ns/net true"])
        .output();
    match output {
        Err(error) => Err(format!("unshare: {error}")),
        Ok(output) if !output.status.success() => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => Ok(()),
    }
}

/// A cable from this network to a server's own.
pub(crate) struct Link {
    name: String,
    /// The server's address at the other end.
    pub(crate) server: IpAddr,
}

impl Link {
    /// Lays the cable of this number, from 1.
    #[track_caller]
    pub(crate) fn lay(server: &Server, number: u8) -> Self {
        let (name, pid) = (format!("cable{number}"), server.pid().to_string());
        let [ours, theirs] = [1, 2].map(|host| Ipv4Addr::new(10, 77, number, host));
        let far = format!("far{number}");
        ip(&["link", "add", &name, "type", "veth", "peer", "name", &far, "netns", &pid]);
        ip(&["addr", "add", &format!("{ours}/24"), "dev", &name]);
        ip(&["link", "set", &name, "up"]);
        let there = |args: &[&str]| {
            let network = format!("--net=/proc/{pid}/ns/net");
            let mut command = Command::new("nsenter");
            succeed(command.args([&network, "ip"]).args(args));
        };
        there(&["addr", "add", &format!("{theirs}/24"), "dev", &far]);
        there(&["link", "set", &far, "up"]);
        Self { name, server: theirs.into() }
    }

    /// Nothing passes any more, in either direction, and nobody is told.
    #[track_caller]
    pub(crate) fn cut(&self) {
        ip(&["link", "set", &self.name, "down"]);
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    succeed(Command::new("ip").args(args));
}

#[track_caller]
fn succeed(command: &mut Command) {
    let output = command.output().expect("it can be run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
