//! GetCapacity: what is left in the pools that a class of volumes can use from a place.
//!
//! Called by `controller`. A volume is thin: any size can be made while its pool can be written, and
//! what is left says how much can be written in all, so both are answered.

use std::collections::BTreeSet;

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use goldleaf_types::VolumeSize;

use super::ControllerApi;
use super::control_plane::PAGE;
use crate::convert::answers::size;
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
        let mut free: Option<u64> = None;
        let mut token = String::new();
        loop {
            let (pools, next) = self.control_plane.list_pools(PAGE, token).await?;
            for left in pools
                .iter()
                .filter(|p| fits(p, &class, node.as_ref()) && !kept_off.contains(&p.node))
                .filter_map(left)
            {
                free = Some(free.unwrap_or(0).saturating_add(left));
            }
            token = next;
            if token.is_empty() {
                break;
            }
        }
        let largest = if free.is_some() { VolumeSize::MAX } else { 0 };
        Ok(csi::GetCapacityResponse {
            available_capacity: size(free.unwrap_or(0)),
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

/// Bytes that are left in a pool which takes new volumes now.
fn left(pool: &api::Pool) -> Option<u64> {
    let usage = pool.usage.as_ref()?;
    let takes = pool.phase() == api::Phase::Ready
        && usage.mode() == api::PoolMode::ReadWrite
        && !pool
            .conditions
            .iter()
            .any(|c| ["NodeReachable", "Adopted"].contains(&c.r#type.as_str()) && !c.status);
    let left = usage.data_total_bytes.saturating_sub(usage.data_used_bytes);
    (takes && left > 0).then_some(left)
}
