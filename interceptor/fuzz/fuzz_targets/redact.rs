//! The search for keys in answers: see `interceptor_fuzz::redact`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| interceptor_fuzz::redact::check(data));
