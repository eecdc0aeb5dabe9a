//! An independent implementation (tungstenite) writes what we read and reads what we write.

mod seeded;

use std::io::{self, Read, Write};

use corecast_protocol::CloseCode;
use corecast_protocol::ws::frame::{Opcode, encode, encode_close, encode_masked};
use corecast_protocol::ws::handshake::{
    self, Mode, Parsed, Policy, Route, parse_client_response, write_client_request,
};
use corecast_protocol::ws::{AssemblyPool, Connection, Event, Limits, Role};
use proptest::prelude::*;
use proptest::sample::Index;
use seeded::seeded;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket, protocol};

/// A stream in memory: what is there is read in pieces of at most `piece` bytes, then it would block.
struct Pipe {
    input: Vec<u8>,
    at: usize,
    piece: usize,
    output: Vec<u8>,
}

impl Pipe {
    fn new(input: Vec<u8>, piece: usize) -> Self {
        Self { input, at: 0, piece, output: Vec::new() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.at..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = rest.len().min(buffer.len()).min(self.piece);
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is sent and must arrive.
#[derive(Clone, PartialEq, Debug)]
enum Item {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Item {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Event::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Event::Close(ending) => {
                Self::Close(ending.map(|(code, reason)| (code.code(), reason.to_owned())))
            }
        }
    }
}

/// A message, where its fragments are cut, and the control frame that is sent in front of each later fragment.
#[derive(Clone, Debug)]
struct Sent {
    item: Item,
    cuts: Vec<(Index, Option<Item>)>,
}

fn control() -> impl Strategy<Value = Item> {
    let payload = || prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![payload().prop_map(Item::Ping), payload().prop_map(Item::Pong)]
}

fn data() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => ".{0,60}".prop_map(Item::Text),
        1 => "(äö€😀){0,60}".prop_map(Item::Text),
        4 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Item::Binary),
        1 => (65_000usize..66_500, any::<u8>()).prop_map(|(length, byte)| Item::Binary(vec![byte; length])),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let cuts = prop::collection::vec((any::<Index>(), prop::option::of(control())), 0..5);
    prop_oneof![
        4 => (data(), cuts).prop_map(|(item, cuts)| Sent { item, cuts }),
        1 => control().prop_map(|item| Sent { item, cuts: Vec::new() }),
    ]
}

fn message(item: &Item) -> Message {
    match item.clone() {
        Item::Text(text) => Message::text(text),
        Item::Binary(bytes) => Message::binary(bytes),
        Item::Ping(bytes) => Message::Ping(bytes.into()),
        Item::Pong(bytes) => Message::Pong(bytes.into()),
        Item::Close(_) => Message::Close(None),
    }
}

/// Writes a message by tungstenite, and notes what must be seen at the other end, in order.
fn write(socket: &mut WebSocket<Pipe>, sent: &Sent, expected: &mut Vec<Item>) {
    let (kind, bytes) = match &sent.item {
        Item::Text(text) => (Data::Text, text.as_bytes()),
        Item::Binary(bytes) => (Data::Binary, bytes.as_slice()),
        control => {
            socket.write(message(control)).expect("the pipe takes everything");
            return expected.push(control.clone());
        }
    };
    let mut cuts: Vec<_> =
        sent.cuts.iter().map(|(at, between)| (at.index(bytes.len() + 1), between.as_ref())).collect();
    cuts.sort_by_key(|(at, _)| *at);
    let mut start = 0;
    let mut send = |socket: &mut WebSocket<Pipe>, index: usize, end: usize, is_final: bool| {
        let opcode = OpCode::Data(if index == 0 { kind } else { Data::Continue });
        let frame = Frame::message(bytes[start..end].to_vec(), opcode, is_final);
        socket.write(Message::Frame(frame)).expect("the pipe takes everything");
        start = end;
    };
    for (index, (end, between)) in cuts.iter().enumerate() {
        send(socket, index, *end, false);
        if let Some(item) = between {
            socket.write(message(item)).expect("the pipe takes everything");
            expected.push((*item).clone());
        }
    }
    send(socket, cuts.len(), bytes.len(), true);
    expected.push(sent.item.clone());
}

/// Reads `bytes` in pieces of the given lengths, over and over.
fn read(role: Role, bytes: &[u8], pieces: &[usize]) -> Vec<Item> {
    let mut connection = Connection::new(role, Limits { message_bytes: 1 << 20, fragments: 64 });
    let mut pool = AssemblyPool::new(256, 4, 4 << 20);
    let mut seen = Vec::new();
    let (mut rest, mut lengths) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(*lengths.next().unwrap_or(&rest.len())));
        let mut piece = piece.to_vec();
        let mut reader = connection.receive(&mut piece, &mut pool);
        while let Some(event) = reader.next() {
            seen.push(event.expect("what tungstenite writes is no violation").into());
        }
        rest = after;
    }
    assert_eq!(pool.bytes_in_use(), 0, "every message is complete");
    seen
}

fn socket(role: protocol::Role, input: Vec<u8>, piece: usize) -> WebSocket<Pipe> {
    WebSocket::from_raw_socket(Pipe::new(input, piece), role, None)
}

/// What tungstenite reads from its pipe until that is empty or the connection over.
fn drain(socket: &mut WebSocket<Pipe>) -> Vec<Item> {
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(Message::Text(text)) => Item::Text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Item::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Item::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Item::Pong(bytes.to_vec()),
            Ok(Message::Close(ending)) => {
                Item::Close(ending.map(|it| (it.code.into(), it.reason.as_str().to_owned())))
            }
            Ok(Message::Frame(frame)) => panic!("a raw frame: {frame}"),
            Err(tungstenite::Error::ConnectionClosed) => return seen,
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return seen,
            Err(error) => panic!("tungstenite refuses what we write: {error}"),
        });
    }
}

/// Writes an item by our encoder: masked as a client, or unmasked as a server.
fn encode_item(item: &Item, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let (opcode, payload) = match item {
        Item::Text(text) => (Opcode::Text, text.as_bytes()),
        Item::Binary(bytes) => (Opcode::Binary, bytes.as_slice()),
        Item::Ping(bytes) => (Opcode::Ping, bytes.as_slice()),
        Item::Pong(bytes) => (Opcode::Pong, bytes.as_slice()),
        Item::Close(_) => unreachable!("closes are written by `encode_close`"),
    };
    match mask {
        Some(mask) => encode_masked(opcode, payload, mask, out),
        None => encode(opcode, payload, out),
    }
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        3 => prop::collection::vec(1usize..200, 1..6),
        1 => Just(vec![1]),
        2 => Just(vec![usize::MAX]),
    ]
}

proptest! {
    #![proptest_config(seeded(256))]

    #[test]
    fn what_tungstenite_writes_as_a_client_is_read(
        all in prop::collection::vec(sent(), 0..12), pieces in pieces(), is_closing in any::<bool>(),
    ) {
        let mut socket = socket(protocol::Role::Client, Vec::new(), 1);
        let mut expected = Vec::new();
        for sent in &all {
            write(&mut socket, sent, &mut expected);
        }
        if is_closing {
            let reason = protocol::CloseFrame { code: 4000.into(), reason: "bye ä".into() };
            socket.close(Some(reason)).expect("the pipe takes everything");
            expected.push(Item::Close(Some((4000, "bye ä".to_owned()))));
        }
        socket.flush().expect("the pipe takes everything");
        let bytes = std::mem::take(&mut socket.get_mut().output);
        prop_assert_eq!(read(Role::Server, &bytes, &pieces), expected);
    }

    #[test]
    fn what_tungstenite_writes_as_a_server_is_read_by_our_client(
        all in prop::collection::vec(sent(), 0..12), pieces in pieces(),
    ) {
        let mut socket = socket(protocol::Role::Server, Vec::new(), 1);
        let mut expected = Vec::new();
        for sent in &all {
            write(&mut socket, sent, &mut expected);
        }
        socket.flush().expect("the pipe takes everything");
        let bytes = std::mem::take(&mut socket.get_mut().output);
        prop_assert_eq!(read(Role::Client, &bytes, &pieces), expected);
    }

    #[test]
    fn what_we_write_is_read_by_tungstenite(
        mut items in prop::collection::vec(prop_oneof![3 => data(), 1 => control()], 0..12),
        mask in prop::option::of(any::<[u8; 4]>()), piece in prop_oneof![1usize..50, Just(usize::MAX)],
        closing in prop::option::of(prop_oneof![Just(1000u16), Just(1001), Just(4000), Just(4501)]), reason in ".{0,200}",
    ) {
        let mut bytes = Vec::new();
        for item in &items {
            encode_item(item, mask, &mut bytes);
        }
        // Only a server closes by `encode_close`.
        let closing = closing.filter(|_| mask.is_none()).and_then(CloseCode::from_wire);
        if let Some(code) = closing {
            encode_close(code, &reason, &mut bytes);
            let kept = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
            items.push(Item::Close(Some((code.code(), reason[..kept].to_owned()))));
        }
        let role = if mask.is_some() { protocol::Role::Server } else { protocol::Role::Client };
        let mut socket = socket(role, bytes, piece);
        prop_assert_eq!(drain(&mut socket), items);
    }

    #[test]
    fn what_we_write_we_read(
        items in prop::collection::vec(prop_oneof![3 => data(), 1 => control()], 0..12),
        mask in prop::option::of(any::<[u8; 4]>()), pieces in pieces(),
    ) {
        let mut bytes = Vec::new();
        for item in &items {
            encode_item(item, mask, &mut bytes);
        }
        let role = if mask.is_some() { Role::Server } else { Role::Client };
        prop_assert_eq!(read(role, &bytes, &pieces), items);
    }
}

/// Our server's side of the handshake as a stream: a complete request is answered.
struct OurServer {
    request: Vec<u8>,
    answer: Pipe,
}

impl Write for OurServer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        let policy = Policy {
            prefix: String::new(),
            mode: Mode::Demo,
            demo_endpoint: false,
            echo: true,
            allowed_origins: Vec::new(),
        };
        if let Ok(Parsed::Complete { request, .. }) = handshake::parse(&self.request)
            && let Ok(Route::Upgrade(upgrade)) = handshake::route(&request, &policy)
        {
            let answer = &mut self.answer.input;
            handshake::write_accept(&upgrade, answer);
            encode(Opcode::Text, b"welcome", answer);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for OurServer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.answer.read(buffer)
    }
}

#[test]
fn tungstenite_connects_to_us() {
    use tungstenite::client::IntoClientRequest;
    for subprotocol in [None, Some("agent-protocol-v1")] {
        let mut request = "ws://hub.example/ws/echo?as=ann".into_client_request().expect("a good address");
        if let Some(name) = subprotocol {
            let value = name.parse().expect("a good header");
            request.headers_mut().insert("Sec-WebSocket-Protocol", value);
        }
        let stream = OurServer { request: Vec::new(), answer: Pipe::new(Vec::new(), 7) };
        let (mut socket, response) = match tungstenite::client(request, stream) {
            Ok(connected) => connected,
            Err(error) => panic!("{error}"),
        };
        let chosen = response.headers().get("Sec-WebSocket-Protocol").and_then(|it| it.to_str().ok());
        assert_eq!(chosen, subprotocol);
        assert_eq!(socket.read().expect("a message"), Message::text("welcome"));
    }
}

#[test]
fn we_connect_to_tungstenite() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut request = Vec::new();
    write_client_request("hub.example", "/ws", KEY, "Sec-WebSocket-Protocol: x\r\n", &mut request);
    let mut socket = match tungstenite::accept(Pipe::new(request, 7)) {
        Ok(socket) => socket,
        Err(error) => panic!("{error}"),
    };
    let answer = std::mem::take(&mut socket.get_mut().output);
    for cut in 0..answer.len() {
        assert_eq!(parse_client_response(&answer[..cut], KEY), Ok(None), "cut at {cut}");
    }
    assert_eq!(parse_client_response(&answer, KEY), Ok(Some(answer.len())));
    assert!(parse_client_response(&answer, "another key").is_err());
}
