//! From effects to sockets: frames are encoded once, queued for their recipients, and flushed once per tick.
//!
//! It knows connections as outboxes only; what the bytes mean is the hub's business.

use std::collections::{HashMap, VecDeque};

use corecast_driver::{Batch, BatchPool, ConnId, Frame, FramePool, Io};
use corecast_hub::{Place, Tracking};
use corecast_protocol::ws::frame::{self, Opcode};

use crate::conn::Conn;
use crate::counters::Counters;
use crate::outbox::QueuePool;
use crate::slab::Slab;

/// Sends per tick: beyond it a wake-up or a new message would wait too long behind the rest.
pub(crate) const SENDS_PER_TICK: usize = 512;

/// Unused frames kept: a tick's worth of messages. Up to 64 KiB each, as small as their messages usually.
const FRAMES_KEPT: usize = 4096;

/// Unused batches and queues kept: what a few ticks of sends take out at once.
const BATCHES_KEPT: usize = 2 * SENDS_PER_TICK;
const QUEUES_KEPT: usize = 4096;

/// Pools of what leaves, and the list of connections that have something to send.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) frames: FramePool,
    pub(crate) batches: BatchPool,
    pub(crate) queues: QueuePool,
    dirty: VecDeque<ConnId>,
    /// Counted copies that batches in flight carry.
    pub(crate) in_flight: HashMap<ConnId, Vec<Tracking>>,
    /// An outbox fills faster than a tick: nothing more is acted on before the next flush.
    pub(crate) is_pressed: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            frames: FramePool::new(FRAMES_KEPT),
            batches: BatchPool::new(BATCHES_KEPT),
            queues: QueuePool::new(QUEUES_KEPT),
            dirty: VecDeque::new(),
            in_flight: HashMap::new(),
            is_pressed: false,
        }
    }

    /// A WebSocket frame around `payload`.
    pub(crate) fn encode(&self, opcode: Opcode, payload: &[u8]) -> Frame {
        let mut builder = self.frames.build();
        let bytes = builder.bytes();
        let mut header = [0; 10];
        let header_bytes = frame::encode_header(opcode, payload.len() as u64, &mut header);
        bytes.reserve(header_bytes + payload.len());
        bytes.extend_from_slice(&header[..header_bytes]);
        bytes.extend_from_slice(payload);
        builder.finish(0)
    }

    /// A WebSocket frame around a payload of about so many bytes, which are known when they are written.
    pub(crate) fn encode_with(
        &self,
        opcode: Opcode,
        about_bytes: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Frame {
        let mut builder = self.frames.build();
        let bytes = builder.bytes();
        let mut header = [0; 10];
        bytes.reserve(header.len() + about_bytes);
        bytes.extend_from_slice(&header);
        write(bytes);
        let payload_bytes = bytes.len() - header.len();
        let header_bytes = frame::encode_header(opcode, payload_bytes as u64, &mut header);
        let start = header.len() - header_bytes;
        bytes[start..header.len()].copy_from_slice(&header[..header_bytes]);
        builder.finish(start)
    }

    /// A WebSocket frame around a payload that is compressed.
    pub(crate) fn encode_packed(&self, opcode: Opcode, packed: &[u8]) -> Frame {
        let mut builder = self.frames.build();
        let bytes = builder.bytes();
        frame::encode(opcode, packed, bytes);
        frame::mark_compressed(bytes);
        builder.finish(0)
    }

    /// A frame of bytes that are complete already.
    pub(crate) fn raw(&self, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let mut builder = self.frames.build();
        write(builder.bytes());
        builder.finish(0)
    }

    /// Queues what no policy may drop.
    pub(crate) fn reply(&mut self, conn: &mut Conn, frame: Frame) {
        self.reply_at(conn, frame, Place::Liftable);
    }

    /// Queues what no policy may drop, and says whether messages may pass it.
    pub(crate) fn reply_at(&mut self, conn: &mut Conn, frame: Frame, place: Place) {
        conn.outbox.push_reply(&mut self.queues, frame, place);
        self.mark(conn);
    }

    /// Notes that a connection has something to send.
    pub(crate) fn mark(&mut self, conn: &mut Conn) {
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push_back(conn.id);
        }
    }

    /// One batch for each connection that has something to send and nothing in flight, up to
    /// [`SENDS_PER_TICK`]; whether more is left.
    pub(crate) fn flush(&mut self, conns: &mut Slab<Conn>, io: &mut impl Io, counters: &Counters) -> bool {
        self.is_pressed = false;
        let (mut sends, mut bytes) = (0, 0);
        while sends < SENDS_PER_TICK {
            let Some(id) = self.dirty.pop_front() else { break };
            let Some(conn) = conns.find(id) else { continue };
            conn.is_dirty = false;
            if let Some(batch) = conn.outbox.next_batch(&mut self.queues, &mut self.batches) {
                if !self.queues.carried.is_empty() {
                    self.in_flight.insert(id, std::mem::take(&mut self.queues.carried));
                }
                sends += 1;
                bytes += batch.len();
                io.send(id, batch);
            }
        }
        if sends > 0 {
            counters.sends.add(sends as u64);
            counters.bytes_out.add(bytes as u64);
        }
        !self.dirty.is_empty()
    }

    /// Takes back a batch that left.
    pub(crate) fn recycle(&mut self, batch: Batch) {
        self.batches.recycle(batch);
    }
}
