//! What the program `corecast` is told: its configuration, for the binary, and for tests of any bytes.

#![forbid(unsafe_code)]

pub mod config;
