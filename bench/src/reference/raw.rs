//! The raw prototype: the same io_uring driver passing frames, without protocol checks and without a hub.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use corecast_driver::listener::{ListenOptions, listen};
use corecast_driver::uring::Uring;
use corecast_driver::{
    Batch, BatchPool, Close, ConnId, Driver, DriverConfig, Event, Frame, FramePool, Io, Next, Shard, ShardId,
};

use super::rooms::{Input, Rooms, Wish};

struct Client {
    id: ConnId,
    input: Input,
    queue: VecDeque<Frame>,
    in_flight: bool,
    is_dirty: bool,
}

struct Raw<L> {
    clients: Vec<Option<Client>>,
    rooms: Rooms,
    wishes: Vec<Wish>,
    frames: FramePool,
    batches: BatchPool,
    events: VecDeque<Event<L>>,
    dirty: Vec<usize>,
}

/// Serves until it is killed.
pub(super) fn run(port: u16) -> Result<()> {
    let listener =
        listen(([127, 0, 0, 1], port).into(), &ListenOptions::default()).context("can't listen")?;
    let descriptors = corecast_driver::limits::raise_descriptors().context("descriptors")?;
    let mut driver = Uring::new(DriverConfig {
        shard: ShardId(0),
        listener: Some(listener),
        connections_max: (descriptors - 256).min(1 << 16) as u32,
        recv_buffers: 1024,
        recv_buffer_bytes: 4096,
        queue_entries: 2048,
    })
    .context("io_uring")?;
    driver.connect(vec![driver.wake_handle()]);
    let raw = Raw {
        clients: Vec::new(),
        rooms: Rooms::default(),
        wishes: Vec::new(),
        frames: FramePool::new(4096),
        batches: BatchPool::new(1024),
        events: VecDeque::new(),
        dirty: Vec::new(),
    };
    driver.run(raw).context("the driver")?;
    Ok(())
}

impl<L> Raw<L> {
    fn push(clients: &mut [Option<Client>], dirty: &mut Vec<usize>, to: usize, frame: Frame) {
        let Some(Some(client)) = clients.get_mut(to) else { return };
        client.queue.push_back(frame);
        if !client.is_dirty {
            client.is_dirty = true;
            dirty.push(to);
        }
    }
}

impl<I: Io> Shard<I> for Raw<I::Lease> {
    fn tick(&mut self, io: &mut I) -> Next {
        let _started: Instant = io.now();
        let mut events = std::mem::take(&mut self.events);
        io.take(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => {
                    let index = conn.index as usize;
                    if index >= self.clients.len() {
                        self.clients.resize_with(index + 1, || None);
                    }
                    let (input, queue) = (Input::default(), VecDeque::new());
                    self.clients[index] =
                        Some(Client { id: conn, input, queue, in_flight: false, is_dirty: false });
                }
                Event::Data { conn, bytes } => self.received(conn.index as usize, &bytes),
                Event::Sent { conn, batch, .. } => {
                    self.batches.recycle(batch);
                    if let Some(Some(client)) = self.clients.get_mut(conn.index as usize) {
                        client.in_flight = false;
                        if !client.queue.is_empty() && !client.is_dirty {
                            client.is_dirty = true;
                            self.dirty.push(conn.index as usize);
                        }
                    }
                }
                Event::Eof { conn } => io.close(conn, Close::Graceful),
                Event::Closed { conn, .. } => self.clients[conn.index as usize] = None,
                Event::Paused { .. } => {}
            }
        }
        self.events = events;
        for index in self.dirty.drain(..) {
            let Some(Some(client)) = self.clients.get_mut(index) else { continue };
            client.is_dirty = false;
            if client.in_flight {
                continue;
            }
            let queue = &mut client.queue;
            let batch: Option<Batch> = self.batches.fill(|room| {
                if queue.front().is_some_and(|it| it.len() <= room) { queue.pop_front() } else { None }
            });
            if let Some(batch) = batch {
                client.in_flight = true;
                io.send(client.id, batch);
            }
        }
        Next::Park
    }
}

impl<L> Raw<L> {
    fn received(&mut self, index: usize, bytes: &[u8]) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        self.rooms.received(index, &mut client.input, bytes, &mut self.wishes);
        for wish in self.wishes.drain(..) {
            let bytes = match &wish {
                Wish::Reply(bytes) | Wish::Publish { frame: bytes, .. } => bytes,
            };
            let mut builder = self.frames.build();
            builder.bytes().extend_from_slice(bytes);
            let frame = builder.finish(0);
            match wish {
                Wish::Reply(_) => Self::push(&mut self.clients, &mut self.dirty, index, frame),
                Wish::Publish { members, .. } => {
                    for member in &self.rooms.members[members] {
                        Self::push(&mut self.clients, &mut self.dirty, *member, frame.clone());
                    }
                }
            }
        }
    }
}
