//! A WebSocket client: tungstenite on a blocking socket, so that frames are judged by somebody else's code.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tungstenite::client::client_with_config;
use tungstenite::handshake::client::Response;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

use super::DEADLINE;

/// A client past its handshake.
pub(crate) struct Client {
    pub(crate) socket: WebSocket<TcpStream>,
    /// The server's answer to the handshake.
    pub(crate) response: Response,
    /// `connection_established`; null where it was not awaited.
    pub(crate) established: Value,
}

/// A connection to be opened.
#[derive(Debug)]
pub(crate) struct Connect {
    address: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
    protocols: Vec<String>,
    receive_buffer: Option<usize>,
}

impl Connect {
    /// To this path.
    pub(crate) fn new(address: SocketAddr, path: &str) -> Self {
        let (headers, protocols) = (Vec::new(), Vec::new());
        Self { address, path: path.to_owned(), headers, protocols, receive_buffer: None }
    }

    /// With a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As a browser on a page of the server's own host does.
    pub(crate) fn browser(self) -> Self {
        let origin = format!("http://{}:3000", self.address.ip());
        self.header("origin", &origin)
    }

    /// Offering a subprotocol.
    pub(crate) fn protocol(mut self, name: &str) -> Self {
        self.protocols.push(name.to_owned());
        self
    }

    /// With a receive buffer of this size, set before connecting so that the window is small from the start.
    pub(crate) fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Completes the handshake and reads `connection_established`.
    #[track_caller]
    pub(crate) fn open(self) -> Client {
        match self.try_open() {
            Ok(client) => client,
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// Completes the handshake and reads `connection_established`, unless the handshake is refused.
    ///
    /// # Errors
    /// The refusal.
    #[track_caller]
    pub(crate) fn try_open(self) -> Result<Client, String> {
        let mut client = self.handshake()?;
        client.established = client.expect("connection_established");
        Ok(client)
    }

    /// Completes the handshake.
    #[track_caller]
    pub(crate) fn open_only(self) -> Client {
        match self.handshake() {
            Ok(client) => client,
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    fn handshake(self) -> Result<Client, String> {
        let stream = stream(self.address, self.receive_buffer);
        let uri = format!("ws://{}{}", self.address, self.path).parse().expect("a URI");
        let mut request = ClientRequestBuilder::new(uri);
        for (name, value) in self.headers {
            request = request.with_header(name, value);
        }
        for protocol in self.protocols {
            request = request.with_sub_protocol(protocol);
        }
        let (socket, response) =
            client_with_config(request, stream, None).map_err(|error| error.to_string())?;
        Ok(Client { socket, response, established: Value::Null })
    }
}

/// A blocking socket with a deadline for each read.
pub(crate) fn stream(address: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("the size can be set");
    }
    socket.connect(&address.into()).expect("the port is open");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("it is TCP");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out can be set");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out can be set");
    stream
}

impl Client {
    /// The participant's name, as the server told it.
    pub(crate) fn participant(&self) -> &str {
        self.established["participant"].as_str().expect("a name")
    }

    /// The shard that serves it.
    pub(crate) fn shard(&self) -> u64 {
        self.established["shard"].as_u64().expect("a number")
    }

    /// Sends a message.
    #[track_caller]
    pub(crate) fn send_json(&mut self, message: &Value) {
        self.send_text(&message.to_string());
    }

    /// Sends a text frame of whatever content.
    #[track_caller]
    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(Message::text(text));
    }

    /// Sends a frame.
    #[track_caller]
    pub(crate) fn send(&mut self, message: Message) {
        self.socket.send(message).expect("the connection is open");
    }

    /// The next message, whatever its type. Pings are answered on the way.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).expect("the hub sends JSON"),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                other => panic!("a message was awaited, not {other:?}"),
            }
        }
    }

    /// The next message, which is of this type.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let message = self.next();
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// The next message of this type; others on the way are skipped.
    #[track_caller]
    pub(crate) fn next_json(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next();
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The next `error`, which has this code.
    #[track_caller]
    pub(crate) fn expect_error(&mut self, code: &str) -> Value {
        let error = self.expect("error");
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|it| !it.is_empty()), "{error}");
        error
    }

    /// Subscribes and waits until it is active.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        self.send_json(&json!({"type": "subscribe", "channel": channel}));
        let subscribed = self.expect("subscribed");
        assert_eq!(subscribed["channel"], channel);
        subscribed
    }

    /// Publishes and waits for the result; messages on the way are skipped.
    #[track_caller]
    pub(crate) fn publish(&mut self, channel: &str, payload: &Value) -> Value {
        self.send_json(&json!({"type": "publish", "id": "p", "channel": channel, "payload": payload}));
        let response = self.next_json("response");
        assert_eq!(response["id"], "p");
        assert!(response["result"].is_object(), "{response}");
        response["result"].clone()
    }

    /// Fails unless the answer to a ping is the next thing to come: nothing else was on its way.
    #[track_caller]
    pub(crate) fn assert_quiet(&mut self) {
        self.send_json(&json!({"type": "ping", "id": "quiet"}));
        assert_eq!(self.expect("pong")["id"], "quiet");
    }

    /// The server's close code and reason; other messages on the way are skipped.
    #[track_caller]
    pub(crate) fn expect_close(&mut self) -> (u16, String) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(frame))) => {
                    // Reading on sends the answer and sees the end of the connection.
                    let end = self.socket.read();
                    assert!(
                        matches!(end, Err(Error::ConnectionClosed)),
                        "the server ends the connection: {end:?}"
                    );
                    return (u16::from(frame.code), frame.reason.to_string());
                }
                Ok(Message::Close(None)) => panic!("the server's close frame has no code"),
                Ok(_) => {}
                Err(error) => panic!("a close frame was awaited, not {error}"),
            }
        }
    }

    /// Fails unless the server closes with this code, for a reason that begins with this text.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self, code: u16, reason: &str) {
        let (got, why) = self.expect_close();
        assert_eq!(got, code, "{why}");
        assert!(why.starts_with(reason), "{why:?} begins with {reason:?}");
        super::assert_names_a_code(&why);
    }

    /// Closes as a client should, and fails unless the server answers with the same code.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.socket.close(None).expect("the connection is open");
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => {
                    let code = frame.map(|frame| frame.code);
                    assert!(matches!(code, None | Some(CloseCode::Normal)), "{code:?}");
                }
                Ok(_) => {}
                Err(Error::ConnectionClosed) => return,
                Err(error) => panic!("a clean end was awaited, not {error}"),
            }
        }
    }
}
