//! Records of images.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    goldleaf_node_agent::images::fuzzing::record(Path::new("/images"), bytes);
});
