//! What may be done to a thin while it is read whole. On the fake kernel, where it reads as zeroes.

use std::sync::{Arc, Mutex};

use goldleaf_types::{Bytes, Digest, Incarnation, ThinOwner, VolumeSize};
use sha2::{Digest as _, Sha256};

use super::rig::{HOST, Rig, snap, snapshot, volume};
use super::*;
use crate::images::{ImageError, Meter};

const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
const SIZE: usize = 2 << 20;

/// A pool with an idle volume 11 over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    let request = rig.thin(volume(11), true, false);
    rig.agent.create_thin(Some(STORE), request).unwrap();
    rig
}

fn silent() -> Meter {
    Meter::new(|_| {})
}

fn zeroes() -> Digest {
    Digest::from_bytes(Sha256::digest(vec![0; SIZE]).into())
}

fn devices(rig: &Rig) -> Vec<ThinOwner> {
    rig.kernel.world().live.keys().copied().collect()
}

#[test]
fn a_thin_that_is_read_stays_as_it_is_and_looks_as_if_nobody_used_it() {
    let rig = rig();
    let reading = rig.agent.read_thin(Some(STORE), volume(11), None).unwrap();
    assert_eq!(devices(&rig), [volume(11)]);
    assert!(rig.kernel.world().live[&volume(11)].read_only);
    assert!(
        rig.kernel.world().live[&volume(11)].origin.is_some(),
        "it is read over its image"
    );
    let busy = |what: &str, refused: ThinError| {
        assert!(
            matches!(refused, ThinError::BeingRead(_)),
            "{what}: {refused}"
        );
    };
    let size = VolumeSize::new(8 << 20).unwrap();
    busy(
        "activate",
        rig.agent.activate(volume(11), HOST, 1).unwrap_err(),
    );
    busy(
        "grow",
        rig.agent
            .resize(Some(STORE), volume(11), size, 1)
            .unwrap_err(),
    );
    busy(
        "delete",
        rig.agent
            .delete_thin(Some(STORE), volume(11), None, 1)
            .unwrap_err(),
    );
    busy(
        "read",
        rig.agent
            .read_thin(Some(STORE), volume(11), None)
            .err()
            .unwrap(),
    );
    assert!(rig.agent.deactivate(volume(11), 1).unwrap().live.is_none());
    assert!(rig.agent.thin(volume(11)).unwrap().live.is_none());
    let found = rig.agent.examine();
    assert!(
        found.iter().all(|f| f.subject != volume(11).to_string()),
        "{found:?}"
    );
    rig.agent.sweep();
    assert_eq!(devices(&rig), [volume(11)], "the sweep took it away");
    rig.agent
        .create_snapshot(Some(STORE), snap(snapshot(21), volume(11), false))
        .unwrap();
    assert!(rig.agent.close_pool(rig.pool().id, Some(STORE)).is_err());

    drop(reading);
    assert!(devices(&rig).is_empty());
    rig.agent.activate(volume(11), HOST, 1).unwrap();
    let live = rig
        .agent
        .read_thin(Some(STORE), volume(11), None)
        .err()
        .unwrap();
    assert!(matches!(live, ThinError::Active(_)), "{live}");
}

#[test]
fn an_image_of_a_thin_is_all_of_it_stored_once_and_reported_on_the_way() {
    let rig = rig();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let meter = Meter::new(move |p| tell.lock().unwrap().push(p.done_bytes));
    let make = |expect| {
        rig.agent
            .import_thin(Some(STORE), volume(11), expect, &meter)
    };
    let made = make(None).unwrap();
    assert_eq!((made.digest, made.size), (zeroes(), Bytes(SIZE as u64)));
    assert_eq!(told.lock().unwrap().last(), Some(&(SIZE as u64)));
    assert_eq!(make(None).unwrap(), made);
    assert_eq!(
        rig.agent.images.list().len(),
        2,
        "the golden one and this one"
    );
    assert!(devices(&rig).is_empty());
    // Known and here, nothing is read, and its thin may be gone.
    rig.agent
        .delete_thin(Some(STORE), volume(11), None, 1)
        .unwrap();
    assert_eq!(make(Some(zeroes())).unwrap(), made);
    assert!(matches!(
        make(None),
        Err(ReadError::Thin(ThinError::NotFound(_)))
    ));
}

#[test]
fn what_is_refused_or_given_up_leaves_neither_device_nor_content() {
    let rig = rig();
    let wrong = Some(Digest::from_bytes([1; 32]));
    let refused = rig
        .agent
        .import_thin(Some(STORE), volume(11), wrong, &silent());
    assert!(
        matches!(
            refused,
            Err(ReadError::Image(ImageError::WrongDigest { .. }))
        ),
        "{refused:?}"
    );
    let meter = silent();
    drop(meter.stop_on_drop()); // its caller went away
    let stopped = rig.agent.import_thin(Some(STORE), volume(11), None, &meter);
    assert!(
        matches!(stopped, Err(ReadError::Image(ImageError::Stopped))),
        "{stopped:?}"
    );
    let stranger = rig.agent.import_thin(None, volume(11), None, &silent());
    assert!(
        matches!(
            stranger,
            Err(ReadError::Thin(ThinError::OtherIncarnation { .. }))
        ),
        "{stranger:?}"
    );
    assert!(devices(&rig).is_empty());
    assert_eq!(rig.agent.images.list().len(), 1);
    rig.agent.activate(volume(11), HOST, 1).unwrap();
}
