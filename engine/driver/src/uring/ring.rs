//! The ring itself: set up, filled, entered. Knows tokens, not connections.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use crate::api::WakeHandle;

/// Places for completions per submission: multishot operations complete many times.
pub(super) const COMPLETIONS_PER_SUBMISSION: u32 = 4;

/// `IORING_ENTER_GETEVENTS`: run the deferred work and flush completions.
const ENTER_GETEVENTS: u32 = 1;

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Op {
    Recv,
    Send,
    Accept,
    Shutdown,
    Disconnect,
    Close,
    Wake,
    Woken,
    Waker,
    Cancel,
}

/// Marks the request to cancel the operation that the rest of the token names.
const CANCEL: u64 = 1 << 63;

/// `user_data`: the operation, the slot's generation and the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token(pub(super) u64);

impl Token {
    /// Slots of a table at most.
    pub(super) const INDEX_MAX: u32 = 1 << 24;

    const OPS: [Op; 9] = [
        Op::Recv,
        Op::Send,
        Op::Accept,
        Op::Shutdown,
        Op::Disconnect,
        Op::Close,
        Op::Wake,
        Op::Woken,
        Op::Waker,
    ];

    pub(super) fn new(op: Op, generation: u32, index: u32) -> Self {
        debug_assert!(index < Self::INDEX_MAX, "a table has fewer slots");
        Self((op as u64) << 56 | u64::from(index) << 32 | u64::from(generation))
    }

    pub(super) fn op(self) -> Op {
        if self.0 & CANCEL == 0 { Self::OPS[(self.0 >> 56) as usize] } else { Op::Cancel }
    }

    /// What a token of [`Op::Cancel`] was to cancel.
    pub(super) fn target(self) -> Self {
        Self(self.0 & !CANCEL)
    }

    pub(super) fn generation(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn index(self) -> u32 {
        (self.0 >> 32) as u32 & 0x00ff_ffff
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) token: Token,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Done {
    /// Whether a cancellation found nothing to end. That does not mean that there is nothing: between two tries, with
    /// its next one queued as work of this thread, an operation is in none of the tables that the kernel searches.
    pub(super) fn has_missed(self) -> bool {
        self.result == -libc::ENOENT || self.result == -libc::EALREADY
    }
}

/// One io_uring with its table of direct descriptors.
pub(super) struct Ring {
    ring: IoUring,
    handle: WakeHandle,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Ring {
    pub(super) fn new(entries: u32, files: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(entries * COMPLETIONS_PER_SUBMISSION)
            .build(entries)?;
        // Saves a look-up of the descriptor per system call.
        let _is_registered = ring.submitter().register_ring_fd().is_ok();
        ring.submitter().register_files_sparse(files)?;
        // SAFETY: a duplicate of an open descriptor is owned by nobody else.
        let handle = unsafe {
            let fd = libc::fcntl(ring.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            WakeHandle(Arc::new(OwnedFd::from_raw_fd(fd)))
        };
        Ok(Self { ring, handle })
    }

    pub(super) fn wake_handle(&self) -> WakeHandle {
        self.handle.clone()
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Queues an operation; where the queue is full, what is in it is submitted first.
    ///
    /// # Safety
    /// What the entry points to must stay where it is until the operation has completed.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.0);
        loop {
            // SAFETY: the caller vouches for what the entry points to.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Interrupted or short of memory: trying again is all that can be done, nothing is lost.
            let _submitted = self.ring.submit();
        }
    }

    /// Asks for the end of an operation, which completes by itself. The request may miss it (see
    /// [`Done::has_missed`]).
    pub(super) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.0).build();
        // SAFETY: the entry holds no pointers.
        unsafe { self.push(entry, Token(token.0 | CANCEL)) };
    }

    /// Submits, runs deferred work, and waits for a completion: not at all, for a time, or as long as it takes.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let result = match wait {
            Some(Duration::ZERO) => {
                let queued = self.ring.submission().len() as u32;
                // SAFETY: no argument is passed; the queue's tail was published by the line above.
                unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) }
            }
            Some(time) => {
                let time = Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
            None => self.ring.submitter().submit_and_wait(1),
        };
        match result {
            Ok(_) => Ok(()),
            // Time is up, a signal came, or completions must be taken first: all are a reason to go on.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next completion that is ready.
    pub(super) fn next(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        Some(Done { token: Token(entry.user_data()), result: entry.result(), flags: entry.flags() })
    }
}
