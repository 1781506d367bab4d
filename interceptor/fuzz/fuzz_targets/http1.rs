//! See `interceptor_fuzz::http1`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| interceptor_fuzz::http1::check(data));
