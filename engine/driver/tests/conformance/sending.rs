//! Sending: all of it in order, one batch at a time, and always handed back.

use corecast_driver::listener::ListenOptions;
use corecast_driver::{Close, CloseCause, ConnId};

use super::client::{Random, assert_same, connect_small, end_of, pattern, read, read_to_end, reset};
use super::rig::{Rig, Setup, Subject};
use super::script::Happened;

/// A batch of several megabytes to a client that takes little at a time.
pub(crate) fn large_batch_to_a_slow_reader<S: Subject>() {
    let rig = Rig::<S>::new();
    for (seed, length, buffer) in [(1, 6 << 20, 64 << 10), (2, 100_000, 4096)] {
        let client = connect_small(rig.address, buffer);
        let conn = rig.accepted(&client);
        let wanted = pattern(seed, length);
        let bytes = wanted.clone();
        let sends = rig.stats().sends;
        rig.run(move |turn| turn.send(conn, &[&bytes]));
        // One megabyte is not in the kernel's hands while nobody reads; a small batch may be.
        if length > 1 << 20 {
            rig.assert_asleep("the client does not read");
            assert_eq!(rig.look(|it| it.lives[&conn].sent.len()), 0, "Sent before the kernel took all");
        }
        let mut got = Vec::new();
        let mut random = Random(seed);
        while got.len() < length {
            let next = (1 + random.below(20_000) as usize).min(length - got.len());
            got.extend(read(&client, next));
        }
        assert_same(&got, &wanted);
        assert_eq!(rig.wait_sent(conn, 1), [Ok(())]);
        assert_eq!(rig.stats().sends, sends + 1, "one batch is one send, whatever the kernel took at once");
        rig.close(conn, Close::Graceful);
        assert_eq!(read_to_end(&client), b"");
    }
    rig.end(());
}

/// Frames of a batch, some below and some above the bound for copying.
fn mixed(random: &mut Random) -> Vec<Vec<u8>> {
    let count = 1 + random.below(40);
    let sizes = [1, 20, 700, 1024, 1025, 1600, 5000];
    let mut room = 60_000;
    let mut frames = Vec::new();
    for _ in 0..count {
        let length = sizes[random.below(7) as usize];
        if length <= room {
            room -= length;
            frames.push(pattern(random.next(), length));
        }
    }
    frames
}

/// Corked and gathered pieces, alternating, to a client that lets the kernel take only parts of them.
pub(crate) fn batches_of_small_and_large_frames<S: Subject>() {
    let rig = Rig::<S>::new();
    let client = connect_small(rig.address, 16 << 10);
    let conn = rig.accepted(&client);
    let mut random = Random(0x0c0c_a571);
    let batches: Vec<Vec<Vec<u8>>> = (0..60).map(|_| mixed(&mut random)).collect();
    let wanted = batches.concat().concat();
    let count = batches.len();
    let mut queue = batches.into_iter();
    let mut next = move |turn: &mut super::script::Turn<'_, _>| {
        if let Some(frames) = queue.next() {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            turn.send(conn, &frames);
        }
    };
    rig.run(move |turn| {
        next(turn);
        turn.state.reaction = Some(Box::new(move |turn, happened| {
            if matches!(happened, Happened::Sent(..)) {
                next(turn);
            }
        }));
    });
    assert_same(&read(&client, wanted.len()), &wanted);
    assert_eq!(rig.wait_sent(conn, count), vec![Ok(()); count]);
    rig.end(client);
}

/// Streams of neighbours do not mix.
pub(crate) fn many_readers_at_once<S: Subject>() {
    let rig = Rig::<S>::new();
    let clients: Vec<_> = (0..30).map(|_| connect_small(rig.address, 16 << 10)).collect();
    let conns: Vec<ConnId> = clients.iter().map(|client| rig.accepted(client)).collect();
    let all = conns.clone();
    rig.run(move |turn| {
        for (seed, conn) in all.into_iter().enumerate() {
            let (small, large) = (pattern(seed as u64, 500), pattern(1000 + seed as u64, 50_000));
            turn.send(conn, &[&small, &large, &small]);
        }
    });
    for (seed, (client, conn)) in clients.iter().zip(conns).enumerate() {
        let (small, large) = (pattern(seed as u64, 500), pattern(1000 + seed as u64, 50_000));
        assert_same(&read(client, 51_000), &[&small[..], &large, &small].concat());
        assert_eq!(rig.wait_sent(conn, 1), [Ok(())]);
    }
    rig.end(clients);
}

/// A client that goes away while a batch is on its way: the batch comes back, once, before `Closed`.
pub(crate) fn reset_in_mid_send<S: Subject>() {
    let rig = Rig::<S>::new();
    rig.react(|turn, happened| {
        if let Happened::Sent(conn, Err(_)) = happened {
            turn.close(*conn, Close::Reset);
        }
    });
    for round in 0..40u32 {
        let client = connect_small(rig.address, 16 << 10);
        let conn = rig.accepted(&client);
        rig.run(move |turn| {
            let large = pattern(u64::from(round), 6 << 20);
            // One piece and several take different ways into the kernel.
            if round % 2 == 0 {
                turn.send(conn, &[&large])
            } else {
                turn.send(conn, &[&large[..40_000], &large[..20_000]])
            }
        });
        read(&client, 1 + round as usize * 500);
        if round % 4 >= 2 {
            // Unread bytes of the client must not change anything.
            super::client::write(&client, b"some last words");
        }
        reset(client);
        if round % 2 == 1 {
            // A small batch may have left before: the connection ends all the same.
            let ended = rig.wait_for(conn, "an end", |it| {
                (it.closed.is_some() || it.is_eof).then_some(it.closed.is_some())
            });
            if !ended {
                rig.run(move |turn| turn.close(conn, Close::Reset));
            }
        }
        let why = rig.wait_closed(conn);
        let sent = rig.look(|it| it.lives[&conn].sent.clone());
        assert_eq!(sent.len(), 1, "handed back once");
        if round % 2 == 0 {
            assert!(sent[0].is_err(), "six megabytes were not taken: {why:?}");
        }
    }
    rig.end(());
}

/// After FIN and after close a batch comes back with an error instead of leaving.
pub(crate) fn nothing_is_sent_after_finish_or_close<S: Subject>() {
    let rig = Rig::<S>::with(Setup {
        options: ListenOptions { send_buffer: Some(64 << 10), ..ListenOptions::default() },
        ..Setup::default()
    });
    let (client, conn) = rig.client();
    rig.run(move |turn| {
        turn.finish(conn);
        turn.send(conn, &[b"too late"]);
    });
    assert!(rig.wait_sent(conn, 1)[0].is_err());
    assert_eq!(read_to_end(&client), b"");
    rig.close(conn, Close::Graceful);
    for how in [Close::Graceful, Close::Reset] {
        let (client, conn) = rig.client();
        rig.run(move |turn| {
            turn.close(conn, how);
            turn.send(conn, &[b"too late"]);
        });
        assert_eq!(rig.wait_closed(conn), CloseCause::Local);
        end_of(&client);
    }
    rig.wait("both batches", |it| (it.late_results.len() == 2).then_some(()));
    rig.end(client);
}

/// Calls about connections that are gone, or never were.
pub(crate) fn dead_connections_are_ignored<S: Subject>() {
    let rig = Rig::<S>::with(Setup { connections_max: 1, ..Setup::default() });
    let (client, dead) = rig.client();
    rig.close(dead, Close::Reset);
    drop(client);
    // The slot has a new connection, which must not notice.
    let (client, conn) = rig.client();
    assert_eq!(conn.index, dead.index);
    let never = [ConnId { index: 0, generation: 7 }, ConnId { index: 5000, generation: 0 }];
    let batches = 3 * 2;
    rig.run(move |turn| {
        for conn in [dead, never[0], never[1]] {
            turn.pause(conn);
            turn.resume(conn);
            turn.finish(conn);
            turn.send(conn, &[b"nobody"]);
            turn.close(conn, Close::Graceful);
            turn.close(conn, Close::Reset);
            turn.send(conn, &[b"nobody"]);
        }
    });
    rig.wait("all batches", |it| (it.late_results.len() == batches).then_some(()));
    super::client::write(&client, b"still here");
    assert_eq!(rig.wait_data(conn, 10), b"still here");
    rig.run(move |turn| turn.send(conn, &[b"so am I"]));
    assert_eq!(read(&client, 7), b"so am I");
    rig.end(client);
}
