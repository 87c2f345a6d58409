//! Groups of snapshots come and go: create, delete, list, and finishing each.
//!
//! Called by `grpc` and, for what is unfinished, by `reconcile`. The wish is the group's record and
//! the names of its snapshots, which nobody else can take from then on; the fact is the group and a
//! record of each snapshot, in one transaction: nobody sees a part of a group. From there on its
//! snapshots are like any other. A wish that is refused for good is taken back whole.

use goldleaf_types::{GroupId, Labels, Name, SnapshotId, VolumeId};
use jiff::Timestamp;

use super::decoupling::settled;
use super::given_up::note;
use super::records::unchanged;
use super::updates::unprotected;
use super::{
    Attempt, Begun, DECISIONS, Held, Listed, Listing, Op, Service, ServiceError, Target,
    Unfinished, at_revision, busy, conflict, for_good, trusted, untouched, usable,
};
use crate::agents::AgentError;
use crate::domain::{GroupMember, GroupSnapshot, Phase, Ref, Snapshot, Volume};
use crate::failpoint::{Point, hit};
use crate::store::rows::{self, Row};
use crate::store::{Expect, Txn, Write};

/// Snapshots to be, all of one instant.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// The group's name.
    pub name: Name,
    /// What to freeze.
    pub volumes: Vec<Ref<VolumeId>>,
    /// The same, as it was given.
    pub asked: Vec<String>,
    /// Labels of the group and of each snapshot.
    pub labels: Labels,
    /// How long writers may wait, in milliseconds.
    pub deadline_ms: u32,
}

impl Service {
    /// Freezes volumes at one instant. The same request again answers the same group.
    ///
    /// # Errors
    ///
    /// What is refused for good changes nothing; what is cut short is finished by itself.
    pub async fn create_group(&self, wanted: CreateGroup) -> Result<GroupSnapshot, ServiceError> {
        let _name = self.hold_name::<GroupSnapshot>(&wanted.name).await?;
        for _ in 0..DECISIONS {
            if let Some(group) = self.records.by_name::<GroupSnapshot>(&wanted.name).await? {
                return self.repeat_group(group, &wanted).await;
            }
            let (group, expect) = self.planned_group(&wanted).await?;
            match self.wish_group(group, expect).await {
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
                Ok((group, _held, begun)) => {
                    return self.make_group(group, (Attempt::First, begun)).await;
                }
            }
        }
        Err(busy::<GroupSnapshot>(
            wanted.name.as_str(),
            "being decided on by others too",
        ))
    }

    /// The record of a group to be, and what it rests on.
    async fn planned_group(
        &self,
        wanted: &CreateGroup,
    ) -> Result<(GroupSnapshot, Vec<Expect>), ServiceError> {
        let bad = |problem: String| ServiceError::BadField {
            field: "volumes",
            problem,
        };
        let (mut volumes, mut members, mut expect) = (Vec::new(), Vec::new(), Vec::new());
        for what in &wanted.volumes {
            let volume = self.records.get::<Volume>(what, "volumes").await?;
            usable(&volume, volume.phase)?;
            trusted(&self.node(volume.node).await?)?;
            settled(&volume)?;
            let named = |v: &Volume| v.id == volume.id;
            if volumes.iter().any(named) {
                return Err(bad(format!("{} is named twice", volume.name)));
            }
            members.push(self.planned_member(wanted, &volume).await?);
            expect.push(unchanged(&volume));
            volumes.push(volume);
        }
        let Some(first) = volumes.first() else {
            return Err(bad("is empty: name at least one volume".into()));
        };
        if let Some(other) = volumes.iter().find(|v| v.pool != first.pool) {
            return Err(bad(format!(
                "{} and {} are in different pools, and only one pool is frozen at one instant",
                first.name, other.name
            )));
        }
        expect.push(self.stays(first.pool).await?);
        let group = GroupSnapshot {
            id: GroupId::mint(),
            name: wanted.name.clone(),
            labels: wanted.labels.clone(),
            revision: 0,
            phase: Phase::Creating,
            conditions: Vec::new(),
            created: Timestamp::now(),
            pool: first.pool,
            node: first.node,
            asked_volumes: wanted.asked.clone(),
            deadline_ms: wanted.deadline_ms,
            members,
        };
        Ok((group, expect))
    }

    async fn planned_member(
        &self,
        wanted: &CreateGroup,
        volume: &Volume,
    ) -> Result<GroupMember, ServiceError> {
        let text = format!("{}.{}", wanted.name, volume.name);
        let by_id = || format!("{}.{}", wanted.name, volume.id).parse();
        let name: Name = text
            .parse()
            .or_else(|_| by_id())
            .map_err(|_| ServiceError::BadField {
                field: "name",
                problem: format!("a snapshot cannot be called {text:?}: choose a shorter name"),
            })?;
        if let Some(taken) = self.records.by_name::<Snapshot>(&name).await? {
            return Err(conflict(&taken, "name"));
        }
        Ok(GroupMember {
            snapshot: SnapshotId::mint(),
            name,
            source: volume.id,
            size: volume.size,
            image: volume.image,
        })
    }

    /// The wish: the group, and the names of its snapshots.
    async fn wish_group(
        &self,
        mut group: GroupSnapshot,
        also: Vec<Expect>,
    ) -> Result<(GroupSnapshot, Held, Begun), ServiceError> {
        let held = self.hold_new(&group).await?;
        let begun = self.pending.begin(Unfinished::Group(group.id));
        let mut txn = Txn {
            expect: also,
            writes: vec![group.put(), group.put_name()],
        };
        txn.expect
            .push(Expect::Absent(rows::key::<GroupSnapshot>(group.id)));
        txn.expect
            .push(Expect::Absent(rows::name_key::<GroupSnapshot>(&group.name)));
        for member in &group.members {
            let snapshot = group.snapshot(member);
            txn.expect
                .push(Expect::Absent(rows::name_key::<Snapshot>(&member.name)));
            txn.writes.push(snapshot.put_name());
        }
        match self
            .records
            .store()
            .txn(txn)
            .await
            .map_err(ServiceError::from)
        {
            Ok(revision) => group.revision = revision,
            Err(error) => {
                if error.is_conflict() {
                    begun.done(); // nothing was written
                }
                return Err(error);
            }
        }
        hit(Point::GroupWished);
        Ok((group, held, begun))
    }

    async fn repeat_group(
        &self,
        group: GroupSnapshot,
        wanted: &CreateGroup,
    ) -> Result<GroupSnapshot, ServiceError> {
        let (_held, group) = self.hold(&group, Op::Create).await?;
        let Some(group) = group.filter(|g| g.phase != Phase::Deleting) else {
            return Err(busy::<GroupSnapshot>(
                wanted.name.as_str(),
                Op::Delete.doing(),
            ));
        };
        group
            .same_or_conflict(&wanted.asked, &wanted.labels)
            .map_err(|field| conflict(&group, field))?;
        self.stays(group.pool).await?;
        if group.phase == Phase::Creating {
            let begun = self.pending.begin(Unfinished::Group(group.id));
            return self.make_group(group, (Attempt::Again, begun)).await;
        }
        Ok(group)
    }

    /// Effect and fact of a group that is wished for. The caller holds it.
    async fn make_group(
        &self,
        group: GroupSnapshot,
        (attempt, begun): (Attempt, Begun),
    ) -> Result<GroupSnapshot, ServiceError> {
        let agent = match self.agent_of(group.node).await {
            Ok(agent) => agent,
            Err(lost @ ServiceError::NodeLost { .. }) => {
                self.forget_group(&group, true).await?;
                begun.done();
                return Err(lost);
            }
            Err(error) => return Err(error),
        };
        let instant = match agent.create_group(&group).await {
            Ok(instant) => instant,
            Err(error) if for_good(&error) => {
                return Err(self.withdraw_group(group, error, (attempt, begun)).await);
            }
            Err(error) => return Err(error.into()),
        };
        hit(Point::GroupMade);
        let group = self.group_is_made(group, instant).await?;
        hit(Point::GroupRecorded);
        begun.done();
        Ok(group)
    }

    /// The fact: the group and a record of each snapshot, of that instant. The caller holds the
    /// group.
    pub(super) async fn group_is_made(
        &self,
        mut group: GroupSnapshot,
        instant: Timestamp,
    ) -> Result<GroupSnapshot, ServiceError> {
        let expect = vec![unchanged(&group)];
        group.phase = Phase::Ready;
        group.created = instant;
        let snapshots = group.members.iter().map(|m| group.snapshot(m).put());
        let writes = std::iter::once(group.put()).chain(snapshots).collect();
        group.revision = self.records.store().txn(Txn { expect, writes }).await?;
        Ok(group)
    }

    /// Takes a refused wish back, once nothing of it is on the node; says why it was refused.
    async fn withdraw_group(
        &self,
        group: GroupSnapshot,
        error: AgentError,
        (attempt, begun): (Attempt, Begun),
    ) -> ServiceError {
        if !untouched(&error, attempt)
            && let Err(left) = self.no_thin_of(&group).await
        {
            tracing::warn!(group = %group.id, refusal = %error, %left, "wish stays");
            return left;
        }
        hit(Point::GroupWithdrawn);
        match self.forget_group(&group, false).await {
            Ok(()) => {
                begun.done();
                error.into()
            }
            Err(left) => left,
        }
    }

    /// Leaves no thin of any of its snapshots on the node.
    async fn no_thin_of(&self, group: &GroupSnapshot) -> Result<(), ServiceError> {
        for member in &group.members {
            self.ensure_no_thin((group.pool, group.node), member.snapshot.into(), 1)
                .await?;
        }
        Ok(())
    }

    /// Removes the record, its name, and the names that it kept for its snapshots. With `lost`, a
    /// node that is given up may have their thins.
    pub(super) async fn forget_group(
        &self,
        group: &GroupSnapshot,
        lost: bool,
    ) -> Result<(), ServiceError> {
        let mut txn = Txn {
            expect: vec![unchanged(group)],
            writes: group.remove().into(),
        };
        for member in &group.members {
            if lost {
                let snapshot = group.snapshot(member);
                let at = (group.pool, group.node);
                txn.writes.push(note(&snapshot, snapshot.id.into(), at));
            }
            let key = rows::name_key::<Snapshot>(&member.name);
            let entry = self.records.store().get(&key).await?;
            // Kept for it, or another's since.
            let ours = |entry: &crate::store::Entry| {
                rows::id_of_name::<Snapshot>(entry).is_ok_and(|id| id == member.snapshot)
            };
            if let Some(entry) = entry.filter(ours) {
                txn.expect.push(Expect::At(key.clone(), entry.modified));
                txn.writes.push(Write::Delete(key));
            }
        }
        self.records.store().txn(txn).await?;
        Ok(())
    }

    /// Deletes a group and its snapshots. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// What its node refuses; the deletion then goes on by itself.
    pub async fn delete_group(&self, target: Target<Ref<GroupId>>) -> Result<(), ServiceError> {
        let Some(found) = self.records.find::<GroupSnapshot>(&target.what).await? else {
            return Ok(());
        };
        let (_held, group) = self.hold(&found, Op::Delete).await?;
        let Some(mut group) = group else {
            return Ok(());
        };
        if group.phase != Phase::Deleting {
            at_revision(&group, target.revision)?;
            for member in &group.members {
                let snapshot = self.records.by_id::<Snapshot>(member.snapshot).await?;
                snapshot.as_ref().map(unprotected).transpose()?;
                self.not_imaged(Snapshot::KIND, member.snapshot.into())
                    .await?;
            }
            if !self.is_lost(group.node).await? {
                self.require_open(group.pool, group.node).await?;
            }
        }
        let begun = self.pending.begin(Unfinished::Group(group.id));
        if group.phase != Phase::Deleting {
            group.phase = Phase::Deleting;
            self.records.update(&mut group).await?;
            hit(Point::GroupDeletionWished);
        }
        self.take_group_away(group, begun).await
    }

    /// Effect and fact of a deletion. The caller holds the group.
    async fn take_group_away(
        &self,
        group: GroupSnapshot,
        begun: Begun,
    ) -> Result<(), ServiceError> {
        for member in &group.members {
            let what = Ref::Id(member.snapshot);
            self.delete_snapshot(Target { what, revision: 0 }).await?;
        }
        // What never became a snapshot has no record to delete.
        let lost = self.is_lost(group.node).await?;
        if !lost {
            self.no_thin_of(&group).await?;
        }
        hit(Point::GroupDeletionDone);
        self.forget_group(&group, lost).await?;
        hit(Point::GroupDeletionRecorded);
        begun.done();
        Ok(())
    }

    /// Finishes whatever a group's record says is unfinished.
    pub(super) async fn finish_group(&self, id: GroupId) -> Result<(), ServiceError> {
        let Some(found) = self.records.by_id::<GroupSnapshot>(id).await? else {
            return Ok(());
        };
        let op = match found.phase {
            Phase::Creating => Op::Create,
            Phase::Deleting => Op::Delete,
            Phase::Ready | Phase::Failed | Phase::Closed => return Ok(()),
        };
        let (_held, group) = self.hold(&found, op).await?;
        let Some(group) = group else { return Ok(()) };
        let begun = self.pending.begin(Unfinished::Group(id));
        match group.phase {
            Phase::Creating => {
                let made = self.make_group(group, (Attempt::Again, begun)).await;
                made.map(drop)
            }
            Phase::Deleting => self.take_group_away(group, begun).await,
            Phase::Ready | Phase::Failed | Phase::Closed => {
                begun.done();
                Ok(())
            }
        }
    }

    /// One group.
    ///
    /// # Errors
    ///
    /// When there is none, or the store is away.
    pub async fn get_group(&self, what: &Ref<GroupId>) -> Result<GroupSnapshot, ServiceError> {
        self.records.get::<GroupSnapshot>(what, "target").await
    }

    /// Groups in order of creation.
    ///
    /// # Errors
    ///
    /// For a token that no page answered, or when the store is away.
    pub async fn list_groups(
        &self,
        listing: &Listing,
    ) -> Result<Listed<GroupSnapshot>, ServiceError> {
        self.list::<GroupSnapshot>(listing).await
    }
}
