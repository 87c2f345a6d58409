//! A small agent: remembers what it was told and answers as its script says.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, stream};
use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::agent::v1::node_agent_server::NodeAgent;
use goldleaf_proto::v1 as api;
use goldleaf_types::{Digest, PoolId, VolumeId};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the small agent was told and what it is to say.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) metadata: Option<MetadataMap>,
    pub(super) thin: Option<pb::AgentCreateThinRequest>,
    pub(super) snapshot: Option<pb::AgentCreateSnapshotRequest>,
    pub(super) pool: Option<pb::AgentCreatePoolRequest>,
    pub(super) image: Option<pb::AgentImportImageRequest>,
    pub(super) refusal: Option<Status>,
    pub(super) answer: pb::AgentThin,
    pub(super) events: Vec<pb::ImportImageEvent>,
    pub(super) kept: Option<pb::AgentKeepRecordsRequest>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SmallAgent(Arc<Mutex<Script>>);

impl SmallAgent {
    pub(super) fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    fn thin(&self, metadata: MetadataMap) -> Answer<pb::AgentThin> {
        let mut script = self.script();
        script.metadata = Some(metadata);
        match script.refusal.take() {
            Some(status) => Err(status),
            None => Ok(Response::new(script.answer.clone())),
        }
    }
}

fn not_asked<T>() -> Answer<T> {
    Err(Status::unimplemented("this test does not ask that"))
}

#[tonic::async_trait]
impl NodeAgent for SmallAgent {
    type WatchPoolsStream = Events<pb::ListAgentPoolsResponse>;
    type WatchThinsStream = Events<pb::WatchThinsEvent>;
    type ImportImageStream = Events<pb::ImportImageEvent>;

    async fn get_node(&self, _: Request<pb::GetNodeRequest>) -> Answer<pb::AgentNode> {
        not_asked()
    }
    async fn preflight(
        &self,
        _: Request<pb::AgentPreflightRequest>,
    ) -> Answer<api::PreflightResponse> {
        not_asked()
    }
    async fn examine(
        &self,
        _: Request<pb::AgentExamineRequest>,
    ) -> Answer<pb::AgentExamineResponse> {
        let finding = |severity: i32| api::Finding {
            id: "LostThin/x".into(),
            severity,
            code: "LostThin".into(),
            subject: "x".into(),
            ..Default::default()
        };
        Ok(Response::new(pb::AgentExamineResponse {
            findings: vec![finding(api::Severity::Error.into())],
        }))
    }
    async fn mend(&self, r: Request<pb::AgentMendRequest>) -> Answer<pb::AgentMendResponse> {
        let asked = r.into_inner();
        let result = |finding| api::Mended {
            finding,
            outcome: match asked.apply {
                true => api::MendOutcome::Done.into(),
                false => api::MendOutcome::WouldDo.into(),
            },
            ..Default::default()
        };
        Ok(Response::new(pb::AgentMendResponse {
            results: asked.findings.into_iter().map(result).collect(),
        }))
    }
    async fn create_pool(&self, r: Request<pb::AgentCreatePoolRequest>) -> Answer<pb::AgentPool> {
        let body = r.into_inner();
        let id = body.id.clone();
        self.script().pool = Some(body);
        Ok(Response::new(pb::AgentPool {
            id,
            phase: api::Phase::Ready.into(),
            usage: Some(api::PoolUsage {
                data_total_bytes: 9,
                mode: api::PoolMode::ReadOnly.into(),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
    async fn mark_thin(&self, _: Request<pb::AgentMarkThinRequest>) -> Answer<pb::AgentThin> {
        not_asked()
    }
    async fn adopt_pool(&self, _: Request<pb::AgentAdoptPoolRequest>) -> Answer<pb::AgentPool> {
        not_asked()
    }
    async fn keep_records(
        &self,
        r: Request<pb::AgentKeepRecordsRequest>,
    ) -> Answer<pb::AgentKeepRecordsResponse> {
        self.script().kept = Some(r.into_inner());
        Ok(Response::new(pb::AgentKeepRecordsResponse {}))
    }
    /// As an agent of before: it has none unless it was told some.
    async fn recall_records(
        &self,
        _: Request<pb::AgentRecallRecordsRequest>,
    ) -> Answer<pb::AgentKeptRecords> {
        let kept = self.script().kept.clone();
        let kept = kept.ok_or_else(|| Status::unimplemented("no such call"))?;
        Ok(Response::new(pb::AgentKeptRecords {
            store: kept.former,
            records: kept.records,
        }))
    }
    async fn import_pool(&self, _: Request<pb::AgentImportPoolRequest>) -> Answer<pb::AgentPool> {
        not_asked()
    }
    async fn open_pool(&self, _: Request<pb::AgentPoolRequest>) -> Answer<pb::AgentPool> {
        not_asked()
    }
    /// Never answers.
    async fn close_pool(&self, _: Request<pb::AgentPoolRequest>) -> Answer<pb::AgentPool> {
        std::future::pending().await
    }
    async fn extend_pool(&self, _: Request<pb::AgentExtendPoolRequest>) -> Answer<pb::AgentPool> {
        not_asked()
    }
    async fn set_pool_policy(
        &self,
        _: Request<pb::AgentSetPoolPolicyRequest>,
    ) -> Answer<pb::AgentPool> {
        not_asked()
    }
    type RepairPoolStream = Events<pb::AgentRepairPoolEvent>;
    /// A step, then a result, then what nobody reads; without `apply` a result without its pool.
    async fn repair_pool(
        &self,
        r: Request<pb::AgentRepairPoolRequest>,
    ) -> Answer<Self::RepairPoolStream> {
        let asked = r.into_inner();
        let step = pb::AgentRepairPoolEvent {
            step: api::RepairStep::Copying.into(),
            progress: Some(api::Progress {
                done_bytes: 1,
                total_bytes: 2,
            }),
            ..Default::default()
        };
        let thin = api::RepairedThin {
            name: "vm1".into(),
            mapped_before_bytes: Some(9),
            fate: api::ThinFate::Lost.into(),
            ..Default::default()
        };
        let last = pb::AgentRepairPoolEvent {
            repair: Some(api::PoolRepair {
                outcome: api::RepairOutcome::Done.into(),
                thins: vec![thin],
                kept: "/kept".into(),
                ..Default::default()
            }),
            pool: asked.apply.then(|| pb::AgentPool {
                id: asked.pool,
                phase: api::Phase::Ready.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let events = [step.clone(), last, step].map(Ok);
        Ok(Response::new(Box::pin(stream::iter(events))))
    }
    async fn rename_pool(&self, _: Request<pb::AgentRenamePoolRequest>) -> Answer<pb::AgentPool> {
        not_asked()
    }
    async fn delete_pool(
        &self,
        _: Request<pb::AgentPoolRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        not_asked()
    }
    async fn list_pools(
        &self,
        _: Request<pb::ListPoolsRequest>,
    ) -> Answer<pb::ListAgentPoolsResponse> {
        not_asked()
    }
    async fn watch_pools(
        &self,
        _: Request<pb::WatchPoolsRequest>,
    ) -> Answer<Self::WatchPoolsStream> {
        not_asked()
    }
    async fn watch_thins(
        &self,
        _: Request<pb::WatchThinsRequest>,
    ) -> Answer<Self::WatchThinsStream> {
        let (one, other) = (good_thin(), good_thin());
        let part = |thins, gone, complete| pb::WatchThinsEvent {
            thins,
            gone,
            complete,
        };
        let events = [
            part(vec![one], vec![], false),
            part(vec![other.clone()], vec![], true),
            part(vec![], vec![other.owner], false),
        ];
        Ok(Response::new(Box::pin(stream::iter(events.map(Ok)))))
    }
    async fn import_image(
        &self,
        r: Request<pb::AgentImportImageRequest>,
    ) -> Answer<Self::ImportImageStream> {
        let mut script = self.script();
        script.image = Some(r.into_inner());
        let events = script.events.clone();
        Ok(Response::new(Box::pin(stream::iter(
            events.into_iter().map(Ok),
        ))))
    }
    type ExportThinStream = Events<pb::AgentExportThinEvent>;
    async fn export_thin(
        &self,
        _: Request<pb::AgentExportThinRequest>,
    ) -> Answer<Self::ExportThinStream> {
        not_asked()
    }
    async fn list_images(
        &self,
        _: Request<pb::ListAgentImagesRequest>,
    ) -> Answer<pb::ListAgentImagesResponse> {
        not_asked()
    }
    async fn verify_image(&self, _: Request<pb::AgentImageRequest>) -> Answer<pb::AgentImage> {
        not_asked()
    }
    async fn delete_image(
        &self,
        _: Request<pb::AgentImageRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        not_asked()
    }
    async fn create_thin(&self, r: Request<pb::AgentCreateThinRequest>) -> Answer<pb::AgentThin> {
        self.script().thin = Some(r.get_ref().clone());
        self.thin(r.metadata().clone())
    }
    async fn create_snapshot(
        &self,
        r: Request<pb::AgentCreateSnapshotRequest>,
    ) -> Answer<pb::AgentThin> {
        self.script().snapshot = Some(r.get_ref().clone());
        self.thin(r.metadata().clone())
    }
    async fn create_group_snapshot(
        &self,
        _: Request<pb::AgentCreateGroupSnapshotRequest>,
    ) -> Answer<pb::AgentThinGroup> {
        not_asked()
    }
    async fn decouple(&self, _: Request<pb::AgentDecoupleRequest>) -> Answer<pb::AgentThin> {
        not_asked()
    }
    async fn resize(&self, _: Request<pb::AgentResizeRequest>) -> Answer<pb::AgentThin> {
        not_asked()
    }
    async fn activate(&self, _: Request<pb::AgentActivateRequest>) -> Answer<pb::AgentThin> {
        not_asked()
    }
    async fn deactivate(&self, _: Request<pb::AgentThinRequest>) -> Answer<pb::AgentThin> {
        not_asked()
    }
    async fn delete_thin(
        &self,
        _: Request<pb::AgentThinRequest>,
    ) -> Answer<pb::AgentDeleteResponse> {
        not_asked()
    }
    async fn get_thin(&self, r: Request<pb::AgentThinRequest>) -> Answer<pb::AgentThin> {
        self.thin(r.metadata().clone())
    }
    type ListBlocksStream = Events<api::BlockRanges>;

    /// Two messages, of which the second has a range of nothing.
    async fn list_blocks(
        &self,
        r: Request<pb::AgentListBlocksRequest>,
    ) -> Answer<Self::ListBlocksStream> {
        let offset_bytes = r.into_inner().starting_offset;
        let part = |length_bytes| api::BlockRanges {
            size_bytes: 1 << 20,
            ranges: vec![api::BlockRange {
                offset_bytes,
                length_bytes,
            }],
        };
        let parts = [part(4096), part(0)];
        Ok(Response::new(Box::pin(stream::iter(parts.map(Ok)))))
    }
    /// Three thins, one at a time.
    async fn list_thins(&self, r: Request<pb::ListThinsRequest>) -> Answer<pb::ListThinsResponse> {
        let after = r.into_inner().after;
        let owners = (1..=3).map(|n| VolumeId::from_bytes([n; 16]).to_string());
        let mut rest = owners.filter(|owner| *owner > after);
        let thin = rest.next().map(|owner| pb::AgentThin {
            owner,
            ..good_thin()
        });
        let more = rest.next().is_some();
        Ok(Response::new(pb::ListThinsResponse {
            thins: thin.into_iter().collect(),
            more,
        }))
    }
}

pub(super) fn good_thin() -> pb::AgentThin {
    pb::AgentThin {
        owner: VolumeId::from_bytes([1; 16]).to_string(),
        pool: PoolId::from_bytes([3; 16]).to_string(),
        phase: api::Phase::Ready.into(),
        size_bytes: 1024,
        image_digest: Digest::from_bytes([0xab; 32]).to_string(),
        activation: Some(api::Activation {
            active: true,
            device_path: "/dev/goldleaf/fast/vm1".into(),
            holder: api::Holder::Csi.into(),
            read_only: true,
        }),
        owned_bytes: Some(512),
        created: Some(prost_types::Timestamp {
            seconds: 2,
            nanos: 7,
        }),
        conditions: vec![api::Condition {
            r#type: "DataPresent".into(),
            since: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 5,
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}
