//! One run from its setup to its outcome; a panic is an outcome too.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::oracle::{Check, Failure};
use crate::setup::Setup;
use crate::world::{Outcome, World};

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a setup; the last `lines` lines of what happens are kept.
pub fn run(setup: &Setup, lines: usize) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| PANIC.with_borrow_mut(|said| *said = info.to_string())));
    });
    let mut world = World::new(setup.clone(), lines);
    let failure = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(checked) => checked.err(),
        Err(_) => Some(Failure::new(Check::Panic, PANIC.with_borrow(|said| said.replace('\n', ": ")))),
    };
    let outcome = world.outcome(failure);
    if outcome.failure.as_ref().is_some_and(|failure| failure.check == Check::Panic) {
        // Its parts may panic again when they are dropped.
        std::mem::forget(world);
    }
    outcome
}
