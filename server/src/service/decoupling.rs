//! Making a volume independent of its image.
//!
//! Called by `grpc`, and by `volumes` to finish it. The wish is in the record until the node says
//! that the volume has no image any more; the node copies by itself, and is asked how far it is.
//! Until then the record refuses what the node would refuse. A refusal takes the wish back only when
//! the node says that it has none of it: else it would copy on, and the record would not know.

use goldleaf_types::{Bytes, VolumeId};

use super::views::VolumeView;
use super::volume_changes::missing_or;
use super::{Begun, Op, Service, ServiceError, Unfinished, busy, for_good};
use crate::agents::{AgentError, AgentPort};
use crate::domain::{Ref, ThinReport, Volume};
use crate::failpoint::{Point, hit};

impl Service {
    /// Makes a volume independent of its image, at most so many bytes a second (0: no cap) if this
    /// begins it. Asking again says how far it is.
    ///
    /// # Errors
    ///
    /// What its node refuses; the volume is then as it was. [`ServiceError::Unfit`] for a closed pool,
    /// which hides the volume: the wish stays until it is open. [`ServiceError::Busy`] with
    /// `to_the_end` as long as it is not done.
    pub async fn decouple(
        &self,
        what: &Ref<VolumeId>,
        rate: Bytes,
        to_the_end: bool,
    ) -> Result<VolumeView, ServiceError> {
        let (_held, mut volume) = self.hold_ready(what, Op::Decouple).await?;
        if volume.image.is_none() {
            return self.view_volume(volume).await;
        }
        if volume.wanted_size.is_some() {
            return Err(busy::<Volume>(volume.name.as_str(), Op::Resize.doing()));
        }
        let begun = self.pending.begin(Unfinished::Volume(volume.id));
        if volume.decoupling.is_none() {
            volume.decoupling = Some(rate);
            self.records.update(&mut volume).await?;
            hit(Point::DecoupleWished);
        }
        let (volume, report) = self.push_decoupling(volume, begun).await?;
        if to_the_end && volume.decoupling.is_some() {
            return Err(decoupling(&volume));
        }
        Ok(VolumeView {
            volume,
            report: Some(report),
        })
    }

    /// Effect, and fact once the node is done. The caller holds the volume.
    async fn push_decoupling(
        &self,
        mut volume: Volume,
        begun: Begun,
    ) -> Result<(Volume, ThinReport), ServiceError> {
        let agent = self.agent_of(volume.node).await?;
        let rate = volume.decoupling.unwrap_or(Bytes(0));
        let report = match agent.decouple(volume.id, rate, volume.epoch).await {
            Ok(report) => report,
            Err(error) if for_good(&error) => {
                match self.left_by(&*agent, &volume, &error).await? {
                    Some(report) if report.image.is_none() => report, // a call before came through
                    Some(report) if report.progress.is_some() || error.is_not_found() => {
                        return Err(error.into()); // it copies, or is asked again
                    }
                    Some(_) | None => {
                        self.note_refusal(volume.node, volume.image, &error).await;
                        volume.decoupling = None;
                        self.records.update(&mut volume).await?;
                        begun.done();
                        return Err(missing_or(error, volume.name.to_string()));
                    }
                }
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::DecoupleAsked);
        if report.image.is_none() {
            volume.image = None;
            volume.decoupling = None;
            self.records.update(&mut volume).await?;
            hit(Point::DecoupleRecorded);
            begun.done();
        }
        // Else it is handed to the loop, which asks again.
        Ok((volume, report))
    }

    /// What a refusing node has of a volume; none if its open pool does not have it.
    pub(super) async fn left_by(
        &self,
        agent: &dyn AgentPort,
        volume: &Volume,
        refusal: &AgentError,
    ) -> Result<Option<ThinReport>, ServiceError> {
        if refusal.is_not_found() {
            // A closed pool hides its volumes: what was wished for stays until it is open.
            self.require_open(volume.pool, volume.node).await?;
        }
        match agent.thin(volume.id.into()).await {
            Ok(report) => Ok(Some(report)),
            Err(gone) if gone.is_not_found() && refusal.is_not_found() => Ok(None),
            Err(left) => {
                tracing::warn!(volume = %volume.id, %refusal, %left, "wish stays");
                Err(left.into())
            }
        }
    }

    /// The loop's turn.
    pub(super) async fn go_on_decoupling(
        &self,
        volume: Volume,
        begun: Begun,
    ) -> Result<(), ServiceError> {
        if self.is_lost(volume.node).await? {
            begun.done();
            return Ok(()); // its node goes on with it, and it is looked at again when that is back
        }
        let (volume, _) = self.push_decoupling(volume, begun).await?;
        match volume.decoupling {
            None => Ok(()),
            Some(_) => Err(decoupling(&volume)),
        }
    }
}

fn decoupling(volume: &Volume) -> ServiceError {
    busy::<Volume>(volume.name.as_str(), Op::Decouple.doing())
}

/// Refuses a volume that is not independent of its image yet and is to be.
pub(super) fn not_decoupling(volume: &Volume) -> Result<(), ServiceError> {
    match volume.decoupling {
        None => Ok(()),
        Some(_) => Err(decoupling(volume)),
    }
}

/// Refuses a volume with a wish that is not fulfilled yet.
pub(super) fn settled(volume: &Volume) -> Result<(), ServiceError> {
    if volume.wanted_size.is_some() {
        return Err(busy::<Volume>(volume.name.as_str(), Op::Resize.doing()));
    }
    not_decoupling(volume)
}
