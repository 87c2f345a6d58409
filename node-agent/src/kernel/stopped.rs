//! Devices that a crash left suspended: all of them run again before anything else is done.
//!
//! Used by `dm`. The kernel alone is asked, so neither a pool that does not open nor one that takes
//! long keeps a volume's users waiting. From below upwards: a thin cannot run over a pool that does not.

use goldleaf_dm::{Control, DevNumber, Owned, Target};

use super::dm::{Found, find, settle};
use super::{KernelError, Ran};

/// Lets each of these devices run: which were suspended, and whether they run.
pub(super) fn let_run(control: &Control, mut devices: Vec<(Owned, DevNumber)>) -> Ran {
    devices.sort_by_key(|(owned, _)| height(*owned));
    let (mut left, mut stuck) = (Vec::new(), Vec::new());
    for (owned, dev) in devices {
        let ran = match find(control, owned) {
            Ok(Some(found)) if found.device.has_active_table => {
                // It waits for its pool, and so would whoever resumes it.
                if lies_over(&found, &stuck) {
                    continue;
                }
                let ran = run(control, owned, &found);
                found.device.suspended.then_some(ran)
            }
            // Half made, which its row finishes, or gone.
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        if let Some(ran) = ran {
            if ran.is_err() {
                stuck.push(dev);
            }
            left.push((owned, ran));
        }
    }
    left
}

/// A pool's new table stays: it was loaded for devices below that may have grown already, and only a
/// writable one bears that. Any other device goes on with the table that it had.
fn run(control: &Control, owned: Owned, found: &Found) -> Result<(), KernelError> {
    let pool = matches!(owned, Owned::Pool(_));
    if pool && found.device.suspended {
        let resumed = control.resume(&owned.name());
        return resumed
            .map(drop)
            .map_err(KernelError::dm("resume a device"));
    }
    settle(control, owned, &found.device)
}

fn height(owned: Owned) -> u8 {
    match owned {
        Owned::PoolMetadata(_) | Owned::PoolData(_) | Owned::Image(_) => 0,
        Owned::Pool(_) => 1,
        Owned::Thin(_) | Owned::Probe(..) => 2,
    }
}

/// Whether it is a thin, or a pool, over one of these.
fn lies_over(found: &Found, stuck: &[DevNumber]) -> bool {
    let targets = found.targets.iter().flatten();
    targets.into_iter().any(|target| match target {
        Target::ThinPool(pool) => stuck.contains(&pool.metadata) || stuck.contains(&pool.data),
        Target::Thin(thin) => stuck.contains(&thin.pool),
        Target::Linear(_) | Target::Verity(_) | Target::Error(_) | Target::Zero(_) => false,
    })
}
