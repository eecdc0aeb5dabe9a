//! The network: bytes under way in both directions of each connection, and who waits to be accepted.
//!
//! A pipe is what both kernels hold of one direction; it knows no meaning of its bytes.

use std::collections::VecDeque;

/// One connection's place in [`Net`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u32);

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    bytes: VecDeque<u8>,
    room: usize,
    /// No more bytes will follow.
    pub fin: bool,
    /// The connection was reset from the writing side.
    pub reset: bool,
}

impl Pipe {
    /// Takes as many bytes as have room.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.bytes.extend(&bytes[..taken]);
        taken
    }

    /// Moves up to `bytes_max` bytes to the end of `out`.
    pub fn read(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> usize {
        let count = self.bytes.len().min(bytes_max);
        let (front, back) = self.bytes.as_slices();
        let from_front = count.min(front.len());
        out.extend_from_slice(&front[..from_front]);
        out.extend_from_slice(&back[..count - from_front]);
        self.bytes.drain(..count);
        count
    }

    /// Bytes that would be taken now.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    /// Bytes under way.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Loses all but the first `kept` bytes: what a reset does.
    pub fn truncate(&mut self, kept: usize) {
        self.bytes.truncate(kept);
    }
}

/// A connection between a client and a shard.
#[derive(Debug, Default)]
pub struct Link {
    /// From the client.
    pub up: Pipe,
    /// From the server.
    pub down: Pipe,
    /// The client's address.
    pub ip: u32,
    /// The client is gone without having said so: nothing it has will ever arrive, and nothing is taken off `down`.
    pub has_vanished: bool,
    /// The client closed its socket: what is sent to it is answered with a reset.
    pub client_gone: bool,
    /// The server freed its socket.
    pub server_gone: bool,
}

/// All connections, and the accept queue of each shard.
#[derive(Debug)]
pub struct Net {
    links: Vec<Option<Link>>,
    free: Vec<u32>,
    /// Who waits to be accepted, by shard; `None` once the shard listens no more.
    pub doors: Vec<Option<VecDeque<LinkId>>>,
    /// Bytes that each direction holds at most.
    room: usize,
}

impl Net {
    /// Nobody is connected to any of `shards`; each direction of a connection holds `room` bytes.
    pub fn new(shards: usize, room: usize) -> Self {
        Self { links: Vec::new(), free: Vec::new(), doors: vec![Some(VecDeque::new()); shards], room }
    }

    /// A client connects to a shard; `None` if it is refused.
    pub fn connect(&mut self, shard: usize, ip: u32) -> Option<LinkId> {
        let door = self.doors[shard].as_mut()?;
        let pipe = || Pipe { room: self.room, ..Pipe::default() };
        let link = Link { up: pipe(), down: pipe(), ip, ..Link::default() };
        let id = match self.free.pop() {
            Some(index) => LinkId(index),
            None => {
                self.links.push(None);
                LinkId(self.links.len() as u32 - 1)
            }
        };
        self.links[id.0 as usize] = Some(link);
        door.push_back(id);
        Some(id)
    }

    /// The shard listens no more: who waits is reset.
    pub fn stop_listening(&mut self, shard: usize) {
        for id in self.doors[shard].take().into_iter().flatten() {
            let link = self.at(id);
            link.down.reset = true;
            link.server_gone = true;
            self.sweep(id);
        }
    }

    /// A connection that one side at least still holds.
    ///
    /// # Panics
    /// If both sides have let go.
    pub fn at(&mut self, id: LinkId) -> &mut Link {
        self.links[id.0 as usize].as_mut().expect("a link lives while one side holds it")
    }

    /// Frees a connection that both sides have let go of.
    pub fn sweep(&mut self, id: LinkId) {
        let place = &mut self.links[id.0 as usize];
        if place.as_ref().is_some_and(|link| link.server_gone && (link.client_gone || link.has_vanished)) {
            *place = None;
            self.free.push(id.0);
        }
    }

    /// How many connections exist for one side at least.
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
