//! Accepting into the ring's table: several single-shot accepts, each with its own address.
//!
//! Each has a free slot set apart for it, the last one that became free: left to choose, the kernel wanders through
//! the whole table, and what was touched once stays in memory. Without a free slot nothing is armed, for a full table
//! would drop the client; those wait in the kernel's queue. Single-shot accepts give the peer's address without a
//! second operation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{DestinationSlot, Fd};
use io_uring::{cqueue, opcode};

use super::UringIo;
use super::ring::{Done, Op, Token};
use crate::api::{Close, ConnId, Event};
use crate::pace::CONNECTIONS_MAX;

/// Between accepts while the kernel is short of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Accepts {
    listener: Option<TcpListener>,
    places: Box<[Place]>,
    /// Places that are not armed.
    idle: Vec<u32>,
    is_on: bool,
    /// The kernel was short of something: accepting again at once would fail again.
    rests_until: Option<Instant>,
}

/// Where the kernel writes an address, and which slot it is to fill.
struct Place {
    slot: u32,
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Accepts {
    pub(super) fn new(listener: Option<TcpListener>) -> Self {
        let count = if listener.is_some() { CONNECTIONS_MAX } else { 0 };
        // SAFETY: a socket address of zeros is one of no family.
        let place = || Place { slot: 0, address: unsafe { std::mem::zeroed() }, length: 0 };
        Self {
            is_on: listener.is_some(),
            listener,
            places: (0..count).map(|_| place()).collect(),
            idle: (0..count as u32).collect(),
            rests_until: None,
        }
    }

    /// Closing the descriptor would not do: accepts in flight keep the socket open.
    pub(super) fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            crate::listener::stop(&listener);
        }
    }

    pub(super) fn armed(&self) -> usize {
        self.places.len() - self.idle.len()
    }

    /// For how long no accept is armed.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        // While accepting is off nothing waits for the rest to be over.
        self.rests_until.filter(|_| self.is_on).map(|until| until.saturating_duration_since(now))
    }

    /// Whether an accept is in flight that nobody wants any more.
    pub(super) fn awaits_cancelled(&self, place: u32) -> bool {
        !self.is_on && !self.idle.contains(&place)
    }
}

impl UringIo {
    /// Arms as many accepts as this turn may begin, and as there are free slots.
    pub(super) fn arm_accepts(&mut self) {
        if !self.accepts.is_on || self.accepts.rests_until.is_some_and(|until| self.now < until) {
            return;
        }
        self.accepts.rests_until = None;
        let Some(listener) = self.accepts.listener.as_ref().map(AsRawFd::as_raw_fd) else { return };
        while self.accepts.armed() < self.pace
            && let Some(&slot) = self.free.last()
        {
            let Some(index) = self.accepts.idle.pop() else { return };
            let place = &mut self.accepts.places[index as usize];
            let target = DestinationSlot::try_from_slot_target(slot).expect("tables are far smaller");
            place.slot = slot;
            place.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            let address = std::ptr::from_mut(&mut place.address).cast();
            let entry = opcode::Accept::new(Fd(listener), address, &raw mut place.length)
                .file_index(Some(target))
                .build();
            self.free.pop();
            // SAFETY: the places are boxed, this one is used by no other accept, and they outlive all accepts.
            unsafe { self.ring.push(entry, Token::new(Op::Accept, 0, index)) };
        }
    }

    pub(super) fn set_accepting(&mut self, on: bool) {
        if self.accepts.is_on && !on {
            for index in (0..self.accepts.places.len() as u32).filter(|it| !self.accepts.idle.contains(it)) {
                self.ring.cancel(Token::new(Op::Accept, 0, index));
            }
        }
        self.accepts.is_on = on && self.accepts.listener.is_some();
    }

    pub(super) fn accepted(&mut self, done: Done) {
        debug_assert!(!cqueue::more(done.flags), "single-shot");
        let place = done.token.index();
        self.accepts.idle.push(place);
        let Place { slot: index, address: ref storage, .. } = self.accepts.places[place as usize];
        if done.result < 0 {
            self.free.push(index);
            // Cancelled, or the client gave up: the next tick arms it again. Or the kernel is short of something, or
            // worse: asking again at once would spin.
            let passing = [libc::ECANCELED, libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EAGAIN];
            if !passing.contains(&-done.result) {
                self.stats.accept_refusals += 1;
                self.stats.accept_errno = -done.result;
                self.accepts.rests_until = Some(self.now + ACCEPT_REST);
            }
            return;
        }
        let peer = address(storage);
        let slot = &mut self.slots[index as usize];
        // What the earlier connection has in flight points into its slot.
        assert!(!slot.is_live, "a slot is free only after its close");
        let generation = slot.generation;
        slot.open();
        self.live += 1;
        self.stats.accepted += 1;
        let conn = ConnId { index, generation };
        if self.is_stopping {
            // It came before its accept could be cancelled, and nobody is left to serve it.
            return self.start_close(conn, Close::Reset);
        }
        self.events.push_back(Event::Accepted { conn, peer });
        self.arm_recv(index);
    }
}

fn address(storage: &libc::sockaddr_storage) -> SocketAddr {
    let start = std::ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what the storage holds, and it is large enough for every family.
            let it = unsafe { &*start.cast::<libc::sockaddr_in>() };
            SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from(u32::from_be(it.sin_addr.s_addr))),
                u16::from_be(it.sin_port),
            )
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let it = unsafe { &*start.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(it.sin6_addr.s6_addr);
            // A client of IPv4 on a listener of both is one of IPv4.
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            SocketAddr::new(ip, u16::from_be(it.sin6_port))
        }
        _ => SocketAddr::from(([0, 0, 0, 0], 0)),
    }
}
