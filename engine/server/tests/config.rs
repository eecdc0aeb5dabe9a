//! Configuration as an operator meets it: what the real binary refuses, where it says so, and which value wins.

mod support;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use corecast_server::config::{ConfigFile, Settings, Sources, names, namespace_names};
use serde_json::Value;
use support::configuration::{File, assert_contains, corecast, problems, run, valid};
use support::{DEADLINE, Server, Start};

/// Fails unless the server ends with this code, and its last line says all of this.
#[track_caller]
fn assert_fails(start: Start, code: i32, says: &[&str]) {
    let Err(failed) = start.try_start() else { panic!("the server serves") };
    assert_eq!(failed.status.code(), Some(code), "{:#?}", failed.log);
    let last = failed.log.last().expect("it says why");
    for text in says {
        assert!(last.contains(text), "no {text:?} in {:#?}", failed.log);
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for (args, says) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["serve", "--nonsense"], "--nonsense"),
        (&["frobnicate"], "frobnicate"),
        (&["serve", "--config"], "--config <FILE>"),
        (&["serve", "--set", "limits.connections"], "KEY=VALUE"),
        (&["serve", "--echo=maybe"], "--echo"),
    ] {
        let (code, out, lines) = run(&mut corecast(args));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert_contains(&lines, says);
    }
}

#[test]
fn the_version_names_drivers_and_kernel() {
    let (code, out, _) = run(&mut corecast(&["--version"]));
    assert_eq!(code, 0);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("this is Linux");
    for text in [
        format!("corecast {}\n", env!("CARGO_PKG_VERSION")),
        format!("kernel {}\n", release.trim()),
        "driver uring: ".to_owned(),
        "driver epoll: available\n".to_owned(),
        "driver glommio: ".to_owned(),
    ] {
        assert!(out.contains(&text), "no {text:?} in {out}");
    }
    if out.contains("driver uring: available") {
        assert!(out.contains("multishot recv") && out.contains("msg_ring"), "{out}");
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let file = File::new(
        "problems",
        r#"mode = "staging"
colour = "red"
[limits]
mesage_bytes = 5
connections = -1
heartbeat_interval_ms = "30s"
json_depth = 4.5
[socket]
backlog = true
[log]
format = 'xml'
level = "loud"
[nowhere]
x = 1
[compression]
mode = "best"
level = 0
threshold_bytes = "1k"
"#,
    );
    file.assert_problems(&[
        (1, "`mode` must be one of demo, development, production"),
        (2, "there is no key `colour`"),
        (4, "there is no key `limits.mesage_bytes`; did you mean `limits.message_bytes`?"),
        (5, "`limits.connections` must be a whole number from 0 to "),
        (6, "`limits.heartbeat_interval_ms` must be a whole number from 0 to "),
        (7, "`limits.json_depth` must be a whole number from 1 to 128"),
        (9, "`socket.backlog` must be a whole number from 1 to 65535"),
        (11, "`log.format` must be one of text, json"),
        (12, "`log.level` must be one of error, warn, info, debug, trace"),
        (13, "there is no key `nowhere`"),
        (16, "`compression.mode` must be one of off, standard, adaptive"),
        (17, "`compression.level` must be a whole number from 1 to 9"),
        (18, "`compression.threshold_bytes` must be a whole number from 0 to "),
    ]);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let file = File::new(
        "contradictions",
        r#"listen = "0.0.0.0:7000"
admin = "127.0.0.1:7000"
mode = "production"
echo = true
no_limits = true
[limits]
outbox_bytes = 1000
message_bytes = 70_000
[shard]
recv_buffers = 1000
[rings]
inline_bytes = 1_000_000
"#,
    );
    file.assert_problems(&[
        (2, "`admin` needs a port of its own: `listen` is 0.0.0.0:7000"),
        (3, "production mode needs authentication, which this version does not have yet"),
        (4, "`echo` is refused in production"),
        (5, "`no_limits` is refused in production"),
        (7, "`limits.outbox_bytes` must be at least twice `limits.message_bytes`: 140000 or more here"),
        (10, "`shard.recv_buffers` must be a power of two, as 1024"),
        (12, "`rings.inline_bytes` must be at most a quarter of a ring: 65532 or less here"),
    ]);
    // The place is that of the value which somebody set, not of a default.
    let file = File::new("default", "[rings]\nrequest_bytes = 64\n[limits]\nmessage_bytes = 4_000_000\n");
    file.assert_problems(&[
        (2, "`rings.inline_bytes` must be at most a quarter of a ring: 12 or less here"),
        (4, "`limits.outbox_bytes` must be at least twice `limits.message_bytes`: 8000000 or more here"),
    ]);
}

#[test]
fn all_problems_of_flags_and_environment_are_told_at_once() {
    let args = [
        "--shards=999",
        "--listen=nowhere",
        "--admin=unix:",
        "--driver=kqueue",
        "--cpus=3-1",
        "--set=nonsense=1",
    ];
    let env = [
        ("CORECAST_LIMITS__CONECTIONS", "3"),
        ("CORECAST_HTTP__PREFIX", "api"),
        ("WS_AUTH_REQUIRED", "maybe"),
        ("WS_MAX_CONNECTIONS", "many"),
    ];
    let got = problems(&args, &env);
    for says in [
        "corecast: --shards: `shards` must be a whole number from 0 to 128",
        "corecast: --listen: `listen` must be ADDRESS:PORT, as 127.0.0.1:8080",
        "corecast: --admin: `admin` needs a path behind unix:",
        "corecast: --driver: `driver` must be one of auto, uring, epoll, glommio",
        "corecast: --cpus: `cpus` must be a list as 0,2,4-7, not `3-1`",
        "corecast: --set nonsense=1: there is no key `nonsense`",
        "corecast: environment variable CORECAST_LIMITS__CONECTIONS: there is no key `limits.conections`; did you",
        "corecast: environment variable CORECAST_HTTP__PREFIX: `http.prefix` must begin with /",
        "corecast: environment variable WS_AUTH_REQUIRED: must be true or false, not `maybe`",
        "corecast: environment variable WS_MAX_CONNECTIONS: `limits.connections` must be a whole number",
    ] {
        assert_contains(&got, says);
    }
    assert_eq!(got.len(), 10, "{got:#?}");
}

#[cfg(not(feature = "glommio"))]
#[test]
fn a_driver_that_is_not_built_in_is_refused() {
    let wanted = "corecast: --driver: the glommio driver is not built in: use uring or epoll, or build the server with \
                  --features glommio";
    assert_eq!(problems(&["--driver=glommio"], &[]), [wanted]);
}

#[cfg(feature = "glommio")]
#[test]
fn glommio_says_where_it_runs_and_what_it_lacks() {
    let server = Server::on("glommio").shards(2).start();
    server.wait_for_line("2 shards on glommio");
    assert!(server.admin_get("/stats").body.contains(r#""driver":"glommio""#));
    let (code, out, _) = run(&mut corecast(&["--version"]));
    assert_eq!(code, 0);
    assert!(out.contains("driver glommio: available\n"), "{out}");
    // Even root is refused below a bound that glommio has set.
    let short = Server::on("glommio").through(&["prlimit", "--memlock=65536:65536", "--"]);
    let says = [" ERROR ", "glommio can't run here", "it is 65536", "ulimit -l", "LimitMEMLOCK"];
    assert_fails(short, 1, &says);
}

#[test]
fn production_is_refused_whoever_asks_for_it() {
    let file = File::new("production", "# a comment\nmode = \"production\"\n");
    let place = format!("{}:2: ", file.path());
    for (args, env, place) in [
        (&["--mode", "production"][..], &[][..], "--mode: "),
        (&[], &[("CORECAST_MODE", "production")], "environment variable CORECAST_MODE: "),
        (&["--config", file.path()], &[], &place),
    ] {
        let got = problems(args, env);
        assert_eq!(got.len(), 1, "{got:#?}");
        let says = "production mode needs authentication, which this version does not have yet";
        assert!(got[0].starts_with(&format!("corecast: {place}{says}")), "{got:#?}");
    }
    for (flag, says) in [("--echo", "`echo` is refused"), ("--no-limits", "`no_limits` is refused")] {
        let got = problems(&["--mode", "production", flag], &[]);
        assert_contains(&got, &format!("corecast: {flag}: {says} in production"));
    }
    assert_contains(
        &problems(&[], &[("WS_AUTH_REQUIRED", "true")]),
        "authentication is not part of this version",
    );
    valid(&["--mode", "development", "--echo", "--no-limits"], &[("WS_AUTH_REQUIRED", "false")]);
}

#[test]
fn files_that_are_none_are_refused() {
    let syntax = File::new("syntax", "mode = \"demo\"\n[limits\nconnections = 3\n");
    syntax.assert_problems(&[(2, "unclosed table")]);
    let twice = File::new("twice", "echo = true\n[limits]\nconnections = 3\nconnections = 4\n");
    twice.assert_problems(&[(4, "duplicate key")]);
    let latin = File::new("latin", b"mode = \"demo\"\n[node]\nname = \"caf\xe9\"\n");
    latin.assert_problems(&[(3, "this is not UTF-8")]);
    for (path, says) in [
        ("/nonexistent/corecast.toml", "can't be read: No such file"),
        (env!("CARGO_TARGET_TMPDIR"), "can't be read: Is a directory"),
    ] {
        let got = problems(&["--config", path], &[]);
        assert_eq!(got.len(), 1, "{got:#?}");
        assert!(got[0].starts_with(&format!("corecast: {path}: {says}")), "{got:#?}");
    }
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    let said = "the configuration is valid: mode demo, listening on 127.0.0.1:8080\n";
    assert_eq!(valid(&[], &[]), said);
    let empty = File::new("empty", "");
    assert_eq!(valid(&["--config", empty.path()], &[]), said);
    let comments = File::new("comments", "\u{feff}# nothing yet\r\n\r\n[limits]\r\n");
    assert_eq!(valid(&["--config", comments.path()], &[]), said);
}

#[test]
fn flags_win_over_environment_over_file_over_profile_over_defaults() {
    let file = File::new("layers", "listen = \"127.0.0.1:7002\"\nprofile = \"low-latency\"\n");
    let file = ["--config", file.path()];
    let env = [("CORECAST_LISTEN", "127.0.0.1:7003")];
    let flag = ["--config", file[1], "--listen", "127.0.0.1:7004"];
    let last = ["--config", file[1], "--listen", "127.0.0.1:7004", "--set", "listen=127.0.0.1:7005"];
    assert!(valid(&[], &[]).ends_with(" 127.0.0.1:8080\n"));
    assert!(valid(&["--set", "profile=low-latency"], &[]).ends_with(" 0.0.0.0:8081\n"));
    assert!(valid(&file, &[]).ends_with(" 127.0.0.1:7002\n"));
    assert!(valid(&file, &env).ends_with(" 127.0.0.1:7003\n"));
    assert!(valid(&flag, &env).ends_with(" 127.0.0.1:7004\n"));
    assert!(valid(&last, &env).ends_with(" 127.0.0.1:7005\n"));
}

/// The limit of connections that a starting server tells.
#[track_caller]
fn connections(start: Start) -> usize {
    let line = start.start().wait_for_line(" connections");
    let number =
        line.split("up to ").nth(1).and_then(|it| it.split(' ').next()).and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {line:?}"))
}

#[test]
fn names_of_other_hubs_are_understood() {
    let file = File::new("names", "[limits]\nconnections = 101\n[http]\nprefix = \"/file\"\n");
    let start = || Server::on("epoll").arg("--config").arg(file.path());
    assert_eq!(connections(start()), 101);
    let environment = || start().env("WS_MAX_CONNECTIONS", "102").env("WS_ENDPOINT", "/api/v1/ws/demo");
    assert_eq!(connections(environment()), 102);
    // The name of our own is the more specific one.
    assert_eq!(connections(environment().env("CORECAST_LIMITS__CONNECTIONS", "103")), 103);
    assert_eq!(connections(environment().set("limits.connections", 104)), 104);

    let server = environment().start();
    server.wait_for_line("/api/v1/ws/demo");
    let config: Value = serde_json::from_str(&server.admin_get("/config.json").body).expect("JSON");
    assert_eq!(config["path"], "/api/v1/ws/demo");
    server.connect("/api/v1/ws/demo").close();
    assert_eq!(server.get("/file/health").status, 404);
}

#[test]
fn profiles_are_sets_of_defaults() {
    let profile = |name: &str| Server::on("uring").set("profile", name);
    assert_eq!(connections(profile("edge")), 1000);
    assert_eq!(connections(profile("regional")), 5000);
    assert_eq!(connections(profile("edge").set("limits.connections", 64)), 64);
    let auto = connections(Server::on("uring"));
    assert_eq!(connections(profile("core")), auto, "core takes what the host allows");
    assert_eq!(connections(profile("none")), auto);

    let server = profile("low-latency").start();
    let client = server.connect("/ws/demo");
    assert_eq!(client.established["max_message_bytes"], 65_536);
    assert_contains(
        &problems(&["--set", "profile=fast"], &[]),
        "one of none, edge, regional, core, low-latency",
    );
}

#[test]
fn the_environment_of_others_is_none_of_our_business() {
    let bytes = OsStr::from_bytes(b"caf\xe9");
    let (code, out, lines) = run(corecast(&["check-config"]).env("NAME", bytes).env(bytes, "1"));
    assert_eq!((code, lines.as_slice()), (0, [].as_slice()), "{out}");
    let (code, _, lines) = run(corecast(&["check-config"]).env("CORECAST_MODE", bytes));
    assert_eq!(code, 2);
    assert_contains(&lines, "environment variable CORECAST_MODE: `mode` must be one of demo");
}

#[test]
fn the_log_is_json_where_wanted() {
    let server = Server::on("epoll").set("log.format", "json").start();
    for line in server.log() {
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert_eq!(line["level"], "INFO");
        assert!(line["message"].is_string(), "{line}");
    }
}

#[test]
fn a_port_in_use_is_a_failure_at_run_time() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let in_use = |what: &str, address: &str| format!("{what} {address}: Address already in use");
    for driver in ["uring", "epoll"] {
        let start = || Server::on(driver).shards(2);
        assert_fails(start().set("listen", &address), 1, &[" ERROR ", &in_use("can't listen on", &address)]);
        assert_fails(start().set("admin", &address), 1, &[&in_use("admin can't listen on", &address)]);
        // Another hub would share it if it could, and each client would meet one of the two by chance.
        let other = start().start();
        let theirs = other.clients.to_string();
        assert_fails(start().set("listen", &theirs), 1, &[&in_use("can't listen on", &theirs)]);
        other.connect("/ws/demo").close();
        // Once it is gone the port is free at once, whatever of its connections the kernel still remembers.
        drop(other);
        start().set("listen", &theirs).start().connect("/ws/demo").close();
    }
    assert_fails(Server::on("epoll").set("listen", "192.0.2.1:0"), 1, &["can't listen on 192.0.2.1:0"]);
}

#[test]
fn what_the_host_refuses_is_a_failure_at_run_time() {
    assert_fails(
        Server::on("epoll").set("limits.connections", 1 << 24),
        1,
        &["limits.connections = 16777216"],
    );
    assert_fails(Server::on("epoll").set("cpus", "4095"), 1, &["cpus names core 4095"]);
    let folder = format!("unix:{}/nowhere/admin", env!("CARGO_TARGET_TMPDIR"));
    assert_fails(Server::on("epoll").set("admin", &folder), 1, &["admin can't listen on"]);
}

/// A child that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_admin_port_may_be_a_socket_in_the_file_system() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-{}", std::process::id()));
    // What an earlier run left behind is replaced.
    drop(UnixListener::bind(&path).expect("the target folder can be written to"));
    let admin = format!("unix:{}", path.display());
    let mut command = corecast(&["serve", "--shards", "1", "--listen", "127.0.0.1:0", "--admin", &admin]);
    let server = Ending(command.stderr(Stdio::null()).spawn().expect("the binary can be started"));
    let until = Instant::now() + DEADLINE;
    let mut stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ready\n"), "{answer}");
    drop(server);
    std::fs::remove_file(&path).expect("it is still there");
}

/// What fuzzing begins with knows every key, or keys that are new would never be tried.
#[test]
fn the_first_input_of_the_fuzz_target_names_every_key() {
    let seed = include_str!("../../../fuzz/seeds/config/all.toml");
    let mut section = String::new();
    let mut seen = Vec::new();
    for line in seed.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) = line.split_once(" = ") {
            seen.push(format!("{section}{key}"));
        }
    }
    let of_namespaces = namespace_names().map(|name| format!("namespaces.chat.{name}"));
    let mut all: Vec<_> = names().map(str::to_owned).chain(of_namespaces).collect();
    all.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, all);
    let contents = Ok(seed.as_bytes().to_vec());
    let file = Some(ConfigFile { name: "all.toml".to_owned(), contents });
    let loaded = Settings::load(&Sources { file, ..Sources::default() });
    assert!(loaded.is_ok(), "{:?}", loaded.err());
}
