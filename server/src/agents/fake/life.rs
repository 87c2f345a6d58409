//! The fake host's rules for what happens to a thin after it was made.

use goldleaf_types::{Bytes, ThinOwner, VolumeId, VolumeSize};
use jiff::Timestamp;

use super::host::{Done, Host, check_epoch};
use super::refuse::{other_parameters, out_of_range, precondition};
use crate::agents::AgentError;
use crate::domain::{
    ActivateOptions, ExportOrder, ExportedFile, GroupSnapshot, Holder, PoolMode, ThinReport,
    ThinUsage,
};

/// What every fake thin maps.
const MAPPED: Bytes = Bytes(3 << 16);

impl Host {
    pub(super) fn reboot(&mut self) {
        for thin in self.thins.values_mut() {
            thin.openers = 0;
            thin.live = thin.live.filter(|live| match live.holder {
                Holder::Host => true,
                Holder::Csi => false,
            });
        }
    }

    pub(super) fn resize(
        &mut self,
        volume: VolumeId,
        size: VolumeSize,
        epoch: u64,
    ) -> Done<ThinReport> {
        self.admit(self.find(volume.into())?.order.pool)?;
        let thin = self.usable(volume.into(), epoch)?;
        if size < thin.size {
            return Err(out_of_range(format!(
                "size_bytes {} is less than the present {}: a volume only grows",
                size.bytes(),
                thin.size.bytes()
            )));
        }
        self.writable(thin.order.pool)?;
        self.admit_size(thin.order.pool, (volume.into(), size))?;
        let changed = size != thin.size;
        if let Some(thin) = self.thins.get_mut(&volume.into()) {
            thin.size = size;
        }
        Ok((self.thin(volume.into())?, changed))
    }

    pub(super) fn activate(
        &mut self,
        volume: VolumeId,
        options: ActivateOptions,
        epoch: u64,
    ) -> Done<ThinReport> {
        self.admit(self.find(volume.into())?.order.pool)?;
        self.usable(volume.into(), epoch)?;
        let changed = self.activate_thin(volume.into(), options)?;
        Ok((self.thin(volume.into())?, changed))
    }

    pub(super) fn activate_thin(
        &mut self,
        owner: ThinOwner,
        options: ActivateOptions,
    ) -> Result<bool, AgentError> {
        let thin = self.usable(owner, 0)?;
        if thin
            .live
            .is_some_and(|live| live.read_only != options.read_only)
        {
            return Err(other_parameters(owner, "activate.read_only"));
        }
        if let Some(digest) = thin.image {
            self.here(digest)?;
        }
        let changed = thin.live != Some(options);
        if let Some(thin) = self.thins.get_mut(&owner) {
            thin.live = Some(options);
        }
        Ok(changed)
    }

    pub(super) fn deactivate(&mut self, volume: VolumeId, epoch: u64) -> Done<ThinReport> {
        let thin = self.find(volume.into())?;
        self.admit(thin.order.pool)?;
        check_epoch(thin, epoch)?;
        if thin.openers > 0 {
            let message = format!("{volume} is held open by {} user(s)", thin.openers);
            return Err(precondition("HELD_OPEN", message));
        }
        let changed = thin.live.is_some();
        if let Some(thin) = self.thins.get_mut(&volume.into()) {
            thin.live = None;
        }
        Ok((self.thin(volume.into())?, changed))
    }

    /// All of a group's snapshots, or none.
    pub(super) fn create_group(&mut self, group: &GroupSnapshot) -> Done<Timestamp> {
        self.admit(group.pool)?;
        self.writable(group.pool)?;
        if self.open_pool_of(group.pool)?.mode == PoolMode::OutOfDataSpace {
            let message = format!("pool {} is out of data space", group.pool);
            return Err(precondition("POOL_READ_ONLY", message));
        }
        let orders = group.orders();
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

    /// Begun by the first call, done by the second.
    pub(super) fn decouple(&mut self, volume: VolumeId, epoch: u64) -> Done<ThinReport> {
        self.admit(self.find(volume.into())?.order.pool)?;
        let thin = self.usable(volume.into(), epoch)?;
        if thin.live.is_some() {
            let message = format!("{volume} is active: deactivate it first");
            return Err(precondition("ACTIVE", message));
        }
        self.writable(thin.order.pool)?;
        let changed = thin.image.is_some();
        if let Some(thin) = self.thins.get_mut(&volume.into()) {
            if thin.decoupling {
                thin.image = None;
            }
            thin.decoupling = thin.image.is_some();
        }
        Ok((self.thin(volume.into())?, changed))
    }

    pub(super) fn mark_thin(&mut self, owner: ThinOwner, marks: String, epoch: u64) -> Done<()> {
        let thin = self.find(owner)?;
        self.admit(thin.order.pool)?;
        check_epoch(thin, epoch)?;
        let changed = thin.marks != marks;
        if let Some(thin) = self.thins.get_mut(&owner) {
            thin.marks = marks;
        }
        Ok(((), changed))
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
