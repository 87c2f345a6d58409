//! Snapshots come and go: create, delete, list, and finishing each.
//!
//! Called by `grpc` and, for what is unfinished, by `reconcile`. As with volumes: the wish says
//! where and of what, finishing decides nothing anew, and a wish that is refused for good is taken
//! back only after the agent said that it has no such thin.

use goldleaf_types::{Labels, Name, SnapshotId};
use jiff::Timestamp;

use super::views::{add_conditions, seen_in};
use super::volumes::Source;
use super::{
    Attempt, Begun, DECISIONS, Listed, Listing, Op, Service, ServiceError, Target, Unfinished,
    busy, conflict, first,
};
use crate::domain::{Marks, Phase, Ref, Snapshot, SourceRef};

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
            let expect = vec![source.unchanged.clone(), self.stays(source.pool).await?];
            match self.wish(frozen(&wanted, &source), expect).await {
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
        self.stays(snapshot.pool).await?;
        if snapshot.phase == Phase::Creating {
            let begun = self.pending.begin(Unfinished::Snapshot(snapshot.id));
            return self.make_snapshot(snapshot, (Attempt::Again, begun)).await;
        }
        self.view_snapshot(snapshot).await
    }

    /// [`Self::make`]; a snapshot has no device to be told of.
    async fn make_snapshot(
        &self,
        snapshot: Snapshot,
        course: (Attempt, Begun),
    ) -> Result<Snapshot, ServiceError> {
        let (snapshot, _) = self.make(snapshot, None, course).await?;
        Ok(snapshot)
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
        self.delete_one::<Snapshot>(target).await
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
            Phase::Deleting => self.take_away(snapshot, begun).await,
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
