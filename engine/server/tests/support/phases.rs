//! Where in its life a peer is when something happens to it, from the first packet to the last.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;

use super::DEADLINE;
use super::client::Connect;
use super::raw::{HANDSHAKE, Raw, masked, nonsense};
use super::server::Server;

/// The channel that [`Phase::Flooded`] listens to; it drops the oldest.
pub(crate) const FLOOD: &str = "flood";

/// So small that the kernel takes in little of what is sent.
const SMALL_BUFFER_BYTES: usize = 4096;

/// What a peer has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Connected.
    Silent,
    /// Sent a part of its request.
    HalfRequest,
    /// Sent its request and read nothing of the answer.
    Requested,
    /// Got a refusal and keeps its side open.
    Refused,
    /// Open and idle.
    Idle,
    /// Sent a part of a frame's header.
    HalfHeader,
    /// Sent a part of a frame's payload.
    HalfPayload,
    /// Sent some fragments of a message.
    Fragments,
    /// Asked so much without reading that its input is held back.
    HeldBack,
    /// Subscribed to [`FLOOD`] and reads nothing.
    Flooded,
    /// Sent its close frame and read nothing.
    Closed,
    /// Was sent a close frame and did not answer.
    Dismissed,
}

impl Phase {
    /// All of them, in the order of a life.
    pub(crate) const ALL: [Self; 12] = [
        Self::Silent,
        Self::HalfRequest,
        Self::Requested,
        Self::Refused,
        Self::Idle,
        Self::HalfHeader,
        Self::HalfPayload,
        Self::Fragments,
        Self::HeldBack,
        Self::Flooded,
        Self::Closed,
        Self::Dismissed,
    ];

    /// A peer that has come so far.
    #[track_caller]
    pub(crate) fn peer(self, address: SocketAddr) -> Raw {
        let mut raw = Raw::with_receive_buffer(address, Some(SMALL_BUFFER_BYTES));
        match self {
            Self::Silent => return raw,
            Self::HalfRequest => {
                raw.send(b"GET /ws/demo HTTP/1.1\r\nHost: ");
                return raw;
            }
            Self::Requested => {
                raw.send(format!("GET /ws/demo{HANDSHAKE}").as_bytes());
                return raw;
            }
            Self::Refused => {
                raw.send(format!("GET /nowhere{HANDSHAKE}").as_bytes());
                assert!(raw.read_head().starts_with("HTTP/1.1 404 "));
                return raw;
            }
            _ => raw = raw.upgrade("/ws/demo"),
        }
        assert_eq!(raw.frame().opcode, 1, "connection_established");
        match self {
            Self::HalfHeader => raw.send(&[0x81, 0xff, 0, 0, 0]),
            Self::HalfPayload => raw.send(&masked(0x81, &[b' '; 60_000])[..50_000]),
            Self::Fragments => {
                raw.send(&masked(0x01, &[b' '; 3000]));
                raw.send(&masked(0x00, &[b' '; 3000]));
            }
            Self::HeldBack => hold_back(&mut raw),
            Self::Flooded => {
                let subscribe = json!({"type": "subscribe", "channel": FLOOD}).to_string();
                raw.send(&masked(0x81, subscribe.as_bytes()));
                assert_eq!(raw.frame().opcode, 1, "subscribed");
            }
            Self::Closed => raw.send(&masked(0x88, &1000_u16.to_be_bytes())),
            Self::Dismissed => {
                raw.send(&nonsense());
                assert_eq!(raw.frame_of(8).close().0, 1008);
            }
            _ => {}
        }
        raw
    }
}

/// Asks without reading until nothing of it is read any more.
fn hold_back(raw: &mut Raw) {
    let ping = json!({"type": "ping", "id": "x".repeat(64)}).to_string();
    let pings = masked(0x81, ping.as_bytes()).repeat(100);
    raw.stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time-out can be set");
    for _ in 0..100 {
        if !raw.try_send(&pings) {
            break;
        }
    }
    raw.stream.set_write_timeout(Some(DEADLINE)).expect("a time-out can be set");
}

/// Publishes to [`FLOOD`] until there is a batch under way to everybody who listens, and more waits behind it.
#[track_caller]
pub(crate) fn flood(server: &Server, address: SocketAddr) {
    let dropped = server.metric("dropped_total");
    let mut publisher = Connect::new(address, "/ws/demo").open();
    let filler = json!("x".repeat(4000));
    for _ in 0..200 {
        publisher.publish(FLOOD, &filler);
    }
    assert!(
        server.metric("dropped_total") > dropped,
        "nothing more fits: {}",
        server.metric("frames_in_use")
    );
    publisher.close();
}

impl Raw {
    /// Ends the connection by RST.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket can linger");
    }
}
