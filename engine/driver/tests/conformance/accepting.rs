//! Accepting: every client once, none beyond the table, none while it is off; who waits stays in the kernel's queue.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::thread::spawn;

use corecast_driver::Close;
use corecast_driver::listener::{ListenOptions, listen};
use socket2::SockRef;

use super::client::{connect, end_of, read, reset, write};
use super::rig::{Rig, Setup, Subject, alone};
use super::script::Happened;

/// The address of the client itself, in the family in which it came.
pub(crate) fn peer_addresses<S: Subject>() {
    let any = SocketAddr::from(([0u16; 8], 0));
    let rig = Rig::<S>::new();
    let (client, conn) = rig.client();
    let peer = client.local_addr().expect("it is connected");
    assert_eq!(rig.look(|it| it.lives[&conn].peer), peer);
    rig.end(client);
    let has_ipv6 = {
        let _turn = alone();
        listen(any, &ListenOptions::default()).is_ok()
    };
    if !has_ipv6 {
        return;
    }
    let rig = Rig::<S>::with(Setup { address: any, ..Setup::default() });
    for host in
        [SocketAddr::from(([127, 0, 0, 1], 0)).ip(), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)).ip()]
    {
        let Ok(client) = TcpStream::connect((host, rig.address.port())) else { continue };
        let peer = client.local_addr().expect("it is connected");
        // A client of IPv4 is one, also on a listener of both.
        rig.wait("Accepted by its own address", |it| {
            it.lives.values().find(|life| life.peer == peer).map(|_| ())
        });
    }
    rig.end(());
}

/// A full table: the others wait, unharmed, and each gets the place of one that goes.
pub(crate) fn full_table<S: Subject>() {
    const PLACES: usize = 4;
    let rig = Rig::<S>::with(Setup { connections_max: PLACES as u32, ..Setup::default() });
    for round in 0..6 {
        let before = rig.look(|it| it.order.len());
        let clients: Vec<_> = (0..3 * PLACES).map(|_| connect(rig.address)).collect();
        for (index, client) in clients.iter().enumerate() {
            write(client, &[index as u8; 10]);
        }
        rig.wait("a full table", |it| (it.live() == PLACES).then_some(()));
        rig.assert_asleep("the table is full");
        assert_eq!(rig.look(|it| it.order.len()), before + PLACES, "more than the table holds");
        for served in 0..3 * PLACES {
            let conn = rig.wait("Accepted", |it| it.order.get(before + served).copied());
            rig.wait_data(conn, 10);
            rig.run(move |turn| turn.send(conn, &[b"welcome"]));
            rig.wait_sent(conn, 1);
            rig.close(conn, if round % 2 == 0 { Close::Graceful } else { Close::Reset });
        }
        rig.wait("an empty table", |it| (it.live() == 0).then_some(()));
        assert_eq!(rig.stats().accepted, (before + 3 * PLACES) as u64);
        if round % 2 == 0 {
            assert!(clients.iter().all(|client| read(client, 7) == b"welcome"));
        }
    }
    rig.end(());
}

/// Off: clients wait in the kernel's queue. On again: they are taken.
pub(crate) fn accepting_off_and_on<S: Subject>() {
    let rig = Rig::<S>::new();
    let (first, conn) = rig.client();
    for round in 0..10 {
        rig.run(move |turn| {
            turn.io.accepting(false);
            if round % 2 == 1 {
                turn.io.accepting(true);
                turn.io.accepting(false);
            }
        });
        // What was under way is over with the next turn.
        rig.run(|_| {});
        let before = rig.look(|it| it.order.len());
        let clients: Vec<_> = (0..3).map(|_| connect(rig.address)).collect();
        for client in &clients {
            write(client, b"hello");
        }
        write(&first, b"x");
        rig.wait_data(conn, round + 1);
        rig.assert_asleep("accepting is off");
        assert_eq!(rig.look(|it| it.order.len()), before, "taken although accepting is off");
        rig.run(|turn| turn.io.accepting(true));
        for client in &clients {
            let conn = rig.accepted(client);
            assert_eq!(rig.wait_data(conn, 5), b"hello");
            rig.close(conn, Close::Graceful);
        }
    }
    rig.end(first);
}

/// Switched all the time while clients come: each is taken exactly once in the end.
pub(crate) fn accepting_flickers<S: Subject>() {
    let rig = Rig::<S>::with(Setup { connections_max: 256, ..Setup::default() });
    let address = rig.address;
    let clients = spawn(move || (0..200).map(|_| connect(address)).collect::<Vec<_>>());
    for round in 0..300 {
        rig.run(move |turn| turn.io.accepting(round % 2 == 0));
    }
    let clients = clients.join().expect("all were connected");
    rig.run(|turn| turn.io.accepting(true));
    for client in &clients {
        rig.accepted(client);
    }
    assert_eq!(rig.stats().accepted, 200);
    rig.end(clients);
}

/// Accepting fails for good: the connections that are there live on, and the loop does not spin over it.
pub(crate) fn accepting_fails<S: Subject>() {
    let (tell, told) = channel();
    let listener = move |setup: &Setup| {
        let listener = listen(setup.address, &setup.options).expect("a free port");
        tell.send(listener.try_clone().expect("a descriptor is free")).expect("the receiver is here");
        listener
    };
    let mut rig = Rig::<S>::listening(Setup::default(), listener, |_| {});
    let listener = told.recv().expect("it was sent");
    let (client, conn) = rig.client();
    // From here on each accept fails at once.
    SockRef::from(&listener).shutdown(Shutdown::Both).expect("it listens");
    rig.run(|_| {});
    rig.assert_asleep("no accept can work");
    write(&client, b"unharmed");
    assert_eq!(rig.wait_data(conn, 8), b"unharmed");
    rig.run(move |turn| turn.send(conn, &[b"me too"]));
    assert_eq!(read(&client, 6), b"me too");
    // Long enough for every rest between two tries to be over.
    rig.run(|turn| turn.io.accepting(false));
    for _ in 0..5 {
        rig.assert_asleep("accepting is off");
    }
    rig.stop();
    drop((client, listener));
    rig.assert_nothing_left();
}

const THOUSAND: usize = 1000;

fn thousand<S: Subject>(rig: &Rig<S>) -> Vec<TcpStream> {
    let clients: Vec<_> = (0..THOUSAND).map(|_| connect(rig.address)).collect();
    rig.wait("a thousand", |it| (it.live() == THOUSAND).then_some(()));
    clients
}

/// A thousand connections at once, closed at once by the clients, by the shard, and by both.
pub(crate) fn a_thousand_at_once<S: Subject>() {
    let rig = Rig::<S>::with(Setup { connections_max: THOUSAND as u32, ..Setup::default() });
    rig.react(|turn, happened| {
        if let Happened::Eof(conn) = happened {
            turn.close(*conn, Close::Graceful);
        }
    });
    let nobody = |rig: &Rig<S>| rig.wait("nobody", |it| (it.live() == 0).then_some(()));
    drop(thousand(&rig));
    nobody(&rig);
    thousand(&rig).into_iter().for_each(reset);
    nobody(&rig);
    for how in [Close::Graceful, Close::Reset] {
        let clients = thousand(&rig);
        close_all_in_one_turn(&rig, how);
        for client in &clients {
            assert_eq!(end_of(client).is_some(), how == Close::Reset);
        }
        nobody(&rig);
    }
    let clients = thousand(&rig);
    for client in &clients {
        write(client, b"a few bytes that nobody has to read");
    }
    close_all_in_one_turn(&rig, Close::Reset);
    drop(clients);
    nobody(&rig);
    assert_eq!(rig.stats().accepted, 5 * THOUSAND as u64);
    rig.end(());
}

fn close_all_in_one_turn<S: Subject>(rig: &Rig<S>, how: Close) {
    let all: Vec<_> = rig.look(|it| {
        let live = it.order.iter().filter(|conn| it.lives[conn].closed.is_none());
        live.copied().collect()
    });
    rig.run(move |turn| all.into_iter().for_each(|conn| turn.close(conn, how)));
}
