//! Holds up one thread of another process until standard input ends: `hold_thread THREAD_ID`.
//!
//! For tests of what others do while a shard does nothing: a signal stops all threads of a process, a tracer one
//! alone. Says `held` when the thread stands still. Where the kernel lets only ancestors trace (Yama), the process to
//! be held is started by `hold_thread allow PROGRAM [ARGUMENT]...`, which becomes it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::ptr;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match &args[..] {
        [allow, program, args @ ..] if allow == "allow" => {
            allow_tracers();
            // Returns only if it fails.
            Err(Command::new(program).args(args).exec())
        }
        [thread] => match thread.to_str().and_then(|it| it.parse().ok()) {
            Some(thread) => hold(thread),
            None => return usage(),
        },
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hold_thread: {error}");
            ExitCode::from(1)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: hold_thread THREAD_ID | hold_thread allow PROGRAM [ARGUMENT]...");
    ExitCode::from(2)
}

/// Any process of this user may trace this one and what it becomes.
fn allow_tracers() {
    // SAFETY: no pointers. Where there is no Yama it fails, and nothing needs to be allowed.
    let _result = unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
}

fn hold(thread: libc::pid_t) -> io::Result<()> {
    trace(libc::PTRACE_SEIZE, thread)?;
    trace(libc::PTRACE_INTERRUPT, thread)?;
    let mut status = 0;
    // SAFETY: the status outlives the call.
    if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    println!("held");
    io::copy(&mut io::stdin().take(u64::MAX), &mut io::sink())?;
    // If this process ends before that, the kernel does it.
    trace(libc::PTRACE_DETACH, thread)
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests uses an address or data.
    let result = unsafe { libc::ptrace(request, thread, nothing, nothing) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
