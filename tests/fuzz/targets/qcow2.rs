//! qcow2 files: converted within the budget and with the size that they say, or refused.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a folder for temporary files"));

fuzz_target!(|bytes: &[u8]| {
    goldleaf_node_agent::images::fuzzing::convert(FOLDER.path(), bytes);
});
