//! The CSI driver beside what it calls: the agent's own calls, the control plane's, and what a
//! container orchestrator waits for.
//!
//! Called by `client`. One volume at a time and all sides in turn, so that drift hits them alike.
//! Volumes of the agent's side are made behind the control plane's back and are gone before it could
//! matter. Prints "side op microseconds": of the driver each call, and as `use` and `unuse` the two of
//! either way together.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use csi_proto::v1 as csi;
use csi_proto::v1::controller_client::ControllerClient;
use csi_proto::v1::node_client::NodeClient;
use goldleaf_proto::INCARNATION_KEY;
use goldleaf_proto::agent::v1 as agent;
use goldleaf_proto::agent::v1::node_agent_client::NodeAgentClient;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_client::ImageServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use goldleaf_types::VolumeId;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::{NAME, VOLUME_BYTES, micros};

/// How the sides are reached.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of the first volume.
    #[arg(long)]
    first: u32,
    /// How many of them.
    #[arg(long)]
    count: u32,
    /// Socket of the driver's controller.
    #[arg(long)]
    controller: PathBuf,
    /// Socket of the driver's node plugin.
    #[arg(long)]
    node: PathBuf,
    /// Socket of the agent.
    #[arg(long)]
    agent: PathBuf,
    /// A folder for staging and target paths.
    #[arg(long)]
    folder: PathBuf,
}

/// Times all sides, `count` volumes each.
///
/// # Errors
///
/// Whatever is refused.
pub async fn run(server: &str, options: &Options) -> anyhow::Result<()> {
    let driver = Driver {
        controller: ControllerClient::new(unix(&options.controller).await?),
        node: NodeClient::new(unix(&options.node).await?),
        folder: options.folder.clone(),
    };
    let agent = Agent::find(server, NodeAgentClient::new(unix(&options.agent).await?)).await?;
    let channel = Endpoint::new(server.to_owned())?.connect().await?;
    let plane = Plane(VolumeServiceClient::new(channel));
    for number in options.first..options.first + options.count {
        agent.life(number).await.context("the agent's side")?;
        plane
            .life(number)
            .await
            .context("the control plane's side")?;
        driver.life(number).await.context("the driver's side")?;
    }
    Ok(())
}

async fn unix(socket: &std::path::Path) -> anyhow::Result<Channel> {
    let address = format!("unix://{}", socket.display());
    let endpoint = Endpoint::from_shared(address)?;
    for _ in 0..600 {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(channel);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    bail!("nobody serves on {}", socket.display())
}

async fn timed<T>(
    side: &str,
    op: &str,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let answer = call.await.with_context(|| format!("{side} {op}"))?;
    println!("{side} {op} {:.1}", micros(began.elapsed()));
    Ok(answer)
}

/// The agent, and what its calls name.
struct Agent {
    client: NodeAgentClient<Channel>,
    incarnation: MetadataValue<Ascii>,
    pool: String,
    digest: String,
}

impl Agent {
    async fn find(server: &str, client: NodeAgentClient<Channel>) -> anyhow::Result<Self> {
        let channel = Endpoint::new(server.to_owned())?.connect().await?;
        let target = api::GetRequest {
            target: NAME.into(),
            ..Default::default()
        };
        let mut pools = PoolServiceClient::new(channel.clone());
        let pool = pools.get(target.clone()).await?.into_inner().id;
        let image = ImageServiceClient::new(channel).get(target).await?;
        let mut found = Self {
            client,
            incarnation: MetadataValue::from_static(""),
            pool,
            digest: image.into_inner().digest,
        };
        found.incarnation = found.store().await?;
        Ok(found)
    }

    /// The store whose changes the agent takes: it names it when it refuses those of nobody.
    async fn store(&self) -> anyhow::Result<MetadataValue<Ascii>> {
        let refused = self.client.clone().create_thin(self.wanted(0)).await;
        let Err(status) = refused else {
            bail!("the agent took a change from nobody");
        };
        let words = status
            .message()
            .split(|c: char| !c.is_alphanumeric() && c != '-');
        let mut known = words.filter(|w| w.starts_with("inc-"));
        let store = known
            .next()
            .with_context(|| format!("no store in {status:?}"))?;
        Ok(store.parse()?)
    }

    fn wanted(&self, number: u32) -> agent::AgentCreateThinRequest {
        agent::AgentCreateThinRequest {
            volume: VolumeId::mint().to_string(),
            name: format!("{NAME}-agent-{number}"),
            pool: self.pool.clone(),
            size_bytes: VOLUME_BYTES,
            image_digest: self.digest.clone(),
            epoch: 1,
            ..Default::default()
        }
    }

    fn stamped<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        let store = self.incarnation.clone();
        request.metadata_mut().insert(INCARNATION_KEY, store);
        request
    }

    async fn life(&self, number: u32) -> anyhow::Result<()> {
        let wanted = self.wanted(number);
        let mut client = self.client.clone();
        let volume = wanted.volume.clone();
        let create = self.stamped(wanted);
        timed("agent", "create", client.create_thin(create)).await?;
        let activate = agent::AgentActivateRequest {
            volume: volume.clone(),
            options: Some(api::ActivateOptions {
                holder: api::Holder::Csi.into(),
                read_only: false,
            }),
            epoch: 0,
        };
        timed("agent", "use", client.activate(activate)).await?;
        let thin = agent::AgentThinRequest {
            owner: volume,
            ..Default::default()
        };
        timed("agent", "unuse", client.deactivate(thin.clone())).await?;
        let delete = self.stamped(thin);
        timed("agent", "delete", client.delete_thin(delete)).await?;
        Ok(())
    }
}

/// The control plane.
struct Plane(VolumeServiceClient<Channel>);

impl Plane {
    async fn life(&self, number: u32) -> anyhow::Result<()> {
        let mut client = self.0.clone();
        let create = api::CreateThinRequest {
            name: format!("{NAME}-plane-{number}"),
            size_bytes: VOLUME_BYTES,
            image: NAME.into(),
            pool: NAME.into(),
            ..Default::default()
        };
        let made = timed("server", "create", client.create_thin(create)).await?;
        let delete = api::DeleteRequest {
            target: made.into_inner().id,
            ..Default::default()
        };
        timed("server", "delete", client.delete(delete)).await?;
        Ok(())
    }
}

/// The CSI driver.
struct Driver {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    folder: PathBuf,
}

impl Driver {
    async fn life(&self, number: u32) -> anyhow::Result<()> {
        let mut controller = self.controller.clone();
        let capability = csi::VolumeCapability {
            access_type: Some(csi::volume_capability::AccessType::Block(
                csi::volume_capability::BlockVolume {},
            )),
            access_mode: Some(csi::volume_capability::AccessMode {
                mode: csi::volume_capability::access_mode::Mode::SingleNodeWriter.into(),
            }),
        };
        let create = csi::CreateVolumeRequest {
            name: format!("{NAME}-csi-{number}"),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: i64::try_from(VOLUME_BYTES)?,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability.clone()],
            parameters: [("image".to_owned(), NAME.to_owned())].into(),
            ..Default::default()
        };
        let made = timed("csi", "create", controller.create_volume(create)).await?;
        let volume_id = made.into_inner().volume.context("no volume")?.volume_id;
        self.used(&volume_id, capability).await?;
        let delete = csi::DeleteVolumeRequest {
            volume_id,
            ..Default::default()
        };
        timed("csi", "delete", controller.delete_volume(delete)).await?;
        Ok(())
    }

    /// Stages and publishes, and takes that back.
    async fn used(&self, volume: &str, capability: csi::VolumeCapability) -> anyhow::Result<()> {
        let mut node = self.node.clone();
        let folder = self.folder.join(volume);
        std::fs::create_dir_all(&folder)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let stage = csi::NodeStageVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: path("staging"),
            volume_capability: Some(capability.clone()),
            ..Default::default()
        };
        let publish = csi::NodePublishVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: path("staging"),
            target_path: path("target"),
            volume_capability: Some(capability),
            ..Default::default()
        };
        let unpublish = csi::NodeUnpublishVolumeRequest {
            volume_id: volume.into(),
            target_path: path("target"),
        };
        let unstage = csi::NodeUnstageVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: path("staging"),
        };
        let began = Instant::now();
        timed("csi", "stage", node.node_stage_volume(stage)).await?;
        timed("csi", "publish", node.node_publish_volume(publish)).await?;
        println!("csi use {:.1}", micros(began.elapsed()));
        let began = Instant::now();
        timed("csi", "unpublish", node.node_unpublish_volume(unpublish)).await?;
        timed("csi", "unstage", node.node_unstage_volume(unstage)).await?;
        println!("csi unuse {:.1}", micros(began.elapsed()));
        Ok(())
    }
}
