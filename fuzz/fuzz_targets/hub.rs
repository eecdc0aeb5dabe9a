//! What clients do on several shards.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|plan: corecast_fuzz::hub::Plan| corecast_fuzz::hub::check(plan));
