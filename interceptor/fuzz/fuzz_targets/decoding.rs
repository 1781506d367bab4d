//! See `interceptor_fuzz::decoding`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| interceptor_fuzz::decoding::check(data));
