//! A log that goes nowhere: a full disk, a reader that is gone, a reader that never reads. The server serves, ends
//! as it should, and counts the lines that nobody got.

mod support;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::{Server, Start, on_both_drivers};

on_both_drivers!(a_full_disk, a_reader_that_is_gone, a_reader_that_never_reads, a_reader_that_comes_back);

fn full_disk() -> Stdio {
    let disk = OpenOptions::new().write(true).open("/dev/full").expect("every Linux has one");
    assert!((&disk).write(b"x").is_err(), "nothing can be written to it");
    disk.into()
}

/// A pipe that takes no byte more. What fills it is a thread that goes on as soon as somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    const MORE_THAN_FITS: usize = 1 << 20;
    const CHUNK: [u8; 512] = [b'\n'; 512];
    let (reader, writer) = pipe().expect("a pipe");
    let mut filler = writer.try_clone().expect("a descriptor is left");
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    thread::spawn(move || {
        // Its end is that of the pipe, or of this process.
        while written.fetch_add(CHUNK.len(), Ordering::Relaxed) < MORE_THAN_FITS
            && filler.write_all(&CHUNK).is_ok()
        {}
    });
    let mut before = 0;
    loop {
        thread::sleep(Duration::from_millis(50));
        let now = progress.load(Ordering::Relaxed);
        if now == before && now > 0 {
            return (reader, writer);
        }
        before = now;
    }
}

/// It serves, and SIGTERM ends it as always.
fn assert_serves_and_ends(server: &mut Server) {
    let (mut ann, mut bob) = (server.connect("/ws/demo"), server.connect("/ws/demo"));
    bob.subscribe("conversation:1");
    for n in 1..=100 {
        ann.publish("conversation:1", &json!(n));
        assert_eq!(bob.expect("message")["payload"], n);
    }
    server.signal("TERM");
    bob.expect("reconnect");
    bob.assert_closed(1001, "DRAINING");
    ann.expect("reconnect");
    ann.assert_closed(1001, "DRAINING");
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

fn a_full_disk(start: Start) {
    let mut server = start.shards(2).start_unheard(full_disk);
    // At least that it serves, where, and how much.
    server.wait_for_metric("log_lines_lost_total", |lost| lost >= 3);
    assert_serves_and_ends(&mut server);
}

fn a_reader_that_is_gone(start: Start) {
    let mut server = start.shards(2).start_unheard(|| pipe().expect("a pipe").1.into());
    server.wait_for_metric("log_lines_lost_total", |lost| lost >= 3);
    assert_serves_and_ends(&mut server);
}

/// A write to such a pipe never ends: whoever logged would wait for ever, and serve nobody and see no signal.
fn a_reader_that_never_reads(start: Start) {
    let (reader, writer) = full_pipe();
    let mut server =
        start.shards(2).start_unheard(|| writer.try_clone().expect("a descriptor is left").into());
    assert_serves_and_ends(&mut server);
    drop(reader);
}

fn a_reader_that_comes_back(start: Start) {
    let (reader, writer) = full_pipe();
    let mut server = start.start_unheard(|| writer.try_clone().expect("a descriptor is left").into());
    server.connect("/ws/demo").close();
    drop(writer);
    let lines = thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(|line| line.expect("UTF-8"));
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
    });
    assert_serves_and_ends(&mut server);
    let lines = lines.join().expect("it reads to the end");
    // All of it, in order.
    let mut words =
        ["connections (", "clients: ws://", "demo page and metrics: ", "draining", "have ended"].iter();
    let mut word = words.next();
    for line in &lines {
        if word.is_some_and(|word| line.contains(word)) {
            word = words.next();
        }
    }
    assert_eq!(word, None, "{lines:#?}");
}

#[test]
fn a_verdict_needs_no_reader() {
    let run = |args: &[&str], stdout: Stdio, stderr: Stdio| -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
        command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.status().expect("the binary can be started").code()
    };
    let closed = || -> Stdio { pipe().expect("a pipe").1.into() };
    for nobody in [full_disk as fn() -> Stdio, closed] {
        assert_eq!(run(&["--version"], nobody(), nobody()), Some(0));
        assert_eq!(run(&["check-config"], nobody(), nobody()), Some(0));
        assert_eq!(run(&["check-config", "--set", "shards=129"], nobody(), nobody()), Some(2));
        assert_eq!(run(&["serve", "--set", "shards=129"], nobody(), nobody()), Some(2));
        // An address of nobody's.
        assert_eq!(run(&["serve", "--listen", "192.0.2.1:1"], nobody(), nobody()), Some(1));
    }
}

/// Who asks for fewer lines still wants to know why there is no server.
#[test]
fn why_it_ends_passes_every_filter() {
    for (name, value) in [("RUST_LOG", "off"), ("RUST_LOG", "hyper=info"), ("CORECAST_LOG__LEVEL", "error")] {
        for format in ["text", "json"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
            command.args(["serve", "--listen", "192.0.2.1:1", "--set", &format!("log.format={format}")]);
            let output = command.env(name, value).output().expect("the binary can be started");
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{log}");
            assert!(log.contains("can't listen on 192.0.2.1:1"), "{name}={value}, {format}: {log:?}");
            assert!(format == "text" || log.lines().all(|line| line.starts_with('{')), "{log}");
        }
    }
}
