//! System calls that several drivers make, with results instead of errno.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Adds one to an eventfd.
pub(crate) fn notify(fd: RawFd) -> io::Result<()> {
    let one = 1u64;
    // SAFETY: eight bytes are there to be read.
    let written = unsafe { libc::write(fd, (&raw const one).cast(), 8) };
    if written == 8 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closing this socket will send RST instead of FIN.
pub(crate) fn reset_on_close(socket: &impl AsRawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the value outlives the call and has the stated length. Where it fails, a FIN must do.
    let _result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
}
