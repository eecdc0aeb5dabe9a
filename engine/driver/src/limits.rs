//! What the host allows this process: descriptors, locked memory.

use std::io;

/// Raises the soft descriptor limit to the hard one; the limit that holds then.
///
/// # Errors
/// If it can't be read.
pub fn raise_descriptors() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: as above. Where it is refused the soft limit holds.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    // A table of more slots than this costs memory without use.
    Ok(limit.rlim_cur.min(1 << 20) as usize)
}

/// Bytes of memory that this process may lock; `None` where nobody counts: without a limit, and for root.
pub fn locked_memory() -> Option<u64> {
    // SAFETY: it takes nothing.
    let user = unsafe { libc::geteuid() };
    memlock().filter(|_| user != 0)
}

/// The limit of locked memory in bytes, whoever asks; `None` where there is none.
pub fn memlock() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The cores that this thread may use; none where the kernel does not say.
pub fn cores_of_this_thread() -> Vec<usize> {
    // SAFETY: a set of zeros is an empty one; it outlives the call and has the stated size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (result == 0).then_some(set)
    };
    let Some(set) = set else { return Vec::new() };
    // SAFETY: every index is below the size of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect()
}
