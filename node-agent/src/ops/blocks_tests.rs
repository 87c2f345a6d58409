//! What a snapshot holds and what differs, on the fake kernel: the image, sizes, and refusals.

use goldleaf_dm::PoolMode;
use goldleaf_types::{Incarnation, PoolId, SnapshotId, ThinOwner, VolumeSize};

use super::rig::{Rig, snap, snapshot, volume};
use super::*;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);
const BLOCK: u64 = 1 << 16;
/// Size of the volumes and of the image that [`Rig`] makes.
const SIZE: u64 = 2 << 20;
const IMAGE: u64 = 1 << 20;

/// A pool with a blank volume and one over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    for (n, image) in [(11, false), (12, true)] {
        let request = rig.thin(volume(n), image, false);
        rig.agent.create_thin(Some(STORE), request).unwrap();
    }
    rig
}

/// Has the pool map the first so many blocks of a thin, and takes a snapshot.
fn frozen(rig: &Rig, n: u8, source: ThinOwner, blocks: u64) {
    let pool = rig.agent.pools.open(POOL).unwrap();
    let thin = pool.catalogue.find(source).unwrap().thin;
    let mut world = rig.kernel.world();
    world
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .insert(thin, blocks);
    drop(world);
    let request = snap(snapshot(n), source, false);
    rig.agent.create_snapshot(Some(STORE), request).unwrap();
}

fn ask(rig: &Rig, n: u8, base: Option<u8>, from: u64) -> Result<Vec<(u64, u64)>, ThinError> {
    let id = |n| SnapshotId::from_bytes([n; 16]);
    let found = rig.agent.blocks(WantedBlocks {
        snapshot: id(n),
        base: base.map(id),
        from,
    })?;
    assert_eq!(found.next, None);
    Ok(found.ranges.iter().map(|r| (r.offset, r.len)).collect())
}

#[test]
fn where_nothing_was_written_an_image_is_data_and_a_blank_volume_is_nothing() {
    let rig = rig();
    frozen(&rig, 21, volume(11), 0);
    frozen(&rig, 22, volume(11), 3);
    frozen(&rig, 23, volume(12), 0);
    frozen(&rig, 24, volume(12), 20);
    assert_eq!(ask(&rig, 21, None, 0).unwrap(), []);
    assert_eq!(ask(&rig, 22, None, 0).unwrap(), [(0, 3 * BLOCK)]);
    assert_eq!(ask(&rig, 23, None, 0).unwrap(), [(0, IMAGE)]);
    assert_eq!(ask(&rig, 24, None, 0).unwrap(), [(0, 20 * BLOCK)]);
    assert_eq!(
        ask(&rig, 22, None, BLOCK + 512).unwrap(),
        [(BLOCK + 512, 2 * BLOCK - 512)]
    );
    assert_eq!(ask(&rig, 24, None, IMAGE).unwrap(), [(IMAGE, 4 * BLOCK)]);
    assert_eq!(ask(&rig, 24, None, SIZE).unwrap(), []);
    // What differs is what one maps and the other does not, the image or not.
    assert_eq!(ask(&rig, 22, Some(21), 0).unwrap(), [(0, 3 * BLOCK)]);
    assert_eq!(ask(&rig, 21, Some(22), 0).unwrap(), [(0, 3 * BLOCK)]);
    assert_eq!(ask(&rig, 24, Some(23), 0).unwrap(), [(0, 20 * BLOCK)]);
    assert_eq!(ask(&rig, 24, Some(24), 0).unwrap(), []);
}

#[test]
fn what_a_growth_lets_show_of_the_image_is_a_change() {
    let rig = rig();
    let small = VolumeSize::new(BLOCK + 512).unwrap();
    let request = CreateThin {
        size: small,
        ..rig.thin(volume(13), true, false)
    };
    rig.agent.create_thin(Some(STORE), request).unwrap();
    frozen(&rig, 21, volume(13), 1);
    assert_eq!(ask(&rig, 21, None, 0).unwrap(), [(0, small.bytes().0)]);
    let size = VolumeSize::new(SIZE).unwrap();
    rig.agent.resize(Some(STORE), volume(13), size, 1).unwrap();
    frozen(&rig, 22, volume(13), 1);
    let shown = (small.bytes().0, IMAGE - small.bytes().0);
    assert_eq!(ask(&rig, 22, Some(21), 0).unwrap(), [shown]);
}

#[test]
fn what_cannot_be_told_is_refused() {
    let rig = rig();
    frozen(&rig, 21, volume(11), 1);
    frozen(&rig, 22, volume(12), 1);
    let refused = |n, base, from| ask(&rig, n, base, from).unwrap_err();
    assert!(matches!(refused(29, None, 0), ThinError::NotFound(_)));
    assert!(matches!(refused(21, Some(29), 0), ThinError::NotFound(_)));
    assert!(matches!(
        refused(22, Some(21), 0),
        ThinError::Unrelated { .. }
    ));
    let past = refused(21, None, SIZE + 1);
    assert!(
        matches!(
            past,
            ThinError::OutOfRange {
                field: "starting_offset",
                ..
            }
        ),
        "{past:?}"
    );
    rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = Some(PoolMode::ReadOnly);
    assert!(matches!(
        refused(21, None, 0),
        ThinError::PoolReadOnly { .. }
    ));
}
