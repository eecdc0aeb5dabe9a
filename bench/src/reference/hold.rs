//! The other end of idle connections, in a process of its own.

use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use corecast_protocol::ws::frame::{self, Opcode};

use crate::client::{await_pong, open};

/// So many pings are under way at once: the server's answers fit every buffer.
const AT_ONCE: usize = 500;
/// How long a pong is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection and what was read of it but belongs to an unfinished frame.
type Held = (TcpStream, Vec<u8>);

/// Opens connections, says so, and holds them; pings them all whenever it is asked by a line, and says how many
/// answered.
pub(super) fn run(port: u16, first: usize, count: usize) -> Result<()> {
    let opened = (first..first + count).map(|number| {
        let held = open(port, number, "/ws", None)?;
        held.0.set_read_timeout(Some(PATIENCE)).context("patience")?;
        // Ends by a reset: sockets that the kernel keeps for a minute would be counted with the next server's.
        socket2::SockRef::from(&held.0).set_linger(Some(Duration::ZERO)).context("linger")?;
        Ok(held)
    });
    let mut held = match opened.collect::<Result<Vec<_>>>() {
        Ok(held) => held,
        Err(error) => {
            println!("{error:#}");
            return Ok(());
        }
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", held.chunks_mut(AT_ONCE).map(ping).sum::<usize>());
    }
    Ok(())
}

/// How many answer.
fn ping(held: &mut [Held]) -> usize {
    let mut ping = Vec::new();
    frame::encode_masked(Opcode::Ping, b"bench", [1, 2, 3, 4], &mut ping);
    let sent: Vec<bool> = held.iter_mut().map(|(stream, _)| stream.write_all(&ping).is_ok()).collect();
    let answers = held.iter_mut().zip(sent);
    answers
        .filter_map(|((stream, bytes), sent)| (sent && await_pong(stream, bytes).is_ok()).then_some(()))
        .count()
}
