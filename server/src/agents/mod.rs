//! The port to the nodes' agents: what the control plane asks of one.
//!
//! Called by `service` and `reconcile`. [`client::GrpcAgents`] is the real one, [`fake::FakeAgents`]
//! serves tests. Every call may be repeated: an agent answers the same again. A call that got no
//! answer may have happened; only a later answer says.

pub mod client;
pub(crate) mod convert;
mod convert_doctor;
mod exports;
pub mod fake;
mod imported;
mod imports;
mod refusal;
mod repairs;
mod thin_news;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use goldleaf_types::{
    Bytes, Digest, Incarnation, Name, NodeId, PoolId, ThinOwner, VolumeId, VolumeSize,
};
use jiff::Timestamp;

use crate::domain::{
    ActivateOptions, BlockOrder, BlockPart, CatalogueRow, Check, ExportOrder, ExportedFile,
    Finding, GroupSnapshot, ImageAsked, ImageReport, ImportedPool, KeptText, Mended, MoreRoom,
    Node, PolicyChange, Pool, PoolRepair, PoolReport, Progress, Refusal, RepairStep, ThinOrder,
    ThinReport,
};

pub use thin_news::{ThinNews, ThinReports};

/// Why an agent did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No answer: it may or may not have happened.
    #[error("node {node} does not answer: {why}")]
    Away {
        /// The node's name.
        node: String,
        /// What was seen.
        why: String,
    },
    /// It said no, and why.
    #[error("{message}")]
    Refused {
        /// What the caller can do about it.
        refusal: Refusal,
        /// One word for programs.
        reason: String,
        /// A sentence for people, with the remedy.
        message: String,
        /// The request's field it is about, if one.
        field: Option<String>,
    },
}

impl AgentError {
    /// Whether the agent said that it does not have what was named.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                refusal: Refusal::NotFound,
                ..
            }
        )
    }

    /// Whether asking the same again may help without anybody doing something first.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Away { .. }
                | Self::Refused {
                    refusal: Refusal::Aborted | Refusal::Unavailable,
                    ..
                }
        )
    }
}

/// How an image's import goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportStep {
    /// So far.
    Progress(Progress),
    /// Here it is. The last step.
    Done(ImageReport),
}

/// Steps of an import; the last is `Done` or an error. Dropping it gives the import up.
pub type Import = BoxStream<'static, Result<ImportStep, AgentError>>;

/// How an export goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportStep {
    /// So far.
    Progress(Progress),
    /// Here is the file. The last step.
    Done(ExportedFile),
}

/// Steps of an export; the last is `Done` or an error. Dropping it gives the export up.
pub type Export = BoxStream<'static, Result<ExportStep, AgentError>>;

/// How a repair goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairStage {
    /// So far.
    At(RepairStep, Progress),
    /// What it would do or did, and the pool as it is then. The last stage.
    Done(Box<(PoolRepair, PoolReport)>),
}

/// Stages of a repair; the last is `Done` or an error. Dropping it stops nothing.
pub type Repair = BoxStream<'static, Result<RepairStage, AgentError>>;

/// Every pool of a node, again whenever one changes.
pub type PoolReports = BoxStream<'static, Result<Vec<PoolReport>, AgentError>>;

/// Ranges of a snapshot, part by part. An error is the last thing that comes.
pub type BlockParts = BoxStream<'static, Result<BlockPart, AgentError>>;

/// One node's agent.
#[async_trait]
pub trait AgentPort: Send + Sync {
    /// What the host lacks.
    async fn preflight(&self) -> Result<Vec<Check>, AgentError>;

    /// What is not as it should be on the node.
    async fn examine(&self) -> Result<Vec<Finding>, AgentError>;
    /// Mends findings by the node's names of them, if `apply`; else says what it would do.
    async fn mend(&self, keys: &[String], apply: bool) -> Result<Vec<Mended>, AgentError>;

    /// Makes a pool.
    async fn create_pool(&self, pool: &Pool) -> Result<PoolReport, AgentError>;
    /// Takes over the pool that these devices carry, from a host that did not release it if named.
    async fn import_pool(
        &self,
        devices: &[String],
        force_from: Option<NodeId>,
    ) -> Result<ImportedPool, AgentError>;
    /// From now on an open pool takes changes from our store and from no other; `former` is the one
    /// that has it.
    async fn adopt_pool(
        &self,
        pool: PoolId,
        former: Option<Incarnation>,
    ) -> Result<PoolReport, AgentError>;
    /// Has the node keep what only our store knows of it, in the place of what it has of ours, or of
    /// the `former` store's.
    async fn keep_records(
        &self,
        records: String,
        former: Option<Incarnation>,
    ) -> Result<(), AgentError>;
    /// What the node keeps, and whose it is; none when nothing is.
    async fn kept_records(&self) -> Result<Option<KeptText>, AgentError>;
    /// Every open pool, with what is on its devices.
    async fn open_pools(&self) -> Result<Vec<ImportedPool>, AgentError>;
    /// Every thin of an open pool as its catalogue has it.
    async fn catalogue(&self, pool: PoolId) -> Result<Vec<CatalogueRow>, AgentError>;
    /// Opens a pool, or, for `rescue`, what can be read of it.
    async fn open_pool(&self, pool: PoolId, rescue: bool) -> Result<PoolReport, AgentError>;
    /// Closes a pool.
    async fn close_pool(&self, pool: PoolId) -> Result<PoolReport, AgentError>;
    /// Gives a pool more room.
    async fn extend_pool(&self, pool: PoolId, more: &MoreRoom) -> Result<PoolReport, AgentError>;
    /// Sets what a pool does when it fills.
    async fn set_policy(
        &self,
        pool: PoolId,
        change: &PolicyChange,
    ) -> Result<PoolReport, AgentError>;
    /// Gives an open pool another name.
    async fn rename_pool(&self, pool: PoolId, name: &Name) -> Result<PoolReport, AgentError>;
    /// Repairs a pool's metadata if `apply`, else says what that would do; loses something by it only
    /// if that is accepted.
    async fn repair_pool(
        &self,
        pool: PoolId,
        apply: bool,
        accept_loss: bool,
    ) -> Result<Repair, AgentError>;
    /// Deletes an empty pool, or with `force` any; one that is not there is as good.
    async fn delete_pool(&self, pool: PoolId, force: bool) -> Result<(), AgentError>;
    /// Every pool.
    async fn pools(&self) -> Result<Vec<PoolReport>, AgentError>;
    /// Every pool now, and again at each change.
    async fn watch_pools(&self) -> Result<PoolReports, AgentError>;

    /// Brings an image's content to the node: from its source, or of a thin of the node.
    async fn import_image(
        &self,
        asked: &ImageAsked,
        thin: Option<ThinOwner>,
    ) -> Result<Import, AgentError>;
    /// Every image's content on the node.
    async fn images(&self) -> Result<Vec<ImageReport>, AgentError>;
    /// Reads an image's content again and compares it.
    async fn verify_image(&self, digest: Digest) -> Result<ImageReport, AgentError>;
    /// Deletes an image's content; one that is not there is as good.
    async fn delete_image(&self, digest: Digest) -> Result<(), AgentError>;

    /// Writes a thin to a file of the node.
    async fn export_thin(
        &self,
        owner: ThinOwner,
        order: &ExportOrder,
    ) -> Result<Export, AgentError>;

    /// Makes a thin as ordered, and its device if asked.
    async fn create_thin(
        &self,
        order: &ThinOrder,
        activate: Option<ActivateOptions>,
    ) -> Result<ThinReport, AgentError>;
    /// Makes a group's snapshots, all or none; says which instant they show.
    async fn create_group(&self, group: &GroupSnapshot) -> Result<Timestamp, AgentError>;
    /// Keeps what a thin's user changed of it, for when our store is lost.
    async fn mark_thin(
        &self,
        owner: ThinOwner,
        marks: String,
        epoch: u64,
    ) -> Result<(), AgentError>;
    /// Grows a volume.
    async fn resize(
        &self,
        volume: VolumeId,
        size: VolumeSize,
        epoch: u64,
    ) -> Result<ThinReport, AgentError>;
    /// Makes a volume independent of its image, or says how far that is; done without an image.
    async fn decouple(
        &self,
        volume: VolumeId,
        rate: Bytes,
        epoch: u64,
    ) -> Result<ThinReport, AgentError>;
    /// Makes a volume's device appear.
    async fn activate(
        &self,
        volume: VolumeId,
        options: ActivateOptions,
        epoch: u64,
    ) -> Result<ThinReport, AgentError>;
    /// Takes a volume's device away.
    async fn deactivate(&self, volume: VolumeId, epoch: u64) -> Result<ThinReport, AgentError>;
    /// Deletes a thin; one that is not in the pool is as good, if the pool is open.
    async fn delete_thin(
        &self,
        pool: PoolId,
        owner: ThinOwner,
        epoch: u64,
    ) -> Result<(), AgentError>;
    /// One thin.
    async fn thin(&self, owner: ThinOwner) -> Result<ThinReport, AgentError>;
    /// Every thin of the node now, and each again when it changes, whoever changes it.
    async fn watch_thins(&self) -> Result<ThinReports, AgentError>;
    /// One thin with what it takes in its pool, which is counted now.
    async fn thin_usage(&self, owner: ThinOwner) -> Result<ThinReport, AgentError>;
    /// Ranges of a snapshot that hold something, or differ from another one.
    async fn blocks(&self, order: &BlockOrder) -> Result<BlockParts, AgentError>;
    /// Every thin of the node.
    async fn thins(&self) -> Result<Vec<ThinReport>, AgentError>;
}

/// The way to every node's agent.
pub trait Agents: Send + Sync + 'static {
    /// The agent of a node. Nothing is dialled before the first call.
    fn of(&self, node: &Node) -> Arc<dyn AgentPort>;
}
