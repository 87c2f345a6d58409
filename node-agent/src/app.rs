//! Builds everything once, serves until told to stop, and stops without touching what runs.
//!
//! Called by `main`. Volumes outlive this process: a stop removes no device.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use goldleaf_proto::agent::v1::node_agent_server::NodeAgentServer;
use goldleaf_rpc::Calls;
use goldleaf_rpc::socket::Socket;
use goldleaf_rpc::stop::{Signals, patience, until_told};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::args::Args;
use crate::events;
use crate::grpc::AgentApi;
use crate::host::Host;
use crate::images::{ExportFolder, ImageFolder, SourceRules};
use crate::kernel::dm::DmKernel;
use crate::ops::{Agent, Bell, Lane, RecordsFile, RepairFolder};
use crate::registration::{self, Registration};
use crate::udev_rules;

/// What keeps a second agent off: to be held until the process ends, since what blocks still is at
/// work on the pools until then.
pub type Only = std::fs::File;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot begin to serve: an address in use, no device-mapper, a second agent.
pub async fn run(args: Args) -> (Option<Only>, Result<()>) {
    match only_agent(&args.state_dir) {
        Ok(only) => (Some(only), serve_until_told(args).await),
        Err(error) => (None, Err(error)),
    }
}

async fn serve_until_told(args: Args) -> Result<()> {
    let host = Host::find(args.host_id.as_deref(), args.node_name.clone())?;
    let state_dir = std::fs::canonicalize(&args.state_dir)?;
    let images = ImageFolder::open(
        state_dir.join("images"),
        args.image_budget,
        SourceRules {
            roots: args.image_sources.clone(),
        },
    )
    .context("cannot use the image folder")?;
    let export_dir = args.export_dir.clone();
    let exports = ExportFolder::open(export_dir.unwrap_or_else(|| state_dir.join("export")))
        .context("cannot use the export folder")?;
    let kernel = DmKernel::open().context("cannot use device-mapper: see `preflight`")?;
    keep_udev_out(&state_dir, host.name.to_string()).await?;
    let agent = Agent::new(
        Arc::new(kernel),
        (Arc::new(images), exports),
        host,
        (
            state_dir.join("pools"),
            RepairFolder::new(state_dir.join("repair")),
            RecordsFile::new(state_dir.join("kept-records.json")),
        ),
        args.device_dir.clone(),
    );
    let agent = Arc::new(agent.deleting_in_steps_from(args.delete_in_steps_from));
    tracing::info!(node = %agent.host.node, name = %agent.host.name, listen = %args.listen,
        socket = %args.socket.display(), state = %state_dir.display(), "node agent");

    let tcp = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    let (socket, unix) = Socket::take(&args.socket).await?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();

    // Before anything is served: what this host had comes back.
    bring_back(&agent).await?;
    tasks.spawn(sweep_loop(Arc::clone(&agent), stop.clone()));
    tasks.spawn(space_loop(Arc::clone(&agent), stop.clone()));
    let mut work = JoinSet::new();
    for lane in Lane::ALL {
        let agent = Arc::clone(&agent);
        work.spawn_blocking(move || agent.work(*lane));
    }
    events::follow(&agent).context("cannot follow the kernel's events")?;
    if !args.server.is_empty() {
        let address = format!("http://{}", tcp.local_addr()?);
        let told = Registration {
            server: args.server.clone(),
            address,
            labels: args.labels.iter().cloned().collect(),
            host: agent.host.clone(),
        };
        tasks.spawn(registration::keep(told, stop.clone()));
    }
    // Caught before anybody is told that we are ready: who then stops us at once is obeyed.
    tasks.spawn(until_told(
        Signals::catch().context("signals cannot be caught")?,
        stop.clone(),
    ));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    serve(&agent, tcp, unix, stop.clone()).await?;
    stop.cancel();
    agent.stop_work();
    wind_up(&tasks, &mut work, WIND_UP).await?;
    drop(socket);
    tracing::info!("stopped; active volumes go on");
    Ok(())
}

/// How long what goes on is waited for after the last call.
const WIND_UP: Duration = Duration::from_secs(10);

/// Waits for what goes on, for a while: what blocks longer ends with the process, as by a kill, and the
/// next start finishes it.
async fn wind_up(tasks: &TaskTracker, work: &mut JoinSet<()>, most: Duration) -> Result<()> {
    tasks.close();
    let ended = async {
        tasks.wait().await;
        while let Some(ended) = work.join_next().await {
            ended.context("the thread for long work panicked")?;
        }
        Ok(())
    };
    let waited = tokio::time::timeout(most, ended).await;
    waited.unwrap_or_else(|_| {
        tracing::warn!("something is at work still: the next start finishes it");
        Ok(())
    })
}

/// Before the first loop device is there. Volumes come back even when it fails.
async fn keep_udev_out(state_dir: &Path, node: String) -> Result<()> {
    let backing = ["images", "pools"].map(|folder| state_dir.join(folder));
    let told = move || udev_rules::keep_out(Path::new(udev_rules::FOLDER), &node, &backing);
    if let Err(error) = tokio::task::spawn_blocking(told).await? {
        tracing::warn!(
            %error,
            "udev is not told to keep out of images: the host may link, scan or start what is inside one"
        );
    }
    Ok(())
}

/// Opens what this host had. As long as that takes, systemd is told what goes on and to be patient.
async fn bring_back(agent: &Arc<Agent>) -> Result<()> {
    let starting = Arc::clone(agent);
    let mut started = tokio::task::spawn_blocking(move || starting.start());
    loop {
        let told = tokio::time::sleep(Duration::from_secs(5));
        tokio::select! {
            ended = &mut started => return Ok(ended?),
            () = told => {}
        }
        let opening = agent.pools.opening();
        let parts = opening
            .iter()
            .map(|(pool, (at, since))| format!("opening {pool} ({at:?}, {} s)", since.as_secs()));
        let status: Vec<_> = parts.collect();
        tracing::info!(opening = %status.join(", "), "starting");
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Status(&status.join(", ")),
            sd_notify::NotifyState::ExtendTimeoutUsec(60_000_000),
        ]);
    }
}

async fn serve(
    agent: &Arc<Agent>,
    tcp: TcpListener,
    unix: UnixListener,
    stop: CancellationToken,
) -> Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NodeAgentServer<AgentApi>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(goldleaf_proto::FILE_DESCRIPTOR_SET)
            // Of the details of errors, which a client without them shows as bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let api = NodeAgentServer::new(AgentApi::new(Arc::clone(agent), stop.clone()));
    let router = || -> Result<_> {
        Ok(Server::builder()
            .layer(Calls)
            .add_service(api.clone())
            .add_service(health_service.clone())
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?))
    };
    let over_tcp = router()?.serve_with_incoming_shutdown(
        TcpIncoming::from(tcp).with_nodelay(Some(true)),
        stopped(stop.clone()),
    );
    let over_unix = router()?
        .serve_with_incoming_shutdown(UnixListenerStream::new(unix), stopped(stop.clone()));
    tokio::select! {
        served = async { tokio::try_join!(over_tcp, over_unix) } => {
            served.context("the gRPC server failed").map(drop)
        }
        () = patience(stop) => Ok(()),
    }
}

fn stopped(stop: CancellationToken) -> impl Future<Output = ()> {
    stop.cancelled_owned()
}

/// How long a ring waits: a device that goes and comes back at once keeps its image's device.
const SETTLE: Duration = Duration::from_secs(2);

/// What is to be swept next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The devices of images that nobody uses any more.
    Images,
    /// Everything.
    All,
}

/// Waits for the timer or the bell. The timer runs on through every ring: removals that ring all
/// the time must not put off what a sweep has to finish.
async fn due(timer: &mut Interval, bell: &Bell, settle: Duration) -> Due {
    tokio::select! {
        biased;
        _ = timer.tick() => Due::All,
        () = bell.rung() => {
            tokio::time::sleep(settle).await;
            Due::Images
        }
    }
}

/// A timer whose first tick is one period away, and that never ticks twice in a row to catch up.
fn every(period: Duration) -> Interval {
    let mut timer = tokio::time::interval_at(Instant::now() + period, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Sweeps on the bell and on a timer: they say when, the records say what.
async fn sweep_loop(agent: Arc<Agent>, stop: CancellationToken) {
    let mut timer = every(agent.sweep_interval());
    loop {
        let due = tokio::select! {
            () = stop.cancelled() => return,
            due = due(&mut timer, &agent.image_bell, SETTLE) => due,
        };
        let swept = Arc::clone(&agent);
        let sweep = move || match due {
            Due::Images => swept.sweep_images(),
            Due::All => swept.sweep(),
        };
        if let Err(error) = tokio::task::spawn_blocking(sweep).await {
            tracing::error!(%error, "a sweep panicked; the next one starts clean");
        }
    }
}

/// Uses spares and keeps writers of full pools waiting: the bell and the clock say when, the kernel
/// says what.
async fn space_loop(agent: Arc<Agent>, stop: CancellationToken) {
    loop {
        let minded = Arc::clone(&agent);
        let look = tokio::task::spawn_blocking(move || {
            minded.use_spares();
            minded.mind_waiting()
        });
        let due = look.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a look at the pools' room panicked; the next one starts clean");
            None
        });
        let next = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = agent.space_bell.rung() => {}
            () = next => {}
        }
    }
}

/// Holds the state folder against a second agent.
fn only_agent(state_dir: &Path) -> Result<Only> {
    std::fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make the folder {}", state_dir.display()))?;
    let lock = std::fs::File::create(state_dir.join("agent.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).with_context(
        || {
            format!(
                "another agent has {}: stop it, or give this one its own --state-dir",
                state_dir.display()
            )
        },
    )?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repair's tool may run for hours; a stop does not.
    #[tokio::test]
    async fn what_does_not_end_is_not_waited_for() {
        let most = Duration::from_millis(50);
        let (tasks, mut work) = (TaskTracker::new(), JoinSet::new());
        tasks.spawn(std::future::pending::<()>());
        work.spawn(async {});
        let began = tokio::time::Instant::now();
        wind_up(&tasks, &mut work, most).await.unwrap();
        assert!(began.elapsed() >= most && !work.is_empty());
        wind_up(&TaskTracker::new(), &mut work, most).await.unwrap();
        assert!(work.is_empty(), "what ends is waited for");
        work.spawn(async { panic!("as a bug would") });
        wind_up(&TaskTracker::new(), &mut work, most)
            .await
            .unwrap_err();
    }

    /// Rings that settle sooner than the timer ticks, one after the other: devices go all the time.
    #[tokio::test]
    async fn a_bell_that_rings_all_the_time_does_not_put_the_sweep_off() {
        let bell = Bell::default();
        let mut timer = every(Duration::from_millis(40));
        let mut seen = Vec::new();
        for _ in 0..10 {
            bell.ring();
            seen.push(due(&mut timer, &bell, Duration::from_millis(30)).await);
        }
        let all = seen.iter().filter(|due| **due == Due::All).count();
        assert!(all >= 2, "{seen:?}");
        assert!(seen.contains(&Due::Images), "{seen:?}");
    }
}
