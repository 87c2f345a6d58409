//! Importing a pool: taking over devices that another host had, from what is on them alone.
//!
//! Called by `grpc`. The owner in the labels is the fence: a pool that its host released is free to
//! take; one that it did not release is taken only by a caller who names that host. From then on
//! the labels name this host, durably and before any table is built, and the former one refuses the
//! devices. A crash leaves them to the former host or to this one, which then opens them at start.

use std::fs::File;
use std::path::PathBuf;

use goldleaf_types::{NodeId, PoolId};

use super::Agent;
use super::error::PoolError;
use super::forming::{HALF, is_half, mismatch};
use super::scan::FoundDevice;
use super::view::PoolView;
use crate::catalogue::{Label, read_label};

/// Devices to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportPool {
    /// Where they are, in any order.
    pub devices: Vec<PathBuf>,
    /// The host to take them from although it did not release them, by its node's id.
    pub force_from: Option<NodeId>,
}

impl Agent {
    /// Opens a pool that these devices carry. Whose store has it does not change. Asking again
    /// changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::ForeignHost`] for a pool that its host did not release, unless that very host
    /// is named; [`PoolError::MissingDevice`] and its like before any table is built.
    pub fn import_pool(&self, request: &ImportPool) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        let found = carried(&request.devices)?;
        let id = one_pool(&found)?;
        if is_half(found.iter().map(|device| &device.label)) {
            return Err(mismatch(id, HALF));
        }
        self.pools.reserved.is_free(id)?;
        let pool = match self.pools.open(id) {
            Some(pool) => pool,
            None => self.open_forced(id, &found, request.force_from)?,
        };
        self.changed();
        self.pool_view(&pool)
    }
}

/// What is written on each device.
fn carried(devices: &[PathBuf]) -> Result<Vec<FoundDevice>, PoolError> {
    let mut found: Vec<FoundDevice> = Vec::new();
    for (index, path) in devices.iter().enumerate() {
        let bad = |problem: String| PoolError::BadDevice {
            field: format!("devices[{index}]"),
            path: path.clone(),
            problem,
        };
        let file = File::open(path).map_err(|e| bad(format!("cannot be opened: {e}")))?;
        let label = read_label(&file).map_err(|source| PoolError::Label {
            path: path.clone(),
            source,
        })?;
        let label = label.ok_or_else(|| bad("carries no pool of Goldleaf's".into()))?;
        found.push(FoundDevice {
            path: path.clone(),
            label,
        });
    }
    Ok(found)
}

fn one_pool(found: &[FoundDevice]) -> Result<PoolId, PoolError> {
    let first = found.first().ok_or_else(|| PoolError::BadDevice {
        field: "devices".into(),
        path: PathBuf::new(),
        problem: "none is named".into(),
    })?;
    match found.iter().find(|d| d.label.pool != first.label.pool) {
        None => Ok(first.label.pool),
        Some(other) => Err(mismatch(
            first.label.pool,
            &format!(
                "{} is of pool {} ({:?})",
                other.path.display(),
                other.label.pool,
                other.label.pool_name
            ),
        )),
    }
}

/// The refusal of devices that another host has.
pub(super) fn foreign(id: PoolId, label: &Label) -> PoolError {
    PoolError::ForeignHost {
        pool: id,
        host: NodeId::from_bytes(label.owner_host),
        since: match jiff::Timestamp::from_second(label.claimed) {
            Ok(time) if label.claimed > 0 => time.to_string(),
            Ok(_) | Err(_) => "an unknown time".into(),
        },
    }
}
