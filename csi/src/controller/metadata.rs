//! The SnapshotMetadata service: which bytes of a snapshot hold something, and which changed.
//!
//! Called by the orchestrator's sidecar for backup programs. The ranges are the control plane's,
//! passed on as they come and never gathered: however many there are, a slow reader slows the node's
//! reading and nothing else. A stream that breaks off is gone on with by `starting_offset`.

use std::pin::Pin;

use csi::snapshot_metadata_server::SnapshotMetadata;
use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use tokio_stream::{Stream, StreamExt, iter};
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, ControllerApi};
use crate::convert::answers::{Ranges, size};
use crate::convert::names::{self, Handle};
use crate::scrub::seen;
use crate::status::CsiError;

type Parts<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// From where on, and how many ranges a message may have.
#[derive(Clone, Copy)]
struct Window {
    from: u64,
    most: u32,
}

impl Window {
    fn read(starting_offset: i64, max_results: i32) -> Result<Self, CsiError> {
        let most = u32::try_from(max_results)
            .map_err(|_| CsiError::field("max_results", "is negative"))?;
        let from = u64::try_from(starting_offset)
            .map_err(|_| CsiError::Offset(format!("{starting_offset} is negative")))?;
        Ok(Self { from, most })
    }
}

impl ControllerApi {
    async fn allocated(
        &self,
        r: csi::GetMetadataAllocatedRequest,
    ) -> Result<Parts<Ranges>, CsiError> {
        let window = Window::read(r.starting_offset, r.max_results)?;
        match names::handle("snapshot_id", &r.snapshot_id)? {
            Handle::Snapshot(id) => {
                let request = api::ListAllocatedRequest {
                    snapshot: id.to_string(),
                    starting_offset: window.from,
                    max_results: window.most,
                };
                Ok(told(self.control_plane.list_allocated(request).await?))
            }
            Handle::Image(id) => {
                let image = self.control_plane.find_image(&id.to_string()).await?;
                let missing = || CsiError::NotFound {
                    what: "snapshot",
                    id: id.to_string(),
                };
                whole(image.ok_or_else(missing)?.size_bytes, window.from)
            }
        }
    }

    async fn changed(&self, r: csi::GetMetadataDeltaRequest) -> Result<Parts<Ranges>, CsiError> {
        let window = Window::read(r.starting_offset, r.max_results)?;
        let base = self
            .compared("base_snapshot_id", &r.base_snapshot_id)
            .await?;
        let target = self
            .compared("target_snapshot_id", &r.target_snapshot_id)
            .await?;
        if base.source != target.source {
            let problem = format!(
                "{} froze {} and {} froze {}: only snapshots of one volume are compared",
                base.id, base.source, target.id, target.source
            );
            return Err(CsiError::field("base_snapshot_id", problem));
        }
        let request = api::ListChangedRequest {
            base: base.id,
            target: target.id,
            starting_offset: window.from,
            max_results: window.most,
        };
        Ok(told(self.control_plane.list_changed(request).await?))
    }

    async fn compared(&self, field: &'static str, id: &str) -> Result<api::Snapshot, CsiError> {
        let id = match names::handle(field, id)? {
            Handle::Snapshot(id) => id.to_string(),
            Handle::Image(id) => {
                let problem = format!("{id} is an image, which never changes");
                return Err(CsiError::field(field, problem));
            }
        };
        let found = self.control_plane.find_snapshot(&id).await?;
        found.ok_or(CsiError::NotFound {
            what: "snapshot",
            id,
        })
    }
}

/// The control plane's ranges.
fn told(parts: Streaming<api::BlockRanges>) -> Parts<Ranges> {
    let read = |part: Result<api::BlockRanges, Status>| {
        part.map(|part| Ranges::from(&part))
            .map_err(|status| Status::from(CsiError::from(status)))
    };
    Box::pin(parts.map(read))
}

/// An image holds something everywhere.
fn whole(bytes: u64, from: u64) -> Result<Parts<Ranges>, CsiError> {
    if from > bytes {
        let problem = format!("{from} is past the end of the image, which has {bytes} bytes");
        return Err(CsiError::Offset(problem));
    }
    let rest = Some(csi::BlockMetadata {
        byte_offset: size(from),
        size_bytes: size(bytes - from),
    });
    let ranges = Ranges {
        volume_capacity_bytes: size(bytes),
        block_metadata: rest.into_iter().filter(|r| r.size_bytes > 0).collect(),
    };
    let all: [Result<Ranges, Status>; 1] = [Ok(ranges)];
    Ok(Box::pin(iter(all)))
}

#[tonic::async_trait]
impl SnapshotMetadata for ControllerApi {
    async fn get_metadata_allocated(
        &self,
        r: Request<csi::GetMetadataAllocatedRequest>,
    ) -> Answer<Parts<csi::GetMetadataAllocatedResponse>> {
        let parts = self.allocated(seen(r)).await?;
        let answer = |ranges: Ranges| csi::GetMetadataAllocatedResponse {
            block_metadata_type: csi::BlockMetadataType::VariableLength.into(),
            volume_capacity_bytes: ranges.volume_capacity_bytes,
            block_metadata: ranges.block_metadata,
        };
        Ok(Response::new(Box::pin(parts.map(move |p| p.map(answer)))))
    }

    async fn get_metadata_delta(
        &self,
        r: Request<csi::GetMetadataDeltaRequest>,
    ) -> Answer<Parts<csi::GetMetadataDeltaResponse>> {
        let parts = self.changed(seen(r)).await?;
        let answer = |ranges: Ranges| csi::GetMetadataDeltaResponse {
            block_metadata_type: csi::BlockMetadataType::VariableLength.into(),
            volume_capacity_bytes: ranges.volume_capacity_bytes,
            block_metadata: ranges.block_metadata,
        };
        Ok(Response::new(Box::pin(parts.map(move |p| p.map(answer)))))
    }
}
