//! Which bytes of a snapshot hold something, and which differ from another one.
//!
//! Called by `grpc`. Nothing is stored: the snapshot's node reads it from its pool while somebody
//! takes it. Refused when the node does not answer.

use goldleaf_types::SnapshotId;

use super::{Service, ServiceError, usable};
use crate::agents::BlockParts;
use crate::domain::{BlockOrder, Ref, Snapshot};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct WantedBlocks {
    /// The snapshot.
    pub snapshot: Ref<SnapshotId>,
    /// The field that names it.
    pub field: &'static str,
    /// Another one, to compare it with.
    pub base: Option<Ref<SnapshotId>>,
    /// The first byte that matters.
    pub from: u64,
    /// Most ranges in one part; 0 leaves it to the node.
    pub most: u32,
}

impl Service {
    /// The ranges, part by part as they are taken.
    ///
    /// # Errors
    ///
    /// When a snapshot is not there or not ready, its node is away, its pool takes no change, or
    /// the two cannot be compared.
    pub async fn blocks(&self, wanted: WantedBlocks) -> Result<BlockParts, ServiceError> {
        let found = self.records.get::<Snapshot>(&wanted.snapshot, wanted.field);
        let snapshot = found.await?;
        usable(&snapshot, snapshot.phase)?;
        if wanted.from > snapshot.size.bytes().0 {
            return Err(ServiceError::OutOfRange {
                field: "starting_offset",
                problem: format!(
                    "is past the end of snapshot {}, which has {} bytes",
                    snapshot.name,
                    snapshot.size.bytes().0
                ),
            });
        }
        let base = match &wanted.base {
            None => None,
            Some(base) => {
                let base = self.records.get::<Snapshot>(base, "base").await?;
                usable(&base, base.phase)?;
                comparable(&snapshot, &base)?;
                Some(base.id)
            }
        };
        let order = BlockOrder {
            snapshot: snapshot.id,
            base,
            from: wanted.from,
            most: wanted.most,
        };
        match self.agent_of(snapshot.node).await?.blocks(&order).await {
            Ok(parts) => Ok(parts),
            Err(error) if error.is_not_found() => {
                // A closed pool hides its snapshots; only an open one says that they are lost.
                self.require_open(snapshot.pool, snapshot.node).await?;
                Err(ServiceError::DataMissing {
                    kind: "snapshot",
                    name: snapshot.name.to_string(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn comparable(snapshot: &Snapshot, base: &Snapshot) -> Result<(), ServiceError> {
    let why = if snapshot.pool != base.pool {
        "is in another pool"
    } else if snapshot.image != base.image {
        "shows another image"
    } else {
        return Ok(());
    };
    Err(ServiceError::Unfit {
        kind: "snapshot",
        name: base.name.to_string(),
        why: format!(
            "{why} than {}, so the two cannot be compared: back up all of {} instead",
            snapshot.name, snapshot.name
        ),
    })
}
