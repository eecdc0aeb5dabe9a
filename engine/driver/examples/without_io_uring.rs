//! Runs a program as containers do that refuse io_uring: `without_io_uring EPERM|ENOSYS PROGRAM [ARGUMENT]...`.
//!
//! A seccomp filter answers io_uring's system calls with the error, then this process becomes the program, which
//! keeps the filter. For tests, and for operators who want to see what such a host will do.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JUMP, BPF_K, BPF_LD, BPF_RET, BPF_STMT, BPF_W, sock_filter};

/// What is refused.
const REFUSED: [libc::c_long; 3] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let errno = match args.next().as_deref().and_then(|it| it.to_str()) {
        Some("EPERM") => libc::EPERM,
        Some("ENOSYS") => libc::ENOSYS,
        _ => return usage(),
    };
    let Some(program) = args.next() else { return usage() };
    if let Err(error) = refuse(errno) {
        eprintln!("without_io_uring: the filter can't be installed: {error}");
        return ExitCode::from(1);
    }
    // Returns only if it fails.
    let error = Command::new(&program).args(args).exec();
    eprintln!("without_io_uring: {} can't be run: {error}", program.display());
    ExitCode::from(1)
}

fn usage() -> ExitCode {
    eprintln!("usage: without_io_uring EPERM|ENOSYS PROGRAM [ARGUMENT]...");
    ExitCode::from(2)
}

/// From now on the kernel answers io_uring's calls with this error, in this process and in what it becomes.
fn refuse(errno: i32) -> io::Result<()> {
    let mut filter = filter(errno);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the first call takes no pointers; the kernel copies the filter, which outlives the second one.
    let result = unsafe {
        // What the program becomes must not gain privileges: without that only root may filter.
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Compares the call's number, the first word of the kernel's `seccomp_data`. That a call of another architecture
/// with the same number is refused as well does no harm here.
fn filter(errno: i32) -> Vec<sock_filter> {
    let refused = libc::SECCOMP_RET_ERRNO | errno as u32;
    // SAFETY: these only put a number together.
    unsafe {
        let mut filter = vec![BPF_STMT((BPF_LD | BPF_W | BPF_ABS) as u16, 0)];
        for call in REFUSED {
            filter.push(BPF_JUMP((BPF_JMP | BPF_JEQ | BPF_K) as u16, call as u32, 0, 1));
            filter.push(BPF_STMT((BPF_RET | BPF_K) as u16, refused));
        }
        filter.push(BPF_STMT((BPF_RET | BPF_K) as u16, libc::SECCOMP_RET_ALLOW));
        filter
    }
}
