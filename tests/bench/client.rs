//! The benchmark's Goldleaf side: calls the public API as any client would and times each call.
//!
//! Started by `tests/bench/measure` inside a test kernel; `summary` is called outside, on the lines
//! that it printed. Holds no state: volumes are named by their numbers, so another run of it can
//! delete what one made. Prints "op microseconds" for each operation and "wall op count
//! microseconds" for all of them, as the other variants do.
#![forbid(unsafe_code)]

mod layers;
mod lines;
mod summary;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use goldleaf_proto::v1::image_service_client::ImageServiceClient;
use goldleaf_proto::v1::node_service_client::NodeServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use goldleaf_proto::v1::{
    ActivateOptions, CreateImageRequest, CreatePoolRequest, CreateSnapshotRequest,
    CreateThinRequest, DeactivateRequest, DeleteRequest, GetRequest, ListRequest, Phase,
    PoolDevice, create_image_request::Source,
};
use tonic::transport::{Channel, Endpoint};

/// How long the server may take to listen, and an agent to register.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Size of every measured volume; the image has the same.
const VOLUME_BYTES: u64 = 64 << 20;
const NAME: &str = "bench";

/// Times Goldleaf's operations over gRPC, or sums up what was measured.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Where the server listens.
    #[arg(long, global = true, default_value = "http://127.0.0.1:4700")]
    server: String,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Waits for server and agent, then makes the pool and the image that the others use.
    Setup {
        /// File that becomes the image.
        #[arg(long)]
        image: PathBuf,
        /// Block device that becomes the pool.
        #[arg(long)]
        device: PathBuf,
    },
    /// CreateThin over the image, with activation.
    Create(Batch),
    /// CreateSnapshot of active volumes.
    Snap(Batch),
    /// Deactivate, then Delete.
    Delete(Batch),
    /// DeleteSnapshot.
    Unsnap(Batch),
    /// The CSI driver's calls beside the agent's own, one volume at a time.
    Layers(layers::Options),
    /// Prints the tables, the ratios and the aims of lines that `measure` printed.
    Summary(summary::Options),
}

/// Which volumes, and how many calls at a time.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Batch {
    /// Number of the first volume.
    #[arg(long)]
    first: u32,
    /// How many of them.
    #[arg(long)]
    count: u32,
    /// Callers at once; each does its next operation when its last is answered.
    #[arg(long, default_value_t = 1)]
    at_once: u32,
}

/// One kind of operation.
#[derive(Clone, Copy, Debug)]
enum Op {
    Create,
    Snap,
    Delete,
    Unsnap,
}

impl Op {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Snap => "snap",
            Self::Delete => "delete",
            Self::Unsnap => "unsnap",
        }
    }
}

/// What one operation took: as a whole, and its parts if it is more than one call.
struct Taken {
    whole: Duration,
    parts: Vec<(&'static str, Duration)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (op, batch) = match args.command {
        Command::Setup { image, device } => return setup(&args.server, image, device).await,
        Command::Layers(options) => return layers::run(&args.server, &options).await,
        Command::Summary(options) => return summary::print(&options),
        Command::Create(batch) => (Op::Create, batch),
        Command::Snap(batch) => (Op::Snap, batch),
        Command::Delete(batch) => (Op::Delete, batch),
        Command::Unsnap(batch) => (Op::Unsnap, batch),
    };
    run(&args.server, op, batch).await
}

/// Runs a batch and prints its times.
async fn run(server: &str, op: Op, batch: Batch) -> anyhow::Result<()> {
    let channel = Endpoint::new(server.to_owned())?
        .tcp_nodelay(true)
        .connect()
        .await?;
    // The first call pays for the connection's settings; it is not part of any operation.
    NodeServiceClient::new(channel.clone())
        .list(ListRequest::default())
        .await?;
    let volumes = VolumeServiceClient::new(channel);
    let start = Instant::now();
    let callers: Vec<_> = (0..batch.at_once)
        .map(|caller| tokio::spawn(share(volumes.clone(), op, batch, caller)))
        .collect();
    let mut taken = Vec::new();
    for caller in callers {
        taken.extend(caller.await??);
    }
    let wall = start.elapsed();
    for one in &taken {
        for (part, took) in &one.parts {
            println!("{}/{part} {:.1}", op.word(), micros(*took));
        }
        println!("{} {:.1}", op.word(), micros(one.whole));
    }
    println!("wall {} {} {:.1}", op.word(), batch.count, micros(wall));
    Ok(())
}

/// One caller's part of a batch.
async fn share(
    mut volumes: VolumeServiceClient<Channel>,
    op: Op,
    batch: Batch,
    caller: u32,
) -> anyhow::Result<Vec<Taken>> {
    let mut taken = Vec::new();
    let mut at = caller;
    while at < batch.count {
        let number = batch.first + at;
        taken.push(
            once(&mut volumes, op, number)
                .await
                .with_context(|| format!("{} of volume {number} failed", op.word()))?,
        );
        at += batch.at_once;
    }
    Ok(taken)
}

async fn once(
    volumes: &mut VolumeServiceClient<Channel>,
    op: Op,
    number: u32,
) -> anyhow::Result<Taken> {
    let name = format!("{NAME}-{number}");
    let start = Instant::now();
    let mut parts = Vec::new();
    match op {
        Op::Create => {
            let request = CreateThinRequest {
                name,
                size_bytes: VOLUME_BYTES,
                image: NAME.into(),
                pool: NAME.into(),
                activate: Some(ActivateOptions::default()),
                ..CreateThinRequest::default()
            };
            let volume = volumes.create_thin(request).await?.into_inner();
            if volume.phase() != Phase::Ready || !volume.activation.is_some_and(|a| a.active) {
                bail!("answered a volume that is not active");
            }
        }
        Op::Snap => {
            let request = CreateSnapshotRequest {
                source: format!("volume/{name}"),
                name,
                ..CreateSnapshotRequest::default()
            };
            let snapshot = volumes.create_snapshot(request).await?.into_inner();
            if snapshot.phase() != Phase::Ready {
                bail!("answered a snapshot that is not ready");
            }
        }
        Op::Delete => {
            volumes
                .deactivate(DeactivateRequest {
                    volume: name.clone(),
                    ..Default::default()
                })
                .await?;
            parts.push(("deactivate", start.elapsed()));
            volumes
                .delete(DeleteRequest {
                    target: name,
                    expected_revision: 0,
                    ..Default::default()
                })
                .await?;
            parts.push(("delete", start.elapsed() - parts[0].1));
        }
        Op::Unsnap => {
            volumes
                .delete_snapshot(DeleteRequest {
                    target: name,
                    expected_revision: 0,
                    ..Default::default()
                })
                .await?;
        }
    }
    Ok(Taken {
        whole: start.elapsed(),
        parts,
    })
}

/// Makes what the operations need.
async fn setup(server: &str, image: PathBuf, device: PathBuf) -> anyhow::Result<()> {
    let text = |path: PathBuf| {
        path.into_os_string()
            .into_string()
            .ok()
            .context("a path not in UTF-8")
    };
    let channel = tokio::time::timeout(START_LIMIT, node(server))
        .await
        .context("no agent registered in time")??;
    let pool = CreatePoolRequest {
        name: NAME.into(),
        devices: vec![PoolDevice {
            path: text(device)?,
            create_file_bytes: 0,
        }],
        ..CreatePoolRequest::default()
    };
    PoolServiceClient::new(channel.clone())
        .create(pool)
        .await
        .context("no pool")?;
    let mut images = ImageServiceClient::new(channel);
    let request = CreateImageRequest {
        name: NAME.into(),
        source: Some(Source::File(text(image)?)),
        wait: true,
        ..CreateImageRequest::default()
    };
    images.create(request).await.context("no image")?;
    let made = images
        .get(GetRequest {
            target: NAME.into(),
            ..Default::default()
        })
        .await?
        .into_inner();
    if made.phase() != Phase::Ready {
        bail!("the image is not ready: {:?}", made.conditions);
    }
    Ok(())
}

/// A connection to the server, once an agent has registered with it.
async fn node(server: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::new(server.to_owned())?;
    loop {
        if let Ok(channel) = endpoint.connect().await {
            let nodes = NodeServiceClient::new(channel.clone())
                .list(ListRequest::default())
                .await?;
            if nodes
                .into_inner()
                .nodes
                .iter()
                .any(|node| node.phase() == Phase::Ready)
            {
                return Ok(channel);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}
