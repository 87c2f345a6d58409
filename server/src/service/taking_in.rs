//! Records that come back from a pool's catalogue, or are set right by it.
//!
//! Called by `adoption`, with the pool's record held. Which of the two sides counts is decided in
//! `domain::fate`, one record at a time; each record is written in its own transaction, so a crash
//! leaves some of them done, and the same again does the rest. The node is asked for nothing but
//! whether a thin that is to come back is there still.

use std::collections::{BTreeMap, BTreeSet};

use goldleaf_types::{Bytes, Labels, Name, NodeId, PoolId, ThinOwner, VolumeSize};

use super::records::unchanged;
use super::views::condition;
use super::{Revised, Service, ServiceError, Unfinished};
use crate::domain::{
    Begin, CatalogueRow, CatalogueWord, Fate, GivenUp, Known, Marks, Phase, Snapshot, Trust,
    Volume, fate,
};
use crate::store::rows::{self, Row};
use crate::store::{Txn, Write};

/// A pool's catalogue, and where the pool is.
pub(super) struct Catalogue<'a> {
    pub(super) pool: PoolId,
    pub(super) node: NodeId,
    pub(super) rows: &'a [CatalogueRow],
}

/// What becomes of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of what.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub becomes: &'static str,
}

/// A record that lies on a thin, as this room sees it.
trait Settled: Revised + Row<Name = Name> + PartialEq {
    fn owner(&self) -> ThinOwner;
    fn known(&self) -> Known;
    /// Takes over what the catalogue says.
    fn follow(&mut self, row: &CatalogueRow, size: VolumeSize, node: NodeId);
    /// Takes over where the catalogue is.
    fn place(&mut self, row: &CatalogueRow, node: NodeId);
    fn fail(&mut self);
    fn set_name(&mut self, name: Name);
    fn unfinished(&self) -> Unfinished;
    /// Whether nothing is left to be done about it.
    fn is_done(&self) -> bool;
    /// What the catalogue says, as a record.
    fn taken_back(row: &CatalogueRow, size: VolumeSize, node: NodeId) -> Option<Self>;
}

impl Settled for Volume {
    fn owner(&self) -> ThinOwner {
        self.id.into()
    }

    fn known(&self) -> Known {
        Known {
            phase: self.phase,
            pool: self.pool,
            epoch: self.epoch,
        }
    }

    fn follow(&mut self, row: &CatalogueRow, size: VolumeSize, node: NodeId) {
        (self.phase, self.size, self.wanted_size) = (row.report.phase, size, None);
        (self.pool, self.node, self.epoch) = (row.report.pool, node, row.epoch);
        (self.image, self.decoupling) = (row.report.image, decoupling(row));
        (self.labels, self.marks) = said_of(row);
        self.conditions.clear();
    }

    fn place(&mut self, row: &CatalogueRow, node: NodeId) {
        (self.pool, self.node) = (row.report.pool, node);
        self.epoch = self.epoch.max(row.epoch);
    }

    fn fail(&mut self) {
        self.phase = Phase::Failed;
        self.conditions = vec![not_in_catalogue()];
    }

    fn set_name(&mut self, name: Name) {
        self.name = name;
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished::Volume(self.id)
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Ready && !self.wishes()
    }

    fn taken_back(row: &CatalogueRow, size: VolumeSize, node: NodeId) -> Option<Self> {
        Some(Self {
            id: row.report.owner.volume()?,
            name: row.name.clone(),
            labels: said_of(row).0,
            revision: 0,
            phase: row.report.phase,
            conditions: Vec::new(),
            created: row.report.created,
            size,
            wanted_size: None,
            decoupling: decoupling(row),
            pool: row.report.pool,
            node,
            begin: match (row.source, row.report.image) {
                (Some(source), _) => Begin::Thin(source),
                (None, Some(digest)) => Begin::Image(digest),
                (None, None) => Begin::Blank,
            },
            image: row.report.image,
            asked: row.asked.clone(),
            epoch: row.epoch,
            marks: said_of(row).1,
        })
    }
}

impl Settled for Snapshot {
    fn owner(&self) -> ThinOwner {
        self.id.into()
    }

    fn known(&self) -> Known {
        Known {
            phase: self.phase,
            pool: self.pool,
            epoch: 0, // it never moves alone
        }
    }

    fn follow(&mut self, row: &CatalogueRow, size: VolumeSize, node: NodeId) {
        (self.phase, self.size) = (row.report.phase, size);
        (self.pool, self.node) = (row.report.pool, node);
        self.image = row.report.image;
        (self.labels, self.marks) = said_of(row);
        self.conditions.clear();
    }

    fn place(&mut self, row: &CatalogueRow, node: NodeId) {
        (self.pool, self.node) = (row.report.pool, node);
    }

    fn fail(&mut self) {
        self.phase = Phase::Failed;
        self.conditions = vec![not_in_catalogue()];
    }

    fn set_name(&mut self, name: Name) {
        self.name = name;
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished::Snapshot(self.id)
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Ready
    }

    fn taken_back(row: &CatalogueRow, size: VolumeSize, node: NodeId) -> Option<Self> {
        let ThinOwner::Snapshot(id) = row.report.owner else {
            return None;
        };
        Some(Self {
            id,
            name: row.name.clone(),
            labels: said_of(row).0,
            revision: 0,
            phase: row.report.phase,
            conditions: Vec::new(),
            created: row.report.created,
            size,
            pool: row.report.pool,
            node,
            image: row.report.image,
            source: row.source?,
            asked_source: row.asked.source.clone(),
            marks: said_of(row).1,
            group: row.part.as_ref().map(|part| part.group),
        })
    }
}

/// A ready one that its node is making independent of its image, at the rate that its row says.
fn decoupling(row: &CatalogueRow) -> Option<Bytes> {
    match row.report.phase {
        Phase::Ready => row.report.progress.map(|_| Bytes(0)),
        Phase::Creating | Phase::Deleting | Phase::Failed | Phase::Closed => None,
    }
}

fn not_in_catalogue() -> crate::domain::Condition {
    condition(
        "DataPresent",
        false,
        "NotInCatalogue",
        "it was being made in another life of the store, and its pool does not have it: delete it \
         and ask anew"
            .into(),
    )
}

impl Service {
    /// What would become of each record of a pool; those that stay are left out.
    pub(super) async fn planned(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<Vec<Change>, ServiceError> {
        let mut all = self.planned_of::<Volume>(catalogue, trust).await?;
        all.extend(self.planned_of::<Snapshot>(catalogue, trust).await?);
        all.extend(self.planned_groups(catalogue, trust).await?);
        Ok(all)
    }

    async fn planned_of<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<Vec<Change>, ServiceError> {
        let fates = self.fates::<T>(catalogue, trust).await?;
        let change = |(owner, (record, fate)): (&ThinOwner, &(Option<T>, Fate))| {
            let row = catalogue.rows.iter().find(|r| r.report.owner == *owner);
            let name = record.as_ref().map(|r| r.name().to_string());
            let name = name.or_else(|| row.map(|row| row.name.to_string()));
            (!matches!(fate, Fate::Stays | Fate::Nothing)).then(|| Change {
                kind: T::KIND,
                id: owner.to_string(),
                name: name.unwrap_or_default(),
                becomes: fate.becomes(),
            })
        };
        Ok(fates.iter().filter_map(change).collect())
    }

    /// The fate of every record and row of one kind that have to do with a pool.
    async fn fates<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<BTreeMap<ThinOwner, (Option<T>, Fate)>, ServiceError> {
        let given_up = self.records.all::<GivenUp>().await?;
        let given_up: BTreeSet<ThinOwner> = given_up.iter().map(|g| g.owner).collect();
        let rows: BTreeMap<ThinOwner, &CatalogueRow> = catalogue
            .rows
            .iter()
            .map(|row| (row.report.owner, row))
            .collect();
        let mut fates = BTreeMap::new();
        for record in self.records.all::<T>().await? {
            let row = rows.get(&record.owner()).copied();
            if row.is_some() || record.known().pool == catalogue.pool {
                let decided = fate(Some(record.known()), row.map(word), trust, false);
                fates.insert(record.owner(), (Some(record), decided));
            }
        }
        for (owner, row) in rows {
            let ours = T::taken_back(row, size(row)?, catalogue.node).is_some();
            if ours && !fates.contains_key(&owner) {
                let decided = fate(None, Some(word(row)), trust, given_up.contains(&owner));
                fates.insert(owner, (None, decided));
            }
        }
        Ok(fates)
    }

    /// Refuses when a name in the catalogue is taken by something that is there still.
    pub(super) async fn names_are_free(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        self.names_of::<Volume>(catalogue, trust).await?;
        self.names_of::<Snapshot>(catalogue, trust).await?;
        self.group_names_are_free(catalogue, trust).await
    }

    async fn names_of<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        let fates = self.fates::<T>(catalogue, trust).await?;
        let stays = |owner: ThinOwner| match fates.get(&owner) {
            Some((_, fate)) => !matches!(fate, Fate::Lost | Fate::Failed | Fate::Gone),
            None => true,
        };
        for row in catalogue.rows {
            let taken_back = matches!(fates.get(&row.report.owner), Some((_, Fate::TakenBack)));
            if taken_back
                && let Some(other) = self.records.by_name::<T>(&row.name).await?
                && stays(other.owner())
            {
                return Err(taken(T::KIND, &row.name, catalogue.pool));
            }
        }
        Ok(())
    }

    /// Brings the records of a pool and its catalogue together.
    pub(super) async fn settle_records(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        if trust == Trust::Catalogue {
            self.settle_groups(catalogue).await?;
        }
        self.settle_all::<Volume>(catalogue, trust).await?;
        self.settle_all::<Snapshot>(catalogue, trust).await?;
        self.take_groups_back(catalogue, trust).await?;
        if trust == Trust::Catalogue {
            self.forget_notes(catalogue).await?;
        }
        Ok(())
    }

    async fn settle_all<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        let fates = self.fates::<T>(catalogue, trust).await?;
        // What is not there gives up its name before what is there takes it.
        let (there, absent): (Vec<_>, Vec<_>) = fates
            .into_iter()
            .partition(|(_, (_, fate))| *fate == Fate::TakenBack);
        for (owner, _) in absent.into_iter().chain(there) {
            self.settle_one::<T>(catalogue, owner, trust).await?;
        }
        Ok(())
    }

    /// One record, read and decided on again under its lock.
    async fn settle_one<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        owner: ThinOwner,
        trust: Trust,
    ) -> Result<(), ServiceError> {
        let key = format!("{}/{owner}", T::KIND);
        let _held = self.locks.take_inner(key.clone()).await;
        let record = match self.records.store().get(&key).await? {
            Some(entry) => Some(T::from_entry(&entry)?),
            None => None,
        };
        let row = catalogue.rows.iter().find(|r| r.report.owner == owner);
        let given_up = self.records.by_id::<GivenUp>(owner).await?.is_some();
        let decided = fate(
            record.as_ref().map(T::known),
            row.map(word),
            trust,
            given_up,
        );
        match (decided, record, row) {
            (Fate::TakenBack, None, Some(row)) if self.is_there(catalogue, owner).await? => {
                self.take_back_one::<T>(catalogue, row).await
            }
            (Fate::Follows, Some(mut record), Some(row)) => {
                let before = record.clone();
                record.follow(row, size(row)?, catalogue.node);
                self.rewrite(record, &before).await
            }
            (Fate::Failed, Some(mut record), _) => {
                let before = record.clone();
                record.fail();
                self.rewrite(record, &before).await
            }
            (Fate::Gone, Some(record), _) => self.records.remove(&record).await,
            (Fate::Stays, Some(mut record), Some(row)) => {
                let before = record.clone();
                record.place(row, catalogue.node);
                self.rewrite(record, &before).await
            }
            (_, _, _) => Ok(()),
        }
    }

    /// Whether a thin is there still. What was deleted since the catalogue was read must not come
    /// back; the caller holds its record, so none of ours is deleted from here on.
    async fn is_there(
        &self,
        catalogue: &Catalogue<'_>,
        owner: ThinOwner,
    ) -> Result<bool, ServiceError> {
        match self.agent_of(catalogue.node).await?.thin(owner).await {
            Ok(report) => Ok(report.phase != Phase::Deleting),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a record that is other than before; what it says is unfinished goes to the loop.
    async fn rewrite<T: Settled>(&self, mut record: T, before: &T) -> Result<(), ServiceError> {
        if record == *before {
            return Ok(());
        }
        let begun = self.pending.begin(record.unfinished());
        self.records.update(&mut record).await?;
        if record.is_done() {
            begun.done();
        }
        Ok(())
    }

    /// Makes a record of what the catalogue says. Who holds its name and is not there gives it up.
    async fn take_back_one<T: Settled>(
        &self,
        catalogue: &Catalogue<'_>,
        row: &CatalogueRow,
    ) -> Result<(), ServiceError> {
        let Some(mut record) = T::taken_back(row, size(row)?, catalogue.node) else {
            return Ok(());
        };
        if let Some(mut other) = self.records.by_name::<T>(record.name()).await? {
            let there = |o: ThinOwner| catalogue.rows.iter().any(|r| r.report.owner == o);
            if other.known().pool != catalogue.pool || there(other.owner()) {
                return Err(taken(T::KIND, record.name(), catalogue.pool));
            }
            let former = other.name().clone();
            other.set_name(lost_name(&former, &other.owner().to_string())?);
            tracing::info!(owner = %other.owner(), %former, name = %other.name(),
                "what is lost gives its name to what is there");
            self.records.rename(&mut other, &former).await?;
        }
        let begun = self.pending.begin(record.unfinished());
        self.records.insert(&mut record, Vec::new()).await?;
        if record.is_done() {
            begun.done();
        }
        Ok(())
    }

    /// Deletions that were noted in another life, of what is there: they are old wishes.
    async fn forget_notes(&self, catalogue: &Catalogue<'_>) -> Result<(), ServiceError> {
        for row in catalogue.rows {
            let key = rows::key::<GivenUp>(row.report.owner);
            let _held = self.locks.take_inner(key.clone()).await;
            if let Some(note) = self.records.by_id::<GivenUp>(row.report.owner).await? {
                let txn = Txn {
                    expect: vec![unchanged(&note)],
                    writes: vec![Write::Delete(key)],
                };
                self.records.store().txn(txn).await?;
            }
        }
        Ok(())
    }
}

/// Labels and marks, as its user last changed them.
fn said_of(row: &CatalogueRow) -> (Labels, Marks) {
    match row.marks.clone() {
        Some(kept) => (kept.labels, kept.marks),
        None => (row.labels.clone(), Marks::default()),
    }
}

fn word(row: &CatalogueRow) -> CatalogueWord {
    CatalogueWord {
        phase: row.report.phase,
        pool: row.report.pool,
        epoch: row.epoch,
    }
}

/// The refusal of a name that is taken.
pub(super) fn taken(kind: &'static str, name: &Name, pool: PoolId) -> ServiceError {
    ServiceError::Unfit {
        kind,
        name: name.to_string(),
        why: format!(
            "is also the name of what {pool} holds: rename or delete the one that is here, then ask \
             again"
        ),
    }
}

/// The name of something lost whose own name is needed.
pub(super) fn lost_name(name: &Name, id: &str) -> Result<Name, ServiceError> {
    let short: String = name.as_str().chars().take(100).collect();
    let text = format!("{short}.lost-{}", &id[id.len().saturating_sub(12)..]);
    text.parse().map_err(|_| ServiceError::Unfit {
        kind: "name",
        name: text,
        why: "cannot be a name: delete what is lost first".into(),
    })
}

fn size(row: &CatalogueRow) -> Result<VolumeSize, ServiceError> {
    VolumeSize::new(row.report.size.0).map_err(|error| ServiceError::Unfit {
        kind: "volume",
        name: row.name.to_string(),
        why: format!("has a size in its pool's catalogue that none can have: {error}"),
    })
}
