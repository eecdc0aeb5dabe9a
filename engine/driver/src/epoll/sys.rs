//! The system calls of the epoll driver, with results instead of errno.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::buffers::{BATCH_PIECES_MAX, Batch};

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
    unsafe { check(libc::epoll_create1(libc::EPOLL_CLOEXEC)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: as above.
    unsafe {
        check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

pub(super) fn epoll_control(
    epoll: &OwnedFd,
    operation: i32,
    fd: RawFd,
    interest: i32,
    token: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest as u32, u64: token };
    // SAFETY: the event outlives the call.
    unsafe { check(libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event)) }.map(|_| ())
}

/// Waits for readiness: as long as it takes, or for a time, rounded up to whole milliseconds.
pub(super) fn epoll_wait(
    epoll: &OwnedFd,
    ready: &mut Vec<libc::epoll_event>,
    most: usize,
    time: Option<Duration>,
) -> io::Result<()> {
    ready.clear();
    ready.reserve(most);
    let milliseconds =
        time.map_or(-1, |time| time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
    // SAFETY: there is room for `most` events behind the vector's (empty) contents, and the kernel says how many
    // it wrote.
    let result = unsafe {
        let count = libc::epoll_wait(epoll.as_raw_fd(), ready.as_mut_ptr(), most as i32, milliseconds);
        if count > 0 {
            ready.set_len(count as usize);
        }
        check(count)
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Empties an eventfd.
pub(super) fn drain(fd: RawFd) {
    let mut value = 0u64;
    // SAFETY: eight bytes are there to be written. An empty one says EAGAIN, which is as good.
    let _read = unsafe { libc::read(fd, (&raw mut value).cast(), 8) };
}

/// Sends what is left of a batch after `sent` bytes; how much of it the kernel took.
pub(super) fn send(stream: &TcpStream, batch: &Batch, sent: usize) -> io::Result<usize> {
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_PIECES_MAX];
    let (mut skip, mut count) = (sent, 0);
    for index in 0..batch.pieces().min(BATCH_PIECES_MAX) {
        let piece = batch.slice(index);
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let rest = &piece[skip..];
        skip = 0;
        pieces[count] = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
        count += 1;
    }
    // SAFETY: the pieces point into the batch, which outlives the call; a header of zeros has no address and no
    // control data.
    let taken = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = count;
        libc::sendmsg(stream.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL)
    };
    if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(taken as usize) }
}
