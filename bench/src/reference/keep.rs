//! Accepts connections and does nothing but hold them and answer pings, without anything in the kernel that watches
//! them: what a socket costs by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::rooms::{Input, Rooms, Wish};

/// Between two looks at every socket; whoever waits for a pong waits so long.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For a handshake behind a connection; whoever only looks whether somebody listens sends none.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves until it is killed. It spins: sleeping would keep every handshake waiting.
pub(super) fn run(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).context("can't listen")?;
    listener.set_nonblocking(true).context("nonblocking")?;
    let mut clients: Vec<(TcpStream, Input)> = Vec::new();
    let mut looked = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let mut client = (stream, Input::default());
                client.0.set_nonblocking(false).context("blocking")?;
                client.0.set_read_timeout(Some(PATIENCE)).context("patience")?;
                if serve(&mut client) {
                    client.0.set_nonblocking(true).context("nonblocking")?;
                    clients.push(client);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error).context("can't accept"),
        }
        if looked.elapsed() > LOOK_EVERY {
            clients.iter_mut().for_each(|client| while serve(client) {});
            looked = Instant::now();
        }
    }
}

/// Answers what there is; whether it said something.
fn serve((stream, input): &mut (TcpStream, Input)) -> bool {
    let (mut rooms, mut wishes, mut buffer) = (Rooms::default(), Vec::new(), [0; 4096]);
    let Ok(length @ 1..) = stream.read(&mut buffer) else { return false };
    rooms.received(0, input, &buffer[..length], &mut wishes);
    for wish in wishes {
        if let Wish::Reply(bytes) = wish {
            let _ = stream.write_all(&bytes);
        }
    }
    true
}
