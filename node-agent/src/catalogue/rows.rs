//! The catalogue's rows in memory, and the view of them that one change works on.
//!
//! A change works on [`Rows`]: what is durable, under what earlier changes of the same batch did,
//! under what it did itself. Nothing below is touched, so a change that fails leaves no trace.
//! Invariants kept here: one row for each owner, one owner for each thin id.

use std::collections::{BTreeMap, BTreeSet};

use goldleaf_types::{
    BlockSize, Bytes, Digest, GroupId, Incarnation, Labels, Name, NodeId, PoolId, ThinId,
    ThinOwner, VolumeSize,
};

use super::error::CatalogueError;

/// Where a row is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Wished for; the thin may be there or not.
    Creating,
    /// The thin is there.
    Ready,
    /// Wished away; the thin may be there or not.
    Deleting,
}

/// For whom a volume is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The host: libvirt, scripts. Revived at boot.
    Host,
    /// Kubernetes, which asks again after a reboot.
    Csi,
}

/// What writers of a full pool meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSpace {
    /// They wait for room.
    Queue,
    /// They get an error.
    Error,
}

/// The image under a thin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Which content.
    pub digest: Digest,
    /// How long it is, whatever the volume's size.
    pub size: Bytes,
}

/// All there is to know of a thin but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinRecord {
    /// Whose thin.
    pub owner: ThinOwner,
    /// Its name.
    pub name: Name,
    /// Labels that people set.
    pub labels: Labels,
    /// Its size.
    pub size: VolumeSize,
    /// The number the kernel knows it by.
    pub thin: ThinId,
    /// The image that shows through.
    pub image: Option<ImageRef>,
    /// What it was when it began, if a snapshot or clone.
    pub parent: Option<ThinOwner>,
    /// When it was wished for; of a snapshot, the time it shows.
    pub created: jiff::Timestamp,
    /// The request's parameters as the server gave them: at most [`Self::REQUEST_MAX`] bytes of
    /// text that nobody here reads.
    pub request: String,
    /// For whom it is to be active, if at all.
    pub holder: Option<Holder>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Grows when the volume moves; smaller ones are refused.
    pub epoch: u64,
    /// Moved away: never activated here again.
    pub sealed: bool,
    /// Activated for reading only.
    pub read_only: bool,
    /// The group that it was frozen with, if with one.
    pub group: Option<GroupId>,
    /// What its user changed of it since, as the server gave it: at most [`Self::MARKS_MAX`] bytes
    /// of text that nobody here reads.
    pub marks: String,
    /// Wished to be independent of its image, and how far that is.
    pub decouple: Option<Decouple>,
    /// Blocks of the pool that a repair of its metadata did not bring back to it: where they were,
    /// it reads as before it was written.
    pub lost_blocks: u64,
}

/// A copying that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decouple {
    /// Most bytes in a second; 0 is no cap.
    pub rate: Bytes,
    /// Everything before this is copied, durably.
    pub done: Bytes,
}

impl ThinRecord {
    /// Most bytes of `request`.
    pub const REQUEST_MAX: usize = 16 << 10;
    /// Most bytes of `marks`: all labels there can be, twice.
    pub const MARKS_MAX: usize = 64 << 10;
}

/// All there is to know of a pool but its thins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRecord {
    /// Which.
    pub id: PoolId,
    /// Its name.
    pub name: Name,
    /// What it allocates at a time.
    pub block_size: BlockSize,
    /// The life of the store whose changes it takes; `None` until one is adopted.
    pub incarnation: Option<Incarnation>,
    /// The transaction id that its metadata is to have.
    pub transaction_id: u64,
    /// Where the search for the next free thin id begins.
    pub next_thin: u32,
    /// What writers meet when it is full.
    pub no_space: NoSpace,
    /// How long they wait, in seconds; 0: as long as the kernel lets them.
    pub wait_seconds: u32,
    /// What the volumes' sizes may sum up to, in hundredths of the data; 0: no limit.
    pub overcommit_percent: u32,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Thin ids that metadata has and nobody owns: never handed out.
    pub quarantined: Vec<u32>,
    /// The host, by its node's id, at which the epochs are these; `None` in pools of versions that
    /// did not know it.
    pub home: Option<NodeId>,
    /// What is to take the place of its metadata before the pool is used again.
    pub repair: Option<Repair>,
}

/// Metadata that was repaired and is to be put in place: what is there may be half of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The file's name, in the repair folder of the host that is the pool's home.
    pub file: String,
    /// What it holds.
    pub digest: Digest,
}

/// Every thin id is in use or quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has no free thin id")]
pub struct NoThinIds;

/// A row and what it takes on disk.
#[derive(Clone, Debug)]
pub(super) struct StoredThin {
    pub(super) record: ThinRecord,
    /// Bytes of its key and its encoding.
    pub(super) cost: u64,
}

/// What is durable.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) pool: PoolRecord,
    pub(super) pool_cost: u64,
    pub(super) thins: BTreeMap<ThinOwner, StoredThin>,
    pub(super) ids: BTreeMap<ThinId, ThinOwner>,
    /// Sum of all costs.
    pub(super) used: u64,
}

/// What one change does, or a batch of them: `None` removes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) pool: Option<PoolRecord>,
    pub(super) thins: BTreeMap<ThinOwner, Option<ThinRecord>>,
    pub(super) ids: BTreeMap<ThinId, Option<ThinOwner>>,
}

impl Changes {
    /// Puts a later change on top.
    pub(super) fn add(&mut self, later: Self) {
        if let Some(pool) = later.pool {
            self.pool = Some(pool);
        }
        self.thins.extend(later.thins);
        self.ids.extend(later.ids);
    }
}

/// The rows as one change sees them and makes them.
#[derive(Debug)]
pub struct Rows<'a> {
    durable: &'a State,
    /// What earlier changes of the batch did.
    staged: &'a Changes,
    own: Changes,
    /// The first broken rule: the change will be refused.
    broken: Option<CatalogueError>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(durable: &'a State, staged: &'a Changes) -> Self {
        Self {
            durable,
            staged,
            own: Changes::default(),
            broken: None,
        }
    }

    /// What was done, unless a rule was broken.
    pub(super) fn finish(self) -> Result<Changes, CatalogueError> {
        match self.broken {
            None => Ok(self.own),
            Some(error) => Err(error),
        }
    }

    fn get(&self, owner: ThinOwner) -> Option<&ThinRecord> {
        let changed = self
            .own
            .thins
            .get(&owner)
            .or_else(|| self.staged.thins.get(&owner));
        match changed {
            Some(row) => row.as_ref(),
            None => self.durable.thins.get(&owner).map(|stored| &stored.record),
        }
    }

    fn user(&self, thin: ThinId) -> Option<ThinOwner> {
        let changed = self
            .own
            .ids
            .get(&thin)
            .or_else(|| self.staged.ids.get(&thin));
        match changed {
            Some(owner) => *owner,
            None => self.durable.ids.get(&thin).copied(),
        }
    }

    fn record(&self) -> &PoolRecord {
        let changed = self.own.pool.as_ref().or(self.staged.pool.as_ref());
        changed.unwrap_or(&self.durable.pool)
    }

    /// The row of `owner`.
    #[must_use]
    pub fn find(&self, owner: ThinOwner) -> Option<ThinRecord> {
        self.get(owner).cloned()
    }

    /// A row for which `wanted` holds, if there is one.
    pub fn find_where(&self, wanted: impl Fn(&ThinRecord) -> bool) -> Option<ThinRecord> {
        let changed = |owner: &ThinOwner| {
            self.own.thins.contains_key(owner) || self.staged.thins.contains_key(owner)
        };
        let later = self.own.thins.iter().chain(
            self.staged
                .thins
                .iter()
                .filter(|(owner, _)| !self.own.thins.contains_key(owner)),
        );
        let mut durable = self
            .durable
            .thins
            .iter()
            .filter(|(owner, _)| !changed(owner));
        later
            .filter_map(|(_, row)| row.as_ref())
            .find(|row| wanted(row))
            .or_else(|| durable.find_map(|(_, s)| wanted(&s.record).then_some(&s.record)))
            .cloned()
    }

    /// Every row, in order of owner.
    #[must_use]
    pub fn all(&self) -> Vec<ThinRecord> {
        let owners: BTreeSet<ThinOwner> = self
            .durable
            .thins
            .keys()
            .chain(self.staged.thins.keys())
            .chain(self.own.thins.keys())
            .copied()
            .collect();
        owners
            .into_iter()
            .filter_map(|owner| self.find(owner))
            .collect()
    }

    /// The sum of what each row counts for.
    #[must_use]
    pub fn sum(&self, count: impl Fn(&ThinRecord) -> u64) -> u64 {
        let own = self.own.thins.iter();
        let staged = self.staged.thins.iter();
        let staged = staged.filter(|(owner, _)| !self.own.thins.contains_key(owner));
        let changed = own.chain(staged).filter_map(|(_, row)| row.as_ref());
        let untouched = self.durable.thins.iter().filter(|(owner, _)| {
            !self.own.thins.contains_key(owner) && !self.staged.thins.contains_key(owner)
        });
        changed
            .chain(untouched.map(|(_, stored)| &stored.record))
            .fold(0, |sum, row| sum.saturating_add(count(row)))
    }

    /// The pool's record.
    #[must_use]
    pub fn pool(&self) -> PoolRecord {
        self.record().clone()
    }

    /// Replaces the pool's record. Its id stays.
    pub fn set_pool(&mut self, pool: PoolRecord) {
        self.own.pool = Some(pool);
    }

    /// Adds a row. An owner that has one already, or a thin that is another's, refuses the change.
    pub fn insert(&mut self, row: ThinRecord) {
        if self.get(row.owner).is_some() {
            self.break_rule(row.owner, "the owner has a row already");
        }
        self.put(row);
    }

    /// Puts a row in the place of its owner's former one, which must be there.
    pub fn replace(&mut self, row: ThinRecord) {
        match self.get(row.owner).map(|former| former.thin) {
            Some(thin) if thin == row.thin => {}
            Some(thin) => {
                self.own.ids.insert(thin, None);
            }
            None => self.break_rule(row.owner, "there is no row to replace"),
        }
        self.put(row);
    }

    /// Removes a row and frees its thin id. Nothing happens without one.
    pub fn remove(&mut self, owner: ThinOwner) {
        if let Some(thin) = self.get(owner).map(|row| row.thin) {
            self.own.ids.insert(thin, None);
            self.own.thins.insert(owner, None);
        }
    }

    /// Picks a thin id that no row has and that is not quarantined, the next one after the last
    /// that was picked: a late message never meets a new owner.
    ///
    /// # Errors
    ///
    /// [`NoThinIds`] when there is none.
    pub fn reserve_thin(&mut self) -> Result<ThinId, NoThinIds> {
        let pool = self.record();
        let quarantined: BTreeSet<u32> = pool.quarantined.iter().copied().collect();
        let first = pool.next_thin;
        let candidates = (first..=ThinId::MAX).chain(0..first.min(ThinId::MAX + 1));
        let found = candidates
            .filter(|raw| !quarantined.contains(raw))
            .filter_map(|raw| ThinId::new(raw).ok())
            .find(|thin| self.user(*thin).is_none())
            .ok_or(NoThinIds)?;
        let next = if found.get() == ThinId::MAX {
            0
        } else {
            found.get() + 1
        };
        self.set_pool(PoolRecord {
            next_thin: next,
            ..self.pool()
        });
        Ok(found)
    }

    fn put(&mut self, row: ThinRecord) {
        if self.user(row.thin).is_some_and(|user| user != row.owner) {
            self.break_rule(row.owner, "its thin is another owner's");
        }
        self.own.ids.insert(row.thin, Some(row.owner));
        self.own.thins.insert(row.owner, Some(row));
    }

    fn break_rule(&mut self, owner: ThinOwner, problem: &'static str) {
        self.broken
            .get_or_insert(CatalogueError::Rule { owner, problem });
    }
}
