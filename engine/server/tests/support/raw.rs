//! A plain TCP client: bytes out, bytes and frames in. It answers nothing by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::client::stream;
use super::http::Response;

/// A handshake without its path, which a test may bend: `GET {path}` and this.
pub(crate) const HANDSHAKE: &str = " HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// Bytes that came but were not asked for yet.
    rest: Vec<u8>,
}

/// A frame from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) is_final: bool,
    /// RSV1.
    pub(crate) is_compressed: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Code and reason of a close frame.
    #[track_caller]
    pub(crate) fn close(&self) -> (u16, String) {
        assert_eq!(self.opcode, 8, "a close frame was awaited, not {self:?}");
        assert!(self.payload.len() >= 2, "the server's close frame has a code");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        (code, String::from_utf8(self.payload[2..].to_vec()).expect("a reason is UTF-8"))
    }
}

/// How the server ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// FIN.
    Fin,
    /// RST.
    Reset,
}

/// A frame as clients send it. `first` is FIN and the opcode: 0x81 is a whole text message.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0xc3, 0x01, 0x9f];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

impl Raw {
    /// A connection that has said nothing yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with_receive_buffer(address, None)
    }

    /// Likewise, with a receive buffer of this size.
    pub(crate) fn with_receive_buffer(address: SocketAddr, bytes: Option<usize>) -> Self {
        Self::of(stream(address, bytes))
    }

    /// On a connection made elsewhere.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// A connection past its handshake.
    #[track_caller]
    pub(crate) fn upgraded(address: SocketAddr, path: &str) -> Self {
        Self::connect(address).upgrade(path)
    }

    /// Completes the handshake.
    #[track_caller]
    pub(crate) fn upgrade(mut self, path: &str) -> Self {
        self.send(format!("GET {path}{HANDSHAKE}").as_bytes());
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        self
    }

    /// Sends bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection is open");
    }

    /// Sends bytes that may not be wanted any more.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends FIN.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// A head up to its empty line.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> String {
        loop {
            if let Some(at) = self.rest.windows(4).position(|it| it == b"\r\n\r\n") {
                let rest = self.rest.split_off(at + 4);
                let head = std::mem::replace(&mut self.rest, rest);
                return String::from_utf8_lossy(&head).into_owned();
            }
            self.fill();
        }
    }

    /// The next frame.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Frame {
        let first = self.take(2);
        assert_eq!(first[1] & 0x80, 0, "a server does not mask");
        let length = match first[1] {
            126 => u16::from_be_bytes(self.take(2).try_into().expect("two bytes")) as usize,
            127 => u64::from_be_bytes(self.take(8).try_into().expect("eight bytes")) as usize,
            short => usize::from(short),
        };
        let payload = self.take(length);
        Frame {
            is_final: first[0] & 0x80 != 0,
            is_compressed: first[0] & 0x40 != 0,
            opcode: first[0] & 0x0f,
            payload,
        }
    }

    /// The next frame of this opcode; others on the way are skipped.
    #[track_caller]
    pub(crate) fn frame_of(&mut self, opcode: u8) -> Frame {
        loop {
            let frame = self.frame();
            if frame.opcode == opcode {
                return frame;
            }
        }
    }

    /// Whether nothing more will come; waits until that is known.
    pub(crate) fn is_over(&mut self) -> bool {
        self.rest.is_empty() && !matches!(self.stream.peek(&mut [0]), Ok(1))
    }

    /// The next bytes, this many.
    #[track_caller]
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.take(count)
    }

    /// Reads to the end of the connection.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = std::mem::take(&mut self.rest);
        // What was read before a reset is kept.
        let end = match self.stream.read_to_end(&mut bytes) {
            Ok(_) => End::Fin,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
            Err(error) => panic!("the end of the connection was awaited, not {error}"),
        };
        (bytes, end)
    }

    /// An HTTP answer and the end of the connection.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        let (bytes, end) = self.read_to_end();
        assert_eq!(end, End::Fin, "an answer ends cleanly");
        Response::parse(&bytes)
    }

    /// Reads so many bytes at least; they are still the next to be looked at.
    #[track_caller]
    pub(crate) fn await_bytes(&mut self, count: usize) {
        while self.rest.len() < count {
            self.fill();
        }
    }

    #[track_caller]
    fn take(&mut self, count: usize) -> Vec<u8> {
        self.await_bytes(count);
        let rest = self.rest.split_off(count);
        std::mem::replace(&mut self.rest, rest)
    }

    #[track_caller]
    fn fill(&mut self) {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the server ended the connection; unread: {:?}", self.rest),
            Ok(count) => self.rest.extend_from_slice(&buffer[..count]),
            // A read with a time-out is interrupted when the host stops this process for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("bytes were awaited, not {error}"),
        }
    }
}

/// Ten messages that nobody understands, for which the server closes with 1008.
pub(crate) fn nonsense() -> Vec<u8> {
    masked(0x82, b"\xc1").repeat(10)
}
