//! The end of a driver: every socket is freed, every buffer is let go, whatever was under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;

use corecast_driver::Next;
use corecast_driver::listener::listen;

use super::client::{connect, end_of, pattern, read, write};
use super::rig::{Rig, Setup, Subject};

/// Connections in every state; each of their clients learns that it is over.
pub(crate) fn stop_frees_everything<S: Subject>() {
    let mut rig = Rig::<S>::new();
    let clients: Vec<_> = (0..9).map(|_| rig.client()).collect();
    let conns: Vec<_> = clients.iter().map(|(_, conn)| *conn).collect();
    write(&clients[7].0, b"held beyond the end");
    rig.run(move |turn| {
        turn.state.is_holding = true;
        turn.pause(conns[1]);
        turn.send(conns[2], &[&pattern(13, 6 << 20)]);
        turn.send(conns[3], &[&pattern(14, 30_000), &pattern(15, 20_000)]);
        turn.finish(conns[4]);
        turn.send(conns[5], &[&pattern(16, 6 << 20)]);
        turn.finish(conns[5]);
        turn.send(conns[6], &[&pattern(17, 6 << 20)]);
        turn.close(conns[6], corecast_driver::Close::Graceful);
    });
    rig.wait_data(clients[7].1, 19);
    clients[8].0.shutdown(std::net::Shutdown::Write).expect("it is connected");
    rig.wait_for(clients[8].1, "Eof", |it| it.is_eof.then_some(()));
    read(&clients[2].0, 1000);
    rig.stop();
    for (client, _) in clients {
        end_of(&client);
    }
    rig.assert_nothing_left();
}

/// Clients were waiting before the driver began, and the shard wants none of them.
pub(crate) fn stop_in_the_first_turn<S: Subject>() {
    let mut clients = Vec::new();
    let (tell, told) = std::sync::mpsc::channel();
    let mut rig = Rig::<S>::listening(
        Setup::default(),
        |setup| {
            let listener = listen(setup.address, &setup.options).expect("a free port");
            let address = listener.local_addr().expect("it listens");
            let waiting: Vec<_> = (0..20).map(|_| connect(address)).collect();
            tell.send(waiting).expect("the receiver is here");
            listener
        },
        |turn| turn.state.next = Next::Stop,
    );
    clients.append(&mut told.recv().expect("they were connected"));
    rig.join();
    for client in clients {
        end_of(&client);
    }
    rig.assert_nothing_left();
}

/// A wake-up comes in the very turn in which the shard stops.
pub(crate) fn stop_while_woken<S: Subject>() {
    for _ in 0..5 {
        let mut rig = Rig::<S>::new();
        let waker = rig.waker.clone().expect("the rig runs");
        rig.post(move |turn| {
            waker.wake();
            turn.state.next = Next::Stop;
        });
        rig.join();
        rig.assert_nothing_left();
    }
}

/// Clients come, send and go all the time, also in the turn of the end.
pub(crate) fn stop_while_clients_come<S: Subject>() {
    for _ in 0..10 {
        let mut rig = Rig::<S>::with(Setup { connections_max: 16, ..Setup::default() });
        let is_over = Arc::new(AtomicBool::new(false));
        let (address, over) = (rig.address, Arc::clone(&is_over));
        let thread = spawn(move || {
            let mut clients = Vec::new();
            while !over.load(Ordering::Relaxed) && clients.len() < 500 {
                let Ok(client) = std::net::TcpStream::connect(address) else { break };
                let _ = std::io::Write::write_all(&mut &client, b"anybody?");
                clients.push(client);
            }
            clients
        });
        rig.wait("a full table", |it| (it.live() == 16).then_some(()));
        rig.stop();
        is_over.store(true, Ordering::Relaxed);
        for client in thread.join().expect("it only connects") {
            end_of(&client);
        }
        rig.assert_nothing_left();
    }
}
