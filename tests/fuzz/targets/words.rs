//! Names, digests and ids that people and machines send: what is taken is said the same way again.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use goldleaf_types::{Digest, ImageId, Name, NodeId, PoolId, SnapshotId, ThinOwner, VolumeId};
use libfuzzer_sys::fuzz_target;

fn word<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let said = read.to_string();
        assert_eq!(said.parse::<T>().ok(), Some(read), "{said}");
        assert!(
            !said.contains(['/', '\0', '\n']),
            "{said:?} would lead astray as a path or in a table"
        );
    }
}

fuzz_target!(|text: &str| {
    word::<Name>(text);
    word::<Digest>(text);
    word::<VolumeId>(text);
    word::<SnapshotId>(text);
    word::<ImageId>(text);
    word::<PoolId>(text);
    word::<NodeId>(text);
    word::<ThinOwner>(text);
});
