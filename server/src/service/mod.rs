//! The rules of the control plane: what may be asked, what it means, and in which order it is done.
//!
//! Called by `grpc` for requests and by `reconcile` to finish what was cut short; both run the same
//! code. Each change is wish (a durable record), effect (an agent's idempotent call), fact (a
//! durable record), and only then an answer. A crash or a lost caller between any two leaves a
//! record in an unfinished phase, and that record says what is to be done.

mod adoption;
mod blocks;
mod channels;
mod decoupling;
mod doctor;
pub mod error;
mod exports;
mod given_up;
mod groups;
mod image_deletion;
mod image_fetching;
mod image_places;
mod images;
mod kept_records;
mod live;
mod live_thins;
mod locks;
mod lost_images;
mod lost_nodes;
mod node_drain;
mod nodes;
mod pending;
mod placing;
mod pool_destruction;
mod pool_import;
mod pool_opening;
mod pool_renaming;
mod pool_repair;
mod pool_space;
mod pools;
mod progress;
mod records;
mod snapshots;
mod taking_in;
mod taking_in_groups;
mod telling;
mod thin_life;
mod tokens;
mod updates;
mod usage;
mod views;
mod volume_changes;
mod volume_images;
mod volumes;
mod wanted_images;
mod watches;

use std::sync::Arc;

use goldleaf_types::{Labels, NodeId, PoolId, ThinOwner};

pub use adoption::{AdoptedPool, Adoption};
pub use blocks::WantedBlocks;
pub use channels::SetChannel;
pub use doctor::Examination;
pub use error::ServiceError;
pub use groups::CreateGroup;
pub use images::{CreateImage, ImageView};
pub use live::{Live, Reach, Unkept};
pub use live_thins::LiveThins;
pub use locks::{Announced, Held, Locks, Op};
pub use lost_nodes::{Forsaken, Loss};
pub use node_drain::{Active, Drained};
pub use nodes::NodeView;
pub use pending::{Begun, Pending, Unfinished};
pub use placing::Placement;
use placing::trusted;
pub use pool_destruction::Doomed;
pub use pool_import::ImportPool;
pub use pools::{CreatePool, PoolView};
pub use progress::Board;
pub use records::{Page, Records, Revised};
pub use snapshots::CreateSnapshot;
pub use taking_in::Change;
pub use updates::Update;
pub use views::VolumeView;
pub use volumes::{Clone, CreateThin};
pub use watches::{Event, Events, Watch};

use crate::agents::{AgentError, AgentPort, Agents};
use crate::domain::{First, Node, Phase, Refusal};
use crate::store::{Store, rows};

/// How often a decision is made anew because something changed under it.
const DECISIONS: usize = 8;

/// Which part of a list is wanted.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Most items.
    pub size: usize,
    /// The token of the page before; empty for the first.
    pub token: String,
    /// Labels that every item carries.
    pub labels: Labels,
}

/// A page of answers.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// For the next page; empty on the last.
    pub next: String,
}

/// Something to delete.
#[derive(Clone, Debug)]
pub struct Target<R> {
    /// What.
    pub what: R,
    /// If not 0, the revision it must have.
    pub revision: u64,
}

/// Whether a record's effect may have happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The record was made in this very call.
    First,
    /// A call or a process before this one may have come further.
    Again,
}

/// The control plane.
pub struct Service {
    /// What should exist.
    pub records: Records,
    /// What is unfinished.
    pub pending: Pending,
    /// What nodes say now.
    pub live: Live,
    /// What nodes say of their thins.
    pub live_thins: LiveThins,
    /// How far imports have come.
    pub board: Board,
    agents: Arc<dyn Agents>,
    locks: Locks,
}

impl Service {
    /// The control plane over a store and the agents.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, agents: Arc<dyn Agents>) -> Self {
        Self {
            records: Records::new(store),
            pending: Pending::default(),
            live: Live::default(),
            live_thins: LiveThins::default(),
            board: Board::default(),
            agents,
            locks: Locks::default(),
        }
    }

    /// The agent of a node.
    ///
    /// # Errors
    ///
    /// When no such node ever registered, it counts as lost, or the store is away.
    pub async fn agent_of(&self, node: NodeId) -> Result<Arc<dyn AgentPort>, ServiceError> {
        let node = self.node(node).await?;
        trusted(&node)?;
        Ok(self.agents.of(&node))
    }

    /// The bytes of a backup of the store, at one moment.
    ///
    /// # Errors
    ///
    /// When the store is away.
    pub async fn backup(&self) -> Result<crate::store::Backup, ServiceError> {
        Ok(self.records.store().backup().await?)
    }

    async fn node(&self, node: NodeId) -> Result<Node, ServiceError> {
        self.records
            .get::<Node>(&crate::domain::Ref::Id(node), "node")
            .await
    }

    /// Takes a name, so that two creations of it follow each other.
    async fn hold_name<T: Revised>(&self, name: &T::Name) -> Result<Held, ServiceError> {
        let held = self.locks.take(rows::name_key::<T>(name), Op::Create).await;
        held.map_err(|op| busy::<T>(&name.to_string(), op.doing()))
    }

    /// Takes a record that is not written yet, and that nobody else can know of.
    async fn hold_new<T: Revised>(&self, record: &T) -> Result<Held, ServiceError> {
        let held = self.locks.take(rows::key::<T>(record.id()), Op::Create);
        held.await
            .map_err(|op| busy::<T>(&record.name().to_string(), op.doing()))
    }

    /// Takes a record for an operation and reads it again under the lock; none when it went.
    async fn hold<T: Revised>(
        &self,
        record: &T,
        op: Op,
    ) -> Result<(Held, Option<T>), ServiceError> {
        let held = self.locks.take(rows::key::<T>(record.id()), op).await;
        let held = held.map_err(|op| busy::<T>(&record.name().to_string(), op.doing()))?;
        Ok((held, self.records.by_id::<T>(record.id()).await?))
    }

    /// Finishes one unfinished thing. What is finished, or gone, is done.
    ///
    /// # Errors
    ///
    /// Why it is not finished; it is to be tried again.
    pub async fn finish(&self, what: Unfinished) -> Result<(), ServiceError> {
        match what {
            Unfinished::Volume(id) => self.finish_volume(id).await,
            Unfinished::Snapshot(id) => self.finish_snapshot(id).await,
            Unfinished::Group(id) => self.finish_group(id).await,
            Unfinished::Pool(id) => self.finish_pool(id).await,
            Unfinished::Image(id) => self.finish_image(id).await,
            Unfinished::Untold(owner) => self.finish_untold(owner).await,
            Unfinished::GivenUp(owner) => self.finish_given_up(owner).await,
        }
    }

    /// Refuses unless a pool is open on its node: only then does the node's word about a thin that
    /// it does not have count.
    async fn require_open(&self, pool: PoolId, node: NodeId) -> Result<(), ServiceError> {
        let report = match self.live.fresh(node, pool) {
            Some(report) => Some(report),
            None => self
                .ask_pools(node)
                .await?
                .into_iter()
                .find(|report| report.id == pool),
        };
        match report {
            Some(report) if report.phase == Phase::Ready => Ok(()),
            Some(_) | None => Err(ServiceError::Unfit {
                kind: "pool",
                name: pool.to_string(),
                why: "is not open on its node: open it, or see in its conditions what it lacks"
                    .into(),
            }),
        }
    }

    /// Leaves no thin of `owner` on its node.
    async fn ensure_no_thin(
        &self,
        (pool, node): (PoolId, NodeId),
        owner: ThinOwner,
        epoch: u64,
    ) -> Result<(), ServiceError> {
        self.require_open(pool, node).await?;
        Ok(self
            .agent_of(node)
            .await?
            .delete_thin(pool, owner, epoch)
            .await?)
    }

    /// Every pool of a node, asked now.
    async fn ask_pools(
        &self,
        node: NodeId,
    ) -> Result<Vec<crate::domain::PoolReport>, ServiceError> {
        Ok(self.agent_of(node).await?.pools().await?)
    }
}

fn busy<T: Revised>(name: &str, doing: &'static str) -> ServiceError {
    ServiceError::Busy {
        kind: T::KIND,
        name: name.to_owned(),
        doing,
    }
}

/// What a creation says of labels and protection.
fn first(labels: &Labels, deletion_protection: bool) -> First {
    First {
        labels: labels.clone(),
        deletion_protection,
    }
}

/// Refuses a record that is not at the revision demanded; 0 demands none.
fn at_revision<T: Revised>(record: &T, asked: u64) -> Result<(), ServiceError> {
    if asked == 0 || asked == record.revision() {
        return Ok(());
    }
    Err(ServiceError::OtherRevision {
        kind: T::KIND,
        name: record.name().to_string(),
        now: record.revision(),
        asked,
    })
}

fn conflict<T: Revised>(record: &T, field: &'static str) -> ServiceError {
    ServiceError::Conflict {
        kind: T::KIND,
        name: record.name().to_string(),
        field,
    }
}

/// Refuses a record that nothing can be done with now.
fn usable<T: Revised>(record: &T, phase: Phase) -> Result<(), ServiceError> {
    let name = &record.name().to_string();
    match phase {
        Phase::Ready => Ok(()),
        Phase::Creating => Err(busy::<T>(name, Op::Create.doing())),
        Phase::Deleting => Err(busy::<T>(name, Op::Delete.doing())),
        Phase::Failed | Phase::Closed => Err(ServiceError::Unfit {
            kind: T::KIND,
            name: name.clone(),
            why: "failed: its conditions say why; delete it and ask anew".into(),
        }),
    }
}

/// Whether a refused creation would be refused again, so that its wish is taken back.
fn for_good(error: &AgentError) -> bool {
    match error {
        AgentError::Away { .. } => false,
        AgentError::Refused {
            refusal, reason, ..
        } => match refusal {
            Refusal::InvalidArgument
            | Refusal::NotFound
            | Refusal::FailedPrecondition
            | Refusal::OutOfRange
            | Refusal::ResourceExhausted => true,
            Refusal::Unavailable => reason == "IMAGE_NOT_HERE",
            // Another's name, as long as the other is there.
            Refusal::AlreadyExists => reason == "NAME_TAKEN",
            // It may exist, or come to exist by asking again.
            Refusal::Aborted | Refusal::Internal => false,
        },
    }
}

/// Whether an agent refused before it looked at anything of the thin: a first attempt left nothing.
fn untouched(error: &AgentError, attempt: Attempt) -> bool {
    let before = match error {
        AgentError::Away { .. } => false,
        AgentError::Refused { reason, .. } => {
            matches!(
                reason.as_str(),
                "POOL_NOT_OPEN" | "OTHER_INCARNATION" | "BAD_FIELD"
            )
        }
    };
    before && attempt == Attempt::First
}

fn is_precondition(error: &ServiceError) -> bool {
    let ServiceError::Agent(AgentError::Refused { refusal, .. }) = error else {
        return false;
    };
    *refusal == Refusal::FailedPrecondition
}
