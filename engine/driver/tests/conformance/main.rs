//! What every driver promises, shown on each of them by the same cases.
//!
//! A case drives a scripted shard from the test's thread and talks to it through ordinary sockets; whatever it looks
//! at itself, a recorder judges the order of all calls and events. A new driver joins with one `Subject`.

mod accepting;
mod client;
mod closing;
mod faulty;
mod reading;
mod recorder;
mod rig;
mod script;
mod sending;
mod starving;
mod stopping;
mod waking;

use std::io;

use corecast_driver::DriverConfig;
use corecast_driver::epoll::Epoll;
#[cfg(feature = "glommio")]
use corecast_driver::glommio::Glommio;
use corecast_driver::uring::{Uring, probe};

use rig::{Subject, alone};

/// io_uring as it is configured.
struct OnUring;

impl Subject for OnUring {
    type Driver = Uring;
    const QUEUE_ENTRIES: u32 = 1024;

    fn refusal() -> Option<io::Error> {
        // The probe opens descriptors, which other cases count.
        let _turn = alone();
        probe().available.err()
    }

    fn build(config: DriverConfig) -> io::Result<Uring> {
        Uring::new(config)
    }
}

/// io_uring with queues that overflow all the time.
struct OnNarrowUring;

impl Subject for OnNarrowUring {
    type Driver = Uring;
    const QUEUE_ENTRIES: u32 = 2;

    fn refusal() -> Option<io::Error> {
        OnUring::refusal()
    }

    fn build(config: DriverConfig) -> io::Result<Uring> {
        Uring::new(config)
    }
}

struct OnEpoll;

/// Only where it was built in.
#[cfg(feature = "glommio")]
struct OnGlommio;

#[cfg(feature = "glommio")]
impl Subject for OnGlommio {
    type Driver = Glommio;
    const QUEUE_ENTRIES: u32 = 1024;

    // An executor that has run never closes its own eventfd: https://github.com/DataDog/glommio/issues/448
    const DESCRIPTORS_LOST: usize = 1;

    fn refusal() -> Option<io::Error> {
        let _turn = alone();
        Glommio::refusal(Self::QUEUE_ENTRIES, 1).map(io::Error::other)
    }

    fn build(config: DriverConfig) -> io::Result<Glommio> {
        Glommio::new(config)
    }
}

impl Subject for OnEpoll {
    type Driver = Epoll;
    const QUEUE_ENTRIES: u32 = 1024;

    fn build(config: DriverConfig) -> io::Result<Epoll> {
        Epoll::new(config)
    }
}

/// Each case on each driver.
macro_rules! cases {
    ($($module:ident: $($case:ident),+ $(,)?;)+) => {
        cases!(@on uring OnUring; $($module: $($case),+;)+);
        cases!(@on narrow_uring OnNarrowUring; $($module: $($case),+;)+);
        cases!(@on epoll OnEpoll; $($module: $($case),+;)+);
        #[cfg(feature = "glommio")]
        cases!(@on glommio OnGlommio; $($module: $($case),+;)+);
    };
    (@on $name:ident $subject:ident; $($module:ident: $($case:ident),+;)+) => {
        mod $name {
            $($(
                #[test]
                fn $case() {
                    match <crate::$subject as crate::rig::Subject>::refusal() {
                        None => crate::$module::$case::<crate::$subject>(),
                        Some(error) => eprintln!("NOT TESTED: this host refuses the driver: {error}"),
                    }
                }
            )+)+
        }
    };
}

cases! {
    faulty: canary;
    sending:
        large_batch_to_a_slow_reader,
        batches_of_small_and_large_frames,
        many_readers_at_once,
        reset_in_mid_send,
        nothing_is_sent_after_finish_or_close,
        dead_connections_are_ignored;
    reading:
        large_upload,
        half_close,
        half_close_while_paused,
        finish,
        pause_holds_the_peer_back,
        pause_and_resume_in_a_stream,
        pause_on_data,
        stopped_from_the_first_moment,
        pause_and_resume_in_one_turn,
        pause_and_resume_out_of_turn;
    starving:
        all_buffers_held,
        starved_connections_live_on,
        gone_while_starved,
        leases_outlive_their_connection;
    closing:
        graceful_close_sends_everything,
        reset_is_a_reset,
        reset_overtakes_a_graceful_close,
        peer_resets,
        both_sides_at_once,
        slots_are_reused_at_once;
    accepting:
        peer_addresses,
        full_table,
        accepting_off_and_on,
        accepting_flickers,
        accepting_fails,
        a_thousand_at_once;
    waking:
        until,
        again,
        wakers_from_outside,
        failed_wakes_are_reported,
        waking_a_shard_that_is_gone,
        no_wake_is_lost;
    stopping:
        stop_frees_everything,
        stop_in_the_first_turn,
        stop_while_woken,
        stop_while_clients_come;
}
