//! How a shard reaches the kernel: the driver traits and the drivers behind them.
//!
//! A driver owns one thread's loop, its listener and its sockets. It knows bytes and connections; it must not
//! know WebSocket, channels or other shards' memory. This is the only crate with `unsafe`.

mod api;
pub mod buffers;
pub mod epoll;
#[cfg(feature = "glommio")]
pub mod glommio;
mod leases;
pub mod limits;
pub mod listener;
pub mod pace;
mod sys;
pub mod uring;

pub use api::{
    Close, CloseCause, ConnId, Driver, DriverConfig, Event, Io, IoStats, Next, Shard, ShardId, WakeHandle,
    Waker,
};
pub use buffers::{Batch, BatchPool, Frame, FrameBuilder, FramePool};
