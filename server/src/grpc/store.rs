//! The store on the wire: backups.

use futures::StreamExt;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::store_service_server::StoreService;
use tonic::{Request, Response, Status};

use super::{Answer, Api, EventStream};
use crate::service::ServiceError;

#[tonic::async_trait]
impl StoreService for Api {
    type BackupStream = EventStream<api::BackupStoreChunk>;

    async fn backup(&self, _: Request<api::BackupStoreRequest>) -> Answer<Self::BackupStream> {
        let chunks = self.service.backup().await?;
        let stop = self.stop.clone();
        let chunks = chunks.map(|chunk| match chunk {
            Ok(data) => Ok(api::BackupStoreChunk { data }),
            Err(error) => Err(Status::from(ServiceError::from(error))),
        });
        // A stream that a stop ended would look whole.
        let stopped = futures::stream::once(async move {
            stop.cancelled().await;
            Err(super::status::stopping())
        });
        let (chunks, stopped) = (chunks.map(Some), stopped.map(Some));
        let end = futures::stream::once(std::future::ready(None));
        let all = futures::stream::select(chunks.chain(end), stopped);
        let all = all.take_while(|chunk| std::future::ready(chunk.is_some()));
        Ok(Response::new(Box::pin(all.filter_map(std::future::ready))))
    }
}
