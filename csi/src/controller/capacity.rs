//! GetCapacity: what is left in the pools that a class of volumes can use from a place.
//!
//! Called by `controller`. A volume is thin: any size can be made while its pool can be written and
//! its limit of overcommitment leaves so much, and what is left says how much can be written in all, so
//! both are answered. Where placement would refuse a volume, a pool counts for nothing.

use std::collections::BTreeSet;

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use goldleaf_types::VolumeSize;

use super::ControllerApi;
use super::control_plane::PAGE;
use crate::convert::answers::size;
use crate::convert::capacity::UNIT;
use crate::convert::parameters::Class;
use crate::convert::{capability, topology};
use crate::status::CsiError;

impl ControllerApi {
    pub(super) async fn capacity(
        &self,
        r: &csi::GetCapacityRequest,
    ) -> Result<csi::GetCapacityResponse, CsiError> {
        if !r.volume_capabilities.is_empty() {
            capability::usages(&r.volume_capabilities)?;
        }
        let class = Class::read(&r.parameters)?;
        let node = r.accessible_topology.as_ref().map(topology::node_of);
        let kept_off = self.nodes_kept_off().await?;
        let (mut free, mut largest) = (0_u64, 0);
        let mut token = String::new();
        loop {
            let (pools, next) = self.control_plane.list_pools(PAGE, token).await?;
            for left in pools
                .iter()
                .filter(|p| fits(p, &class, node.as_ref()) && !kept_off.contains(&p.node))
                .filter_map(left)
            {
                free = free.saturating_add(left.free);
                largest = largest.max(left.largest);
            }
            token = next;
            if token.is_empty() {
                break;
            }
        }
        Ok(csi::GetCapacityResponse {
            available_capacity: size(free),
            maximum_volume_size: Some(size(largest)),
            minimum_volume_size: Some(512),
        })
    }

    /// Nodes that take no new volumes: drained, or given up.
    async fn nodes_kept_off(&self) -> Result<BTreeSet<String>, CsiError> {
        let (mut kept_off, mut token) = (BTreeSet::new(), String::new());
        loop {
            let (nodes, next) = self.control_plane.list_nodes(PAGE, token).await?;
            let off = |n: &api::Node| n.drained_since.is_some() || n.lost_since.is_some();
            kept_off.extend(nodes.into_iter().filter(off).map(|node| node.id));
            token = next;
            if token.is_empty() {
                return Ok(kept_off);
            }
        }
    }
}

/// Whether a pool is one that the class asks for, in the place asked about. A place without a
/// segment of ours has no pool.
fn fits(pool: &api::Pool, class: &Class, node: Option<&Option<String>>) -> bool {
    let named = |wanted: &String| *wanted == pool.name || *wanted == pool.id;
    node.is_none_or(|node| node.as_deref() == Some(pool.node.as_str()))
        && class.pool.as_ref().is_none_or(named)
        && class
            .pool_labels
            .iter()
            .all(|(key, value)| pool.labels.get(key) == Some(value))
}

/// What a pool takes, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    /// How much can be written in volumes to come.
    free: u64,
    /// The largest volume.
    largest: u64,
}

/// What is left in a pool which takes new volumes now.
fn left(pool: &api::Pool) -> Option<Left> {
    let usage = pool.usage.as_ref()?;
    let takes = pool.phase() == api::Phase::Ready
        && usage.mode() == api::PoolMode::ReadWrite
        && !is_low_on_metadata(usage)
        && !pool.conditions.iter().any(keeps_off);
    let percent = pool.policy.map_or(0, |policy| policy.overcommit_percent);
    let largest = largest(percent, usage);
    let free = usage.data_total_bytes.saturating_sub(usage.data_used_bytes);
    let free = free.min(largest);
    (takes && free > 0).then_some(Left { free, largest })
}

/// Whether a condition says that no new volume is placed in the pool: its node does not answer, or is
/// another store's.
fn keeps_off(condition: &api::Condition) -> bool {
    ["NodeReachable", "Adopted"].contains(&condition.r#type.as_str()) && !condition.status
}

/// Whether what is left of a pool's metadata is kept for what is in it, as placement sees it.
const fn is_low_on_metadata(usage: &api::PoolUsage) -> bool {
    let total = usage.metadata_total_bytes;
    total
        .saturating_sub(usage.metadata_used_bytes)
        .saturating_mul(4)
        < total
}

/// The largest volume that a pool's limit, in hundredths of its data, lets be made; 0 is no limit. Of
/// whole pages, since that is what a size becomes.
fn largest(percent: u32, usage: &api::PoolUsage) -> u64 {
    if percent == 0 {
        return VolumeSize::MAX;
    }
    let limit = u128::from(usage.data_total_bytes) * u128::from(percent) / 100;
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let left = limit.saturating_sub(usage.provisioned_bytes);
    let left = left.min(VolumeSize::MAX);
    left - left % UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pool(percent: u32, used: u64, provisioned: u64) -> api::Pool {
        api::Pool {
            phase: api::Phase::Ready.into(),
            usage: Some(api::PoolUsage {
                data_total_bytes: 100 * MIB,
                data_used_bytes: used,
                provisioned_bytes: provisioned,
                mode: api::PoolMode::ReadWrite.into(),
                ..Default::default()
            }),
            policy: Some(api::PoolPolicy {
                overcommit_percent: percent,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_limit_of_overcommitment_bounds_the_largest_volume_and_what_can_be_written() {
        let of = |percent, used, provisioned| {
            left(&pool(percent, used, provisioned)).map(|left| (left.free, left.largest))
        };
        let free = 70 * MIB;
        assert_eq!(
            of(0, 30 * MIB, 900 * MIB),
            Some((free, VolumeSize::MAX)),
            "no limit"
        );
        assert_eq!(of(200, 30 * MIB, 50 * MIB), Some((free, 150 * MIB)));
        assert_eq!(of(200, 30 * MIB, 180 * MIB), Some((20 * MIB, 20 * MIB)));
        // A request for that much is made whole pages, so the part of one is nobody's.
        assert_eq!(of(100, 0, 99 * MIB + 1), Some((MIB - UNIT, MIB - UNIT)));
        assert_eq!(of(100, 0, 100 * MIB), None);
        assert_eq!(of(100, 0, 300 * MIB), None, "the limit was lowered");
        assert_eq!(of(0, 100 * MIB, 0), None, "full");
    }

    #[test]
    fn a_pool_that_placement_keeps_volumes_off_counts_for_nothing() {
        for kind in ["NodeReachable", "Adopted", "DataSpace"] {
            let mut pool = pool(0, 0, 0);
            let condition = |status| api::Condition {
                r#type: kind.into(),
                status,
                ..Default::default()
            };
            pool.conditions = vec![condition(true)];
            assert!(left(&pool).is_some(), "{kind}");
            pool.conditions = vec![condition(false)];
            assert_eq!(left(&pool).is_some(), kind == "DataSpace", "{kind}");
        }
        for (used, takes) in [(3 * MIB, true), (3 * MIB + 1, false)] {
            let mut pool = pool(0, 0, 0);
            let usage = pool.usage.as_mut().unwrap();
            (usage.metadata_used_bytes, usage.metadata_total_bytes) = (used, 4 * MIB);
            assert_eq!(left(&pool).is_some(), takes, "{used}");
        }
    }
}
