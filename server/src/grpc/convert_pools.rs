//! What changes pools that are there, from the wire. Called by the handlers; a wrong field is named.

use goldleaf_proto::v1 as api;
use goldleaf_types::{Bytes, Name, PoolId};

use super::convert::{BadField, bad, device, field, name, path};
use crate::domain::{MoreRoom, PolicyChange, PoolDevice, Ref, WhenFull};

fn devices(name: &str, list: &[api::PoolDevice]) -> Result<Vec<PoolDevice>, BadField> {
    let numbered = list.iter().enumerate();
    numbered
        .map(|(at, d)| device(&format!("{name}[{at}]"), d))
        .collect()
}

/// What a pool is to get.
///
/// # Errors
///
/// [`BadField`] when nothing is named that could give room, or a path is none.
pub(super) fn more_room(r: &api::ExtendPoolRequest) -> Result<MoreRoom, BadField> {
    let lists = [&r.devices, &r.metadata_devices, &r.spares];
    if lists.iter().all(|list| list.is_empty()) && r.grow.is_empty() {
        let problem = "nothing is named that could give room: add a device, or name one to grow";
        return Err(bad("devices", problem));
    }
    let grow = r.grow.iter().enumerate().map(|(at, g)| {
        if !g.file_bytes.is_multiple_of(1 << 20) {
            let field = format!("grow[{at}].file_bytes");
            return Err(bad(&field, "is not a multiple of 1 MiB: round it up"));
        }
        Ok((path(&format!("grow[{at}].path"), &g.path)?, g.file_bytes))
    });
    Ok(MoreRoom {
        devices: devices("devices", &r.devices)?,
        metadata_devices: devices("metadata_devices", &r.metadata_devices)?,
        spares: devices("spares", &r.spares)?,
        grow: grow.collect::<Result<_, _>>()?,
        metadata: Bytes(r.metadata_bytes),
    })
}

/// Which pool is to be called what.
///
/// # Errors
///
/// [`BadField`] that names the field.
pub(super) fn renaming(r: &api::RenamePoolRequest) -> Result<(Ref<PoolId>, Name), BadField> {
    Ok((field("pool", &r.pool)?, name(&r.name)?))
}

/// What a pool is to do when it fills.
///
/// # Errors
///
/// [`BadField`] when nothing is set, or for an unknown choice.
pub(super) fn policy_change(r: &api::SetPoolPolicyRequest) -> Result<PolicyChange, BadField> {
    let when_full = match r.when_full.map(api::WhenFull::try_from) {
        None => None,
        Some(Ok(api::WhenFull::Error)) => Some(WhenFull::Error),
        Some(Ok(api::WhenFull::Queue)) => Some(WhenFull::Queue),
        Some(Ok(api::WhenFull::Unspecified) | Err(_)) => {
            return Err(bad("when_full", "is no known choice: say ERROR or QUEUE"));
        }
    };
    let change = PolicyChange {
        when_full,
        wait_seconds: r.wait_seconds,
        overcommit_percent: r.overcommit_percent,
    };
    if change == PolicyChange::default() {
        let problem = "nothing is set: say when_full, wait_seconds or overcommit_percent";
        return Err(bad("when_full", problem));
    }
    Ok(change)
}
