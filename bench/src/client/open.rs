//! Connections behind their handshakes, each from its own source address.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use corecast_protocol::ws::frame::{Header, Opcode};
use corecast_protocol::ws::handshake::{parse_client_response, write_client_request};
use memchr::memmem;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A connection behind its handshake, from an address of its own share of 127.0.0.0/8, and what came behind the
/// answer's head. `recv_buffer` is `SO_RCVBUF` in bytes, where it is not the kernel's choice.
pub(crate) fn open(
    port: u16,
    number: usize,
    path: &str,
    recv_buffer: Option<usize>,
) -> Result<(TcpStream, Vec<u8>)> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).context("no socket")?;
    let source =
        Ipv4Addr::new(127, 1 + (number / 65_000) as u8, (number / 250 % 250) as u8, (number % 250 + 1) as u8);
    if let Some(bytes) = recv_buffer {
        socket.set_recv_buffer_size(bytes).context("receive buffer")?;
    }
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).context("source address")?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).context("connecting")?;
    socket.set_tcp_nodelay(true).context("nodelay")?;
    let mut stream = TcpStream::from(socket);
    let mut request = Vec::new();
    write_client_request(&format!("127.0.0.1:{port}"), path, KEY, "", &mut request);
    stream.write_all(&request).context("handshake")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece).context("handshake")?;
        if length == 0 {
            bail!("the server closed the connection during the handshake");
        }
        answer.extend_from_slice(&piece[..length]);
        match parse_client_response(&answer, KEY) {
            Ok(Some(head)) => {
                answer.drain(..head);
                return Ok((stream, answer));
            }
            Ok(None) => {}
            Err(error) => bail!("the handshake was refused: {error:?}"),
        }
    }
}

/// Reads until a frame holds `mark`; `bytes` begin with what was read already and end as what is behind that frame.
pub(super) fn await_text(stream: &mut TcpStream, bytes: &mut Vec<u8>, mark: &[u8]) -> Result<()> {
    await_frame(stream, bytes, |_, payload| memmem::find(payload, mark).is_some())
}

fn await_frame(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    is_it: impl Fn(&Header, &[u8]) -> bool,
) -> Result<()> {
    let mut piece = [0; 4096];
    loop {
        while let Ok(Some((header, length))) = Header::parse(bytes) {
            let end = length + header.length as usize;
            if bytes.len() < end {
                break;
            }
            let is_found = is_it(&header, &bytes[length..end]);
            bytes.drain(..end);
            if is_found {
                return Ok(());
            }
        }
        let length = stream.read(&mut piece).context("waiting for an answer")?;
        if length == 0 {
            bail!("the server closed the connection");
        }
        bytes.extend_from_slice(&piece[..length]);
    }
}

/// Reads until a pong; `bytes` as with `await_text`.
pub(crate) fn await_pong(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<()> {
    await_frame(stream, bytes, |header, _| header.opcode == Opcode::Pong)
}

/// Whether the server has not closed a connection. What it sent meanwhile is thrown away.
pub(crate) fn is_open(stream: &mut TcpStream) -> bool {
    let mut piece = [0; 4096];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_is_told_from_an_open_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut far, _) = listener.accept().expect("somebody connected");
        assert!(is_open(&mut near), "nothing came");
        far.write_all(b"hello").expect("it is open");
        drop(far);
        near.set_nonblocking(false).expect("a socket");
        // Blocks until the end has arrived, and takes what came before it.
        let mut all = Vec::new();
        near.read_to_end(&mut all).expect("the end comes");
        assert_eq!((all.as_slice(), is_open(&mut near)), (b"hello".as_slice(), false));
    }
}
