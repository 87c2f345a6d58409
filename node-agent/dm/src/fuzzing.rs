//! The readers of the kernel's bytes, for a fuzzer: feature `fuzzing`, never on in a release.
//!
//! Called by the targets in `tests/fuzz`. Each panics when a reader breaks what it promises.

use crate::buffer;

/// Reads bytes as each kind of answer that the kernel gives.
pub fn answers(bytes: &[u8]) {
    let count = bytes.first().copied().map_or(0, u32::from);
    let targets = buffer::targets(bytes, count);
    assert!(
        targets.len() <= usize::try_from(count).unwrap_or(usize::MAX),
        "more targets than were announced"
    );
    for minor_version in [40, 48] {
        let _ = buffer::names(bytes, minor_version);
    }
    let numbers = buffer::deps(bytes);
    assert!(numbers.len() * 8 <= bytes.len(), "numbers past the end");
    let _ = buffer::versions(bytes);
    let _ = buffer::text(bytes);
}
