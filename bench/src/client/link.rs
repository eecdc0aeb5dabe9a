//! A connection that is read and written without waiting, and how long a reactor sleeps between two looks. It knows no
//! frames.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::{Interest, Registry, Token};

/// After a hold-up not all that is due is published at once: who only sends fills buffers with what nobody reads.
pub(super) const PUBLISHES_PER_TURN_MAX: usize = 64;
/// Room for reading behind what is kept of an unfinished frame.
pub(super) const READ_BYTES: usize = 256 << 10;
/// The longest sleep of a reactor that does not spin: what it adds to a latency at most.
const NAP: Duration = Duration::from_micros(100);

/// One connection.
pub(super) struct Link {
    stream: mio::net::TcpStream,
    /// The beginning of what is not whole yet.
    partial: Vec<u8>,
    pub(super) is_closed: bool,
}

impl Link {
    /// With what was read of it already.
    pub(super) fn new(stream: TcpStream, partial: Vec<u8>) -> Result<Self> {
        stream.set_nonblocking(true).context("nonblocking")?;
        Ok(Self { stream: mio::net::TcpStream::from_std(stream), partial, is_closed: false })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> Result<()> {
        registry.register(&mut self.stream, token, interest).context("register")
    }

    /// Whether all is sent, or never will be.
    pub(super) fn send(&mut self, out: &mut Vec<u8>) -> bool {
        if out.is_empty() {
            return true;
        }
        match self.stream.write(out) {
            Ok(written) => {
                out.drain(..written);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(_) => out.clear(),
        }
        out.is_empty()
    }

    /// Reads what is there; `take` says how much of it was whole. The poll tells edges: a short read is followed by
    /// an event of its own once there is more, but the end of a stream that was told with the data has to be looked
    /// for.
    pub(super) fn read(
        &mut self,
        registry: &Registry,
        buffer: &mut Vec<u8>,
        is_ended: bool,
        mut take: impl FnMut(&[u8]) -> usize,
    ) {
        loop {
            let kept = self.partial.len();
            if buffer.len() < kept + READ_BYTES {
                buffer.resize(kept + READ_BYTES, 0);
            }
            buffer[..kept].copy_from_slice(&self.partial);
            let length = match self.stream.read(&mut buffer[kept..]) {
                Ok(length) if length > 0 => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => {
                    self.is_closed = true;
                    let _ = registry.deregister(&mut self.stream);
                    break;
                }
            };
            let all = kept + length;
            let used = take(&buffer[..all]);
            self.partial.clear();
            self.partial.extend_from_slice(&buffer[used..all]);
            if all < buffer.len() && !is_ended {
                break;
            }
        }
    }

    /// Ends it as a cut does: by a reset, with all lost that was under way.
    pub(super) fn cut(self) {
        // Without it the end is an orderly one.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// Sleeps for a moment, but not beyond the nanoseconds until something is due.
pub(super) fn nap(due_in: Option<u64>) {
    std::thread::sleep(due_in.map_or(NAP, |it| Duration::from_nanos(it).min(NAP)));
}
