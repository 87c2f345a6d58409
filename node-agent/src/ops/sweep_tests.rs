//! What the sweep finishes, and what it must leave: against races, wrong images and full pools. On
//! the fake kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use goldleaf_dm::PoolMode;
use goldleaf_types::{Incarnation, PoolId, ThinOwner, VolumeSize};

use super::rig::{Rig, quiet, snap, snapshot, volume};
use super::tests::spoil_image;
use super::*;
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, test::die_at};

const POOL: PoolId = PoolId::from_bytes([1; 16]);
const STORE: Option<Incarnation> = Some(Incarnation::from_bytes([2; 16]));
/// As long as a call is given to come to where it must wait.
const A_WHILE: Duration = Duration::from_millis(300);
/// As long as a call that waits for nobody may take.
const AT_MOST: Duration = Duration::from_secs(20);

/// A pool with a live volume 11, blank, and a live volume 12 over the image.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.agent.create_pool(STORE, rig.pool()).unwrap();
    for (n, image) in [(11, false), (12, true)] {
        let request = rig.thin(volume(n), image, true);
        rig.agent.create_thin(STORE, request).unwrap();
    }
    rig
}

fn record(rig: &Rig, owner: ThinOwner) -> Option<ThinRecord> {
    rig.agent.pools.open(POOL).unwrap().catalogue.find(owner)
}

fn set_mode(rig: &Rig, mode: Option<PoolMode>) {
    rig.kernel.world().pools.get_mut(&POOL).unwrap().mode = mode;
}

/// A snapshot that was wished for when its call died.
fn cut_short(rig: &Rig, owner: ThinOwner, source: ThinOwner) {
    quiet();
    die_at(Some(Point::SnapshotWished));
    let call = || rig.agent.create_snapshot(STORE, snap(owner, source, false));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
}

/// Whoever waits for a lock finds another row under it than the one it saw before.
#[test]
fn a_volume_deactivated_while_the_sweep_waits_for_it_stays_so_in_a_pool_that_takes_no_change() {
    let rig = rig();
    set_mode(&rig, Some(PoolMode::ReadOnly));
    rig.kernel.world().live.remove(&volume(11));
    let pool = rig.agent.pools.open(POOL).unwrap();
    let held = pool.locks.take(&[volume(11)]);
    let (send, swept) = channel();
    let agent = Arc::clone(&rig.agent);
    std::thread::spawn(move || {
        agent.sweep();
        send.send(())
    });
    let waits = swept.recv_timeout(A_WHILE);
    assert_eq!(waits, Err(RecvTimeoutError::Timeout));
    let idle = ThinRecord {
        holder: None,
        ..record(&rig, volume(11)).unwrap()
    };
    let written = pool.catalogue.write(move |rows| {
        rows.replace(idle);
        Ok::<_, std::convert::Infallible>(())
    });
    written.unwrap();
    drop(held);
    swept.recv_timeout(AT_MOST).unwrap();
    let live = rig.agent.thin(volume(11)).unwrap().live;
    assert!(live.is_none(), "active again, with no holder");
}

/// Law: identity is compared before anything is suspended, also by the sweep.
#[test]
fn law_a_snapshot_cut_short_is_not_finished_while_its_live_source_is_over_a_changed_image() {
    let rig = rig();
    cut_short(&rig, snapshot(21), volume(12));
    spoil_image(&rig);
    rig.agent.sweep();
    assert_eq!(
        rig.kernel.world().pools[&POOL].thins.len(),
        2,
        "it was made"
    );
    let row = record(&rig, snapshot(21)).unwrap();
    assert_eq!(row.phase, Phase::Creating);
    // Of an idle source nothing is suspended.
    rig.kernel.world().live.remove(&volume(12));
    rig.agent.sweep();
    assert_eq!(record(&rig, snapshot(21)).unwrap().phase, Phase::Ready);
}

/// In a full pool a suspension waits for writes that wait for room, with the row's lock held.
#[test]
fn nothing_live_is_frozen_in_a_full_pool_by_the_sweep_or_by_a_repeated_call() {
    let rig = rig();
    cut_short(&rig, snapshot(21), volume(11));
    set_mode(&rig, Some(PoolMode::OutOfDataSpace));
    rig.agent.sweep();
    let request = snap(snapshot(21), volume(11), false);
    let refused = rig.agent.create_snapshot(STORE, request);
    assert!(
        matches!(refused, Err(ThinError::PoolReadOnly { .. })),
        "{refused:?}"
    );
    assert_eq!(
        rig.kernel.world().pools[&POOL].thins.len(),
        2,
        "it was made"
    );
    set_mode(&rig, None);
    rig.agent.sweep();
    assert_eq!(record(&rig, snapshot(21)).unwrap().phase, Phase::Ready);
}

/// Writes of a busy source are flushed before it is frozen, which may take seconds.
#[test]
fn a_snapshots_time_is_not_before_it_was_taken() {
    let rig = rig();
    let request = snap(snapshot(21), volume(11), false);
    let view = rig.agent.create_snapshot(STORE, request).unwrap();
    let taken = rig.kernel.world().frozen.unwrap();
    assert!(
        view.record.created >= taken,
        "{} {taken}",
        view.record.created
    );
    assert_eq!(record(&rig, snapshot(21)).unwrap(), view.record);
}

#[test]
fn a_volume_whose_device_did_not_grow_has_its_former_size_until_the_sweep_grew_it() {
    let rig = rig();
    let size = VolumeSize::new(8 << 20).unwrap();
    rig.kernel.world().no_growth = true;
    let failed = rig.agent.resize(STORE, volume(12), size, 1);
    assert!(matches!(failed, Err(ThinError::Kernel(_))), "{failed:?}");
    let shown = || rig.agent.thin(volume(12)).unwrap().size().0;
    assert_eq!(shown(), 2 << 20, "no user has that much");
    rig.kernel.world().no_growth = false;
    rig.agent.sweep();
    assert_eq!(shown(), 8 << 20);
}

/// A call that waited for a lock and whose caller gave up may be the opposite of what is wanted now.
#[test]
fn a_call_that_nobody_waits_for_any_more_changes_nothing_once_it_has_its_lock() {
    let rig = rig();
    let before = record(&rig, volume(11));
    let pool = rig.agent.pools.open(POOL).unwrap();
    let held = pool.locks.take(&[volume(11)]);
    let (send, ended) = channel();
    let agent = Arc::clone(&rig.agent);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = runtime.spawn(caller::blocking(move || {
        let _ = send.send(agent.deactivate(volume(11), 1));
    }));
    let waits = ended.recv_timeout(A_WHILE);
    assert!(waits.is_err(), "it did not wait: {waits:?}");
    call.abort();
    assert!(runtime.block_on(call).is_err());
    drop(held);
    let late = ended.recv_timeout(AT_MOST).unwrap();
    assert!(matches!(late, Err(ThinError::Abandoned(_))), "{late:?}");
    assert_eq!(record(&rig, volume(11)), before);
    rig.agent.deactivate(volume(11), 1).unwrap();
}

/// It moves to another node, and may be active there.
#[test]
fn a_sealed_volume_does_not_come_back_after_a_reboot() {
    for mode in [None, Some(PoolMode::ReadOnly)] {
        let mut rig = rig();
        let sealed = ThinRecord {
            sealed: true,
            ..record(&rig, volume(11)).unwrap()
        };
        let pool = rig.agent.pools.open(POOL).unwrap();
        let written = pool.catalogue.write(move |rows| {
            rows.replace(sealed);
            Ok::<_, std::convert::Infallible>(())
        });
        written.unwrap();
        drop(pool);
        rig.kernel.reboot();
        set_mode(&rig, mode);
        rig.restart();
        let live: Vec<_> = rig.kernel.world().live.keys().copied().collect();
        assert_eq!(live, [volume(12)], "{mode:?}");
    }
}
