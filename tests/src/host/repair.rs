//! Repairs of pools' metadata.

use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use tonic::Status;

use super::Host;
use crate::command::output;
use crate::support::Metadata;

/// Asks what a repair of pool "p" would do.
#[must_use]
pub fn dry_repair() -> api::RepairPoolRequest {
    api::RepairPoolRequest {
        pool: "p".into(),
        ..Default::default()
    }
}

/// Has pool "p" repaired.
#[must_use]
pub fn confirmed_repair(accept_loss: bool) -> api::RepairPoolRequest {
    api::RepairPoolRequest {
        confirm: "p".into(),
        accept_loss,
        ..dry_repair()
    }
}

impl Host {
    /// The agent and every device go without a close, something happens to the metadata of pool "p",
    /// and the agent comes back.
    ///
    /// # Panics
    ///
    /// When a device does not go, or the agent does not come back.
    pub fn damage_metadata(
        &mut self,
        device: &Path,
        damage: impl FnOnce(&Metadata),
        environment: &[(&str, &str)],
    ) -> Metadata {
        let pool = self.get_pool("p").expect("the pool").id;
        self.agent.take().expect("an agent").kill();
        if device.starts_with("/dev") {
            // What lies over a disk of its own is not over the host's folder. A pool that did not open
            // has none of them.
            for part in ["pool", "tmeta", "tdata"] {
                let _ = output("dmsetup", &["remove", &format!("goldleaf-{pool}-{part}")]);
            }
        }
        self.lose_devices();
        let metadata = Metadata::of(device);
        damage(&metadata);
        self.start_agent(environment);
        self.await_node();
        metadata
    }

    /// What pool "p" says is wrong with it, of one kind.
    ///
    /// # Panics
    ///
    /// When there is no such pool.
    #[must_use]
    pub fn complaint(&self, kind: &str) -> Option<api::Condition> {
        let pool = self.get_pool("p").expect("the pool");
        pool.conditions
            .into_iter()
            .find(|c| c.r#type == kind && !c.status)
    }

    /// Files of repairs that end so.
    #[must_use]
    pub fn repair_files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir().join("agent/repair"));
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        paths
            .filter(|p| p.extension().is_some_and(|e| e == ending))
            .collect()
    }
}

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

    /// Begins a repair; dropping what this answers is its caller's going away.
    pub fn begin_repair(
        &self,
        request: api::RepairPoolRequest,
    ) -> Result<tonic::Streaming<api::RepairPoolEvent>, Status> {
        let mut client = PoolServiceClient::new(self.channel.clone());
        let events = self.runtime.block_on(client.repair(request))?;
        Ok(events.into_inner())
    }

    /// The next that a repair tells.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn next_of_repair(
        &self,
        events: &mut tonic::Streaming<api::RepairPoolEvent>,
    ) -> Result<api::RepairPoolEvent, Status> {
        let next = self.runtime.block_on(events.message())?;
        Ok(next.expect("a repair ended without a result"))
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
