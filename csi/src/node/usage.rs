//! How full a volume is, and what is wrong with volumes and pools, as this node sees it.
//!
//! Called by `mod`. Looks only.

use csi::volume_usage::Unit;
use csi_proto::v1 as csi;
use goldleaf_proto::agent::v1 as agent;
use goldleaf_proto::v1 as api;
use goldleaf_types::VolumeId;
use std::path::Path;

use super::device::{self, Seen};
use crate::convert::answers::size;
use crate::status::CsiError;

/// How full the volume at a path is: a file system in bytes and inodes. Of a block device the size
/// is known, and what the pool keeps for it when the agent said.
pub fn usage(
    volume: VolumeId,
    path: &Path,
    owned: Option<u64>,
) -> Result<Vec<csi::VolumeUsage>, CsiError> {
    let mount = match device::at(volume, path)? {
        Seen::Block(device) => return Ok(vec![of_device(device.size, owned.unwrap_or(0))]),
        Seen::Mount(_, mount) => mount,
    };
    let stat = rustix::fs::statvfs(&mount.target).map_err(CsiError::errno("look at", path))?;
    let bytes = |blocks: u64| size(blocks.saturating_mul(stat.f_frsize));
    Ok(vec![
        csi::VolumeUsage {
            available: bytes(stat.f_bavail),
            total: bytes(stat.f_blocks),
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            unit: Unit::Bytes.into(),
        },
        csi::VolumeUsage {
            available: size(stat.f_favail),
            total: size(stat.f_files),
            used: size(stat.f_files.saturating_sub(stat.f_ffree)),
            unit: Unit::Inodes.into(),
        },
    ])
}

/// How full a block device is: what its pool keeps no block for yet counts as available, since who
/// watches claims takes little of that for one that fills up. Blocks may be larger than the device.
fn of_device(total: u64, owned: u64) -> csi::VolumeUsage {
    let used = owned.min(total);
    csi::VolumeUsage {
        available: size(total - used),
        total: size(total),
        used: size(used),
        unit: Unit::Bytes.into(),
    }
}

/// What is wrong with the pools behind all volumes of this node.
pub fn storage_health(
    pools: &Result<Vec<agent::AgentPool>, CsiError>,
) -> Vec<csi::node_get_storage_health_response::StorageBackendHealth> {
    use csi::StorageHealthErrorType as Kind;
    use csi::node_get_storage_health_response::StorageBackendHealth;
    let entry = |kind: Kind, reason: &str, message: String| StorageBackendHealth {
        status: kind.into(),
        reason: reason.into(),
        message,
        volume_capability: None,
    };
    let pools = match pools {
        Ok(pools) => pools,
        Err(error) => {
            return vec![entry(
                Kind::StorageUnreachable,
                "AgentAway",
                error.to_string(),
            )];
        }
    };
    let wrong = pools.iter().filter_map(|pool| {
        let name = &pool.name;
        if pool.phase() == api::Phase::Failed {
            let why = pool.conditions.iter().find(|c| !c.status);
            let why = why.map(|c| c.message.clone()).unwrap_or_default();
            let message = format!("pool {name} failed: {why}");
            return Some(entry(Kind::StorageUnreachable, "PoolFailed", message));
        }
        let mode = pool.usage.as_ref()?.mode();
        (mode != api::PoolMode::ReadWrite).then(|| {
            let message = format!("pool {name} is {} in the kernel", mode.as_str_name());
            entry(Kind::StorageDegraded, "PoolNotWritable", message)
        })
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_block_device_has_not_taken_yet_is_available() {
        let fields = |total, owned| {
            let usage = of_device(total, owned);
            (usage.available, usage.total, usage.used)
        };
        assert_eq!(fields(1000, 0), (1000, 1000, 0));
        assert_eq!(fields(1000, 300), (700, 1000, 300));
        // The last block is whole, also where the device ends within it.
        assert_eq!(fields(1000, 1024), (0, 1000, 1000));
    }
}
