//! A client that speaks permessage-deflate with an implementation of DEFLATE that the server does not use.

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush};
use serde_json::{Value, json};

use super::raw::{HANDSHAKE, Raw, masked};
use super::server::Server;

const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
const RSV1: u8 = 0x40;

/// A connection whose handshake offered compression.
pub(crate) struct Packed {
    pub(crate) raw: Raw,
    /// The server's answer to the offer.
    pub(crate) agreed: Option<String>,
    inflater: Box<InflateState>,
    deflater: Box<CompressorOxide>,
}

impl Packed {
    /// Offers this, and completes the handshake.
    #[track_caller]
    pub(crate) fn connect(server: &Server, path: &str, offer: &str) -> Self {
        let mut raw = server.raw();
        let head = HANDSHAKE.trim_end();
        raw.send(format!("GET {path}{head}\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n").as_bytes());
        let head = raw.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let agreed = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        Self { raw, agreed: agreed.map(str::to_owned), inflater: inflater(), deflater: deflater() }
    }

    fn has_agreed(&self, parameter: &str) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.contains(parameter))
    }

    /// The next message, and whether it came compressed.
    #[track_caller]
    pub(crate) fn message(&mut self) -> (Vec<u8>, bool) {
        let frame = self.raw.frame();
        assert!(frame.is_final && frame.opcode <= 2, "{frame:?}");
        if !frame.is_compressed {
            return (frame.payload, false);
        }
        if self.has_agreed("server_no_context_takeover") {
            self.inflater = inflater();
        }
        (unpack(&mut self.inflater, &frame.payload), true)
    }

    /// The next message as JSON, of this type, and whether it came compressed.
    #[track_caller]
    pub(crate) fn expect(&mut self, kind: &str) -> (Value, bool) {
        let (message, is_packed) = self.message();
        let message: Value = serde_json::from_slice(&message).expect("the hub sends JSON");
        assert_eq!(message["type"], kind, "{message}");
        (message, is_packed)
    }

    /// Sends a message compressed. `first` is FIN and the opcode.
    #[track_caller]
    pub(crate) fn send(&mut self, first: u8, message: &[u8]) {
        // miniz_oxide has one window only: where a smaller one was agreed, nothing refers to earlier messages.
        if self.has_agreed("client_no_context_takeover") || self.has_agreed("client_max_window_bits") {
            self.deflater = deflater();
        }
        let packed = pack(&mut self.deflater, message);
        self.send_packed(first, &packed);
    }

    /// Sends what claims to be compressed.
    #[track_caller]
    pub(crate) fn send_packed(&mut self, first: u8, packed: &[u8]) {
        self.raw.send(&masked(first | RSV1, packed));
    }

    /// Subscribes and waits until it is active.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, channel: &str) {
        self.send(0x81, json!({"type": "subscribe", "channel": channel}).to_string().as_bytes());
        self.expect("subscribed");
    }
}

fn inflater() -> Box<InflateState> {
    InflateState::new_boxed(DataFormat::Raw)
}

fn deflater() -> Box<CompressorOxide> {
    Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(6, -15, 0)))
}

fn unpack(inflater: &mut InflateState, packed: &[u8]) -> Vec<u8> {
    let input = [packed, &TAIL].concat();
    let (mut input, mut out, mut chunk) = (&input[..], Vec::new(), [0; 4096]);
    loop {
        let result = inflate(inflater, input, &mut chunk, MZFlush::None);
        input = &input[result.bytes_consumed..];
        out.extend_from_slice(&chunk[..result.bytes_written]);
        if input.is_empty() && result.bytes_written < chunk.len() {
            return out;
        }
        result.status.expect("what the server packs can be unpacked");
    }
}

/// Packs a message that refers to nothing before it.
pub(crate) fn packed(message: &[u8]) -> Vec<u8> {
    pack(&mut deflater(), message)
}

fn pack(deflater: &mut CompressorOxide, mut message: &[u8]) -> Vec<u8> {
    let (mut packed, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let result = deflate(deflater, message, &mut chunk, MZFlush::Sync);
        message = &message[result.bytes_consumed..];
        packed.extend_from_slice(&chunk[..result.bytes_written]);
        if message.is_empty() && result.bytes_written < chunk.len() {
            break;
        }
    }
    packed.truncate(packed.len() - TAIL.len());
    packed
}
