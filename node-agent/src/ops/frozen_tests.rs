//! A device that a crash left suspended runs again, whatever else is wrong with its volume.
//!
//! On the fake kernel, with devices that stay suspended until they are asked to be active.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use goldleaf_dm::{DevNumber, PoolMessage, PoolStatus};
use goldleaf_types::{Digest, Incarnation, PoolId, ThinId, ThinOwner};

use super::crash_tests::{Rig, volume};
use super::tests::spoil_image;
use super::*;
use crate::kernel::fake::FakeKernel;
use crate::kernel::{
    Attached, ImageSpec, KernelError, KnownThin, LiveThin, Outcome, PoolSpec, ThinSpec,
};

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

    as_the_kernel! {
        attach(file: &File) -> Attached;
        check_unused(dev: DevNumber) -> ();
        ensure_pool(spec: &PoolSpec) -> Outcome;
        ensure_no_pool(pool: PoolId) -> Outcome;
        pool_status(pool: PoolId) -> PoolStatus;
        pool_message(pool: PoolId, message: &PoolMessage) -> ();
        known_thins(pool: PoolId) -> Vec<KnownThin>;
        ensure_thin(pool: PoolId, thin: ThinId, owner: ThinOwner) -> Outcome;
        ensure_snapshot(
            pool: PoolId, thin: ThinId, source: ThinId, live: Option<ThinOwner>
        ) -> Outcome;
        ensure_no_thin(pool: PoolId, thin: ThinId) -> Outcome;
        ensure_inactive(owner: ThinOwner) -> Outcome;
        live_owners() -> Vec<ThinOwner>;
        ensure_image(image: &ImageSpec<'_>) -> DevNumber;
        ensure_no_image(digest: Digest) -> Outcome;
        live_images() -> Vec<Digest>;
        node(dev: DevNumber) -> PathBuf;
    }
}

#[test]
fn a_device_found_suspended_runs_again_although_its_image_changed() {
    let store = Incarnation::from_bytes([2; 16]);
    let mut rig = Rig::new();
    let frozen = Arc::new(Mutex::new(BTreeSet::new()));
    let kernel = Arc::new(Freezing {
        kernel: Arc::clone(&rig.kernel),
        frozen: Arc::clone(&frozen),
    });
    Arc::get_mut(&mut rig.agent).unwrap().kernel = kernel;
    rig.agent.create_pool(Some(store), rig.pool()).unwrap();
    let request = rig.thin(volume(11), true, true);
    rig.agent.create_thin(Some(store), request).unwrap();
    let before = rig.kernel.world().live[&volume(11)];
    spoil_image(&rig);
    frozen.lock().unwrap().insert(volume(11));
    rig.agent.sweep();
    assert!(frozen.lock().unwrap().is_empty(), "its users hang");
    assert_eq!(
        rig.kernel.world().live[&volume(11)],
        before,
        "its table changed"
    );
}
