//! How the real binary ends: what a signal promises to publishers, subscribers, and those who still wait.

mod support;

use support::{Start, on_all_layouts};

on_all_layouts!(an_idle_node_ends,);

fn an_idle_node_ends(start: Start) {
    // Far beyond the deadline of the test: nothing may wait for it.
    let mut server = start.set("limits.drain_timeout_ms", 600_000).start();
    server.signal("TERM");
    assert_eq!(server.wait_for_exit().code(), Some(0));
}
