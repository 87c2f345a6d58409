//! Rows of the server's store, the parameters of a request that a thin's row carries on its node, and
//! what a node keeps of the store.
#![no_main]

use goldleaf_server::domain::{
    Channel, GroupSnapshot, Image, KeptRecords, Node, Parameters, Pool, Snapshot, Volume,
};
use goldleaf_server::store::rows::{Row, key};
use goldleaf_types::{ThinOwner, VolumeId};
use libfuzzer_sys::fuzz_target;

/// What is taken as a row is written back as bytes that read the same.
fn row<T: Row + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    // The key names the row's own id, so the row is asked for it: any key tells, in its refusal.
    let Some(id) = id_of::<T>(bytes) else { return };
    let key = key::<T>(id);
    if let Ok(read) = T::decode(&key, bytes, 1) {
        let written = read.encode();
        let again = T::decode(&key, &written, 1).expect("what was written can be read");
        assert_eq!(again, read);
    }
}

fn id_of<T: Row>(bytes: &[u8]) -> Option<T::Id> {
    let text = std::str::from_utf8(bytes).ok()?;
    let at = text.find("\"id\":\"")? + 6;
    text[at..].split('"').next()?.parse().ok()
}

fuzz_target!(|bytes: &[u8]| {
    row::<Volume>(bytes);
    row::<Snapshot>(bytes);
    row::<GroupSnapshot>(bytes);
    row::<Image>(bytes);
    row::<Channel>(bytes);
    row::<Pool>(bytes);
    row::<Node>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(read) = KeptRecords::decode(text) {
            let again = KeptRecords::decode(&read.encode()).expect("what was written");
            assert_eq!(again, read);
        }
        let owner = ThinOwner::Volume(
            "vol-01a20d26682a7511a96e25d164001848"
                .parse::<VolumeId>()
                .expect("an id"),
        );
        if let Ok(read) = Parameters::decode(owner, text) {
            let again = Parameters::decode(owner, &read.encode()).expect("what was written");
            assert_eq!(again.encode(), read.encode());
        }
    }
});
