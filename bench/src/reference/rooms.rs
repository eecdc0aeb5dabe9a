//! Just enough of the protocol for `floor` and `raw`: handshake, subscribe and publish by searching for text.
//!
//! No parsing of JSON, no checks, no limits: what a server can't do without, and nothing more.

use std::collections::HashMap;

use corecast_protocol::ws::frame::{self, Header, Opcode};
use corecast_protocol::ws::handshake::{Mode, Parsed, Policy, Route, parse, route, write_accept};
use corecast_protocol::ws::unmask;
use memchr::memmem;

/// What a client wants.
pub(super) enum Wish {
    /// Send these bytes to it.
    Reply(Vec<u8>),
    /// Send this frame to all members of a room.
    Publish { members: usize, frame: Vec<u8> },
}

/// One client's unread bytes.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    is_open: bool,
}

/// Rooms by name, members by the server's own number.
#[derive(Default)]
pub(super) struct Rooms {
    by_name: HashMap<Vec<u8>, usize>,
    pub(super) members: Vec<Vec<usize>>,
}

impl Rooms {
    /// Acts on received bytes of a client.
    pub(super) fn received(
        &mut self,
        client: usize,
        input: &mut Input,
        bytes: &[u8],
        wishes: &mut Vec<Wish>,
    ) {
        input.bytes.extend_from_slice(bytes);
        if !input.is_open && !handshake(input, wishes) {
            return;
        }
        let mut at = 0;
        while let Ok(Some((header, length))) = Header::parse(&input.bytes[at..]) {
            let (start, end) = (at + length, at + length + header.length as usize);
            if end > input.bytes.len() {
                break;
            }
            unmask(&mut input.bytes[start..end], header.mask.unwrap_or_default(), 0);
            let payload = &input.bytes[start..end];
            match header.opcode {
                Opcode::Text => self.message(client, payload, wishes),
                Opcode::Ping => {
                    let mut pong = Vec::new();
                    frame::encode(Opcode::Pong, payload, &mut pong);
                    wishes.push(Wish::Reply(pong));
                }
                _ => {}
            }
            at = end;
        }
        input.bytes.drain(..at);
    }

    fn message(&mut self, client: usize, text: &[u8], wishes: &mut Vec<Wish>) {
        let Some(channel) = between(text, b"\"channel\":\"", b'"') else { return };
        if memmem::find(text, b"\"subscribe\"").is_some() {
            let next = self.members.len();
            let room = *self.by_name.entry(channel.to_vec()).or_insert(next);
            if room == next {
                self.members.push(Vec::new());
            }
            self.members[room].push(client);
            let mut frame = Vec::new();
            frame::encode(Opcode::Text, b"{\"type\":\"subscribed\"}", &mut frame);
            return wishes.push(Wish::Reply(frame));
        }
        let Some(room) = self.by_name.get(channel).copied() else { return };
        let Some(at) = memmem::find(text, b"\"payload\":") else { return };
        let payload = &text[at + 10..text.len() - 1];
        let mut message = Vec::with_capacity(payload.len() + 160);
        message.extend_from_slice(b"{\"type\":\"message\",\"channel\":\"");
        message.extend_from_slice(channel);
        message.extend_from_slice(b"\",\"payload\":");
        message.extend_from_slice(payload);
        // As many bytes as the hub sends in a namespace without history.
        message.extend_from_slice(
            b",\"publisher\":\"1abcdefghijkl\",\"epoch\":\"1abcdefg\",\"offset\":0,\"timestamp\":1704067200000}",
        );
        let mut frame = Vec::new();
        frame::encode(Opcode::Text, &message, &mut frame);
        wishes.push(Wish::Publish { members: room, frame });
    }
}

fn handshake(input: &mut Input, wishes: &mut Vec<Wish>) -> bool {
    let policy = Policy {
        prefix: String::new(),
        mode: Mode::Development,
        demo_endpoint: true,
        echo: true,
        allowed_origins: Vec::new(),
    };
    let Ok(Parsed::Complete { request, consumed }) = parse(&input.bytes) else { return false };
    let Ok(Route::Upgrade(upgrade)) = route(&request, &policy) else { return false };
    let mut accept = Vec::new();
    write_accept(&upgrade, &mut accept);
    input.bytes.drain(..consumed);
    input.is_open = true;
    wishes.push(Wish::Reply(accept));
    true
}

fn between<'a>(text: &'a [u8], before: &[u8], after: u8) -> Option<&'a [u8]> {
    let start = memmem::find(text, before)? + before.len();
    let length = text[start..].iter().position(|byte| *byte == after)?;
    Some(&text[start..start + length])
}
