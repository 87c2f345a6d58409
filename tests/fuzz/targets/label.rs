//! A device's label.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| goldleaf_node_agent::catalogue::fuzzing::label(bytes));
