//! Connections behind their handshakes, each from its own source address.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use corecast_protocol::ws::deflate::{ClientWindow, Negotiated, Offer};
use corecast_protocol::ws::frame::{Header, Opcode, Reserved};
use corecast_protocol::ws::handshake::{SUBPROTOCOL_MSGPACK, parse_client_answer, write_client_request};
use memchr::memmem;

use super::dialect::{Dialect, Encoding};
use super::unpack::{Unpacker, unpacked};

/// As browsers do.
const OFFER: Offer = Offer {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: None,
    client_max_window_bits: ClientWindow::Any,
};
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Nobody takes longer for an answer to the handshake or a subscription.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection behind its handshake.
pub(crate) struct Opened {
    pub(crate) stream: TcpStream,
    /// What came behind the answer's head.
    pub(crate) bytes: Vec<u8>,
    /// Where compression was agreed on.
    pub(super) negotiated: Option<Negotiated>,
}

/// A connection that is about nothing but itself.
pub(crate) fn open(port: u16, number: usize, path: &str) -> Result<Opened> {
    open_as(port, number, path, None, Dialect::default())
}

/// A connection from an address of its own share of 127.0.0.0/8. `recv_buffer` is `SO_RCVBUF` in bytes, where it is
/// not the kernel's choice.
pub(super) fn open_as(
    port: u16,
    number: usize,
    path: &str,
    recv_buffer: Option<usize>,
    dialect: Dialect,
) -> Result<Opened> {
    let socket = socket(number)?;
    if let Some(bytes) = recv_buffer {
        socket.set_recv_buffer_size(bytes).context("receive buffer")?;
    }
    socket.connect(&address(port).into()).context("connecting")?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).context("patience")?;
    let offer = dialect.is_deflated.then_some(OFFER);
    stream.write_all(&request(port, path, dialect)).context("handshake")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece).context("handshake")?;
        if length == 0 {
            bail!("the server closed the connection during the handshake");
        }
        answer.extend_from_slice(&piece[..length]);
        match parse_client_answer(&answer, KEY, offer.as_ref()) {
            Ok(Some((_, None))) if dialect.is_deflated => {
                bail!("the server does not compress: corecast does with --set compression.mode=standard")
            }
            Ok(Some((head, negotiated))) => {
                answer.drain(..head);
                return Ok(Opened { stream, bytes: answer, negotiated });
            }
            Ok(None) => {}
            Err(error) => bail!("the handshake was refused: {error:?}"),
        }
    }
}

/// A connection that is only begun: its request goes out once it stands, and its answer is for [`answered`].
pub(super) fn call(port: u16, number: usize) -> Result<TcpStream> {
    let socket = socket(number)?;
    socket.set_nonblocking(true).context("nonblocking")?;
    match socket.connect(&address(port).into()) {
        // EINPROGRESS has no kind of its own.
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error).context("connecting"),
        _ => Ok(TcpStream::from(socket)),
    }
}

/// The request of the handshake.
pub(super) fn request(port: u16, path: &str, dialect: Dialect) -> Vec<u8> {
    let mut headers = if dialect.is_deflated { OFFER.line() } else { String::new() };
    if dialect.format == Encoding::Msgpack {
        headers.push_str(&format!("Sec-WebSocket-Protocol: {SUBPROTOCOL_MSGPACK}\r\n"));
    }
    let mut request = Vec::new();
    write_client_request(&format!("127.0.0.1:{port}"), path, KEY, &headers, &mut request);
    request
}

/// How long the answer to a plain handshake is, once all of it has come; an error if it is a refusal.
pub(super) fn answered(bytes: &[u8]) -> Result<Option<usize>> {
    match parse_client_answer(bytes, KEY, None) {
        Ok(it) => Ok(it.map(|(head, _)| head)),
        Err(error) => bail!("the handshake was refused: {error:?}"),
    }
}

/// From an address of its own share of 127.0.0.0/8.
fn socket(number: usize) -> Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).context("no socket")?;
    let source =
        Ipv4Addr::new(127, 1 + (number / 65_000) as u8, (number / 250 % 250) as u8, (number % 250 + 1) as u8);
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).context("source address")?;
    socket.set_tcp_nodelay(true).context("nodelay")?;
    Ok(socket)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// On every Linux.
const EINPROGRESS: i32 = 115;

/// Reads until a frame holds `mark`; `bytes` begin with what was read already and end as what is behind that frame.
pub(super) fn await_text(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    mark: &[u8],
    unpacker: Option<&Mutex<Unpacker>>,
) -> Result<()> {
    let is_in = |payload: &[u8]| memmem::find(payload, mark).is_some();
    await_frame(stream, bytes, |header, frame, payload| match header.is_compressed {
        true => unpacked(unpacker, frame, is_in).unwrap_or(false),
        false => is_in(payload),
    })
}

fn await_frame(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    is_it: impl Fn(&Header, &[u8], &[u8]) -> bool,
) -> Result<()> {
    let mut piece = [0; 4096];
    loop {
        while let Ok(Some((header, length))) = Header::parse_with(bytes, Reserved::Deflate) {
            let end = length + header.length as usize;
            if bytes.len() < end {
                break;
            }
            let is_found = is_it(&header, &bytes[..end], &bytes[length..end]);
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
    await_frame(stream, bytes, |header, _, _| header.opcode == Opcode::Pong)
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
