//! Clients: ordinary sockets, blocking, with a bound on how long a read may take.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::rig::PATIENCE;

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the backlog has room");
    ready(stream)
}

fn ready(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// A client that takes little at a time: small segments into a small buffer.
pub(crate) fn connect_small(address: SocketAddr, buffer_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a descriptor is free");
    socket.set_recv_buffer_size(buffer_bytes).expect("the kernel rounds it");
    socket.set_tcp_mss(1400).expect("an ordinary segment");
    socket.connect(&address.into()).expect("the backlog has room");
    ready(socket.into())
}

/// Closing this client will send RST.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
}

/// Reads exactly so many bytes.
pub(crate) fn read(mut stream: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("the bytes arrive");
    bytes
}

/// Reads to the end, which must be a FIN.
pub(crate) fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a FIN, no reset");
    bytes
}

pub(crate) fn write(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the peer is there");
}

/// Waits for the end of the connection, whatever arrives before: `Some` error of a reset, `None` for a FIN.
///
/// # Panics
/// If nobody ends it.
pub(crate) fn end_of(mut stream: &TcpStream) -> Option<ErrorKind> {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "nobody ended the connection");
                return Some(error.kind());
            }
        }
    }
}

/// Bytes of a stream, different for each `seed` and at each place.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Compares streams without printing megabytes.
pub(crate) fn assert_same(got: &[u8], wanted: &[u8]) {
    let place = got.iter().zip(wanted).position(|(one, other)| one != other);
    assert!(
        place.is_none() && got.len() == wanted.len(),
        "{} bytes instead of {}, the first difference at {place:?}",
        got.len(),
        wanted.len()
    );
}

/// xorshift64*: small, and the same on every host.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
