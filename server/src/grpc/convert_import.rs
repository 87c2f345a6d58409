//! A request to import a pool, from the wire to the domain.

use goldleaf_proto::v1 as api;

use super::convert::{BadField, bad, optional};
use crate::service::ImportPool;

/// A pool to import.
pub(super) fn import(r: api::ImportPoolRequest) -> Result<ImportPool, BadField> {
    if r.devices.is_empty() {
        return Err(bad("devices", "is empty: name all devices of the pool"));
    }
    for (index, device) in r.devices.iter().enumerate() {
        if !device.starts_with('/') || device.len() > 4096 {
            return Err(bad(
                &format!("devices[{index}]"),
                "is no absolute path of at most 4096 bytes",
            ));
        }
    }
    Ok(ImportPool {
        node: optional("node", &r.node)?,
        devices: r.devices,
        force_from: optional("force_from_host", &r.force_from_host)?,
    })
}
