//! The other end of idle connections, in a process of its own.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use corecast_protocol::ws::frame::{self, Opcode};

use crate::client::{Opened, await_pong, open};

/// So many pings are under way at once: the server's answers fit every buffer.
const AT_ONCE: usize = 500;
/// How long a pong is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens connections, says so, and holds them; pings them all whenever it is asked by a line, and says how many
/// answered.
pub(super) fn run(port: u16, first: usize, count: usize) -> Result<()> {
    let opened = (first..first + count).map(|number| {
        let held = open(port, number, "/ws")?;
        held.stream.set_read_timeout(Some(PATIENCE)).context("patience")?;
        // Ends by a reset: sockets that the kernel keeps for a minute would be counted with the next server's.
        socket2::SockRef::from(&held.stream).set_linger(Some(Duration::ZERO)).context("linger")?;
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
fn ping(held: &mut [Opened]) -> usize {
    let mut ping = Vec::new();
    frame::encode_masked(Opcode::Ping, b"bench", [1, 2, 3, 4], &mut ping);
    let sent: Vec<bool> = held.iter_mut().map(|it| it.stream.write_all(&ping).is_ok()).collect();
    let answers = held.iter_mut().zip(sent);
    let answers = answers.filter(|(_, sent)| *sent);
    answers.filter_map(|(it, _)| await_pong(&mut it.stream, &mut it.bytes).ok()).count()
}
