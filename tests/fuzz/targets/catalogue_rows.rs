//! Rows of a pool's catalogue.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| goldleaf_node_agent::catalogue::fuzzing::rows(bytes));
