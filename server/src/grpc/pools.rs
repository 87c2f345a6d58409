//! Pools on the wire.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::pool_service_server::PoolService;
use tonic::{Request, Response};

use super::convert::{self, field};
use super::convert_pools::{more_room, policy_change, renaming};
use super::{Answer, Api, EventStream, answers, convert_import, convert_update, repairs};
use crate::domain::Ref;
use crate::service::{CreatePool, Event, PoolView};

fn pool_event(event: Event<PoolView>) -> api::PoolEvent {
    let gone = |id| api::Pool {
        id,
        ..Default::default()
    };
    let (kind, pool, resume_token) = answers::event(event, answers::pool, gone);
    api::PoolEvent {
        kind,
        pool,
        resume_token,
    }
}

#[tonic::async_trait]
impl PoolService for Api {
    async fn create(&self, r: Request<api::CreatePoolRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let (wait, wanted) = (body.wait, CreatePool::try_from(body)?);
        let view = self
            .change(wait, move |service| {
                let wanted = wanted.clone();
                async move { service.create_pool(wanted).await }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn import(&self, r: Request<api::ImportPoolRequest>) -> Answer<api::Pool> {
        let wanted = convert_import::import(r.into_inner())?;
        let view = self
            .to_the_end(|service| async move { service.import_pool(wanted).await })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn get(&self, r: Request<api::GetRequest>) -> Answer<api::Pool> {
        let what = field("target", &r.into_inner().target)?;
        let view = self.service.get_pool(&what).await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn list(&self, r: Request<api::ListRequest>) -> Answer<api::ListPoolsResponse> {
        let listed = self
            .service
            .list_pools(&convert::listing(r.into_inner())?)
            .await?;
        Ok(Response::new(api::ListPoolsResponse {
            pools: listed.items.iter().map(answers::pool).collect(),
            next_page_token: listed.next,
        }))
    }

    async fn close(&self, r: Request<api::ClosePoolRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.close_pool(&what).await }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn open(&self, r: Request<api::OpenPoolRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move {
                    match body.rescue {
                        true => service.rescue_pool(&what).await,
                        false => service.open_pool(&what).await,
                    }
                }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn extend(&self, r: Request<api::ExtendPoolRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let more = more_room(&body)?;
        let view = self
            .change(body.wait, move |service| {
                let (what, more) = (what.clone(), more.clone());
                async move { service.extend_pool(&what, &more).await }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn set_policy(&self, r: Request<api::SetPoolPolicyRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let change = policy_change(&body)?;
        let view = self
            .change(body.wait, move |service| {
                let what = what.clone();
                async move { service.set_pool_policy(&what, &change).await }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn update(&self, r: Request<api::UpdateRequest>) -> Answer<api::Pool> {
        let wanted = convert_update::update(r.into_inner())?;
        let view = self
            .to_the_end(|service| async move { service.update_pool(wanted).await })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn delete(&self, r: Request<api::DeleteRequest>) -> Answer<api::DeleteResponse> {
        let body = r.into_inner();
        let target = convert::target(&body)?;
        self.change(body.wait, move |service| {
            let target = target.clone();
            async move { service.delete_pool(target).await }
        })
        .await?;
        Ok(Response::new(api::DeleteResponse {}))
    }

    async fn rename(&self, r: Request<api::RenamePoolRequest>) -> Answer<api::Pool> {
        let body = r.into_inner();
        let (what, name) = renaming(&body)?;
        let view = self
            .change(body.wait, move |service| {
                let (what, name) = (what.clone(), name.clone());
                async move {
                    let revision = body.expected_revision;
                    service.rename_pool(&what, &name, revision).await
                }
            })
            .await?;
        Ok(Response::new(answers::pool(&view)))
    }

    async fn destroy(
        &self,
        r: Request<api::DestroyPoolRequest>,
    ) -> Answer<api::DestroyPoolResponse> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let doomed = self
            .change(body.wait, move |service| {
                let (what, confirm) = (what.clone(), body.confirm.clone());
                async move {
                    let revision = body.expected_revision;
                    service.destroy_pool(&what, &confirm, revision).await
                }
            })
            .await?;
        Ok(Response::new(api::DestroyPoolResponse {
            volumes: doomed.volumes,
            snapshots: doomed.snapshots,
            done: doomed.done,
        }))
    }

    type RepairStream = EventStream<api::RepairPoolEvent>;

    async fn repair(&self, r: Request<api::RepairPoolRequest>) -> Answer<Self::RepairStream> {
        let body = r.into_inner();
        let what: Ref<_> = field("pool", &body.pool)?;
        let events = repairs::begin(self.clone(), what, repairs::asked(body));
        Ok(Response::new(events))
    }

    type WatchStream = EventStream<api::PoolEvent>;

    async fn watch(&self, r: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.service.watch_pools(convert::watch(r.into_inner())?);
        Ok(Response::new(self.stream(events, pool_event)))
    }
}
