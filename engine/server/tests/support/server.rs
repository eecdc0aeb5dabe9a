//! The real binary as a child process: started on free ports, read from, and always killed and reaped.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::client::{Client, Connect};
use super::http::{self, Response};
use super::raw::Raw;

/// Becomes a program that the kernel kills once the thread that started it has ended, be it that its test was killed:
/// a server that nobody drops does not outlive its test.
pub(crate) const ENDS_WITH_US: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// A running `corecast serve`. Dropping it kills and reaps the process.
pub(crate) struct Server {
    process: Process,
    shards: usize,
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// Where the demo page and metrics are.
    pub(crate) admin: SocketAddr,
}

/// How a server is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// `uring`, `epoll` or `glommio`.
    pub(crate) driver: &'static str,
    listen: SocketAddr,
    admin: SocketAddr,
    shards: usize,
    args: Vec<String>,
    env: Vec<(String, String)>,
    through: Vec<String>,
}

/// A server that ended before it served.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) status: ExitStatus,
    pub(crate) log: Vec<String>,
}

impl Server {
    /// A server on this driver, to be refined and started.
    pub(crate) fn on(driver: &'static str) -> Start {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (args, env, through) = (Vec::new(), Vec::new(), Vec::new());
        Start { driver, listen: any, admin: any, shards: 1, args, env, through }
    }

    /// All log lines so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.log.lines().0.clone()
    }

    /// The first log line that contains `text`, now or before the deadline.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        match self.process.log.wait_for(text) {
            Some(line) => line,
            None => panic!("no log line with {text:?} in:\n{}", self.log().join("\n")),
        }
    }

    /// The process, for signals and `/proc`.
    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Sends a signal, as `TERM` or `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill can be run").success(), "the process is there");
    }

    /// Waits until it serves; false if it ends instead.
    fn is_ready(&mut self) -> bool {
        let until = Instant::now() + DEADLINE;
        loop {
            if self.process.child.try_wait().expect("it is our child").is_some() {
                return false;
            }
            if [self.admin, self.clients].iter().all(|address| TcpStream::connect(address).is_ok()) {
                return true;
            }
            assert!(Instant::now() < until, "it neither serves nor ends");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it without a word, as the kernel does when memory is short.
    #[track_caller]
    pub(crate) fn kill(mut self) {
        self.process.child.kill().expect("it is our child");
        self.process.wait();
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// A client on this path, past `connection_established`.
    #[track_caller]
    pub(crate) fn connect(&self, path: &str) -> Client {
        self.to(path).open()
    }

    /// A client on this path as soon as there is a place for it: what another client left is given back soon, but
    /// not before that client knows.
    #[track_caller]
    pub(crate) fn connect_when_free(&self, path: &str) -> Client {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.to(path).try_open() {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < until, "no place is given back: {error}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// One client on each shard, in the order of the shards. The kernel spreads connections by their ports, so it
    /// takes some more to meet every shard.
    #[track_caller]
    pub(crate) fn connect_on_every_shard(&self, path: &str) -> Vec<Client> {
        const ATTEMPTS: usize = 500;
        let mut clients: Vec<Option<Client>> = (0..self.shards).map(|_| None).collect();
        for _ in 0..ATTEMPTS {
            let client = self.connect(path);
            let place = &mut clients[client.shard() as usize];
            if place.is_none() {
                *place = Some(client);
            }
            if clients.iter().all(Option::is_some) {
                return clients.into_iter().flatten().collect();
            }
        }
        panic!("{ATTEMPTS} connections did not reach all {} shards", self.shards);
    }

    /// A connection on this path, to be refined and opened.
    pub(crate) fn to(&self, path: &str) -> Connect {
        Connect::new(self.clients, path)
    }

    /// Plain TCP to where clients connect.
    pub(crate) fn raw(&self) -> Raw {
        Raw::connect(self.clients)
    }

    /// A plain TCP connection past its handshake; everything that the server sends is still to be read.
    #[track_caller]
    pub(crate) fn raw_upgraded(&self, path: &str) -> Raw {
        Raw::upgraded(self.clients, path)
    }

    /// A GET where clients connect.
    pub(crate) fn get(&self, path: &str) -> Response {
        http::get(self.clients, path)
    }

    /// A GET where operators connect.
    pub(crate) fn admin_get(&self, path: &str) -> Response {
        http::get(self.admin, path)
    }

    /// A counter or gauge of `/metrics`, named without its prefix, summed over all shards.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.admin_get("/metrics").body;
        let (of_a_shard, of_the_node) = (format!("corecast_{name}{{"), format!("corecast_{name} "));
        let values: Vec<u64> = page
            .lines()
            .filter(|line| line.starts_with(&of_a_shard) || line.starts_with(&of_the_node))
            .map(|line| line.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("a value"))
            .collect();
        assert!(!values.is_empty(), "there is no metric {name} in:\n{page}");
        values.iter().sum()
    }

    /// Waits until a metric has a wanted value.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, name: &str, is_wanted: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + DEADLINE;
        loop {
            let value = self.metric(name);
            if is_wanted(value) {
                return value;
            }
            assert!(Instant::now() < until, "{name} stays {value}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Start {
    /// With this many shards.
    pub(crate) fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// How many shards it will have.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards
    }

    /// With `--set key=value`.
    pub(crate) fn set(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.arg("--set").arg(&format!("{key}={value}"))
    }

    /// In this mode.
    pub(crate) fn mode(self, mode: &str) -> Self {
        self.arg("--mode").arg(mode)
    }

    /// With this argument behind all others.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// With this environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run by another program, which gets the server's command line behind its own arguments and must become it
    /// (exec), as a sandbox does.
    pub(crate) fn through(mut self, command: &[&str]) -> Self {
        self.through = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// On this address for clients instead of any that is free.
    pub(crate) fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// On this address for operators.
    pub(crate) fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// Starts it with a standard error that this process does not read, and waits until it serves.
    #[track_caller]
    pub(crate) fn start_unheard(mut self, stderr: impl Fn() -> Stdio) -> Server {
        const ATTEMPTS: usize = 5;
        for _ in 0..ATTEMPTS {
            // It can't say which ports it got, so it is told. Another process may take them before it does.
            let [clients, admin] = [free_port(), free_port()];
            (self.listen, self.admin) = (clients, admin);
            let process = Process::start(self.command(), stderr());
            let mut server = Server { process, shards: self.shards, clients, admin };
            if server.is_ready() {
                return server;
            }
        }
        panic!("{ATTEMPTS} servers ended before they served");
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(failed) => panic!("the server ended: {}\n{}", failed.status, failed.log.join("\n")),
        }
    }

    /// Starts it and waits until it serves or ends.
    ///
    /// # Errors
    /// How it ended and what it said.
    #[track_caller]
    pub(crate) fn try_start(self) -> Result<Server, Failed> {
        let mut process = Process::start(self.command(), Stdio::piped());
        let Some(line) = process.log.wait_for("demo page and metrics: ") else {
            // It ended, or it hangs: then this fails.
            let status = process.wait();
            return Err(Failed { status, log: process.log.lines().0.clone() });
        };
        let admin = address(&line, "http://");
        let clients = address(&process.log.wait_for("clients: ").expect("it comes before"), "ws://");
        Ok(Server { process, shards: self.shards, clients, admin })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(ENDS_WITH_US[0]);
        command.args(&ENDS_WITH_US[1..]).args(&self.through).arg(env!("CARGO_BIN_EXE_corecast"));
        command.args(["serve", "--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()]);
        command.args(["--driver", self.driver, "--shards", &self.shards.to_string()]).args(&self.args);
        // Nothing of the developer's own configuration.
        for (name, _) in std::env::vars().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A port that nobody has at the moment.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound")
}

fn is_ours(name: &str) -> bool {
    name == "RUST_LOG" || name.starts_with("CORECAST_") || name.starts_with("WS_")
}

/// The address behind `scheme`, up to the path.
fn address(line: &str, scheme: &str) -> SocketAddr {
    let rest = line.split(scheme).nth(1).unwrap_or_else(|| panic!("{scheme} in {line:?}"));
    let authority = rest.split('/').next().unwrap_or_default();
    authority.parse().unwrap_or_else(|_| panic!("an address in {line:?}"))
}

/// A child with its log; killed and reaped when dropped.
struct Process {
    child: Child,
    log: Arc<Log>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Process {
    fn start(mut command: Command, stderr: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let mut child = command.spawn().expect("setpriv (util-linux) can be run");
        let log = Arc::new(Log::default());
        let Some(stderr) = child.stderr.take() else {
            log.end();
            return Self { child, log, reader: None };
        };
        let into = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                into.push(String::from_utf8_lossy(&line).into_owned());
            }
            into.end();
        });
        Self { child, log, reader: Some(reader) }
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                // All that it said has been read once the pipe is closed.
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return status;
            }
            if Instant::now() >= until {
                panic!("the process goes on:\n{}", self.log.lines().0.join("\n"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            // Shown for failed tests only.
            eprintln!("the server's log:\n{}", self.log.lines().0.join("\n"));
        }
    }
}

/// Lines, and whether there will be no more.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: String) {
        self.lines().0.push(line);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lines().1 = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, text: &str) -> Option<String> {
        let until = Instant::now() + DEADLINE;
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
