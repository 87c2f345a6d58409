//! Repairing a pool's metadata, which its node does.
//!
//! Called by `grpc`. It is said first what would be done; who then says the pool's name once more has
//! it done. Nothing is recorded here: the wish is in the pool's own catalogue, and its node goes on
//! with it after a crash. What the node says of the pool then is copied into its record. Meanwhile it
//! is announced: no other verb begins on that pool, and all others go on. A look writes nothing, here
//! neither: it may be dropped at any moment, and its node's ends with it.

use futures::StreamExt;
use goldleaf_types::PoolId;

use super::{Op, Service, ServiceError, at_revision};
use crate::agents::{AgentError, RepairStage};
use crate::domain::{PoolRepair, Progress, Ref, RepairAsked, RepairStep};

impl Service {
    /// Repairs a pool's metadata, if `confirm` is its name; says what that would do if it is empty.
    ///
    /// # Errors
    ///
    /// What its node refuses: all is then as it was. When no answer comes, the node goes on all the
    /// same.
    pub async fn repair_pool(
        &self,
        what: &Ref<PoolId>,
        asked: &RepairAsked,
        told: impl Fn(RepairStep, Progress) + Send + Sync,
    ) -> Result<PoolRepair, ServiceError> {
        let waits = || told(RepairStep::Waiting, Progress::default());
        let (_announced, pool) = self.announce_pool(what, Op::Repair, waits).await?;
        let apply = !asked.is_look();
        if apply && asked.confirm != pool.name.as_str() {
            return Err(ServiceError::BadField {
                field: "confirm",
                problem: format!(
                    "is not the name of the pool, {}: look at what the same call without it says \
                     would be done, then say the name",
                    pool.name
                ),
            });
        }
        at_revision(&pool, asked.revision)?;
        let agent = self.agent_of(pool.node).await?;
        let mut stages = agent.repair_pool(pool.id, apply, asked.accept_loss).await?;
        while let Some(stage) = stages.next().await {
            match stage? {
                RepairStage::At(step, progress) => told(step, progress),
                RepairStage::Done(done) => {
                    let (repair, report) = *done;
                    if apply {
                        self.take_over_at_end(&pool, Op::Repair, report).await?;
                    }
                    return Ok(repair);
                }
            }
        }
        let why = "its answer ended before the repair did".to_owned();
        let node = pool.node.to_string();
        Err(AgentError::Away { node, why }.into())
    }
}
