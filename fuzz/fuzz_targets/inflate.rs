//! Compressed messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corecast_fuzz::inflate::check(bytes));
