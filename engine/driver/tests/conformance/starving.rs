//! No receive buffer is left: connections stall, the loop does not spin, and all goes on when buffers come back.

use corecast_driver::{Close, ConnId};
use std::net::TcpStream;

use super::client::{assert_same, end_of, pattern, read, read_to_end, write};
use super::rig::{Rig, Setup, Subject};

const BUFFERS: u16 = 8;

fn starving_rig<S: Subject>() -> Rig<S> {
    Rig::with(Setup { recv_buffers: BUFFERS, recv_buffer_bytes: 256, ..Setup::default() })
}

/// Has the shard hold every buffer; who sent what is in them.
fn take_all<S: Subject>(rig: &Rig<S>) -> (TcpStream, ConnId) {
    let (client, conn) = rig.client();
    rig.run(|turn| turn.state.is_holding = true);
    for count in 1..=usize::from(BUFFERS) {
        write(&client, &[count as u8]);
        rig.wait_data(conn, count);
    }
    (client, conn)
}

/// Waits until the driver has noticed a lack of buffers so many times more.
fn wait_shortage<S: Subject>(rig: &Rig<S>, more_than: u64) {
    rig.wait("a shortage", |it| (it.stats.buffer_shortages > more_than).then_some(()));
}

fn shortages<S: Subject>(rig: &Rig<S>) -> u64 {
    rig.stats().buffer_shortages
}

/// Neighbours of a shard that holds on to its bytes wait, and lose nothing.
pub(crate) fn all_buffers_held<S: Subject>() {
    let rig = starving_rig::<S>();
    let others: Vec<_> = (0..12).map(|_| rig.client()).collect();
    let before = shortages(&rig);
    let (holder, held) = take_all(&rig);
    let wanted = pattern(8, 20_000);
    for (client, _) in &others {
        write(client, &wanted);
    }
    wait_shortage(&rig, before);
    rig.assert_asleep("there is no buffer to read into");
    for (_, conn) in &others {
        assert_eq!(rig.look(|it| it.lives[conn].data.len()), 0, "no buffer, no data");
    }
    // What is lent stays what it is, and may be changed in place.
    rig.run(|turn| {
        for (place, (_, lease)) in turn.state.held.iter_mut().enumerate() {
            assert_eq!(lease[..], [place as u8 + 1]);
            lease[0] ^= 0xff;
        }
    });
    // One buffer for twelve who wait: all of them get on.
    rig.run(|turn| {
        turn.state.is_holding = false;
        turn.state.held.truncate(usize::from(BUFFERS) - 1);
    });
    for (_, conn) in &others {
        assert_same(&rig.wait_data(*conn, wanted.len()), &wanted);
    }
    rig.run(|turn| turn.state.release());
    write(&holder, b"and I");
    assert_eq!(rig.wait_data(held, usize::from(BUFFERS) + 5)[usize::from(BUFFERS)..], *b"and I");
    rig.end((holder, others));
}

/// What else may happen to a connection that waits for a buffer.
pub(crate) fn starved_connections_live_on<S: Subject>() {
    let rig = starving_rig::<S>();
    let before = shortages(&rig);
    let clients: Vec<_> = (0..6).map(|_| rig.client()).collect();
    let (holder, _) = take_all(&rig);
    for (client, _) in &clients {
        write(client, b"waiting");
    }
    wait_shortage(&rig, before);
    let conns: Vec<ConnId> = clients.iter().map(|(_, conn)| *conn).collect();
    let [sends, pauses, resumes, closes, resets, finishes] = conns[..] else { panic!("six of them") };
    rig.run(move |turn| {
        turn.send(sends, &[b"for you"]);
        turn.pause(pauses);
        for _ in 0..100 {
            turn.resume(resumes);
        }
        turn.close(closes, Close::Graceful);
        turn.close(resets, Close::Reset);
        turn.finish(finishes);
    });
    assert_eq!(read(&clients[0].0, 7), b"for you");
    rig.wait_paused(pauses);
    rig.wait_closed(closes);
    rig.wait_closed(resets);
    end_of(&clients[3].0);
    end_of(&clients[4].0);
    assert_eq!(read_to_end(&clients[5].0), b"");
    rig.assert_asleep("there is still no buffer");
    // New connections in the slots of those that ended while they waited.
    let fresh: Vec<_> = (0..2).map(|_| rig.client()).collect();
    for (client, _) in &fresh {
        write(client, b"new");
    }
    rig.run(|turn| turn.state.release());
    for conn in [sends, resumes, finishes] {
        assert_eq!(rig.wait_data(conn, 7), b"waiting");
    }
    for (_, conn) in &fresh {
        assert_eq!(rig.wait_data(*conn, 3), b"new");
    }
    assert_eq!(rig.look(|it| it.lives[&pauses].data.len()), 0, "paused is paused");
    rig.run(move |turn| turn.resume(pauses));
    assert_eq!(rig.wait_data(pauses, 7), b"waiting");
    rig.end((holder, clients, fresh));
}

/// A client that goes away while its bytes wait: what it sent before still arrives, or it is closed with an error.
pub(crate) fn gone_while_starved<S: Subject>() {
    let rig = starving_rig::<S>();
    let before = shortages(&rig);
    let (client, conn) = rig.client();
    let (resetting, reset_conn) = rig.client();
    let (holder, _) = take_all(&rig);
    write(&client, b"the last of me");
    write(&resetting, b"lost with me");
    wait_shortage(&rig, before);
    drop(client);
    super::client::reset(resetting);
    // A send notices that somebody is gone where nothing can be read.
    rig.run(move |turn| turn.send(reset_conn, &[b"hello?"]));
    assert_eq!(rig.wait_sent(reset_conn, 1).len(), 1);
    rig.assert_asleep("there is no buffer");
    rig.run(|turn| turn.state.release());
    rig.wait_for(conn, "Eof", |it| it.is_eof.then_some(()));
    assert_eq!(rig.wait_data(conn, 14), b"the last of me");
    rig.wait_for(reset_conn, "an end", |it| (it.is_eof || it.closed.is_some()).then_some(()));
    rig.end(holder);
}

/// Bytes that are held are the shard's, whatever became of their connection.
pub(crate) fn leases_outlive_their_connection<S: Subject>() {
    // One slot: every connection is the next one's predecessor.
    let setup =
        Setup { recv_buffers: BUFFERS, recv_buffer_bytes: 256, connections_max: 1, ..Setup::default() };
    let rig = Rig::<S>::with(setup);
    rig.run(|turn| turn.state.is_holding = true);
    for round in 0..4u8 {
        let (client, conn) = rig.client();
        write(&client, &[round; 100]);
        rig.wait_data(conn, 100);
        rig.close(conn, Close::Reset);
    }
    // Others write through every buffer that is left.
    rig.run(|turn| turn.state.is_holding = false);
    let (client, conn) = rig.client();
    let wanted = pattern(9, 100_000);
    write(&client, &wanted);
    assert_same(&rig.wait_data(conn, wanted.len()), &wanted);
    let held = rig.run(|turn| {
        turn.state.held.iter().map(|(conn, lease)| (conn.generation, lease.to_vec())).collect::<Vec<_>>()
    });
    let mut bytes = vec![Vec::new(); 4];
    for (generation, lease) in held {
        bytes[generation as usize].extend(lease);
    }
    for (round, bytes) in bytes.into_iter().enumerate() {
        assert_eq!(bytes, [round as u8; 100]);
    }
    rig.end(client);
}
