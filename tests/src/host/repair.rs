//! Repairs of pools' metadata.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use tonic::Status;

use super::Host;

#[expect(
    clippy::missing_errors_doc,
    reason = "the API's own status, as the protos say"
)]
impl Host {
    /// Asks for a repair: which steps it told of, each once, and what it comes to.
    ///
    /// # Panics
    ///
    /// When it ends without a result.
    pub fn repair(
        &self,
        request: api::RepairPoolRequest,
    ) -> Result<(Vec<api::RepairStep>, api::PoolRepair), Status> {
        let mut client = PoolServiceClient::new(self.channel.clone());
        self.runtime.block_on(async {
            let mut events = client.repair(request).await?.into_inner();
            let mut steps = Vec::new();
            while let Some(event) = events.message().await? {
                if let Some(repair) = event.repair {
                    steps.dedup();
                    return Ok((steps, repair));
                }
                steps.push(event.step());
            }
            panic!("a repair ended without a result, after {steps:?}");
        })
    }

    /// Makes a volume's device appear for reading alone.
    pub fn activate_read_only(&self, volume: &str) -> Result<api::Volume, Status> {
        let request = api::ActivateRequest {
            volume: volume.into(),
            options: Some(api::ActivateOptions {
                read_only: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut client = VolumeServiceClient::new(self.channel.clone());
        let answer = self.runtime.block_on(client.activate(request))?;
        Ok(answer.into_inner())
    }
}
