//! The floor: one thread, one send(2) per recipient, nothing else. What the kernel's TCP costs by itself.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::rooms::{Input, Rooms, Wish};

const LISTENER: Token = Token(usize::MAX);

/// Serves until it is killed.
pub(super) fn run(port: u16) -> Result<()> {
    let mut poll = Poll::new().context("no poll")?;
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into()).context("can't listen")?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).context("register")?;
    let mut clients: Vec<(TcpStream, Input)> = Vec::new();
    let (mut rooms, mut wishes) = (Rooms::default(), Vec::new());
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true).context("nodelay")?;
                    let token = Token(clients.len());
                    poll.registry().register(&mut stream, token, Interest::READABLE).context("register")?;
                    clients.push((stream, Input::default()));
                }
                continue;
            }
            let number = event.token().0;
            loop {
                let (stream, input) = &mut clients[number];
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => rooms.received(number, input, &buffer[..length], &mut wishes),
                }
                for wish in wishes.drain(..) {
                    match wish {
                        Wish::Reply(bytes) => send(&mut clients[number].0, &bytes),
                        Wish::Publish { members, frame } => {
                            for member in &rooms.members[members] {
                                send(&mut clients[*member].0, &frame);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One send(2). A client that does not keep up loses messages, which the audit would show.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write(bytes);
}
