//! Snapshots come and go: create, delete, list, and finishing each.
//!
//! Called by `grpc` and, for what is unfinished, by `reconcile`. As with volumes: the wish says
//! where and of what, finishing decides nothing anew, and a wish that is refused for good is taken
//! back only after the agent said that it has no such thin.

use goldleaf_types::{Labels, Name, SnapshotId};
use jiff::Timestamp;

use super::updates::unprotected;
use super::views::{add_conditions, seen_in};
use super::volumes::Source;
use super::{
    Attempt, Begun, DECISIONS, Held, Listed, Listing, Op, Service, ServiceError, Target,
    Unfinished, at_revision, busy, conflict, first, for_good, is_precondition, untouched,
};
use crate::agents::AgentError;
use crate::domain::{Marks, Phase, Ref, Snapshot, SourceRef};
use crate::failpoint::{Point, hit};
use crate::store::Expect;

/// A snapshot to be.
#[derive(Clone, Debug)]
pub struct CreateSnapshot {
    /// Its name.
    pub name: Name,
    /// What to freeze.
    pub source: SourceRef,
    /// The same, as it was given.
    pub asked: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is protected from deletion.
    pub deletion_protection: bool,
}

impl Service {
    /// Freezes a volume or snapshot. The same request again answers the same snapshot.
    ///
    /// # Errors
    ///
    /// What is refused for good changes nothing; what is cut short is finished by itself.
    pub async fn create_snapshot(&self, wanted: CreateSnapshot) -> Result<Snapshot, ServiceError> {
        let _name = self.hold_name::<Snapshot>(&wanted.name).await?;
        for _ in 0..DECISIONS {
            if let Some(snapshot) = self.records.by_name::<Snapshot>(&wanted.name).await? {
                return self.repeat_snapshot(snapshot, &wanted).await;
            }
            let source = self.source(&wanted.source).await?;
            let expect = vec![source.unchanged.clone()];
            match self.wish_snapshot(frozen(&wanted, &source), expect).await {
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
                Ok((snapshot, _held, begun)) => {
                    return self.make_snapshot(snapshot, (Attempt::First, begun)).await;
                }
            }
        }
        Err(busy::<Snapshot>(
            wanted.name.as_str(),
            "being decided on by others too",
        ))
    }

    async fn wish_snapshot(
        &self,
        mut snapshot: Snapshot,
        expect: Vec<Expect>,
    ) -> Result<(Snapshot, Held, Begun), ServiceError> {
        let held = self.hold_new(&snapshot).await?;
        let begun = self.pending.begin(Unfinished::Snapshot(snapshot.id));
        if let Err(error) = self.records.insert(&mut snapshot, expect).await {
            if error.is_conflict() {
                begun.done(); // nothing was written
            }
            return Err(error);
        }
        hit(Point::SnapshotWished);
        Ok((snapshot, held, begun))
    }

    async fn repeat_snapshot(
        &self,
        snapshot: Snapshot,
        wanted: &CreateSnapshot,
    ) -> Result<Snapshot, ServiceError> {
        let (_held, snapshot) = self.hold(&snapshot, Op::Create).await?;
        let Some(snapshot) = snapshot.filter(|s| s.phase != Phase::Deleting) else {
            return Err(busy::<Snapshot>(wanted.name.as_str(), Op::Delete.doing()));
        };
        snapshot
            .same_or_conflict(
                &wanted.asked,
                &first(&wanted.labels, wanted.deletion_protection),
            )
            .map_err(|field| conflict(&snapshot, field))?;
        if snapshot.phase == Phase::Creating {
            let begun = self.pending.begin(Unfinished::Snapshot(snapshot.id));
            return self.make_snapshot(snapshot, (Attempt::Again, begun)).await;
        }
        self.view_snapshot(snapshot).await
    }

    /// Effect and fact of a snapshot that is wished for. The caller holds it.
    async fn make_snapshot(
        &self,
        mut snapshot: Snapshot,
        (attempt, begun): (Attempt, Begun),
    ) -> Result<Snapshot, ServiceError> {
        let agent = self.agent_of(snapshot.node).await?;
        match agent.create_thin(&snapshot.order(), None).await {
            Ok(_) => {}
            Err(error) if for_good(&error) => {
                self.note_refusal(snapshot.node, snapshot.image, &error)
                    .await;
                return Err(self
                    .withdraw_snapshot(snapshot, error, (attempt, begun))
                    .await);
            }
            Err(error) => return Err(error.into()),
        }
        hit(Point::SnapshotMade);
        snapshot.phase = Phase::Ready;
        self.records.update(&mut snapshot).await?;
        hit(Point::SnapshotRecorded);
        begun.done();
        Ok(snapshot)
    }

    async fn withdraw_snapshot(
        &self,
        snapshot: Snapshot,
        error: AgentError,
        (attempt, begun): (Attempt, Begun),
    ) -> ServiceError {
        if !untouched(&error, attempt) {
            let place = (snapshot.pool, snapshot.node);
            if let Err(left) = self.ensure_no_thin(place, snapshot.id.into(), 1).await {
                tracing::warn!(snapshot = %snapshot.id, refusal = %error, %left, "wish stays");
                return left;
            }
        }
        hit(Point::SnapshotWithdrawn);
        match self.records.remove(&snapshot).await {
            Ok(()) => {
                begun.done();
                error.into()
            }
            Err(left) => left,
        }
    }

    /// Deletes a snapshot. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// What its node refuses leaves it as it was.
    pub async fn delete_snapshot(
        &self,
        target: Target<Ref<SnapshotId>>,
    ) -> Result<(), ServiceError> {
        let Some(found) = self.records.find::<Snapshot>(&target.what).await? else {
            return Ok(());
        };
        let (_held, snapshot) = self.hold(&found, Op::Delete).await?;
        let Some(mut snapshot) = snapshot else {
            return Ok(());
        };
        let begun = self.pending.begin(Unfinished::Snapshot(snapshot.id));
        if snapshot.phase != Phase::Deleting {
            let ready = async {
                at_revision(&snapshot, target.revision)?;
                unprotected(&snapshot)?;
                self.require_open(snapshot.pool, snapshot.node).await
            };
            if let Err(error) = ready.await {
                if snapshot.phase == Phase::Ready {
                    begun.done();
                }
                return Err(error);
            }
            snapshot.phase = Phase::Deleting;
            self.records.update(&mut snapshot).await?;
            hit(Point::SnapshotDeletionWished);
        }
        self.take_snapshot_away(snapshot, begun).await
    }

    async fn take_snapshot_away(
        &self,
        mut snapshot: Snapshot,
        begun: Begun,
    ) -> Result<(), ServiceError> {
        let place = (snapshot.pool, snapshot.node);
        match self.ensure_no_thin(place, snapshot.id.into(), 1).await {
            Ok(()) => {}
            Err(error) if is_precondition(&error) => {
                let agent = self.agent_of(snapshot.node).await?;
                let whole = agent.thin(snapshot.id.into()).await;
                if whole.is_ok_and(|report| report.phase == Phase::Ready) {
                    snapshot.phase = Phase::Ready;
                    self.records.update(&mut snapshot).await?;
                    begun.done();
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        hit(Point::SnapshotDeletionDone);
        self.records.remove(&snapshot).await?;
        hit(Point::SnapshotDeletionRecorded);
        begun.done();
        Ok(())
    }

    /// Finishes whatever a snapshot's record says is unfinished.
    pub(super) async fn finish_snapshot(&self, id: SnapshotId) -> Result<(), ServiceError> {
        let Some(found) = self.records.by_id::<Snapshot>(id).await? else {
            return Ok(());
        };
        let op = match found.phase {
            Phase::Creating => Op::Create,
            Phase::Deleting => Op::Delete,
            Phase::Ready | Phase::Failed | Phase::Closed => return Ok(()),
        };
        let (_held, snapshot) = self.hold(&found, op).await?;
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let begun = self.pending.begin(Unfinished::Snapshot(id));
        match snapshot.phase {
            Phase::Creating => self
                .make_snapshot(snapshot, (Attempt::Again, begun))
                .await
                .map(|_| ()),
            Phase::Deleting => self.take_snapshot_away(snapshot, begun).await,
            Phase::Ready | Phase::Failed | Phase::Closed => {
                begun.done();
                Ok(())
            }
        }
    }

    /// One snapshot, with what its node says of it now.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_snapshot(&self, what: &Ref<SnapshotId>) -> Result<Snapshot, ServiceError> {
        let snapshot = self.records.get::<Snapshot>(what, "target").await?;
        self.view_snapshot(snapshot).await
    }

    /// Snapshots in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_snapshots(
        &self,
        listing: &Listing,
    ) -> Result<Listed<Snapshot>, ServiceError> {
        let mut listed = self.list::<Snapshot>(listing).await?;
        let nodes = self.thins_of(listed.items.iter().map(|s| s.node)).await;
        for snapshot in &mut listed.items {
            let seen = seen_in(&nodes, (snapshot.pool, snapshot.node), snapshot.id.into());
            add_conditions(snapshot, &seen);
        }
        Ok(listed)
    }
}

fn frozen(wanted: &CreateSnapshot, source: &Source) -> Snapshot {
    Snapshot {
        id: SnapshotId::mint(),
        name: wanted.name.clone(),
        labels: wanted.labels.clone(),
        revision: 0,
        phase: Phase::Creating,
        conditions: Vec::new(),
        created: Timestamp::now(),
        size: source.size,
        pool: source.pool,
        node: source.node,
        image: source.image,
        source: source.owner,
        asked_source: wanted.asked.clone(),
        marks: Marks::new(wanted.deletion_protection),
        group: None,
    }
}
