//! See `interceptor_fuzz::oci`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| interceptor_fuzz::oci::check(data));
