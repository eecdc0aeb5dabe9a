//! Listening sockets: one per shard on the same address, options set once and inherited by every connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// Unsent bytes above which a socket takes no more: keeps megabytes of old messages out of the kernel.
    pub notsent_lowat: u32,
    /// `SO_SNDBUF` in bytes; `None` leaves it to the kernel.
    pub send_buffer: Option<u32>,
    /// `SO_RCVBUF` in bytes; `None` leaves it to the kernel.
    pub recv_buffer: Option<u32>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 10_000, notsent_lowat: 16 * 1024, send_buffer: None, recv_buffer: None }
    }
}

/// Listens on `address` together with whoever else does with the same user id (`SO_REUSEPORT`).
///
/// # Errors
/// What the kernel refuses: the address is taken by somebody who does not share it, or is not of this host.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    let fd = socket.as_raw_fd();
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, options.notsent_lowat as i32)?;
    if let Some(bytes) = options.send_buffer {
        set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes as i32)?;
    }
    if let Some(bytes) = options.recv_buffer {
        set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes as i32)?;
    }
    bind(fd, address)?;
    // SAFETY: no pointers.
    if unsafe { libc::listen(fd, options.backlog) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpListener::from(socket))
}

/// Fails if somebody listens on `address` already, even one who would share it: two servers that do not know of each
/// other would split the clients between them.
///
/// # Errors
/// `EADDRINUSE`, or that the address is not of this host.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = socket(address)?;
    // Old connections of an ended server are no reason to refuse.
    set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(socket.as_raw_fd(), address)
}

/// The kernel refuses who connects from now on, whoever else holds the socket.
pub(crate) fn stop(listener: &TcpListener) {
    // SAFETY: no pointers. It can't fail for a socket that listens.
    let _result = unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn set(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value outlives the call and has the stated length.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(it) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: it.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*it.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the address outlives the call and has the stated length.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) }
        }
        SocketAddr::V6(it) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: it.port().to_be(),
                sin6_flowinfo: it.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: it.ip().octets() },
                sin6_scope_id: it.scope_id(),
            };
            // SAFETY: as above.
            unsafe { libc::bind(fd, (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) }
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
