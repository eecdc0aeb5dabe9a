//! A restart that forgets nothing: what one node leaves in a file the next one goes on from.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Client, Server, Start, on_both_drivers};

on_both_drivers!(
    a_restart_loses_no_history,
    who_is_killed_leaves_nothing_to_be_given_out_twice,
    what_is_no_state_is_named_and_left_alone,
    what_is_no_file_is_not_read,
    a_start_that_fails_leaves_the_state_to_the_next_one,
);

const CHANNEL: &str = "conversation:42";

/// A path of this test's own, where nothing is.
fn file(name: &str, server: &Start) -> PathBuf {
    let name = format!("state-{name}-{}-{}", server.driver, std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_file(&path);
    path
}

fn recover(client: &mut Client, position: &Value) -> Value {
    client.send_json(&json!({"type": "subscribe", "channel": CHANNEL, "recover": position}));
    client.expect("subscribed")
}

fn end(mut server: Server) {
    server.signal("TERM");
    assert!(server.wait_for_exit().success());
}

fn a_restart_loses_no_history(start: Start) {
    let path = file("restart", &start);
    let driver = start.driver;
    let server = start.set("state.file", path.display()).shards(1).start();
    let mut ann = server.connect("/ws/demo");
    let first = ann.publish(CHANNEL, &json!({"n": 1}));
    ann.publish(CHANNEL, &json!({"n": 2}));
    let position = json!({"epoch": first["epoch"], "offset": first["offset"]});
    assert!(!path.exists(), "nothing is there while a node serves");
    end(server);
    let mode = fs::metadata(&path).expect("it was left").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it is nobody else's to read");
    for (round, shards) in [(3, 4), (4, 2)] {
        let server = Server::on(driver).shards(shards).set("state.file", path.display()).start();
        assert!(!path.exists(), "it was taken");
        let mut bob = server.connect("/ws/demo");
        let back = recover(&mut bob, &position);
        assert_eq!((&back["recovered"], &back["offset"]), (&json!(true), &json!(round - 1)));
        assert_eq!(back["messages"][0]["payload"], json!({"n": 2}));
        let next = server.connect("/ws/demo").publish(CHANNEL, &json!({"n": round}));
        assert_eq!((&next["epoch"], &next["offset"]), (&first["epoch"], &json!(round)));
        end(server);
    }
}

fn who_is_killed_leaves_nothing_to_be_given_out_twice(start: Start) {
    let path = file("killed", &start);
    let driver = start.driver;
    let server = start.set("state.file", path.display()).start();
    let position = server.connect("/ws/demo").publish(CHANNEL, &json!(1));
    end(server);
    Server::on(driver).set("state.file", path.display()).start().kill();
    let server = Server::on(driver).set("state.file", path.display()).start();
    let back = recover(&mut server.connect("/ws/demo"), &position);
    assert_eq!(back["recovered"], false);
    assert_ne!(back["epoch"], position["epoch"]);
}

fn what_is_no_state_is_named_and_left_alone(start: Start) {
    let path = file("wrong", &start);
    fs::write(&path, "{}").expect("the folder can be written");
    let failed = start.set("state.file", path.display()).try_start().err().expect("it does not start");
    assert_eq!(failed.status.code(), Some(1));
    let log = failed.log.join("\n");
    assert!(log.contains("move it away to start without it"), "{log}");
    assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some("{}"));
}

/// A device may have no end.
fn what_is_no_file_is_not_read(start: Start) {
    let path = file("socket", &start);
    let _socket = UnixListener::bind(&path).expect("the folder can be written");
    let failed = start.set("state.file", path.display()).try_start().err().expect("it does not start");
    assert_eq!(failed.status.code(), Some(1));
    let log = failed.log.join("\n");
    assert!(log.contains("it is no regular file"), "{log}");
    assert!(path.exists(), "it is left alone");
}

fn a_start_that_fails_leaves_the_state_to_the_next_one(start: Start) {
    let path = file("failed", &start);
    let driver = start.driver;
    let server = start.set("state.file", path.display()).start();
    let position = server.connect("/ws/demo").publish(CHANNEL, &json!(1));
    end(server);
    let wrong = Server::on(driver).set("state.file", path.display()).set("cpus", "4095").try_start();
    let failed = wrong.err().expect("there is no such core");
    assert_eq!(failed.status.code(), Some(1), "{:?}", failed.log);
    let server = Server::on(driver).set("state.file", path.display()).start();
    let position = json!({"epoch": position["epoch"], "offset": 0});
    assert_eq!(recover(&mut server.connect("/ws/demo"), &position)["recovered"], true);
}
