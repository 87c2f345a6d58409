//! What a volume or snapshot takes in its pool, counted by its node when somebody asks.
//!
//! Called by `grpc`. Nothing is stored. Unlike a plain look, this is refused when the node does not
//! answer: the figures are what was asked for.

use goldleaf_types::{NodeId, PoolId, SnapshotId, ThinOwner, VolumeId};

use super::views::{Seen, VolumeView, add_conditions};
use super::{Revised, Service, ServiceError, usable};
use crate::domain::{Ref, Snapshot, ThinReport, ThinUsage, Volume};
use crate::store::rows::Row;

impl Service {
    /// One volume with what it takes.
    ///
    /// # Errors
    ///
    /// When there is none, it is not ready, its node is away or its pool takes no change.
    pub async fn volume_usage(&self, what: &Ref<VolumeId>) -> Result<VolumeView, ServiceError> {
        let mut volume = self.records.get::<Volume>(what, "target").await?;
        usable(&volume, volume.phase)?;
        let at = (volume.pool, volume.node);
        let report = self.count(&volume, at, volume.id.into()).await?;
        add_conditions(&mut volume, &Seen::There(Box::new(report.clone())));
        Ok(VolumeView {
            volume,
            report: Some(report),
        })
    }

    /// One snapshot with what it takes.
    ///
    /// # Errors
    ///
    /// As [`Self::volume_usage`].
    pub async fn snapshot_usage(
        &self,
        what: &Ref<SnapshotId>,
    ) -> Result<(Snapshot, Option<ThinUsage>), ServiceError> {
        let mut snapshot = self.records.get::<Snapshot>(what, "target").await?;
        usable(&snapshot, snapshot.phase)?;
        let at = (snapshot.pool, snapshot.node);
        let report = self.count(&snapshot, at, snapshot.id.into()).await?;
        let usage = report.usage;
        add_conditions(&mut snapshot, &Seen::There(Box::new(report)));
        Ok((snapshot, usage))
    }

    async fn count<T: Revised>(
        &self,
        record: &T,
        (pool, node): (PoolId, NodeId),
        owner: ThinOwner,
    ) -> Result<ThinReport, ServiceError> {
        match self.agent_of(node).await?.thin_usage(owner).await {
            Ok(report) => Ok(report),
            Err(error) if error.is_not_found() => {
                // A closed pool hides its volumes; only an open one says that they are lost.
                self.require_open(pool, node).await?;
                Err(ServiceError::DataMissing {
                    kind: <T as Row>::KIND,
                    name: record.name().to_string(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}
