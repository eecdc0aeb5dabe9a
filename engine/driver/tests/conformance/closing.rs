//! Closing, from either side and from both: everything sent arrives before a FIN, a reset is a reset, and a slot's
//! next connection knows nothing of the last.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::thread::spawn;

use corecast_driver::{Close, CloseCause};

use super::client::{
    Random, assert_same, connect, connect_small, end_of, pattern, read, read_to_end, reset, write,
};
use super::rig::{Rig, Setup, Subject};
use super::script::Happened;

/// The batch in flight leaves before the FIN, however slowly it is read.
pub(crate) fn graceful_close_sends_everything<S: Subject>() {
    let rig = Rig::<S>::new();
    for length in [0, 100, 5 << 20] {
        let client = connect_small(rig.address, 32 << 10);
        let conn = rig.accepted(&client);
        let wanted = pattern(10, length);
        let bytes = wanted.clone();
        rig.run(move |turn| {
            if length > 0 {
                turn.send(conn, &[&bytes]);
            }
            turn.close(conn, Close::Graceful);
            turn.close(conn, Close::Graceful);
        });
        if length > 1 << 20 {
            rig.assert_asleep("the client does not read");
            assert_eq!(rig.look(|it| it.lives[&conn].closed), None, "the batch is still in flight");
        }
        assert_same(&read_to_end(&client), &wanted);
        assert_eq!(rig.wait_closed(conn), CloseCause::Local);
        assert_eq!(rig.look(|it| it.lives[&conn].sent.clone()), vec![Ok(()); length.min(1)]);
    }
    rig.end(());
}

/// A reset does not wait for anybody, and hands back what was in flight.
pub(crate) fn reset_is_a_reset<S: Subject>() {
    let rig = Rig::<S>::new();
    for round in 0..12 {
        let client = connect_small(rig.address, 32 << 10);
        let conn = rig.accepted(&client);
        rig.run(move |turn| {
            if round % 2 == 0 {
                turn.send(conn, &[&pattern(11, 5 << 20)]);
            }
            match round % 3 {
                // After what would have waited for the client.
                0 => turn.close(conn, Close::Graceful),
                1 => turn.finish(conn),
                _ => {}
            }
            turn.close(conn, Close::Reset);
            turn.close(conn, Close::Graceful);
        });
        assert_eq!(rig.wait_closed(conn), CloseCause::Local);
        let sent = rig.look(|it| it.lives[&conn].sent.clone());
        assert_eq!(sent.len(), (round + 1) % 2);
        assert!(sent.iter().all(Result::is_err), "five megabytes were not taken");
        // An idle connection that was graceful first, or finished, may have sent its FIN already.
        let may_be_fin = round % 2 == 1 && round % 3 < 2;
        let end = end_of(&client);
        assert!(end == Some(ErrorKind::ConnectionReset) || (may_be_fin && end.is_none()), "{round}: {end:?}");
    }
    rig.end(());
}

/// A graceful close that waits for a client can be given up later.
pub(crate) fn reset_overtakes_a_graceful_close<S: Subject>() {
    let rig = Rig::<S>::new();
    let client = connect_small(rig.address, 32 << 10);
    let conn = rig.accepted(&client);
    rig.run(move |turn| {
        turn.send(conn, &[&pattern(12, 5 << 20)]);
        turn.close(conn, Close::Graceful);
    });
    read(&client, 1000);
    rig.run(|_| {});
    assert_eq!(rig.look(|it| it.lives[&conn].closed), None);
    rig.run(move |turn| turn.close(conn, Close::Reset));
    assert_eq!(rig.wait_closed(conn), CloseCause::Local);
    assert_eq!(end_of(&client), Some(ErrorKind::ConnectionReset));
    rig.end(client);
}

/// A peer's reset ends an idle connection by itself; one that sends FIN waits to be closed.
pub(crate) fn peer_resets<S: Subject>() {
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    let (other, idle) = rig.client();
    reset(client);
    let why = rig.wait_closed(conn);
    assert!(matches!(why, CloseCause::Error(errno) if errno == libc::ECONNRESET), "{why:?}");
    drop(other);
    rig.wait_for(idle, "Eof", |it| it.is_eof.then_some(()));
    assert_eq!(rig.look(|it| it.lives[&idle].closed), None);
    rig.end(());
}

/// Both sides at once, in every combination, with and without bytes on their way.
pub(crate) fn both_sides_at_once<S: Subject>() {
    let rig = Rig::<S>::with(Setup { connections_max: 4, ..Setup::default() });
    let mut random = Random(0x0b07_45e5);
    for round in 0..300 {
        let (client, conn) = rig.client();
        let dice = random.next();
        let how = if dice & 1 == 0 { Close::Graceful } else { Close::Reset };
        if dice & 2 == 0 {
            write(&client, &pattern(round, 3000));
        }
        rig.post(move |turn| {
            match dice >> 2 & 3 {
                0 => turn.send(conn, &[&pattern(round, 200_000)]),
                1 => turn.finish(conn),
                2 => turn.pause(conn),
                _ => {}
            }
            turn.close(conn, how);
        });
        match dice >> 4 & 1 {
            0 => reset(client),
            _ => drop(client),
        }
        rig.wait_closed(conn);
    }
    rig.end(());
}

/// Closed while a receive is armed and bytes pour in; the slot is taken again at once. Nobody hears another's bytes.
pub(crate) fn slots_are_reused_at_once<S: Subject>() {
    const THREADS: u64 = 4;
    const EACH: u64 = 60;
    let rig = Rig::<S>::with(Setup { connections_max: 2, ..Setup::default() });
    let mut count = 0;
    rig.react(move |turn, happened| {
        if let Happened::Data(conn) = happened {
            count += 1;
            // Sometimes it is resumed and paused on the way out as well.
            if count % 5 == 0 {
                turn.pause(*conn);
                turn.resume(*conn);
            }
            turn.close(*conn, if count % 3 == 0 { Close::Graceful } else { Close::Reset });
        }
    });
    let address = rig.address;
    let threads: Vec<_> = (0..THREADS).map(|thread| spawn(move || shouters(address, thread, EACH))).collect();
    let tags: HashMap<SocketAddr, Vec<u8>> = threads
        .into_iter()
        .flat_map(|it| it.join().expect("done"))
        .fold(HashMap::new(), |mut tags, (peer, tag)| {
            tags.entry(peer).or_insert_with(Vec::new).push(tag);
            tags
        });
    rig.wait("all of them", |it| (it.order.len() as u64 == THREADS * EACH && it.live() == 0).then_some(()));
    rig.look(|it| {
        for life in it.lives.values() {
            let first = life.data[0];
            assert!(life.data.iter().all(|byte| *byte == first), "bytes of two clients on one connection");
            assert!(tags[&life.peer].contains(&first), "bytes of another client");
        }
    });
    rig.end(());
}

/// Clients one after another, each of which repeats its tag until it is thrown out.
fn shouters(address: SocketAddr, thread: u64, count: u64) -> Vec<(SocketAddr, u8)> {
    (0..count)
        .map(|round| {
            let mut client = connect(address);
            let tag = (thread * count + round) as u8;
            while client.write_all(&[tag; 3000]).is_ok() {}
            (client.local_addr().expect("it was connected"), tag)
        })
        .collect()
}
