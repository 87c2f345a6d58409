//! Importing a pool: a node takes its devices over, and the records come back from its catalogue.
//!
//! Called by `grpc`. The agent's fence in the labels decides who has the pool; then it is adopted
//! like any other that a node has open. A crash in between leaves the pool open on its node, and
//! the same call again does the rest.

use goldleaf_types::NodeId;

use super::taking_in::Catalogue;
use super::{PoolView, Service, ServiceError};
use crate::domain::Ref;
use crate::failpoint::{Point, hit};

/// A pool to import.
#[derive(Clone, Debug)]
pub struct ImportPool {
    /// The node that has its devices; none while there is just one.
    pub node: Option<Ref<NodeId>>,
    /// Where the devices are on it.
    pub devices: Vec<String>,
    /// The host to take it from although it did not release it.
    pub force_from: Option<NodeId>,
}

impl Service {
    /// Has a node take a pool over, and brings back what its catalogue says. The same again
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// What the node refuses, a pool that another host did not release for one;
    /// [`ServiceError::Unfit`] when a name in it is taken, before any record is written.
    pub async fn import_pool(&self, wanted: ImportPool) -> Result<PoolView, ServiceError> {
        let node = self.node_named(wanted.node.as_ref()).await?.id;
        if let Some(from) = wanted.force_from {
            self.given_up_before_force(from).await?;
        }
        let agent = self.agent_of(node).await?;
        let found = agent
            .import_pool(&wanted.devices, wanted.force_from)
            .await?;
        hit(Point::PoolImported);
        let rows = agent.catalogue(found.report.id).await?;
        let catalogue = Catalogue {
            pool: found.report.id,
            node,
            rows: &rows,
        };
        self.pool_name_is_free(node, &found).await?;
        self.names_are_free(&catalogue, self.trust(&found)).await?;
        let kept = self.kept_of_another(node, &*agent).await?;
        let marks = kept
            .as_ref()
            .and_then(|(_, kept)| kept.pools.get(&found.report.id));
        let pool = self.adopt_pool(node, &found, marks).await?;
        Ok(PoolView {
            pool,
            report: Some(found.report),
        })
    }
}
