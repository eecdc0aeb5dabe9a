//! What `--version` says.

use std::fmt::Write;

/// The kernel that the tests ran on; from 6.1 on others should do.
const TESTED: &str = "6.18";

/// The version, the drivers, and what the kernel offers.
pub(crate) fn text() -> String {
    let probe = corecast_driver::uring::probe();
    let mut text = format!("corecast {}\n", env!("CARGO_PKG_VERSION"));
    let state = match &probe.available {
        Ok(()) => "available".to_owned(),
        Err(error) => format!("not available: {error}"),
    };
    // Writing to a string can't fail.
    let _ = writeln!(text, "kernel {}", probe.release);
    let _ = writeln!(text, "driver uring: {state} (has: {})", list(&probe.features));
    if !probe.missing.is_empty() {
        let _ = writeln!(text, "driver uring lacks: {}", list(&probe.missing));
    }
    let tested = if probe.release.starts_with(TESTED) { "" } else { ", and so not on this one" };
    let _ = writeln!(text, "driver uring was tested on Linux {TESTED} only{tested}");
    let _ = writeln!(text, "driver epoll: available");
    let _ = writeln!(text, "driver glommio: {}", glommio());
    text
}

#[cfg(feature = "glommio")]
fn glommio() -> String {
    // One shard with the default queue: what more of them need is checked when they start.
    match corecast_driver::glommio::Glommio::refusal(2048, 1) {
        None => "available".to_owned(),
        Some(why) => format!("not available: {why}"),
    }
}

#[cfg(not(feature = "glommio"))]
fn glommio() -> String {
    "not built in (--features glommio)".to_owned()
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
