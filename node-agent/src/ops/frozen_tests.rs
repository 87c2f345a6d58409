//! A device that a crash left suspended runs again, whatever else is wrong with its volume.
//!
//! On the fake kernel, with devices that stay suspended until they are asked to be active.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use goldleaf_dm::{DevNumber, Owned, PoolMessage, PoolStatus};
use goldleaf_types::{Digest, Incarnation, PoolId, ThinId, ThinOwner};

use super::rig::{Rig, volume};
use super::tests::spoil_image;
use super::*;
use crate::catalogue::Holder;
use crate::kernel::fake::FakeKernel;
use crate::kernel::{
    Attached, BlockQuery, BlockRuns, Given, GroupMember, ImageSpec, KernelError, LiveThin,
    LoadedPool, MetadataFiles, Outcome, PoolSpec, PrivateSpec, PrivateThin, Ran, Superblock,
    ThinSpec, ThinUse, Told,
};
use crate::sys::caller::Caller;

/// The fake kernel, with some devices suspended.
struct Freezing {
    kernel: Arc<FakeKernel>,
    frozen: Arc<Mutex<BTreeSet<ThinOwner>>>,
}

macro_rules! as_the_kernel {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($arg: $kind),*) -> Result<$answer, KernelError> {
            self.kernel.$name($($arg),*)
        })*
    };
}

impl MetadataFiles for Freezing {
    as_the_kernel! {
        copy_metadata(spec: &PoolSpec, to: &File, caller: Option<&Caller>, told: Told<'_>) -> ();
        is_metadata(spec: &PoolSpec, file: &File) -> bool;
        check_metadata(pool: PoolId, file: &File, caller: Option<&Caller>) -> Option<String>;
        superblock(file: &File) -> Option<Superblock>;
        thins_in(pool: PoolId, file: &File, caller: Option<&Caller>) -> Vec<(ThinId, u64)>;
        repair_metadata(pool: PoolId, files: (&File, &File), given: Option<Given>, caller: Option<&Caller>) -> ();
        put_metadata(spec: &PoolSpec, from: &File, told: Told<'_>) -> ();
    }
}

impl Kernel for Freezing {
    fn ensure_active(&self, spec: &ThinSpec) -> Result<DevNumber, KernelError> {
        let dev = self.kernel.ensure_active(spec)?;
        self.frozen.lock().unwrap().remove(&spec.owner);
        Ok(dev)
    }

    fn find_live(&self, owner: ThinOwner) -> Result<Option<LiveThin>, KernelError> {
        let suspended = self.frozen.lock().unwrap().contains(&owner);
        let live = self.kernel.find_live(owner)?;
        Ok(live.map(|live| LiveThin { suspended, ..live }))
    }

    fn wait_limit(&self) -> Option<std::time::Duration> {
        self.kernel.wait_limit()
    }

    fn open_private<'k>(
        &'k self,
        spec: &PrivateSpec,
    ) -> Result<Box<dyn PrivateThin + 'k>, KernelError> {
        self.kernel.open_private(spec)
    }

    as_the_kernel! {
        attach(file: &File) -> Attached;
        check_unused(dev: DevNumber) -> ();
        ensure_pool(spec: &PoolSpec) -> Outcome;
        reload_pool(spec: &PoolSpec) -> Outcome;
        loaded_pool(pool: PoolId) -> LoadedPool;
        renew_wait(pool: PoolId) -> ();
        ensure_no_pool(pool: PoolId) -> Outcome;
        pool_status(pool: PoolId) -> PoolStatus;
        pool_message(pool: PoolId, message: &PoolMessage) -> ();
        known_thins(pool: PoolId) -> Vec<ThinId>;
        thin_usage(pool: PoolId) -> Vec<ThinUse>;
        blocks(pool: PoolId, query: &BlockQuery) -> BlockRuns;
        ensure_thin(pool: PoolId, thin: ThinId, owner: ThinOwner) -> Outcome;
        ensure_snapshot(
            pool: PoolId, thin: ThinId, source: ThinId, live: Option<ThinOwner>
        ) -> Outcome;
        create_group(pool: PoolId, members: &[GroupMember], limit: Duration) -> ();
        ensure_no_thin(pool: PoolId, thin: ThinId) -> Outcome;
        ensure_inactive(owner: ThinOwner) -> Outcome;
        live_owners() -> Vec<ThinOwner>;
        ensure_image(image: &ImageSpec<'_>) -> DevNumber;
        ensure_no_image(digest: Digest) -> Outcome;
        live_images() -> Vec<Digest>;
        let_all_run() -> Ran;
        devices() -> Vec<(Owned, DevNumber)>;
        ensure_no_probe(pool: PoolId) -> ();
        node(dev: DevNumber) -> PathBuf;
    }
}

/// A host with an active volume over an image, and its suspended devices.
fn rig(holder: Holder) -> (Rig, Arc<Mutex<BTreeSet<ThinOwner>>>) {
    let store = Incarnation::from_bytes([2; 16]);
    let mut rig = Rig::new();
    let frozen = Arc::new(Mutex::new(BTreeSet::new()));
    let kernel = Arc::new(Freezing {
        kernel: Arc::clone(&rig.kernel),
        frozen: Arc::clone(&frozen),
    });
    Arc::get_mut(&mut rig.agent).unwrap().kernel = kernel;
    rig.agent.create_pool(Some(store), rig.pool()).unwrap();
    let how = Activation {
        holder,
        read_only: false,
    };
    let request = CreateThin {
        activate: Some(how),
        ..rig.thin(volume(11), true, true)
    };
    rig.agent.create_thin(Some(store), request).unwrap();
    (rig, frozen)
}

/// Suspends the volume's device and sweeps: it runs again, with the table that it had.
fn assert_runs_again(rig: &Rig, frozen: &Mutex<BTreeSet<ThinOwner>>) {
    let before = rig.kernel.world().live[&volume(11)];
    frozen.lock().unwrap().insert(volume(11));
    rig.agent.sweep();
    assert!(frozen.lock().unwrap().is_empty(), "its users hang");
    let after = rig.kernel.world().live[&volume(11)];
    assert_eq!(after, before, "its table changed");
}

#[test]
fn a_device_found_suspended_runs_again_although_its_image_changed() {
    let (rig, frozen) = rig(Holder::Host);
    spoil_image(&rig);
    assert_runs_again(&rig, &frozen);
}

#[test]
fn kubelets_device_found_suspended_runs_again_in_a_pool_that_takes_no_change() {
    let (rig, frozen) = rig(Holder::Csi);
    for pool in rig.kernel.world().pools.values_mut() {
        pool.mode = Some(goldleaf_dm::PoolMode::ReadOnly);
    }
    assert_runs_again(&rig, &frozen);
}

/// A device is never activated with another mode than it has, suspended or not; and it runs again.
#[test]
fn a_device_found_suspended_runs_again_when_its_activation_with_another_mode_is_refused() {
    let (rig, frozen) = rig(Holder::Host);
    let before = rig.kernel.world().live[&volume(11)];
    frozen.lock().unwrap().insert(volume(11));
    let reading = Activation {
        holder: Holder::Host,
        read_only: true,
    };
    let refused = rig.agent.activate(volume(11), reading, 1);
    assert!(
        matches!(refused, Err(ThinError::Conflict { .. })),
        "{refused:?}"
    );
    assert!(frozen.lock().unwrap().is_empty(), "its users hang");
    assert_eq!(rig.kernel.world().live[&volume(11)], before);
    let row = rig.agent.thin(volume(11)).unwrap().record;
    assert!(!row.read_only, "a wish was written");
}

#[test]
fn a_device_found_suspended_runs_again_although_its_table_is_another_than_its_record_says() {
    let (rig, frozen) = rig(Holder::Host);
    let mut world = rig.kernel.world();
    world.live.get_mut(&volume(11)).unwrap().read_only = true;
    drop(world);
    assert_runs_again(&rig, &frozen);
}
