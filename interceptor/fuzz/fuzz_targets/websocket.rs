//! See `interceptor_fuzz::websocket`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| interceptor_fuzz::websocket::check(data));
