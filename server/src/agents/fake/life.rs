//! The fake host's rules for what happens to a thin after it was made.

use goldleaf_types::{Bytes, ThinOwner};
use jiff::Timestamp;

use super::host::{Done, Host};
use super::refuse::{other_parameters, precondition};
use crate::agents::AgentError;
use crate::domain::{ExportOrder, ExportedFile, GroupSnapshot, PoolMode, ThinReport, ThinUsage};

/// What every fake thin maps.
const MAPPED: Bytes = Bytes(3 << 16);

impl Host {
    /// All of a group's snapshots, or none.
    pub(super) fn create_group(&mut self, group: &GroupSnapshot) -> Done<Timestamp> {
        self.writable(group.pool)?;
        if self.open_pool_of(group.pool)?.mode == PoolMode::OutOfDataSpace {
            let message = format!("pool {} is out of data space", group.pool);
            return Err(precondition("POOL_READ_ONLY", message));
        }
        let orders = group.members.iter().map(|m| group.snapshot(m).order());
        let orders: Vec<_> = orders.collect();
        for (member, order) in group.members.iter().zip(&orders) {
            self.check_source(order, member.source.into())?;
        }
        let (mut instant, mut changed) = (Timestamp::now(), false);
        for order in &orders {
            changed |= self.create_thin(order, None)?.1;
        }
        for order in &orders {
            match self.thins.get_mut(&order.owner) {
                Some(thin) if changed => thin.created = instant,
                Some(thin) => instant = thin.created,
                None => {}
            }
        }
        Ok((instant, changed))
    }

    /// The file that a thin would be written to.
    pub(super) fn export(
        &self,
        owner: ThinOwner,
        order: &ExportOrder,
    ) -> Result<ExportedFile, AgentError> {
        let content = self.content_of(owner)?;
        if self.files.contains(&order.file) && !order.replace {
            return Err(other_parameters(&order.file, "content"));
        }
        Ok(ExportedFile {
            path: format!("/export/{}", order.file),
            digest: content.digest,
            size: content.size,
            file_sha256: "ab".repeat(32),
            file_size: content.size,
            stored: Bytes(0),
        })
    }

    /// Each thin maps the same, of which a block is another's too.
    pub(super) fn thin_usage(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        self.writable(self.find(owner)?.order.pool)?;
        let report = self.thin(owner)?;
        Ok(ThinReport {
            usage: Some(ThinUsage {
                provisioned: report.size,
                owned: MAPPED,
                exclusive: Bytes(MAPPED.0 - (1 << 16)),
            }),
            ..report
        })
    }
}
