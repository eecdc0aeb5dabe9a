//! The other end of idle connections, in a process of its own.

use std::io::BufRead;

use anyhow::Result;

use crate::client::{is_open, open};

/// Opens connections, says so, and holds them; says how many are still open whenever it is asked by a line.
pub(super) fn run(port: u16, first: usize, count: usize) -> Result<()> {
    let streams =
        (first..first + count).map(|number| open(port, number, "/ws", None)).collect::<Result<Vec<_>>>();
    let mut streams = match streams {
        Ok(streams) => streams,
        Err(error) => {
            println!("{error:#}");
            return Ok(());
        }
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", streams.iter_mut().filter_map(|(stream, _)| is_open(stream).then_some(())).count());
    }
    Ok(())
}
