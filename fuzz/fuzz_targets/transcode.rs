//! Values from one encoding to the other and back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| corecast_fuzz::transcode::check(bytes));
