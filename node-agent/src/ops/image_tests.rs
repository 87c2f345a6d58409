//! What operations owe to images: compared before a wish, never deleted under one, and never read
//! while others wait. On the fake kernel.

use std::os::unix::fs::PermissionsExt;
use std::sync::TryLockError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use goldleaf_types::{Incarnation, PoolId, ThinOwner, VolumeSize};

use super::rig::{HOST, Rig, snap, snapshot, volume};
use super::tests::spoil_image;
use super::*;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
/// As long as a call is given to come to where it must wait.
const A_WHILE: Duration = Duration::from_millis(300);
/// As long as a call that waits for nobody may take.
const AT_MOST: Duration = Duration::from_secs(20);

/// A pool with an idle volume 11 and a live volume 12 over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    for (n, active) in [(11, false), (12, true)] {
        let request = rig.thin(volume(n), true, active);
        rig.agent.create_thin(Some(STORE), request).unwrap();
    }
    rig
}

/// Runs a call on a thread of its own.
fn begin<T: Send + 'static>(
    rig: &Rig,
    call: impl FnOnce(&Agent) -> T + Send + 'static,
) -> Receiver<T> {
    let (send, receive) = channel();
    let agent = Arc::clone(&rig.agent);
    std::thread::spawn(move || send.send(call(&agent)));
    receive
}

fn waits<T: std::fmt::Debug>(call: &Receiver<T>) {
    let answer = call.recv_timeout(A_WHILE);
    assert!(
        matches!(answer, Err(RecvTimeoutError::Timeout)),
        "it did not wait: {answer:?}"
    );
}

/// Makes the image look other than recorded, so that it must be hashed to be known.
fn touch_image(rig: &Rig) {
    let crate::images::Place::File(path) = rig.agent.images.list().remove(0).place else {
        panic!("a file")
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn record(rig: &Rig, owner: ThinOwner) -> Option<crate::catalogue::ThinRecord> {
    rig.agent.pools.open(POOL).unwrap().catalogue.find(owner)
}

/// A live device grows over its image: a wrong one refuses before the new size is a wish.
#[test]
fn a_live_volume_over_a_changed_image_does_not_grow_and_keeps_its_recorded_size() {
    let rig = rig();
    let before = record(&rig, volume(12));
    spoil_image(&rig);
    let size = VolumeSize::new(8 << 20).unwrap();
    let refused = rig.agent.resize(Some(STORE), volume(12), size, 1);
    assert!(matches!(refused, Err(ThinError::Image(_))), "{refused:?}");
    assert_eq!(record(&rig, volume(12)), before, "a wish was written");
    // Without a device there is nothing to grow over it.
    let grown = rig.agent.resize(Some(STORE), volume(11), size, 1).unwrap();
    assert_eq!(grown.record.size, size);
}

/// A live source is resumed over its image, and a clone's device is made over it.
#[test]
fn a_snapshot_that_needs_a_changed_image_is_refused_without_a_trace() {
    let rig = rig();
    spoil_image(&rig);
    for (owner, source, active) in [
        (snapshot(21), volume(12), false),
        (volume(13), volume(11), true),
    ] {
        let refused = rig
            .agent
            .create_snapshot(Some(STORE), snap(owner, source, active));
        assert!(matches!(refused, Err(ThinError::Image(_))), "{refused:?}");
        assert_eq!(record(&rig, owner), None, "a wish was written");
    }
    let thins = rig.kernel.world().pools[&POOL].thins.len();
    assert_eq!(thins, 2, "a thin was made");
    rig.agent
        .create_snapshot(Some(STORE), snap(snapshot(22), volume(11), false))
        .unwrap();
}

/// An image of many gigabytes takes minutes to hash: nobody else waits for that.
#[test]
fn an_activation_that_hashes_its_image_holds_up_nobody() {
    let rig = rig();
    touch_image(&rig);
    let hashing = rig.agent.images.hashing(&rig.digest);
    let hash = hashing.lock().unwrap();
    let activation = begin(&rig, |agent| {
        agent.activate(volume(11), HOST, 1).map(drop).is_ok()
    });
    waits(&activation);
    let other = begin(&rig, |agent| agent.deactivate(volume(11), 1).is_ok());
    assert_eq!(other.recv_timeout(AT_MOST), Ok(true), "its row is locked");
    let creation = rig.thin(volume(14), true, false);
    let creation = begin(&rig, move |agent| {
        agent.create_thin(Some(STORE), creation).is_ok()
    });
    waits(&creation);
    let other = begin(&rig, |agent| {
        agent
            .delete_thin(Some(STORE), volume(14), Some(POOL), 1)
            .is_ok()
    });
    assert_eq!(other.recv_timeout(AT_MOST), Ok(true), "its row is locked");
    let sweep = begin(&rig, Agent::sweep);
    waits(&sweep);
    let other = begin(&rig, |agent| agent.deactivate(volume(12), 1).is_ok());
    assert_eq!(other.recv_timeout(AT_MOST), Ok(true), "its row is locked");
    let alone = rig.agent.image_use.0.try_write();
    assert!(
        !matches!(alone, Err(TryLockError::WouldBlock)),
        "the images are locked"
    );
    drop(alone);
    drop(hash);
    assert_eq!(activation.recv_timeout(AT_MOST), Ok(true));
    // Its volume was given up while it waited: it makes nothing.
    assert_eq!(creation.recv_timeout(AT_MOST), Ok(false));
    assert_eq!(record(&rig, volume(14)), None);
    sweep.recv_timeout(AT_MOST).unwrap();
}

/// A deletion waits for a reading of its image, and nobody waits for the deletion meanwhile.
#[test]
fn an_image_that_is_being_verified_is_deleted_after_that_and_holds_up_nobody() {
    let rig = rig();
    rig.agent.deactivate(volume(12), 0).unwrap();
    for n in [11, 12] {
        rig.agent
            .delete_thin(Some(STORE), volume(n), None, 0)
            .unwrap();
    }
    let hashing = rig.agent.images.hashing(&rig.digest);
    let hash = hashing.lock().unwrap();
    let deletion = begin(&rig, |agent| {
        let digest = agent.images.list().remove(0).digest;
        agent.delete_image(Some(STORE), digest).is_ok()
    });
    waits(&deletion);
    let used = rig.agent.image_use.0.try_read();
    assert!(
        !matches!(used, Err(TryLockError::WouldBlock)),
        "no volume over any image can be activated"
    );
    drop(used);
    drop(hash);
    assert_eq!(deletion.recv_timeout(AT_MOST), Ok(true));
    assert!(rig.agent.images.list().is_empty());
}

/// Law: the last copy of an image that any volume needs is never deleted, not even between the
/// look at it and the wish for the volume.
#[test]
fn law_a_volume_is_not_wished_for_over_an_image_that_goes_meanwhile() {
    let rig = rig();
    let alone = rig.agent.image_use.write();
    let request = rig.thin(volume(14), true, false);
    let creation = begin(&rig, move |agent| agent.create_thin(Some(STORE), request));
    waits(&creation);
    rig.agent.images.remove(&rig.digest).unwrap();
    drop(alone);
    let refused = creation.recv_timeout(AT_MOST).unwrap();
    assert!(
        matches!(refused, Err(ThinError::ImageMissing(_))),
        "{refused:?}"
    );
    assert_eq!(record(&rig, volume(14)), None, "a wish was written");
}

/// Law: what a closed pool's volumes need is not known, so nothing is deleted then.
#[test]
fn law_no_image_is_deleted_while_a_pool_of_this_host_is_closed() {
    let rig = rig();
    rig.agent.deactivate(volume(12), 1).unwrap();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    let refused = rig.agent.delete_image(Some(STORE), rig.digest);
    assert!(
        matches!(
            refused,
            Err(ImageOpError::PoolNotOpen { pool: POOL, digest }) if digest == rig.digest
        ),
        "{refused:?}"
    );
    assert_eq!(rig.agent.images.list().len(), 1);
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    for n in [11, 12] {
        rig.agent
            .delete_thin(Some(STORE), volume(n), None, 1)
            .unwrap();
    }
    rig.agent.delete_image(Some(STORE), rig.digest).unwrap();
    assert!(rig.agent.images.list().is_empty());
}

/// The answer to a new volume is put together without the kernel; it must be what the kernel says.
#[test]
fn the_answer_of_a_volume_made_with_its_device_is_what_a_look_at_it_finds() {
    let rig = rig();
    for (n, image) in [(14, true), (15, false)] {
        let request = CreateThin {
            activate: Some(Activation {
                read_only: image,
                ..HOST
            }),
            ..rig.thin(volume(n), image, true)
        };
        let made = rig.agent.create_thin(Some(STORE), request).unwrap();
        let seen = rig.agent.thin(volume(n)).unwrap();
        assert!(made.live.is_some());
        assert_eq!(made.live, seen.live);
        assert_eq!((made.path, made.record), (seen.path, seen.record));
    }
}

/// Somebody opens the device between the look at it and its removal.
#[test]
fn a_refused_deactivation_takes_its_wish_back_and_leaves_the_link() {
    let rig = rig();
    let before = record(&rig, volume(12)).unwrap();
    let link = rig.agent.thin(volume(12)).unwrap().path.unwrap();
    rig.kernel.world().opened.insert(volume(12), 0); // open, and not yet when it was counted
    let refused = rig.agent.deactivate(volume(12), 1);
    assert!(
        matches!(refused, Err(ThinError::InUse { .. })),
        "{refused:?}"
    );
    assert_eq!(record(&rig, volume(12)), Some(before));
    assert!(link.is_symlink(), "its link is gone");
    rig.kernel.world().opened.clear();
    rig.agent.deactivate(volume(12), 1).unwrap();
    assert!(!link.is_symlink() && record(&rig, volume(12)).unwrap().holder.is_none());
}

#[test]
fn an_image_is_deleted_for_the_store_of_the_pools_alone() {
    let rig = rig();
    for n in [11, 12] {
        rig.agent.deactivate(volume(n), 0).unwrap();
        rig.agent
            .delete_thin(Some(STORE), volume(n), None, 0)
            .unwrap();
    }
    for other in [None, Some(Incarnation::from_bytes([9; 16]))] {
        let refused = rig.agent.delete_image(other, rig.digest).unwrap_err();
        assert!(matches!(refused, ImageOpError::NotAdmitted(_)), "{refused}");
    }
    assert_eq!(rig.agent.images.list().len(), 1, "nothing was deleted");
    rig.agent.delete_image(Some(STORE), rig.digest).unwrap();
    assert!(rig.agent.images.list().is_empty());
}

#[test]
fn a_creation_that_comes_after_its_deletion_makes_nothing() {
    let rig = rig();
    // Given up before it was ever made here: its creation is still under way.
    let pool = Some(POOL);
    rig.agent
        .delete_thin(Some(STORE), volume(13), pool, 0)
        .unwrap();
    let late = rig.thin(volume(13), true, false);
    let refused = rig.agent.create_thin(Some(STORE), late).unwrap_err();
    assert!(matches!(refused, ThinError::Deleted(_)), "{refused}");
    // Made and deleted.
    rig.agent
        .delete_thin(Some(STORE), volume(11), None, 0)
        .unwrap();
    let late = rig.thin(volume(11), true, false);
    let refused = rig.agent.create_thin(Some(STORE), late).unwrap_err();
    assert!(matches!(refused, ThinError::Deleted(_)), "{refused}");
    let gone = snapshot(14);
    rig.agent.delete_thin(Some(STORE), gone, None, 0).unwrap();
    let late = snap(gone, volume(12), false);
    let refused = rig.agent.create_snapshot(Some(STORE), late).unwrap_err();
    assert!(matches!(refused, ThinError::Deleted(_)), "{refused}");
    for owner in [volume(11), volume(13), gone] {
        assert_eq!(record(&rig, owner), None);
    }
}
