//! Receiving: every byte once and in order, through pauses, half-closes and lack of buffers.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use corecast_driver::listener::ListenOptions;
use corecast_driver::{Close, CloseCause, ConnId};

use super::client::{assert_same, connect, end_of, pattern, read, read_to_end, write};
use super::rig::{Rig, Setup, Subject};
use super::script::Happened;

/// Megabytes from one client, through buffers of one kilobyte.
pub(crate) fn large_upload<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    let wanted = pattern(3, 4 << 20);
    write(&client, &wanted);
    client.shutdown(Shutdown::Write).expect("it is connected");
    rig.wait_for(conn, "Eof", |it| it.is_eof.then_some(()));
    rig.look(|it| assert_same(&it.lives[&conn].data, &wanted));
    rig.end(client);
}

/// A client that has said all it will still hears everything, and the connection lasts until it is closed.
pub(crate) fn half_close<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    write(&client, b"a question");
    client.shutdown(Shutdown::Write).expect("it is connected");
    rig.wait_for(conn, "Eof", |it| it.is_eof.then_some(()));
    assert_eq!(rig.wait_data(conn, 10), b"a question");
    rig.assert_asleep("a half-closed connection has no news");
    let answer = pattern(4, 3 << 20);
    let bytes = answer.clone();
    rig.run(move |turn| turn.send(conn, &[&bytes]));
    assert_same(&read(&client, answer.len()), &answer);
    assert_eq!(rig.wait_sent(conn, 1), [Ok(())]);
    rig.run(move |turn| {
        // Without effect after the end of the stream, and answered all the same.
        turn.pause(conn);
        turn.resume(conn);
        turn.pause(conn);
    });
    rig.wait_paused(conn);
    rig.run(move |turn| turn.send(conn, &[b"more"]));
    assert_eq!(rig.wait_sent(conn, 2), [Ok(()); 2]);
    assert_eq!(rig.look(|it| it.lives[&conn].closed), None, "only close ends it");
    rig.run(move |turn| turn.close(conn, Close::Graceful));
    assert_eq!(read_to_end(&client), b"more");
    assert_eq!(rig.wait_closed(conn), CloseCause::Local);
    rig.end(client);
}

/// A FIN that comes while reading is paused waits behind the bytes before it.
pub(crate) fn half_close_while_paused<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    rig.run(move |turn| turn.pause(conn));
    rig.wait_paused(conn);
    write(&client, b"before the end");
    client.shutdown(Shutdown::Write).expect("it is connected");
    rig.assert_asleep("a paused connection is not looked at");
    // Sending goes on in both directions of silence.
    rig.run(move |turn| turn.send(conn, &[b"one way"]));
    assert_eq!(read(&client, 7), b"one way");
    let seen = rig.look(|it| (it.lives[&conn].data.len(), it.lives[&conn].is_eof));
    assert_eq!(seen, (0, false));
    rig.run(move |turn| turn.resume(conn));
    rig.wait_for(conn, "Eof", |it| it.is_eof.then_some(()));
    assert_eq!(rig.wait_data(conn, 14), b"before the end");
    rig.run(move |turn| turn.close(conn, Close::Graceful));
    assert_eq!(read_to_end(&client), b"");
    rig.end(client);
}

/// After `finish` the peer has read all there is, and is still heard.
pub(crate) fn finish<S: Subject>() {
    let rig = Rig::<S>::new();
    for length in [0, 10, 3 << 20] {
        let (client, conn) = rig.client();
        let last = pattern(5, length);
        let bytes = last.clone();
        rig.run(move |turn| {
            if length > 0 {
                turn.send(conn, &[&bytes]);
            }
            turn.finish(conn);
            turn.finish(conn);
        });
        assert_same(&read_to_end(&client), &last);
        write(&client, b"I heard");
        assert_eq!(rig.wait_data(conn, 7), b"I heard");
        client.shutdown(Shutdown::Write).expect("it is connected");
        rig.wait_for(conn, "Eof", |it| it.is_eof.then_some(()));
        assert_eq!(rig.look(|it| it.lives[&conn].closed), None);
        rig.close(conn, Close::Graceful);
    }
    rig.end(());
}

/// A writer on its own thread: the bytes of a pattern, until all are written.
fn writer(mut stream: TcpStream, bytes: Vec<u8>) -> (std::thread::JoinHandle<TcpStream>, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let thread = spawn(move || {
        for part in bytes.chunks(7_001) {
            stream.write_all(part).expect("the peer reads in the end");
            count.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        stream
    });
    (thread, written)
}

/// While a connection is paused TCP holds the peer back; nothing is lost by it.
pub(crate) fn pause_holds_the_peer_back<S: Subject>() {
    let options = ListenOptions { recv_buffer: Some(64 << 10), ..ListenOptions::default() };
    let rig = Rig::<S>::with(Setup { options, ..Setup::default() });
    let (client, conn) = rig.client();
    rig.run(move |turn| turn.pause(conn));
    rig.wait_paused(conn);
    let wanted = pattern(6, 24 << 20);
    let (thread, written) = writer(client, wanted.clone());
    // Until the writer gets no further.
    let mut last = u64::MAX;
    while written.load(Ordering::Relaxed) != last || last == 0 {
        last = written.load(Ordering::Relaxed);
        sleep(Duration::from_millis(20));
    }
    assert!(last < wanted.len() as u64, "the kernel took {last} bytes although nobody reads");
    assert_eq!(rig.look(|it| it.lives[&conn].data.len()), 0);
    rig.assert_asleep("nobody wants to read");
    rig.run(move |turn| turn.resume(conn));
    let client = thread.join().expect("all was written");
    assert_same(&rig.wait_data(conn, wanted.len()), &wanted);
    rig.end(client);
}

/// Pausing and resuming all the time, at every moment of a stream.
pub(crate) fn pause_and_resume_in_a_stream<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    let wanted = pattern(7, 6 << 20);
    for (round, part) in wanted.chunks(20_000).enumerate() {
        // The pause meets the bytes anywhere between the client and the shard.
        write(&client, part);
        rig.run(move |turn| turn.pause(conn));
        match round % 3 {
            // With the answer, without it, and at once.
            0 => rig.wait_paused(conn),
            1 => {}
            _ => rig.run(move |turn| {
                turn.resume(conn);
                turn.pause(conn);
                turn.resume(conn);
            }),
        }
        rig.run(move |turn| turn.resume(conn));
    }
    assert_same(&rig.wait_data(conn, wanted.len()), &wanted);
    rig.end(client);
}

/// Pausing out of events about the stream itself, as a shard does.
pub(crate) fn pause_on_data<S: Subject>() {
    let rig = Rig::<S>::new();
    let clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
    rig.react(|turn, happened| match happened {
        Happened::Data(conn) => turn.pause(*conn),
        Happened::Paused(conn) => turn.resume(*conn),
        _ => {}
    });
    let mut threads = Vec::new();
    for (seed, (client, conn)) in clients.into_iter().enumerate() {
        let wanted = pattern(seed as u64, 400_000);
        threads.push((conn, wanted.clone(), writer(client, wanted).0));
    }
    for (conn, wanted, thread) in threads {
        assert_same(&rig.wait_data(conn, wanted.len()), &wanted);
        assert!(rig.look(|it| it.lives[&conn].pauses) > 10, "each burst pauses");
        drop(thread.join());
    }
    rig.end(());
}

/// Paused or closed in the very turn in which it was accepted, with bytes there already: neither waits for the peer.
pub(crate) fn stopped_from_the_first_moment<S: Subject>() {
    let setup = Setup { recv_buffers: 512, recv_buffer_bytes: 64, ..Setup::default() };
    let rig = Rig::<S>::with(setup);
    for round in 0..20 {
        rig.run(|turn| turn.io.accepting(false));
        rig.run(|_| {});
        let client = connect(rig.address);
        let wanted = pattern(round, 64 * 200);
        write(&client, &wanted);
        rig.react(move |turn, happened| match happened {
            Happened::Accepted(conn) if round % 2 == 0 => turn.pause(*conn),
            Happened::Accepted(conn) => turn.close(*conn, Close::Reset),
            _ => {}
        });
        rig.run(|turn| turn.io.accepting(true));
        let conn = rig.wait("Accepted", |it| it.order.get(round as usize).copied());
        if round % 2 == 0 {
            rig.wait_paused(conn);
            rig.run(move |turn| turn.resume(conn));
            assert_same(&rig.wait_data(conn, wanted.len()), &wanted);
            rig.close(conn, Close::Graceful);
        } else {
            rig.wait_closed(conn);
        }
    }
    rig.end(());
}

/// Changing one's mind within a turn: only the last word is answered, and once.
pub(crate) fn pause_and_resume_in_one_turn<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    rig.run(move |turn| turn.pause(conn));
    rig.wait_paused(conn);
    write(&client, &pattern(18, 10_000));
    // Nothing is armed now, so the driver could answer the first pause at once, and read because of the resume.
    rig.run(move |turn| {
        turn.resume(conn);
        turn.pause(conn);
        turn.resume(conn);
        turn.pause(conn);
    });
    rig.wait_paused(conn);
    rig.run(move |turn| {
        turn.resume(conn);
        turn.pause(conn);
        turn.resume(conn);
    });
    assert_same(&rig.wait_data(conn, 10_000), &pattern(18, 10_000));
    rig.run(move |turn| turn.pause(conn));
    rig.wait_paused(conn);
    rig.run(move |turn| turn.resume(conn));
    rig.end(client);
}

/// Calls that have nothing to do, or nothing to wait for.
pub(crate) fn pause_and_resume_out_of_turn<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    rig.run(move |turn| {
        turn.resume(conn);
        turn.pause(conn);
        turn.pause(conn);
    });
    rig.wait_paused(conn);
    rig.run(move |turn| turn.pause(conn));
    rig.run(|_| {});
    assert_eq!(rig.look(|it| it.lives[&conn].pauses), 1, "one pause, one answer");
    write(&client, b"held back");
    rig.run(move |turn| {
        turn.resume(conn);
        turn.resume(conn);
    });
    assert_eq!(rig.wait_data(conn, 9), b"held back");
    rig.run(move |turn| turn.resume(conn));
    write(&client, b", then not");
    assert_eq!(rig.wait_data(conn, 19), b"held back, then not");
    close_while_paused(&rig, &client, conn);
    rig.end(client);
}

fn close_while_paused<S: Subject>(rig: &Rig<S>, client: &TcpStream, conn: ConnId) {
    rig.run(move |turn| turn.pause(conn));
    rig.wait_paused(conn);
    rig.run(move |turn| turn.close(conn, Close::Graceful));
    assert_eq!(read_to_end(client), b"");
    assert_eq!(rig.wait_closed(conn), CloseCause::Local);
    for how in [Close::Graceful, Close::Reset] {
        let (client, conn) = rig.client();
        rig.run(move |turn| {
            // The answer to pause may be under way when the connection ends.
            turn.pause(conn);
            turn.close(conn, how);
            turn.resume(conn);
        });
        assert_eq!(rig.wait_closed(conn), CloseCause::Local);
        end_of(&client);
    }
}
