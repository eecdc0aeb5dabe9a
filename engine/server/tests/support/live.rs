//! A client that is alive whatever its test does: a thread reads, answers pings and keeps what comes.

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::DEADLINE;
use super::raw::{Raw, masked};
use super::server::Server;

/// A client past its handshake.
pub(crate) struct Live {
    stream: Arc<Mutex<TcpStream>>,
    heard: Receiver<Value>,
    /// The shard that serves it.
    pub(crate) shard: usize,
}

impl Live {
    /// A client of `/ws/demo`.
    #[track_caller]
    pub(crate) fn new(server: &Server) -> Self {
        let mut raw = server.raw_upgraded("/ws/demo");
        // The test decides how long it waits.
        raw.stream.set_read_timeout(None).expect("there may be none");
        let stream = Arc::new(Mutex::new(raw.stream.try_clone().expect("a descriptor is left")));
        let (tell, heard) = channel();
        let into = Arc::clone(&stream);
        let established: Value = serde_json::from_slice(&raw.frame().payload).expect("JSON");
        assert_eq!(established["type"], "connection_established");
        thread::spawn(move || read(raw, &into, |message| tell.send(message).is_ok()));
        let shard = established["shard"].as_u64().expect("a number") as usize;
        Self { stream, heard, shard }
    }

    /// One on this shard.
    #[track_caller]
    pub(crate) fn on_shard(server: &Server, shard: usize) -> Self {
        const ATTEMPTS: usize = 200;
        let mut clients = (0..ATTEMPTS).map(|_| Self::new(server));
        clients.find(|client| client.shard == shard).expect("the kernel spreads connections over shards")
    }

    /// Sends a message, however long that takes.
    #[track_caller]
    pub(crate) fn send(&self, message: &Value) {
        write(&self.stream, &masked(0x81, message.to_string().as_bytes())).expect("the connection is open");
    }

    /// Publishes; with an id it is answered.
    #[track_caller]
    pub(crate) fn publish(&self, channel: &str, payload: &Value, id: Option<u64>) {
        let mut message = json!({"type": "publish", "channel": channel, "payload": payload});
        if let Some(id) = id {
            message["id"] = id.into();
        }
        self.send(&message);
    }

    /// Subscribes and waits until it is active.
    #[track_caller]
    pub(crate) fn subscribe(&self, channel: &str) {
        self.send(&json!({"type": "subscribe", "channel": channel}));
        assert_eq!(self.next()["type"], "subscribed");
    }

    /// The next message. A close frame is none: it fails.
    #[track_caller]
    pub(crate) fn next(&self) -> Value {
        match self.heard.recv_timeout(DEADLINE) {
            Ok(message) => {
                assert_ne!(message["type"], "close", "{message}");
                message
            }
            Err(RecvTimeoutError::Timeout) => panic!("nothing comes"),
            Err(RecvTimeoutError::Disconnected) => panic!("the connection has ended"),
        }
    }

    /// Fails unless the answer to a ping is the next thing to come.
    #[track_caller]
    pub(crate) fn assert_quiet(&self) {
        self.send(&json!({"type": "ping", "id": "quiet"}));
        let pong = self.next();
        assert_eq!((&pong["type"], &pong["id"]), (&json!("pong"), &json!("quiet")), "{pong}");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn write(stream: &Mutex<TcpStream>, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    stream.set_write_timeout(Some(DEADLINE.saturating_add(Duration::from_secs(5))))?;
    std::io::Write::write_all(&mut *stream, bytes)
}

/// Reads until the end.
fn read(mut raw: Raw, stream: &Mutex<TcpStream>, tell: impl Fn(Value) -> bool) {
    while !raw.is_over() {
        let frame = raw.frame();
        let goes_on = match frame.opcode {
            1 => tell(serde_json::from_slice(&frame.payload).expect("the hub sends JSON")),
            8 => {
                let (code, reason) = frame.close();
                tell(json!({"type": "close", "code": code, "reason": reason}))
            }
            9 => write(stream, &masked(0x8a, &frame.payload)).is_ok(),
            _ => true,
        };
        if !goes_on {
            return;
        }
    }
}
