//! The kernel's answers to ioctls, as bytes: no length in them leads outside the buffer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| goldleaf_dm::fuzzing::answers(bytes));
