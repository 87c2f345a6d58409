//! Snapshots of several thins at one instant.
//!
//! Called by `grpc`, and by `sweep` for what was cut short. One commit wishes for all of a group's
//! rows and one commit makes all of them facts, so nobody ever sees a part of a group that counts.
//! What a crash cut short is taken back as a whole: it was never acknowledged, a later half would
//! be of another instant, and only its caller knows how long writers may wait. Who asks again has
//! it begun anew.

use std::sync::Arc;
use std::time::Duration;

use goldleaf_types::{GroupId, Incarnation, PoolId, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::snapshots::{CreateSnapshot, same_snapshot_or_conflict};
use super::thins::{Attempt, CreateThin, fresh_row, pool_time, usable, write};
use super::view::ThinView;
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::images::Checked;
use crate::kernel::{GroupMember, KernelError};
use crate::telemetry::Chain;

/// Snapshots to be, all of one instant.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// Which group.
    pub group: GroupId,
    /// The pool of all of them.
    pub pool: PoolId,
    /// The snapshots.
    pub members: Vec<CreateSnapshot>,
    /// How long anything may be suspended.
    pub limit: Duration,
}

impl CreateGroup {
    /// Whatever is locked: the snapshots and what they are of.
    fn owners(&self) -> Vec<ThinOwner> {
        let both = |member: &CreateSnapshot| [member.owner, member.source];
        self.members.iter().flat_map(both).collect()
    }
}

impl Agent {
    /// Makes a group's snapshots, all or none. Asking again changes nothing. Blocks; writers of
    /// live sources wait, no longer than the limit.
    ///
    /// # Errors
    ///
    /// Every [`ThinError`]; a refused group leaves no trace.
    pub fn create_group(
        &self,
        caller: Option<Incarnation>,
        request: CreateGroup,
    ) -> Result<Vec<ThinView>, ThinError> {
        let pool = self
            .pools
            .open(request.pool)
            .ok_or(ThinError::NoPool(request.pool))?;
        pool.admit(caller)?;
        let compared: Vec<_> = request
            .members
            .iter()
            .map(|member| {
                let source = pool.catalogue.find(member.source);
                source.and_then(|source| self.compared(&source))
            })
            .collect();
        let _held = pool.lock(&request.owners())?;
        let known = known(&pool, &request)?;
        if known.iter().flatten().count() == known.len()
            && known.iter().flatten().all(|row| row.phase == Phase::Ready)
        {
            let views = known.iter().flatten().map(|row| self.view(&pool, row));
            return views.collect();
        }
        for (member, row) in request.members.iter().zip(&known) {
            if row.is_none() {
                self.not_deleted(member.owner)?;
            }
        }
        for (member, compared) in request.members.iter().zip(compared) {
            self.check_member(&pool, member, compared)?;
        }
        pool.check_calm(&*self.kernel)?;
        let attempt = match known.iter().flatten().count() {
            0 => Attempt::First,
            _ => Attempt::Again,
        };
        let limit = request.limit;
        let mut rows = wish(&pool, request)?;
        hit(Point::GroupWished);
        if attempt == Attempt::Again {
            // What a crash left of it is of another instant, and nobody was ever told of it.
            self.no_part(&pool, &rows)?;
        }
        if let Err(error) = self.make_group(&pool, &mut rows, limit) {
            let left = matches!(&error, ThinError::Kernel(KernelError::PartsLeft { .. }));
            if !left {
                tracing::info!(error = %Chain(&error), "a group is taken back");
                self.withdraw_group(&pool, rows)?;
            }
            return Err(error);
        }
        hit(Point::GroupMade);
        // From here on it is there: whatever fails, nothing of it is taken back.
        let rows = self.record_group(&pool, rows)?;
        rows.iter().map(|row| self.view(&pool, row)).collect()
    }

    /// A source that a snapshot can be taken of, over its right image if it is live: nothing is
    /// compared between its suspension and its resumption.
    fn check_member(
        &self,
        pool: &OpenPool,
        member: &CreateSnapshot,
        compared: Option<Checked>,
    ) -> Result<(), ThinError> {
        let source = pool
            .catalogue
            .find(member.source)
            .ok_or(ThinError::NotFound(member.source))?;
        usable(pool, &source)?;
        self.check_source(pool, &source, false, compared).map(drop)
    }

    /// Effect of a group that is wished for: all of it or, unless some of it cannot be taken back,
    /// nothing. An id that turns out to be somebody's is quarantined. The caller holds all its locks.
    fn make_group(
        &self,
        pool: &OpenPool,
        rows: &mut [ThinRecord],
        limit: Duration,
    ) -> Result<(), ThinError> {
        loop {
            let members = rows.iter().map(|row| self.member(pool, row));
            let members = members.collect::<Result<Vec<_>, _>>()?;
            match self.kernel.create_group(pool.id, &members, limit) {
                Ok(()) => return Ok(()),
                Err(KernelError::ForeignThin { thin, .. }) => {
                    tracing::warn!(pool = %pool.id, %thin, "a thin that nobody owns; quarantined");
                    for row in rows.iter_mut().filter(|row| row.thin == thin) {
                        *row = self.renumber(pool, row.clone())?;
                    }
                }
                Err(error) => return Err(ThinError::Kernel(error)),
            }
        }
    }

    /// Fact of a group that is there.
    fn record_group(
        &self,
        pool: &OpenPool,
        mut rows: Vec<ThinRecord>,
    ) -> Result<Vec<ThinRecord>, ThinError> {
        let instant = pool_time();
        for row in &mut rows {
            row.phase = Phase::Ready;
            row.created = instant;
        }
        let facts = rows.clone();
        write(pool, move |all| {
            facts.into_iter().for_each(|row| all.replace(row));
            Ok(())
        })?;
        hit(Point::GroupRecorded);
        rows.iter().for_each(|row| self.thin_changed(row.owner));
        Ok(rows)
    }

    /// Leaves no thin of a group that nobody was told of.
    fn no_part(&self, pool: &OpenPool, rows: &[ThinRecord]) -> Result<(), ThinError> {
        rows.iter().try_for_each(|row| {
            let gone = self.kernel.ensure_no_thin(pool.id, row.thin);
            gone.map(|_| ()).map_err(ThinError::Kernel)
        })
    }

    fn member(&self, pool: &OpenPool, row: &ThinRecord) -> Result<GroupMember, ThinError> {
        let parent = row.parent.ok_or(ThinError::NotFound(row.owner))?;
        let source = pool
            .catalogue
            .find(parent)
            .ok_or(ThinError::NotFound(parent))?;
        let live = self.kernel.find_live(parent).map_err(ThinError::Kernel)?;
        Ok(GroupMember {
            thin: row.thin,
            source: source.thin,
            live: live.map(|_| parent),
        })
    }

    /// Takes back what was wished for in vain and has no thin. In a pool that takes no change any
    /// more the wish stays: what the kernel said to be gone may not be.
    fn withdraw_group(&self, pool: &OpenPool, rows: Vec<ThinRecord>) -> Result<(), ThinError> {
        pool.check_writable(&*self.kernel)?;
        let owners: Vec<_> = rows.iter().map(|row| row.owner).collect();
        write(pool, move |all| {
            rows.iter().for_each(|row| all.remove(row.owner));
            Ok(())
        })?;
        owners
            .into_iter()
            .for_each(|owner| self.thin_changed(owner));
        Ok(())
    }

    /// Takes back a group that a crash cut short, as a whole. Its caller asks again, and says how
    /// long its volumes may be stopped.
    pub(super) fn sweep_group(
        &self,
        pool: &Arc<OpenPool>,
        group: GroupId,
    ) -> Result<(), ThinError> {
        let of_group = |row: &ThinRecord| row.group == Some(group);
        let unfinished = |row: &ThinRecord| of_group(row) && row.phase == Phase::Creating;
        let find = || {
            let all = pool.catalogue.all().into_iter();
            all.filter(unfinished).collect::<Vec<_>>()
        };
        let owners = find()
            .into_iter()
            .flat_map(|row| std::iter::once(row.owner).chain(row.parent));
        let _held = pool.locks.take(&owners.collect::<Vec<_>>());
        let rows = find();
        if rows.is_empty() {
            return Ok(());
        }
        // Their writers may hang since the crash; a source over a wrong image stays as it is.
        for parent in rows.iter().filter_map(|row| row.parent) {
            self.let_run(pool, parent);
        }
        tracing::info!(%group, "taking back what a crash cut short");
        self.no_part(pool, &rows)?;
        self.withdraw_group(pool, rows)
    }
}

/// The group that a row was wished for with, until it is made.
pub(super) fn unfinished(row: &ThinRecord) -> Option<GroupId> {
    row.group.filter(|_| row.phase == Phase::Creating)
}

/// The rows that there are of a group, each the one that is asked for.
fn known(pool: &OpenPool, request: &CreateGroup) -> Result<Vec<Option<ThinRecord>>, ThinError> {
    let mut rows = Vec::new();
    for member in &request.members {
        let row = match pool.catalogue.find(member.owner) {
            Some(row) if row.group != Some(request.group) => {
                return Err(ThinError::Conflict {
                    owner: member.owner,
                    field: "group",
                });
            }
            Some(row) => Some(same_snapshot_or_conflict(row, member)?),
            None => None,
        };
        rows.push(row);
    }
    let ready = |row: &&ThinRecord| row.phase == Phase::Ready;
    let done = rows.iter().flatten().find(ready);
    if let Some(done) = done
        && rows.iter().any(Option::is_none)
    {
        // A later snapshot would be of another instant.
        return Err(ThinError::Conflict {
            owner: done.owner,
            field: "members",
        });
    }
    Ok(rows)
}

/// All rows of a group, in one commit.
fn wish(pool: &OpenPool, request: CreateGroup) -> Result<Vec<ThinRecord>, ThinError> {
    write(pool, move |all| {
        let mut rows = Vec::new();
        for member in request.members {
            if let Some(row) = all.find(member.owner) {
                rows.push(row);
                continue;
            }
            let source = all
                .find(member.source)
                .ok_or(ThinError::NotFound(member.source))?;
            let wanted = CreateThin {
                owner: member.owner,
                name: member.name,
                pool: request.pool,
                size: source.size,
                image: source.image.map(|image| image.digest),
                labels: member.labels,
                parameters: member.parameters,
                epoch: member.epoch,
                activate: None,
            };
            let row = fresh_row(all, wanted, source.image, Some(source.owner), pool_time())?;
            let row = ThinRecord {
                group: Some(request.group),
                ..row
            };
            all.insert(row.clone());
            rows.push(row);
        }
        Ok(rows)
    })
}
