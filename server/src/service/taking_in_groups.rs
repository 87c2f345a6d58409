//! Groups that come back from a pool's catalogue, or are set right by it.
//!
//! Called by `taking_in`, with the pool's record held: what is old is settled before the snapshots,
//! and what is not known is made of them afterwards. A group has no row of its own on its pool: each
//! of its snapshots says which part of which group it is. A crash leaves some groups without a
//! record, and the same again makes those.

use std::collections::BTreeMap;

use goldleaf_types::{GroupId, NodeId, PoolId, ThinOwner, VolumeSize};

use super::taking_in::{Catalogue, Change, lost_name, taken};
use super::{Service, ServiceError};
use crate::domain::{
    CatalogueRow, Fate, GivenUp, GroupMember, GroupPart, GroupSnapshot, Phase, Snapshot, Trust,
};
use crate::store::rows::{self, Row};

/// More volumes than any group has: what a row says of more is not believed.
const MOST_PARTS: usize = 1024;

impl Service {
    /// The groups that would come back.
    pub(super) async fn planned_groups(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<Vec<Change>, ServiceError> {
        let unknown = self.unknown_groups(catalogue, trust).await?;
        let change = |group: GroupSnapshot| Change {
            kind: GroupSnapshot::KIND,
            id: group.id.to_string(),
            name: group.name.to_string(),
            becomes: Fate::TakenBack.becomes(),
        };
        Ok(unknown.into_iter().map(change).collect())
    }

    /// Refuses when the name of a group that would come back is taken by one that is there still.
    pub(super) async fn group_names_are_free(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        for group in self.unknown_groups(catalogue, trust).await? {
            if let Some(other) = self.records.by_name::<GroupSnapshot>(&group.name).await?
                && !is_lost(catalogue, &other)
            {
                return Err(taken(GroupSnapshot::KIND, &group.name, catalogue.pool));
            }
        }
        Ok(())
    }

    /// Makes records of the groups that are not known, of those of their snapshots that are.
    pub(super) async fn take_groups_back(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        for told in self.unknown_groups(catalogue, trust).await? {
            let key = rows::key::<GroupSnapshot>(told.id);
            let _held = self.locks.take_inner(key).await;
            if self
                .records
                .by_id::<GroupSnapshot>(told.id)
                .await?
                .is_some()
            {
                continue;
            }
            let mut group = told.clone();
            group.members.clear();
            for member in told.members {
                // One that was deleted since its row was read is not brought back by its group.
                let snapshot = self.records.by_id::<Snapshot>(member.snapshot).await?;
                let here = |s: Snapshot| s.phase == Phase::Ready && s.group == Some(told.id);
                if snapshot.is_some_and(here) {
                    group.members.push(member);
                }
            }
            if !group.members.is_empty() {
                self.take_group_back(catalogue, group).await?;
            }
        }
        Ok(())
    }

    /// Makes a group's record. Who holds its name and is not there gives it up.
    async fn take_group_back(
        &self,
        catalogue: &Catalogue<'_>,
        mut group: GroupSnapshot,
    ) -> Result<(), ServiceError> {
        if let Some(mut other) = self.records.by_name::<GroupSnapshot>(&group.name).await? {
            if !is_lost(catalogue, &other) {
                return Err(taken(GroupSnapshot::KIND, &group.name, catalogue.pool));
            }
            let former = other.name.clone();
            other.name = lost_name(&former, &other.id.to_string())?;
            tracing::info!(group = %other.id, %former, name = %other.name,
                "what is lost gives its name to what is there");
            self.records.rename(&mut other, &former).await?;
        }
        self.records.insert(&mut group, Vec::new()).await
    }

    /// The groups of a catalogue's snapshots that have no record.
    async fn unknown_groups(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<Vec<GroupSnapshot>, ServiceError> {
        let mut parts: BTreeMap<GroupId, Vec<Part<'_>>> = BTreeMap::new();
        for row in catalogue.rows {
            let Some(part) = row.part.as_ref() else {
                continue;
            };
            // In this life of the store, what its user gave up stays away.
            let given_up = trust == Trust::Record
                && self
                    .records
                    .by_id::<GivenUp>(row.report.owner)
                    .await?
                    .is_some();
            if row.report.phase == Phase::Ready && !given_up {
                parts
                    .entry(part.group)
                    .or_default()
                    .push(Part { part, row });
            }
        }
        let mut unknown = Vec::new();
        for (id, parts) in parts {
            if self.records.by_id::<GroupSnapshot>(id).await?.is_none() {
                unknown.extend(told(id, parts, (catalogue.pool, catalogue.node)));
            }
        }
        Ok(unknown)
    }

    /// Groups of another life: made when all their snapshots are there, else they are none. No old
    /// wish deletes one.
    pub(super) async fn settle_groups(
        &self,
        catalogue: &Catalogue<'_>,
    ) -> Result<(), ServiceError> {
        for group in self.records.all::<GroupSnapshot>().await? {
            if group.pool != catalogue.pool {
                continue;
            }
            let _held = self
                .locks
                .take_inner(rows::key::<GroupSnapshot>(group.id))
                .await;
            let Some(mut group) = self.records.by_id::<GroupSnapshot>(group.id).await? else {
                continue;
            };
            let made = |owner: ThinOwner| {
                let mut rows = catalogue.rows.iter();
                rows.any(|r| r.report.owner == owner && r.report.phase == Phase::Ready)
            };
            let here = group.members.iter().filter(|m| made(m.snapshot.into()));
            let here = here.count();
            let instant = |owner: ThinOwner| {
                let mut rows = catalogue.rows.iter();
                rows.find(|r| r.report.owner == owner)
                    .map(|r| r.report.created)
            };
            let instant = group
                .members
                .first()
                .and_then(|m| instant(m.snapshot.into()));
            let instant = instant.unwrap_or(group.created);
            match group.phase {
                Phase::Creating if here == group.members.len() => {
                    drop(self.group_is_made(group, instant).await?)
                }
                Phase::Creating => self.forget_group(&group, false).await?,
                Phase::Deleting if here == 0 => self.forget_group(&group, false).await?,
                Phase::Deleting => {
                    group.phase = Phase::Ready;
                    self.records.update(&mut group).await?;
                }
                Phase::Ready | Phase::Failed | Phase::Closed => {}
            }
        }
        Ok(())
    }
}

/// A snapshot's row, and what it says of its group.
struct Part<'a> {
    part: &'a GroupPart,
    row: &'a CatalogueRow,
}

impl Part<'_> {
    fn member(&self) -> Option<GroupMember> {
        let ThinOwner::Snapshot(snapshot) = self.row.report.owner else {
            return None;
        };
        Some(GroupMember {
            snapshot,
            name: self.row.name.clone(),
            source: self.row.source?.volume()?,
            size: VolumeSize::new(self.row.report.size.0).ok()?,
            image: self.row.report.image,
        })
    }
}

/// The group that its parts tell of. What is not told is left empty: the volume that was asked for
/// of a snapshot that is not there.
fn told(
    id: GroupId,
    mut parts: Vec<Part<'_>>,
    (pool, node): (PoolId, NodeId),
) -> Option<GroupSnapshot> {
    parts.sort_by_key(|part| part.part.index);
    let first = parts.first()?;
    let count = usize::try_from(first.part.count).ok()?.min(MOST_PARTS);
    let mut asked_volumes = vec![String::new(); count];
    for Part { part, .. } in &parts {
        let index = usize::try_from(part.index).ok()?;
        if let Some(asked) = asked_volumes.get_mut(index) {
            asked.clone_from(&part.asked_volume);
        }
    }
    Some(GroupSnapshot {
        id,
        name: first.part.name.clone(),
        labels: first.row.labels.clone(),
        revision: 0,
        phase: Phase::Ready,
        conditions: Vec::new(),
        created: first.row.report.created,
        pool,
        node,
        asked_volumes,
        deadline_ms: first.part.deadline_ms,
        members: parts.iter().filter_map(Part::member).collect(),
    })
}

/// Whether a group is of this pool, and none of its snapshots is there.
fn is_lost(catalogue: &Catalogue<'_>, group: &GroupSnapshot) -> bool {
    let there = |owner: ThinOwner| catalogue.rows.iter().any(|r| r.report.owner == owner);
    let mut members = group.members.iter();
    group.pool == catalogue.pool && !members.any(|member| there(member.snapshot.into()))
}
