//! What a volume and a snapshot share: each is one thin on a node, wished for, made and taken away.
//!
//! Called by `volumes` and `snapshots`, for requests and to finish what was cut short. The record is
//! durable before the agent hears of the thin and goes only after the agent said that it has no such
//! thin. A crash between any two steps leaves a record in `Creating` or `Deleting`, which is finished
//! by the same functions. A thin that its agent calls ready is never taken back for a refusal.

use goldleaf_types::{Digest, NodeId, PoolId, ThinOwner};

use super::telling::untold_from_the_start;
use super::updates::{Marked, unprotected};
use super::{
    Attempt, Begun, Held, Op, Service, ServiceError, Target, Unfinished, at_revision, for_good,
    is_precondition, untouched,
};
use crate::agents::AgentError;
use crate::domain::{
    ActivateOptions, Begin, Marks, Phase, Ref, Snapshot, ThinOrder, ThinReport, Volume,
};
use crate::failpoint::{Point, hit};
use crate::store::Expect;

/// Where a crash may come between the steps of one kind of record.
pub(super) struct Points {
    wished: Point,
    made: Point,
    recorded: Point,
    withdrawn: Point,
    deletion_wished: Point,
    deletion_done: Point,
    deletion_recorded: Point,
}

/// A record whose whole content on a node is one thin.
pub(super) trait OneThin: Marked {
    /// Its thin's owner.
    fn owner(&self) -> ThinOwner;
    /// Where it lies.
    fn place(&self) -> (PoolId, NodeId);
    /// The image under it.
    fn image(&self) -> Option<Digest>;
    /// What its node is told to make.
    fn order(&self) -> ThinOrder;
    fn set_phase(&mut self, phase: Phase);
    /// Follows its node, which has the whole thin.
    fn follow_made(&mut self, report: &ThinReport);
    fn unfinished(&self) -> Unfinished;
    /// Whether something other than its phase is to be done still.
    fn has_more_to_do(&self) -> bool;
    fn points(&self) -> Points;
}

impl OneThin for Volume {
    fn owner(&self) -> ThinOwner {
        self.id.into()
    }
    fn place(&self) -> (PoolId, NodeId) {
        (self.pool, self.node)
    }
    fn image(&self) -> Option<Digest> {
        self.image
    }
    fn order(&self) -> ThinOrder {
        Volume::order(self)
    }
    fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }
    fn follow_made(&mut self, _: &ThinReport) {
        self.phase = Phase::Ready;
    }
    fn unfinished(&self) -> Unfinished {
        Unfinished::Volume(self.id)
    }
    fn has_more_to_do(&self) -> bool {
        self.wishes()
    }
    fn points(&self) -> Points {
        let (wished, made, recorded) = match self.begin {
            Begin::Blank | Begin::Image(_) => {
                (Point::ThinWished, Point::ThinMade, Point::ThinRecorded)
            }
            Begin::Thin(_) => (Point::CloneWished, Point::CloneMade, Point::CloneRecorded),
        };
        Points {
            wished,
            made,
            recorded,
            withdrawn: Point::ThinWithdrawn,
            deletion_wished: Point::DeletionWished,
            deletion_done: Point::DeletionDone,
            deletion_recorded: Point::DeletionRecorded,
        }
    }
}

impl OneThin for Snapshot {
    fn owner(&self) -> ThinOwner {
        self.id.into()
    }
    fn place(&self) -> (PoolId, NodeId) {
        (self.pool, self.node)
    }
    fn image(&self) -> Option<Digest> {
        self.image
    }
    fn order(&self) -> ThinOrder {
        Snapshot::order(self)
    }
    fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }
    fn follow_made(&mut self, report: &ThinReport) {
        self.phase = Phase::Ready;
        self.created = report.created; // the time it shows, which its node alone knows
    }
    fn unfinished(&self) -> Unfinished {
        Unfinished::Snapshot(self.id)
    }
    fn has_more_to_do(&self) -> bool {
        false
    }
    fn points(&self) -> Points {
        Points {
            wished: Point::SnapshotWished,
            made: Point::SnapshotMade,
            recorded: Point::SnapshotRecorded,
            withdrawn: Point::SnapshotWithdrawn,
            deletion_wished: Point::SnapshotDeletionWished,
            deletion_done: Point::SnapshotDeletionDone,
            deletion_recorded: Point::SnapshotDeletionRecorded,
        }
    }
}

impl Service {
    /// The wish: durable before the agent hears of anything.
    pub(super) async fn wish<T: OneThin>(
        &self,
        mut record: T,
        expect: Vec<Expect>,
    ) -> Result<(T, Held, Begun), ServiceError> {
        let held = self.hold_new(&record).await?;
        let begun = self.pending.begin(record.unfinished());
        let note = untold_from_the_start(&record, record.marks(), record.owner());
        if let Err(error) = self.records.insert_with(&mut record, expect, note).await {
            if error.is_conflict() {
                begun.done(); // nothing was written
            }
            return Err(error);
        }
        hit(record.points().wished);
        Ok((record, held, begun))
    }

    /// Effect and fact of a record that is wished for. The caller holds it.
    pub(super) async fn make<T: OneThin>(
        &self,
        mut record: T,
        activate: Option<ActivateOptions>,
        (attempt, begun): (Attempt, Begun),
    ) -> Result<(T, ThinReport), ServiceError> {
        let points = record.points();
        let agent = match self.agent_of(record.place().1).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => {
                self.give_up(&record, record.owner(), record.place(), begun)
                    .await?;
                return Err(lost);
            }
            Err(error) => return Err(error),
        };
        let report = match agent.create_thin(&record.order(), activate).await {
            Ok(report) => report,
            Err(error) if for_good(&error) => {
                self.note_refusal(record.place().1, record.image(), &error)
                    .await;
                return Err(match self.is_made(&record, attempt).await {
                    Ok(Some(report)) => self.keep((record, report), error, begun).await,
                    Ok(None) => self.withdraw(record, error, (attempt, begun)).await,
                    Err(unknown) => unknown,
                });
            }
            Err(error) => return Err(error.into()),
        };
        hit(points.made);
        record.follow_made(&report);
        self.records.update(&mut record).await?;
        hit(points.recorded);
        begun.done();
        if *record.marks() != Marks::default() {
            let owner = record.owner();
            self.tell(owner, self.pending.begin(Unfinished::Untold(owner)))
                .await;
        }
        Ok((record, report))
    }

    /// What an earlier attempt made, if it came through, so that what was refused now is less than
    /// the creation: its node may have been written to since.
    async fn is_made<T: OneThin>(
        &self,
        record: &T,
        attempt: Attempt,
    ) -> Result<Option<ThinReport>, ServiceError> {
        if attempt == Attempt::First {
            return Ok(None);
        }
        match self
            .agent_of(record.place().1)
            .await?
            .thin(record.owner())
            .await
        {
            Ok(report) => Ok(Some(report).filter(|report| report.phase == Phase::Ready)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Records what an earlier attempt made; says what was refused now.
    async fn keep<T: OneThin>(
        &self,
        (mut record, report): (T, ThinReport),
        error: AgentError,
        begun: Begun,
    ) -> ServiceError {
        record.follow_made(&report);
        match self.records.update(&mut record).await {
            Ok(()) => {
                hit(record.points().recorded);
                begun.done();
                error.into()
            }
            Err(left) => left,
        }
    }

    /// Takes a refused wish back, once nothing of it is on the node; says why it was refused.
    async fn withdraw<T: OneThin>(
        &self,
        record: T,
        error: AgentError,
        (attempt, begun): (Attempt, Begun),
    ) -> ServiceError {
        if !untouched(&error, attempt)
            && let Err(left) = self.ensure_no_thin_of(&record).await
        {
            // It may be there: the wish stays, and the loop goes on with it.
            tracing::warn!(owner = %record.owner(), refusal = %error, %left, "wish stays");
            return left;
        }
        hit(record.points().withdrawn);
        match self.records.remove(&record).await {
            Ok(()) => {
                begun.done();
                error.into()
            }
            Err(left) => left,
        }
    }

    async fn ensure_no_thin_of<T: OneThin>(&self, record: &T) -> Result<(), ServiceError> {
        let epoch = record.order().epoch;
        self.ensure_no_thin(record.place(), record.owner(), epoch)
            .await
    }

    /// Deletes a record and its thin. One that is not there is as good.
    pub(super) async fn delete_one<T: OneThin>(
        &self,
        target: Target<Ref<T::Id>>,
    ) -> Result<(), ServiceError> {
        let Some(found) = self.records.find::<T>(&target.what).await? else {
            return Ok(());
        };
        let (_held, record) = self.hold(&found, Op::Delete).await?;
        let Some(mut record) = record else {
            return Ok(());
        };
        let begun = self.pending.begin(record.unfinished());
        if record.phase() != Phase::Deleting {
            let ready = async {
                at_revision(&record, target.revision)?;
                unprotected(&record)?;
                self.not_imaged(T::KIND, record.owner()).await?;
                let (pool, node) = record.place();
                match self.is_lost(node).await? {
                    true => Ok(()), // nobody waits for it
                    false => self.require_open(pool, node).await,
                }
            };
            if let Err(error) = ready.await {
                if record.phase() == Phase::Ready && !record.has_more_to_do() {
                    begun.done();
                }
                return Err(error);
            }
            record.set_phase(Phase::Deleting);
            self.records.update(&mut record).await?;
            hit(record.points().deletion_wished);
        }
        self.take_away(record, begun).await
    }

    /// Effect and fact of a deletion. The caller holds the record.
    pub(super) async fn take_away<T: OneThin>(
        &self,
        mut record: T,
        begun: Begun,
    ) -> Result<(), ServiceError> {
        if self.is_lost(record.place().1).await? {
            let (owner, place) = (record.owner(), record.place());
            return self.give_up(&record, owner, place, begun).await;
        }
        match self.ensure_no_thin_of(&record).await {
            Ok(()) => {}
            Err(error) if is_precondition(&error) => {
                // Refused: it stays, if the node says that it has it whole.
                let agent = self.agent_of(record.place().1).await?;
                let whole = agent.thin(record.owner()).await;
                if let Ok(report) = whole
                    && report.phase == Phase::Ready
                {
                    record.follow_made(&report);
                    self.records.update(&mut record).await?;
                    begun.done();
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        let points = record.points();
        hit(points.deletion_done);
        self.records.remove(&record).await?;
        hit(points.deletion_recorded);
        begun.done();
        Ok(())
    }
}
