//! Messages in fragments, and how they are read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|plan: corecast_fuzz::assembly::Plan| corecast_fuzz::assembly::check(plan));
