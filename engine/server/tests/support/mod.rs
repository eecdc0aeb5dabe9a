//! What the end-to-end tests share: the real binary as a child process, a WebSocket client that is not ours, and a
//! plain TCP client for everything that a proper client would never send.
//!
//! It knows the command line, the log and the wire; nothing of the hub's inside.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(unused_imports, reason = "likewise")]
#![allow(unused_macros, reason = "likewise")]

mod client;
pub(crate) mod configuration;
mod crowd;
mod descriptors;
mod example;
mod gauges;
mod hold;
mod http;
mod live;
mod monitor;
mod network;
mod packed;
mod phases;
mod raw;
mod server;

pub(crate) use client::{Client, Connect};
pub(crate) use crowd::{Chatting, Crowd};
pub(crate) use descriptors::need_descriptors;
pub(crate) use example::example;
pub(crate) use gauges::Gauges;
pub(crate) use hold::Held;
pub(crate) use http::{Response, get};
pub(crate) use live::Live;
pub(crate) use monitor::Monitor;
pub(crate) use network::{Link, OWN_NETWORK, in_own_network};
pub(crate) use packed::{Packed, packed};
pub(crate) use phases::{FLOOD, Phase, flood};
pub(crate) use raw::{End, Frame, HANDSHAKE, Raw, masked, nonsense};
pub(crate) use server::{Failed, Server, Start};

use std::time::Duration;

/// How long anything may take before a test fails: far beyond what a loaded machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The codes of the wire contract, section 5.
pub(crate) const ERROR_CODES: &str = "INVALID_JSON INVALID_MESSAGE UNKNOWN_TYPE SCHEMA_VIOLATION AUTH_REQUIRED AUTH_INVALID \
     AUTH_EXPIRED FORBIDDEN INVALID_CHANNEL NOT_SUBSCRIBED SUBSCRIPTION_LIMIT CONNECTION_LIMIT MESSAGE_TOO_LARGE \
     RATE_LIMIT_EXCEEDED REPLAYED BAD_SIGNATURE NO_HANDLER TIMEOUT CANCELLED NOT_FOUND UNRECOVERABLE SLOW_CONSUMER \
     OVERLOADED DRAINING INTERNAL";

/// Fails unless a close reason begins with an error code.
#[track_caller]
pub(crate) fn assert_names_a_code(reason: &str) {
    let word = reason.split([':', ' ']).next().unwrap_or_default();
    assert!(
        ERROR_CODES.split_whitespace().any(|code| code == word),
        "a close reason begins with an error code, not {reason:?}"
    );
}

/// Tests that glommio can't pass, each with the reason. None at present: what differs there differs inside of tests,
/// as it does for epoll.
#[cfg(feature = "glommio")]
const IMPOSSIBLE_ON_GLOMMIO: [(&str, &str); 0] = [];

/// Says why glommio can't pass this test, if that is so.
#[cfg(feature = "glommio")]
pub(crate) fn is_possible_on_glommio(test: &str) -> bool {
    let found = IMPOSSIBLE_ON_GLOMMIO.iter().find(|(name, _)| *name == test);
    if let Some((name, reason)) = found {
        eprintln!("NOT TESTED on glommio: {name}: {reason}");
    }
    found.is_none()
}

/// Runs each test on both drivers, with one shard; on glommio, too, where it is built in. A test is a function that
/// takes a [`Start`].
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() { super::$name(crate::support::Server::on("uring").shards(1)); })*
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(crate::support::Server::on("epoll").shards(1)); })*
        }
        #[cfg(feature = "glommio")]
        mod glommio {
            $(#[test] fn $name() {
                if crate::support::is_possible_on_glommio(stringify!($name)) {
                    super::$name(crate::support::Server::on("glommio").shards(1));
                }
            })*
        }
    };
}
pub(crate) use on_both_drivers;

/// As [`on_both_drivers`], with one shard and with four.
macro_rules! on_all_layouts {
    ($($name:ident),* $(,)?) => {
        mod one_shard {
            mod uring {
                $(#[test] fn $name() { super::super::$name(crate::support::Server::on("uring").shards(1)); })*
            }
            mod epoll {
                $(#[test] fn $name() { super::super::$name(crate::support::Server::on("epoll").shards(1)); })*
            }
            #[cfg(feature = "glommio")]
            mod glommio {
                $(#[test] fn $name() {
                    if crate::support::is_possible_on_glommio(stringify!($name)) {
                        super::super::$name(crate::support::Server::on("glommio").shards(1));
                    }
                })*
            }
        }
        mod four_shards {
            mod uring {
                $(#[test] fn $name() { super::super::$name(crate::support::Server::on("uring").shards(4)); })*
            }
            mod epoll {
                $(#[test] fn $name() { super::super::$name(crate::support::Server::on("epoll").shards(4)); })*
            }
            #[cfg(feature = "glommio")]
            mod glommio {
                $(#[test] fn $name() {
                    if crate::support::is_possible_on_glommio(stringify!($name)) {
                        super::super::$name(crate::support::Server::on("glommio").shards(4));
                    }
                })*
            }
        }
    };
}
pub(crate) use on_all_layouts;
