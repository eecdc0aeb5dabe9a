//! Where io_uring is refused, as containers do: the real binary says so in one line and runs on epoll.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use support::{Server, Start, example};

/// How a filter refuses, and how the system words it.
const REFUSALS: [(&str, &str); 2] =
    [("EPERM", "Operation not permitted"), ("ENOSYS", "Function not implemented")];

/// The program that installs the filter.
fn filter() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| example("without_io_uring"))
}

fn refusing(driver: &'static str, errno: &str) -> Start {
    Server::on(driver).shards(2).through(&[filter(), errno])
}

fn mentions(log: &[String]) -> Vec<&String> {
    log.iter().filter(|line| line.contains("io_uring")).collect()
}

#[test]
fn epoll_serves_where_io_uring_is_refused() {
    for (errno, words) in REFUSALS {
        let server = refusing("auto", errno).start();
        server.wait_for_line("2 shards on epoll");
        let log = server.log();
        let [line] = mentions(&log)[..] else { panic!("one line about io_uring in {log:#?}") };
        assert!(line.contains(" WARN ") && line.contains(words) && line.contains("using epoll"), "{line}");
        let stats: Value = serde_json::from_str(&server.admin_get("/stats").body).expect("JSON");
        assert_eq!(stats["driver"], "epoll");

        let mut everywhere = server.connect_on_every_shard("/ws/demo");
        for client in &mut everywhere {
            client.subscribe("conversation:1");
        }
        everywhere[0].publish("conversation:1", &json!({"content": "hello"}));
        let message = everywhere[1].expect("message");
        assert_eq!(message["payload"]["content"], "hello");
        assert_eq!(message["offset"], 1);
    }
}

#[test]
fn io_uring_or_nothing_ends_with_1() {
    for (errno, words) in REFUSALS {
        let Err(failed) = refusing("uring", errno).try_start() else { panic!("the server serves") };
        assert_eq!(failed.status.code(), Some(1), "{:#?}", failed.log);
        let [line] = &failed.log[..] else { panic!("one line, not {:#?}", failed.log) };
        for text in [" ERROR ", "io_uring is not available here", words, "use --driver epoll"] {
            assert!(line.contains(text), "no {text:?} in {line}");
        }
    }
}

#[test]
fn who_asks_for_epoll_hears_nothing_of_io_uring() {
    let server = refusing("epoll", "EPERM").start();
    server.wait_for_line("2 shards on epoll");
    assert_eq!(mentions(&server.log()), Vec::<&String>::new());
}

#[test]
fn the_version_says_that_it_is_refused() {
    for (errno, words) in REFUSALS {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_corecast"));
        let output = Command::new(filter()).arg(errno).arg(binary).arg("--version").output();
        let output = output.expect("the filter can be run");
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains(&format!("driver uring: not available: {words}")), "{text}");
        assert!(text.contains("driver epoll: available"), "{text}");
    }
}
