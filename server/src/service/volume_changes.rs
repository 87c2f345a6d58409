//! What changes a volume that is there: resize, activate, deactivate.
//!
//! Called by `grpc`; growing also by `volumes` to finish it. A new size is a wish in the record
//! until the node has it. Activation has no record here: what is live is the agent's to know.

use goldleaf_types::{VolumeId, VolumeSize};

use super::decoupling::not_decoupling;
use super::views::VolumeView;
use super::volumes::smaller;
use super::{Begun, Held, Op, Service, ServiceError, Unfinished, at_revision, for_good, usable};
use crate::agents::AgentError;
use crate::domain::{ActivateOptions, Ref, ThinReport, Volume};
use crate::failpoint::{Point, hit};
use crate::store::rows::Row;

impl Service {
    /// Grows a volume. The same size again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ServiceError::OutOfRange`] for a smaller size, another revision than demanded, or what its
    /// node refuses; the volume is then as it was.
    pub async fn resize(
        &self,
        what: &Ref<VolumeId>,
        size: VolumeSize,
        revision: u64,
    ) -> Result<VolumeView, ServiceError> {
        let (_held, mut volume) = self.hold_ready(what, Op::Resize).await?;
        if let Some(earlier) = volume.wanted_size {
            let begun = self.pending.begin(Unfinished::Volume(volume.id));
            let finished = self.grow(volume, earlier, begun).await?;
            if earlier == size {
                return Ok(finished);
            }
            volume = finished.volume;
        } else if size == volume.size {
            return self.view_volume(volume).await; // also what a repeated call finds
        }
        at_revision(&volume, revision)?;
        if size < volume.size {
            return Err(smaller(size.bytes(), volume.size.bytes()));
        }
        let begun = self.pending.begin(Unfinished::Volume(volume.id));
        volume.wanted_size = Some(size);
        self.records.update(&mut volume).await?;
        hit(Point::ResizeWished);
        self.grow(volume, size, begun).await
    }

    /// Effect and fact of a wanted size. The caller holds the volume.
    pub(super) async fn grow(
        &self,
        mut volume: Volume,
        size: VolumeSize,
        begun: Begun,
    ) -> Result<VolumeView, ServiceError> {
        let agent = match self.agent_of(volume.node).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => {
                volume.wanted_size = None;
                self.records.update(&mut volume).await?;
                begun.done();
                return Err(lost);
            }
            Err(error) => return Err(error),
        };
        let report = match agent.resize(volume.id, size, volume.epoch).await {
            Ok(report) => report,
            Err(error) if for_good(&error) => {
                // An earlier attempt may have come through: the node says how large it is.
                let left = self.left_by(&*agent, &volume, &error).await?;
                self.note_refusal(volume.node, volume.image, &error).await;
                let now = left.and_then(|report| VolumeSize::new(report.size.0).ok());
                volume.size = now.map_or(volume.size, |now| now.max(volume.size));
                volume.wanted_size = None;
                let name = volume.name.to_string();
                self.records.update(&mut volume).await?;
                begun.done();
                return Err(missing_or(error, name));
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::ResizeDone);
        volume.size = size;
        volume.wanted_size = None;
        self.records.update(&mut volume).await?;
        hit(Point::ResizeRecorded);
        begun.done();
        Ok(VolumeView {
            volume,
            report: Some(report),
        })
    }

    /// Makes a volume's device appear. An active one answers as it is.
    ///
    /// # Errors
    ///
    /// What its node refuses.
    pub async fn activate(
        &self,
        what: &Ref<VolumeId>,
        options: ActivateOptions,
    ) -> Result<VolumeView, ServiceError> {
        let (_held, volume) = self.hold_ready(what, Op::Activate).await?;
        self.activate_ready(volume, options).await
    }

    /// As [`Self::activate`], for a ready volume that the caller holds.
    pub(super) async fn activate_ready(
        &self,
        volume: Volume,
        options: ActivateOptions,
    ) -> Result<VolumeView, ServiceError> {
        self.stays(volume.pool).await?;
        let agent = self.agent_of(volume.node).await?;
        let done = agent.activate(volume.id, options, volume.epoch).await;
        self.answered(volume, done, Point::Activated).await
    }

    /// Takes a volume's device away. An inactive one answers as it is.
    ///
    /// # Errors
    ///
    /// What its node refuses.
    pub async fn deactivate(&self, what: &Ref<VolumeId>) -> Result<VolumeView, ServiceError> {
        let (_held, volume) = self.hold_ready(what, Op::Deactivate).await?;
        let agent = self.agent_of(volume.node).await?;
        let done = agent.deactivate(volume.id, volume.epoch).await;
        self.answered(volume, done, Point::Deactivated).await
    }

    async fn answered(
        &self,
        volume: Volume,
        done: Result<ThinReport, AgentError>,
        point: Point,
    ) -> Result<VolumeView, ServiceError> {
        match done {
            Ok(report) => {
                hit(point);
                Ok(VolumeView {
                    volume,
                    report: Some(report),
                })
            }
            Err(error) if error.is_not_found() => {
                // A closed pool hides its volumes; only an open one says that they are lost.
                self.require_open(volume.pool, volume.node).await?;
                Err(missing_or(error, volume.name.to_string()))
            }
            Err(error) => {
                self.note_refusal(volume.node, volume.image, &error).await;
                Err(error.into())
            }
        }
    }

    /// A ready volume, held for an operation.
    pub(super) async fn hold_ready(
        &self,
        what: &Ref<VolumeId>,
        op: Op,
    ) -> Result<(Held, Volume), ServiceError> {
        let found = self.records.get::<Volume>(what, "volume").await?;
        let (held, volume) = self.hold(&found, op).await?;
        let volume = volume.ok_or_else(|| ServiceError::NotFound {
            kind: Volume::KIND,
            what: what.to_string(),
            field: "volume",
        })?;
        usable(&volume, volume.phase)?;
        if matches!(op, Op::Resize | Op::Activate) {
            not_decoupling(&volume)?;
        }
        Ok((held, volume))
    }
}

/// What a node's refusal means for a volume that it is to have.
pub(super) fn missing_or(error: AgentError, name: String) -> ServiceError {
    if error.is_not_found() {
        ServiceError::DataMissing {
            kind: Volume::KIND,
            name,
        }
    } else {
        error.into()
    }
}
