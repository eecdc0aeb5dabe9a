//! The binary `corecast`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    corecast_server::run()
}
