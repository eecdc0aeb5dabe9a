//! The other end of idle connections, in a process of its own.

use anyhow::Result;

use crate::client::open;

/// Opens connections, says so, and holds them.
pub(super) fn run(port: u16, first: usize, count: usize) -> Result<()> {
    let streams = (first..first + count).map(|number| open(port, number, "/ws")).collect::<Result<Vec<_>>>();
    match &streams {
        Ok(_) => println!("ready"),
        Err(error) => println!("{error:#}"),
    }
    loop {
        std::thread::park();
    }
}
