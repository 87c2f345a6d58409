//! What changes pools that are there, from the wire. Called by the handlers; a wrong field is named.

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::{BadField, bad, field};
use goldleaf_types::Bytes;

use super::convert::device;
use crate::catalogue::NoSpace;
use crate::ops::{ExtendPool, GrowDevice, SetPolicy};

/// What writers of a full pool meet, by the wire's number; none for none.
///
/// # Errors
///
/// [`BadField`] for a number of no meaning.
pub(super) fn no_space(number: i32) -> Result<Option<NoSpace>, BadField> {
    match api::WhenFull::try_from(number) {
        Ok(api::WhenFull::Unspecified) => Ok(None),
        Ok(api::WhenFull::Error) => Ok(Some(NoSpace::Error)),
        Ok(api::WhenFull::Queue) => Ok(Some(NoSpace::Queue)),
        Err(_) => Err(bad("when_full", "is no known choice")),
    }
}

impl TryFrom<pb::AgentSetPoolPolicyRequest> for SetPolicy {
    type Error = BadField;

    fn try_from(r: pb::AgentSetPoolPolicyRequest) -> Result<Self, BadField> {
        Ok(Self {
            id: field("pool", &r.pool)?,
            no_space: no_space(r.when_full.unwrap_or_default())?,
            wait_seconds: r.wait_seconds,
            overcommit_percent: r.overcommit_percent,
        })
    }
}

impl TryFrom<pb::AgentExtendPoolRequest> for ExtendPool {
    type Error = BadField;

    fn try_from(r: pb::AgentExtendPoolRequest) -> Result<Self, BadField> {
        let devices = [&r.devices, &r.metadata_devices, &r.spares];
        if devices.iter().all(|list| list.is_empty()) && r.grow.is_empty() {
            return Err(BadField {
                field: "devices".into(),
                problem: "nothing is named that could give room: a device, or one to grow".into(),
            });
        }
        let grow = r.grow.into_iter().map(|g| GrowDevice {
            path: g.path.into(),
            size: (g.file_bytes != 0).then_some(Bytes(g.file_bytes)),
        });
        Ok(Self {
            id: field("pool", &r.pool)?,
            devices: r.devices.into_iter().map(device).collect(),
            metadata_devices: r.metadata_devices.into_iter().map(device).collect(),
            spares: r.spares.into_iter().map(device).collect(),
            grow: grow.collect(),
            metadata: Bytes(r.metadata_bytes),
        })
    }
}
