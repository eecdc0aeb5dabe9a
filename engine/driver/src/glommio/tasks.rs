//! The tasks beside the connections' own, and how the shard's task waits.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ::glommio::io::BufferedFile;
use ::glommio::net::TcpListener;
use ::glommio::spawn_local;
use ::glommio::timer::Timer;

use super::conn::attend;
use super::state::State;
use crate::sys::reset_on_close;

/// Connections accepted before the others have a chance.
const ACCEPTS_IN_A_ROW: usize = 64;

/// How long accepting rests when the kernel refuses.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The shortest wait that glommio does not take for over at once.
const MOMENT: Duration = Duration::from_micros(1);

/// Waits until all tasks that can run have run and glommio has looked at its rings: its scheduler does so only when
/// nobody is ready, or after a tenth of a second.
pub(super) async fn pass() {
    let mut has_waited = false;
    while !has_waited {
        let mut timer = Timer::new(MOMENT);
        poll_fn(|cx| {
            let poll = Pin::new(&mut timer).poll(cx);
            has_waited |= poll.is_pending();
            poll.map(|_| ())
        })
        .await;
    }
}

/// Waits until something happens, at the latest until `deadline`.
pub(super) async fn wait(state: &RefCell<State>, deadline: Option<Instant>) {
    let left = |time: Instant| time.saturating_duration_since(Instant::now());
    let mut timer = deadline.map(|time| Timer::new(left(time)));
    poll_fn(|cx| {
        let is_over = timer.as_mut().is_some_and(|timer| Pin::new(timer).poll(cx).is_ready());
        let mut state = state.borrow_mut();
        if is_over || state.is_notified {
            state.turns = None;
            return Poll::Ready(());
        }
        state.turns = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Has the shard woken whenever the eventfd says so, which any thread may write to.
pub(super) async fn listen_for_wakes(state: Rc<RefCell<State>>, wakes: BufferedFile) {
    loop {
        let read = wakes.read_at(0, 8).await;
        let mut state = state.borrow_mut();
        state.stats.completions += 1;
        if let Err(error) = read {
            let error = io::Error::from(error);
            if !is_astray(&error) {
                state.failure = Some(error);
            }
        }
        state.notify();
        if state.is_stopping || state.failure.is_some() {
            break;
        }
    }
    // It was opened by this process: nothing is lost where closing fails.
    let _result = wakes.close().await;
    state.borrow_mut().tasks -= 1;
}

/// Takes clients while the shard wants them. One may be taken ahead of time: an accept that is under way can't be
/// taken back without losing the client.
pub(super) async fn accept(state: Rc<RefCell<State>>, listener: TcpListener) {
    let mut in_a_row = 0;
    while is_wanted(&state).await {
        match listener.accept().await {
            Ok(stream) => {
                if !is_wanted(&state).await {
                    reset_on_close(&stream);
                    break;
                }
                let opened = state.borrow_mut().open(stream);
                if let Some(conn) = opened {
                    spawn_local(attend(Rc::clone(&state), conn)).detach();
                }
            }
            Err(error) => state.borrow_mut().was_refused(&io::Error::from(error)),
        }
        in_a_row += 1;
        if in_a_row % ACCEPTS_IN_A_ROW == 0 {
            pass().await;
        }
    }
    drop(listener);
    state.borrow_mut().tasks -= 1;
}

/// Waits until there is a place for a client; false if there will be none any more.
async fn is_wanted(state: &RefCell<State>) -> bool {
    let mut rest = None;
    poll_fn(|cx| {
        let mut state = state.borrow_mut();
        if state.has_ended_listening() {
            return Poll::Ready(false);
        }
        state.accepts = Some(cx.waker().clone());
        if let Some(until) = state.rests_until {
            let left = until.saturating_duration_since(Instant::now());
            let timer = rest.get_or_insert_with(|| Timer::new(left));
            if Pin::new(timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            state.rests_until = None;
        }
        if !state.may_accept() {
            return Poll::Pending;
        }
        state.accepts = None;
        Poll::Ready(true)
    })
    .await
}

/// An operation was cancelled that nobody wanted cancelled, for glommio cancels by a number that it uses again. It
/// calls that a time-out.
fn is_astray(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl State {
    fn was_refused(&mut self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // This client gave up; the next may be there.
        let is_passing =
            matches!(errno, libc::ECONNABORTED | libc::EPROTO | libc::EAGAIN) || is_astray(error);
        if is_passing || self.has_ended_listening() {
            return;
        }
        // Out of descriptors or memory, or worse: asking again at once would spin.
        self.stats.accept_refusals += 1;
        self.stats.accept_errno = errno;
        self.rests_until = Some(Instant::now() + ACCEPT_REST);
    }
}
