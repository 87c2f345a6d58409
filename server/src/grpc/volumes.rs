//! Volumes and their snapshots on the wire.

use futures::StreamExt;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::volume_service_server::VolumeService;
use tonic::{Request, Response, Status};

use super::convert::{self, field};
use super::{Answer, Api, EventStream, answers, convert_images, convert_update};
use crate::domain::Ref;
use crate::service::{
    Clone as CloneThin, CreateGroup, CreateSnapshot, CreateThin, Event, ServiceError, VolumeView,
};

fn volume_event(event: Event<VolumeView>) -> api::VolumeEvent {
    let gone = |id| api::Volume {
        id,
        ..Default::default()
    };
    let (kind, volume, resume_token) = answers::event(event, answers::volume, gone);
    api::VolumeEvent {
        kind,
        volume,
        resume_token,
    }
}

fn snapshot_event(event: Event<crate::domain::Snapshot>) -> api::SnapshotEvent {
    let gone = |id| api::Snapshot {
        id,
        ..Default::default()
    };
    let (kind, snapshot, resume_token) = answers::event(event, answers::snapshot, gone);
    api::SnapshotEvent {
        kind,
        snapshot,
        resume_token,
    }
}

#[tonic::async_trait]
impl VolumeService for Api {
    async fn create_thin(&self, r: Request<api::CreateThinRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let (wait, wanted) = (body.wait, CreateThin::try_from(body)?);
        let view = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.create_thin(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn clone(&self, r: Request<api::CloneRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let (wait, wanted) = (body.wait, CloneThin::try_from(body)?);
        let view = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.clone_thin(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn resize(&self, r: Request<api::ResizeRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let (what, size) = convert::resize(&body)?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.resize(&what, size, body.expected_revision).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn decouple(&self, r: Request<api::DecoupleRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let what: Ref<_> = field("volume", &body.volume)?;
        let rate = goldleaf_types::Bytes(body.rate_bytes_per_second);
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.decouple(&what, rate, body.wait).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn activate(&self, r: Request<api::ActivateRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let what: Ref<_> = field("volume", &body.volume)?;
        let options = convert::activation("options", body.options.unwrap_or_default())?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.activate(&what, options).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn deactivate(&self, r: Request<api::DeactivateRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let what: Ref<_> = field("volume", &body.volume)?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.deactivate(&what).await }
            })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn update(&self, r: Request<api::UpdateRequest>) -> Answer<api::Volume> {
        let wanted = convert_update::update(r.into_inner())?;
        let view = self
            .to_the_end(|service| async move { service.update_volume(wanted).await })
            .await?;
        Ok(Response::new(answers::volume(&view)))
    }

    async fn delete(&self, r: Request<api::DeleteRequest>) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_volume(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }

    async fn get(&self, r: Request<api::GetRequest>) -> Answer<api::Volume> {
        let body = r.into_inner();
        let what = field("target", &body.target)?;
        let view = if body.usage {
            self.service.volume_usage(&what).await?
        } else {
            self.service.get_volume(&what).await?
        };
        Ok(Response::new(answers::volume(&view)))
    }

    async fn list(&self, r: Request<api::ListRequest>) -> Answer<api::ListVolumesResponse> {
        let listed = self
            .service
            .list_volumes(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListVolumesResponse {
            volumes: listed.items.iter().map(answers::volume).collect(),
            next_page_token: listed.next,
        }))
    }

    type WatchStream = EventStream<api::VolumeEvent>;

    async fn watch(&self, r: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.service.watch_volumes(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, volume_event)))
    }

    async fn create_snapshot(
        &self,
        r: Request<api::CreateSnapshotRequest>,
    ) -> Answer<api::Snapshot> {
        let body = r.into_inner();
        let (wait, wanted) = (body.wait, CreateSnapshot::try_from(body)?);
        let snapshot = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.create_snapshot(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::snapshot(&snapshot)))
    }

    async fn get_snapshot(&self, r: Request<api::GetRequest>) -> Answer<api::Snapshot> {
        let body = r.into_inner();
        let what = field("target", &body.target)?;
        let (snapshot, usage) = if body.usage {
            self.service.snapshot_usage(&what).await?
        } else {
            (self.service.get_snapshot(&what).await?, None)
        };
        Ok(Response::new(api::Snapshot {
            usage: usage.map(answers::usage_of_thin),
            ..answers::snapshot(&snapshot)
        }))
    }

    async fn list_snapshots(
        &self,
        r: Request<api::ListRequest>,
    ) -> Answer<api::ListSnapshotsResponse> {
        let listed = self
            .service
            .list_snapshots(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListSnapshotsResponse {
            snapshots: listed.items.iter().map(answers::snapshot).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn update_snapshot(&self, r: Request<api::UpdateRequest>) -> Answer<api::Snapshot> {
        let wanted = convert_update::update(r.into_inner())?;
        let view = self
            .to_the_end(|service| async move { service.update_snapshot(wanted).await })
            .await?;
        Ok(Response::new(answers::snapshot(&view)))
    }

    async fn delete_snapshot(&self, r: Request<api::DeleteRequest>) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_snapshot(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }

    type ExportStream = EventStream<api::ExportEvent>;

    async fn export(&self, r: Request<api::ExportRequest>) -> Answer<Self::ExportStream> {
        let (source, order, over) = convert_images::export(r.into_inner())?;
        let (node, steps) = self.service.export(&source, order, over.as_ref()).await?;
        let events = steps.map(move |step| match step {
            Ok(step) => Ok(answers::export_step(node, &step)),
            Err(error) => Err(ServiceError::from(error).into()),
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(events.take_until(stop))))
    }

    type WatchSnapshotsStream = EventStream<api::SnapshotEvent>;

    async fn watch_snapshots(
        &self,
        r: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let events = self
            .service
            .watch_snapshots(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, snapshot_event)))
    }

    type ListAllocatedStream = EventStream<api::BlockRanges>;

    async fn list_allocated(
        &self,
        r: Request<api::ListAllocatedRequest>,
    ) -> Answer<Self::ListAllocatedStream> {
        self.ranges(r.into_inner().try_into()?).await
    }

    type ListChangedStream = EventStream<api::BlockRanges>;

    async fn list_changed(
        &self,
        r: Request<api::ListChangedRequest>,
    ) -> Answer<Self::ListChangedStream> {
        self.ranges(r.into_inner().try_into()?).await
    }

    async fn create_group_snapshot(
        &self,
        r: Request<api::CreateGroupSnapshotRequest>,
    ) -> Answer<api::GroupSnapshot> {
        let body = r.into_inner();
        let wait = body.wait;
        let wanted = CreateGroup::try_from(body)?;
        let group = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.create_group(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::group(&group)))
    }

    async fn get_group_snapshot(&self, r: Request<api::GetRequest>) -> Answer<api::GroupSnapshot> {
        let what = field("target", &r.into_inner().target)?;
        let group = self.service.get_group(&what).await?;
        Ok(Response::new(answers::group(&group)))
    }

    async fn list_group_snapshots(
        &self,
        r: Request<api::ListRequest>,
    ) -> Answer<api::ListGroupSnapshotsResponse> {
        let listing = convert::listing(r.into_inner())?;
        let listed = self.service.list_groups(&listing).await?;
        Ok(Response::new(api::ListGroupSnapshotsResponse {
            groups: listed.items.iter().map(answers::group).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn delete_group_snapshot(
        &self,
        r: Request<api::DeleteRequest>,
    ) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_group(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }
}
