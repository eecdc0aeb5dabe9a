//! The bench as a program, against its own reference servers: several workers, JSON, and what it refuses.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn bench(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corecast-bench")).args(words).output().expect("the bench starts")
}

/// Runs a scenario with a result in JSON.
fn run(name: &str, words: &[&str]) -> (Output, Value) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let path = path.to_str().expect("a path in UTF-8");
    let output = bench(&[&["run"], words, &["--json", path]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(path).expect("the result was written");
    (output, serde_json::from_str(&text).expect("the result is JSON"))
}

fn refused(words: &[&str]) -> String {
    let output = bench(words);
    assert!(!output.status.success(), "{words:?} is refused");
    String::from_utf8(output.stderr).expect("an error in UTF-8")
}

#[test]
fn several_workers_keep_the_audit_exact() {
    for workers in ["1", "2", "3"] {
        let (output, json) = run(
            &format!("workers-{workers}"),
            &[
                "rooms-1k",
                "--server",
                "floor",
                "--connections",
                "60",
                "--room",
                "6",
                "--rate",
                "500",
                "--seconds",
                "0.4",
                "--workers",
                workers,
            ],
        );
        let result = &json["result"];
        let (published, audit) = (result["published"].as_u64().expect("a count"), &result["audit"]);
        // 500 a second for 0.4 s and a fifth of that to warm up; each worker rounds its share down.
        assert!((237..=240).contains(&published), "{published} by {workers}");
        assert_eq!(audit["delivered"].as_u64(), Some(published * 6), "{workers} workers");
        for fault in ["lost", "repeated", "misdelivered"] {
            assert_eq!(audit[fault].as_u64(), Some(0), "{fault} with {workers} workers");
        }
        assert_eq!(result["connections"], 60);
        assert!(json["hiccups_before"].is_array() && json["hiccups_after"].is_array());
        assert!(String::from_utf8_lossy(&output.stdout).contains("hiccups after"));
    }
}

#[test]
fn references_send_equally_many_bytes() {
    let bytes = ["floor", "raw", "tungstenite", "tungstenite-tuned"].map(|server| {
        let words =
            ["rooms-1k", "--server", server, "--connections", "20", "--rate", "100", "--seconds", "0.2"];
        run(&format!("bytes-{server}"), &words).1["result"]["bytes_per_delivery"].as_f64().expect("a number")
    });
    assert!(bytes.iter().all(|it| *it == bytes[0]), "{bytes:?}");
}

#[test]
fn a_command_line_is_pinned_and_told_its_port() {
    let own = env!("CARGO_BIN_EXE_corecast-bench");
    let server = format!("{own} reference tungstenite --port {{port}}");
    let words = ["echo", "--connections", "4", "--rate", "50", "--seconds", "0.2", "--server", &server];
    // The reference does not echo: everything is lost, which has to be seen.
    let output = bench(&[&["run"], words.as_slice()].concat());
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("lost 12"), "all of 0.24 s at 50 a second");
    let words = ["rooms-1k", "--connections", "20", "--rate", "100", "--seconds", "0.2", "--server", &server];
    assert_eq!(run("pinned", &words).1["result"]["audit"]["lost"].as_u64(), Some(0));
}

#[test]
fn any_number_of_servers_take_turns() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compare.json");
    let path = path.to_str().expect("a path in UTF-8");
    let numbers =
        ["--pairs", "2", "--connections", "20", "--rate", "100", "--seconds", "0.2", "--json", path];
    let servers = ["compare", "rooms-1k", "--a", "floor", "--b", "raw", "--c", "tungstenite", "--b", "floor"];
    let output = bench(&[servers.as_slice(), numbers.as_slice()].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("it was written")).expect("JSON");
    let contenders = json["contenders"].as_array().expect("a list");
    let names: Vec<&str> = contenders.iter().filter_map(|it| it["server"].as_str()).collect();
    assert_eq!(names, ["floor", "raw", "tungstenite", "floor"]);
    for (number, contender) in contenders.iter().enumerate() {
        assert_eq!(contender["runs"].as_array().map(Vec::len), Some(2), "{number}");
        assert_eq!(contender["ratios"].as_array().map_or(0, Vec::len) > 0, number > 0, "{number}");
    }
    // The first character of a line is who ran: the second round begins with the second server.
    let turns: String =
        text.lines().filter(|it| it.contains(" p95 ")).filter_map(|it| it.chars().next()).collect();
    assert_eq!(turns, "ABCDBCDA");
    assert!(text.contains("A/D 1.00 ("), "equally many bytes: {text}");
}

#[test]
fn nonsense_is_refused_in_words() {
    assert!(refused(&["run", "nothing"]).contains("no scenario nothing"));
    assert!(refused(&["run", "json-cost", "--server", "floor"]).contains("takes no --server"));
    assert!(refused(&["run", "json-cost", "--size", "9"]).contains("takes no --server"));
    assert!(refused(&["run", "rooms-1k", "--workers", "0"]).contains("at least 1"));
    assert!(refused(&["run", "slow-consumer", "--server", "floor"]).contains("corecast's policies"));
    for scenario in ["recover-10k", "resume-10k", "channels-1m", "presence-10k", "modes"] {
        let why = refused(&["run", scenario, "--server", "floor"]);
        assert!(why.contains("is about what corecast keeps"), "{why}");
    }
    assert!(refused(&["run", "resume-10k", "--format", "msgpack"]).contains("speaks plain JSON"));
    let few = refused(&["run", "idle-20k", "--connections", "100", "--server", "floor"]);
    assert!(few.contains("--connections is more than that"), "{few}");
}
