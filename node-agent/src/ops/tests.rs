//! The rules of operations and the laws that the kernel does not enforce, on the fake kernel.

use std::os::unix::fs::FileExt;

use goldleaf_dm::PoolMode;
use goldleaf_types::{Incarnation, PoolId, ThinId, VolumeSize};

use super::rig::{HOST, Rig, snap, snapshot, volume};
use super::*;
use crate::catalogue::{Holder, Phase};
use crate::kernel::KernelError;

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Incarnation = Incarnation::from_bytes([2; 16]);

fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(Some(STORE), rig.pool()).unwrap();
    rig
}

fn create(rig: &Rig, n: u8, image: bool, active: bool) -> Result<ThinView, ThinError> {
    rig.agent
        .create_thin(Some(STORE), rig.thin(volume(n), image, active))
}

fn rows(rig: &Rig) -> usize {
    rig.agent.pools.open(POOL).unwrap().catalogue.all().len()
}

/// Writes into an image's stored content, as no one should.
pub(super) fn spoil_image(rig: &Rig) {
    let record = rig.agent.images.list().remove(0);
    let crate::images::Place::File(path) = record.place else {
        panic!("a file")
    };
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"not what it was", 4096).unwrap();
}

#[test]
fn the_same_again_is_the_same_and_another_parameter_is_a_conflict_that_names_it() {
    let rig = rig();
    let first = create(&rig, 11, true, false).unwrap();
    let again = create(&rig, 11, true, false).unwrap();
    assert_eq!(first.record, again.record);
    type Change = fn(&mut CreateThin);
    let cases: [(&str, Change); 3] = [
        ("size_bytes", |r| r.size = VolumeSize::new(512).unwrap()),
        ("image_digest", |r| r.image = None),
        ("name", |r| r.name = "other".parse().unwrap()),
    ];
    for (wanted, change) in cases {
        let mut request = rig.thin(volume(11), true, false);
        change(&mut request);
        match rig.agent.create_thin(Some(STORE), request) {
            Err(ThinError::Conflict { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
    assert_eq!(rows(&rig), 1);
}

/// Law: the pool's mode is read before anything is acknowledged, and a refusal changes nothing.
#[test]
fn law_a_pool_that_takes_no_change_is_never_acknowledged() {
    let rig = rig();
    for (mode, full) in [
        (PoolMode::ReadOnly, false),
        (PoolMode::OutOfDataSpace, true),
    ] {
        rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = Some(mode);
        match create(&rig, 11, false, false) {
            Err(ThinError::PoolFull(_)) => assert!(full),
            Err(ThinError::PoolReadOnly { .. }) => assert!(!full),
            other => panic!("{mode:?}: {other:?}"),
        }
        assert_eq!(rows(&rig), 0, "{mode:?} left a row");
    }
}

/// Law: `Ready` but absent in the kernel is data loss; shown, and never made anew.
#[test]
fn law_a_missing_thin_is_shown_as_lost_and_never_made_anew() {
    let mut rig = rig();
    let thin = create(&rig, 11, false, false).unwrap().record.thin;
    create(&rig, 12, false, false).unwrap();
    rig.kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .remove(&thin);
    rig.restart();
    assert!(rig.agent.thin(volume(11)).unwrap().missing);
    assert!(!rig.agent.thin(volume(12)).unwrap().missing);
    let refused = rig.agent.activate(volume(11), HOST, 1);
    assert!(
        matches!(refused, Err(ThinError::DataMissing(_))),
        "{refused:?}"
    );
    let refused = rig
        .agent
        .create_snapshot(Some(STORE), snap(snapshot(21), volume(11), false));
    assert!(
        matches!(refused, Err(ThinError::DataMissing(_))),
        "{refused:?}"
    );
    assert!(
        !rig.kernel.world().pools[&POOL].thins.contains_key(&thin),
        "made anew"
    );
}

/// Law: only the agent hands out thin ids, and an id that exists already is somebody's data.
#[test]
fn law_a_thin_that_nobody_owns_is_quarantined_and_its_id_never_given() {
    let mut rig = rig();
    // One that appears behind our back, at the very id that is next.
    let next = rig.agent.pools.open(POOL).unwrap().record().next_thin;
    for (offset, blocks) in [(0, 7), (1, 0)] {
        let foreign = ThinId::new(next + offset).unwrap();
        rig.kernel
            .world()
            .pools
            .get_mut(&POOL)
            .unwrap()
            .thins
            .insert(foreign, blocks);
    }
    let given = create(&rig, 11, false, false).unwrap().record.thin;
    assert_eq!(
        given.get(),
        next + 2,
        "an id with somebody's thin was given"
    );
    let clone = rig
        .agent
        .create_snapshot(Some(STORE), snap(snapshot(21), volume(11), false));
    assert_eq!(clone.unwrap().record.thin.get(), next + 3);
    assert_eq!(
        rig.agent.pools.open(POOL).unwrap().record().quarantined,
        [next, next + 1]
    );
    rig.restart();
    let world = rig.kernel.world();
    assert_eq!(
        world.pools[&POOL].thins[&ThinId::new(next).unwrap()],
        7,
        "it was touched"
    );
}

/// Law: metadata that was put back to an older state is noticed, and nothing is changed then.
#[test]
fn law_only_the_recorded_transaction_and_the_one_before_are_lawful() {
    for (shift, lawful) in [(0_i64, true), (-1, true), (-2, false), (1, false)] {
        let mut rig = rig();
        create(&rig, 11, false, true).unwrap();
        rig.agent.pools.open(POOL).unwrap();
        // Three openings, so that there are older numbers to go back to.
        for _ in 0..3 {
            rig.kernel.reboot();
            rig.restart();
        }
        let pool = rig.agent.pools.open(POOL).unwrap();
        let recorded = pool.record().transaction_id;
        drop(pool);
        rig.kernel.reboot();
        rig.kernel.world().pools.get_mut(&POOL).unwrap().transaction =
            recorded.checked_add_signed(shift).unwrap();
        rig.restart();
        let made = create(&rig, 12, false, false);
        assert_eq!(made.is_ok(), lawful, "shifted by {shift}: {made:?}");
        let doubted = matches!(
            rig.agent.pools(Look::Everywhere).remove(0).state,
            PoolState::Open { doubt: Some(_), .. }
        );
        assert_eq!(doubted, !lawful, "shifted by {shift}");
        // Even then what was active for the host can be read.
        assert!(rig.agent.thin(volume(11)).unwrap().live.is_some());
    }
}

/// Law: what was put back to an older state is read, never written.
#[test]
fn law_a_volume_of_a_doubtful_pool_is_activated_for_reading_alone() {
    let mut rig = rig();
    create(&rig, 11, false, false).unwrap();
    rig.kernel.reboot();
    rig.kernel.world().pools.get_mut(&POOL).unwrap().transaction += 5;
    rig.restart();
    let refused = rig.agent.activate(volume(11), HOST, 1);
    assert!(
        matches!(refused, Err(ThinError::PoolReadOnly { .. })),
        "{refused:?}"
    );
    assert_eq!(rig.agent.thin(volume(11)).unwrap().record.holder, None);
    let reading = Activation {
        read_only: true,
        ..HOST
    };
    let view = rig.agent.activate(volume(11), reading, 1).unwrap();
    assert!(view.live.unwrap().read_only);
}

/// A reboot brings back what the host wanted; kubelet asks again for its own.
#[test]
fn the_hosts_volumes_come_back_after_a_reboot_and_kubelets_do_not() {
    let mut rig = rig();
    create(&rig, 11, true, true).unwrap();
    create(&rig, 12, true, false).unwrap();
    let csi = Activation {
        holder: Holder::Csi,
        read_only: false,
    };
    rig.agent.activate(volume(12), csi, 1).unwrap();
    create(&rig, 13, true, false).unwrap();
    rig.kernel.reboot();
    rig.restart();
    let live = |n| rig.agent.thin(volume(n)).unwrap().live.is_some();
    assert_eq!((live(11), live(12), live(13)), (true, false, false));
    rig.agent.activate(volume(12), csi, 0).unwrap();
    assert!(live(12));
}

/// Law: a wrong origin refuses activation, before any table is built.
#[test]
fn law_a_changed_image_refuses_activation() {
    let mut rig = rig();
    create(&rig, 11, true, false).unwrap();
    spoil_image(&rig);
    let refused = rig.agent.activate(volume(11), HOST, 1);
    assert!(matches!(refused, Err(ThinError::Image(_))), "{refused:?}");
    assert!(rig.kernel.world().live.is_empty() && rig.kernel.world().images.is_empty());
    assert_eq!(
        rig.agent.thin(volume(11)).unwrap().record.holder,
        None,
        "a wish was written"
    );
    rig.restart();
    assert!(rig.kernel.world().live.is_empty());
}

/// Law: the last copy of an image that any volume needs is never deleted.
#[test]
fn law_an_image_under_a_snapshot_alone_is_not_deleted() {
    let rig = rig();
    create(&rig, 11, true, false).unwrap();
    rig.agent
        .create_snapshot(Some(STORE), snap(snapshot(21), volume(11), false))
        .unwrap();
    rig.agent
        .delete_thin(Some(STORE), volume(11), None, 1)
        .unwrap();
    let refused = rig.agent.delete_image(Some(STORE), rig.digest);
    assert!(
        matches!(refused, Err(ImageOpError::Needed { count: 1, .. })),
        "{refused:?}"
    );
    rig.agent
        .delete_thin(Some(STORE), snapshot(21), None, 1)
        .unwrap();
    rig.agent.delete_image(Some(STORE), rig.digest).unwrap();
    let refused = create(&rig, 12, true, false);
    assert!(
        matches!(refused, Err(ThinError::ImageMissing(_))),
        "{refused:?}"
    );
}

/// Law: another store's changes are refused; local activation needs no store.
#[test]
fn law_another_stores_changes_are_refused_until_it_is_adopted() {
    let rig = rig();
    create(&rig, 11, false, false).unwrap();
    let other = Some(Incarnation::from_bytes([3; 16]));
    for caller in [other, None] {
        let refusals = [
            rig.agent
                .create_thin(caller, rig.thin(volume(12), false, false))
                .map(drop),
            rig.agent.delete_thin(caller, volume(11), None, 1),
            rig.agent
                .resize(caller, volume(11), VolumeSize::new(8 << 20).unwrap(), 1)
                .map(drop),
            rig.agent
                .create_snapshot(caller, snap(snapshot(21), volume(11), false))
                .map(drop),
        ];
        for refused in refusals {
            assert!(
                matches!(refused, Err(ThinError::OtherIncarnation(_))),
                "{caller:?}: {refused:?}"
            );
        }
        let refused = rig.agent.close_pool(POOL, caller);
        assert!(
            matches!(refused, Err(PoolError::OtherIncarnation(_))),
            "{refused:?}"
        );
    }
    rig.agent.activate(volume(11), HOST, 0).unwrap();
    assert_eq!(rows(&rig), 1);
}

/// Law: an older epoch is refused.
#[test]
fn law_a_call_from_before_a_move_is_refused() {
    let rig = rig();
    let request = CreateThin {
        epoch: 3,
        ..rig.thin(volume(11), false, false)
    };
    rig.agent.create_thin(Some(STORE), request).unwrap();
    for refused in [
        rig.agent.activate(volume(11), HOST, 2).map(drop),
        rig.agent.deactivate(volume(11), 2).map(drop),
        rig.agent.delete_thin(Some(STORE), volume(11), None, 2),
    ] {
        assert!(
            matches!(
                refused,
                Err(ThinError::StaleEpoch {
                    now: 3,
                    asked: 2,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
    rig.agent.activate(volume(11), HOST, 3).unwrap();
}

#[test]
fn an_active_or_open_volume_is_neither_deleted_nor_deactivated() {
    let rig = rig();
    create(&rig, 11, false, true).unwrap();
    let refused = rig.agent.delete_thin(Some(STORE), volume(11), None, 1);
    assert!(matches!(refused, Err(ThinError::Active(_))), "{refused:?}");
    rig.kernel.world().opened.insert(volume(11), 1);
    let refused = rig.agent.deactivate(volume(11), 1);
    assert!(
        matches!(refused, Err(ThinError::InUse { openers: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(
        rig.agent.thin(volume(11)).unwrap().record.holder,
        Some(Holder::Host)
    );
    let refused = rig.agent.close_pool(POOL, Some(STORE));
    assert!(
        matches!(refused, Err(PoolError::Active { count: 1, .. })),
        "{refused:?}"
    );
}

/// What a crash cut short still needs its source, so the source stays until it is finished.
#[test]
fn the_source_of_an_unfinished_snapshot_is_not_deleted() {
    let rig = rig();
    create(&rig, 11, false, false).unwrap();
    let pool = rig.agent.pools.open(POOL).unwrap();
    let source = pool.catalogue.find(volume(11)).unwrap();
    pool.catalogue
        .write(move |rows| {
            let thin = rows.reserve_thin()?;
            rows.insert(crate::catalogue::ThinRecord {
                owner: snapshot(21),
                parent: Some(volume(11)),
                phase: Phase::Creating,
                thin,
                ..source
            });
            Ok::<_, crate::catalogue::NoThinIds>(())
        })
        .unwrap();
    let refused = rig.agent.delete_thin(Some(STORE), volume(11), None, 1);
    assert!(
        matches!(refused, Err(ThinError::Needed { .. })),
        "{refused:?}"
    );
    rig.agent
        .create_snapshot(
            Some(STORE),
            CreateSnapshot {
                name: rig.agent.thin(volume(11)).unwrap().record.name,
                ..snap(snapshot(21), volume(11), false)
            },
        )
        .unwrap();
    rig.agent
        .delete_thin(Some(STORE), volume(11), None, 1)
        .unwrap();
    assert_eq!(rows(&rig), 1);
}

#[test]
fn a_volume_only_grows_and_a_clone_is_at_least_its_source() {
    let rig = rig();
    create(&rig, 11, true, true).unwrap();
    let size = |bytes| VolumeSize::new(bytes).unwrap();
    let refused = rig.agent.resize(Some(STORE), volume(11), size(1 << 20), 1);
    assert!(
        matches!(
            refused,
            Err(ThinError::OutOfRange {
                field: "size_bytes",
                ..
            })
        ),
        "{refused:?}"
    );
    let small = CreateSnapshot {
        size: Some(size(512)),
        ..snap(volume(12), volume(11), false)
    };
    let refused = rig.agent.create_snapshot(Some(STORE), small);
    assert!(
        matches!(refused, Err(ThinError::OutOfRange { .. })),
        "{refused:?}"
    );
    let view = rig
        .agent
        .resize(Some(STORE), volume(11), size(3 << 20), 1)
        .unwrap();
    assert_eq!(view.live.unwrap().len.bytes().0, 3 << 20);
}

#[test]
fn a_second_agent_finds_the_pool_in_use_and_changes_nothing() {
    let rig = rig();
    let rules = DeviceRules {
        pool_dir: rig.agent.pools.rules.pool_dir.clone(),
    };
    let path = rig.pool().devices.remove(0).path;
    let refused = rules.hold(&*rig.kernel, "devices[0].path", &path, None);
    assert!(
        matches!(refused, Err(PoolError::DeviceInUse { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_device_that_holds_something_is_refused_and_left_as_it_is() {
    let rig = Rig::new();
    let device = rig.pool().devices.remove(0);
    std::fs::create_dir_all(device.path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(&device.path).unwrap();
    file.set_len(256 << 20).unwrap();
    file.write_all_at(b"LUKS\xba\xbe\x00\x01", 0).unwrap();
    let refused = rig.agent.create_pool(Some(STORE), rig.pool());
    match refused {
        Err(PoolError::NotBlank { field, holds, .. }) => {
            assert_eq!(field, "devices[0].path");
            assert!(holds.contains("LUKS"), "{holds}");
        }
        other => panic!("{other:?}"),
    }
    let mut now = [0; 8];
    std::fs::File::open(&device.path)
        .unwrap()
        .read_exact_at(&mut now, 4096)
        .unwrap();
    assert_eq!(now, [0; 8], "a label was written");
}

#[test]
fn a_pool_that_misses_its_device_says_which_and_one_with_volumes_is_not_deleted() {
    let mut rig = rig();
    create(&rig, 11, false, false).unwrap();
    let refused = rig.agent.delete_pool(POOL, Some(STORE), Which::Empty);
    assert!(
        matches!(refused, Err(PoolError::NotEmpty { count: 1, .. })),
        "{refused:?}"
    );
    let path = rig.pool().devices.remove(0).path;
    let away = path.with_extension("away");
    rig.kernel.reboot();
    std::fs::rename(
        &path,
        rig.agent
            .pools
            .rules
            .pool_dir
            .parent()
            .unwrap()
            .join("away"),
    )
    .unwrap();
    rig.restart();
    let gone = rig.agent.open_pool(POOL, Some(STORE));
    assert!(
        matches!(gone, Err(PoolError::NotFound(_))),
        "{gone:?} {away:?}"
    );
    let no_pool = create(&rig, 12, false, false);
    assert!(matches!(no_pool, Err(ThinError::NoPool(_))), "{no_pool:?}");
}

/// A kernel refusal is an answer, not a panic, and leaves no half-made device behind.
#[test]
fn an_activation_whose_thin_is_gone_says_so() {
    let rig = rig();
    let thin = create(&rig, 11, false, false).unwrap().record.thin;
    rig.kernel
        .world()
        .pools
        .get_mut(&POOL)
        .unwrap()
        .thins
        .remove(&thin);
    let refused = rig.agent.activate(volume(11), HOST, 1);
    assert!(
        matches!(
            refused,
            Err(ThinError::Kernel(KernelError::ThinMissing { .. }))
        ),
        "{refused:?}"
    );
}

/// Only an open pool can say that it has no such thin: deleting from a closed one is no success.
#[test]
fn a_thin_is_not_called_absent_from_a_pool_that_is_closed() {
    let rig = rig();
    create(&rig, 11, false, false).unwrap();
    rig.agent.close_pool(POOL, Some(STORE)).unwrap();
    let refused = rig
        .agent
        .delete_thin(Some(STORE), volume(11), Some(POOL), 1);
    assert!(
        matches!(refused, Err(ThinError::NoPool(POOL))),
        "{refused:?}"
    );
    rig.agent.open_pool(POOL, Some(STORE)).unwrap();
    rig.agent
        .delete_thin(Some(STORE), volume(11), Some(POOL), 1)
        .unwrap();
    rig.agent
        .delete_thin(Some(STORE), volume(11), Some(POOL), 1)
        .unwrap();
    assert_eq!(rows(&rig), 0);
}

/// What was answered once is answered again, whatever became of what it was made from.
#[test]
fn a_repeated_call_needs_neither_source_nor_image_any_more() {
    let rig = rig();
    create(&rig, 11, true, false).unwrap();
    let ask = || {
        rig.agent
            .create_snapshot(Some(STORE), snap(snapshot(21), volume(11), false))
    };
    let first = ask().unwrap().record;
    rig.agent
        .resize(
            Some(STORE),
            volume(11),
            VolumeSize::new(8 << 20).unwrap(),
            1,
        )
        .unwrap();
    assert_eq!(ask().unwrap().record, first);
    rig.agent
        .delete_thin(Some(STORE), volume(11), None, 1)
        .unwrap();
    assert_eq!(ask().unwrap().record, first);
    let other = rig
        .agent
        .create_snapshot(Some(STORE), snap(snapshot(21), volume(12), false));
    assert!(
        matches!(
            other,
            Err(ThinError::Conflict {
                field: "source",
                ..
            })
        ),
        "{other:?}"
    );
    let made = create(&rig, 13, true, false).unwrap().record;
    spoil_image(&rig);
    assert_eq!(create(&rig, 13, true, false).unwrap().record, made);
}
