//! The catalogue's copies: each commit is durable in all that work before it is answered.
//!
//! Used by `writer`, which owns them. Each copy is a catalogue of its own in its own region, so what
//! damages one does not reach the other. Each counts its commits: at opening the sound copy of the
//! most commits wins and the others are made anew from it. A copy that fails is left behind; before
//! anything more is answered, the one that goes on says durably that it alone has everything, so
//! that an older copy is never taken for the newest. A crash leaves each copy after some whole batch.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use goldleaf_types::PoolId;

use super::error::CatalogueError;
use super::region::{Medium, RegionStorage};
use super::rows::{PoolRecord, State};
use super::shapes::{encode_pool, encode_thin};
use super::store::{Batch, Store, pool_key, thin_key, unwritable};

/// Why a catalogue has one copy less than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Which copy: 0 is the first.
    pub copy: usize,
    /// What happened to it, in words.
    pub why: String,
}

/// What is shown of the copies' state.
pub(super) type Shown = Arc<RwLock<Option<Degraded>>>;

/// A region's word about its copy.
trait Sole: Debug + Send {
    fn set(&self, sole: bool) -> io::Result<()>;
}

impl<M: Medium> Sole for RegionStorage<M> {
    fn set(&self, sole: bool) -> io::Result<()> {
        self.set_sole(sole)
    }
}

#[derive(Debug)]
struct Copy {
    /// `None` once it was left behind.
    store: Option<Store>,
    region: Box<dyn Sole>,
}

/// Every copy of one catalogue.
#[derive(Debug)]
pub(super) struct Copies {
    copies: Vec<Copy>,
    shown: Shown,
}

impl Copies {
    /// Makes each copy in a blank region.
    pub(super) fn create<M: Medium>(
        regions: Vec<RegionStorage<M>>,
        pool: &PoolRecord,
    ) -> Result<(Self, State), CatalogueError> {
        let mut copies = Vec::new();
        let mut state = None;
        for region in regions {
            let (store, made) = Store::create(region.clone(), pool)?;
            copies.push(Copy {
                store: Some(store),
                region: Box::new(region),
            });
            state = Some(made);
        }
        let shown = Shown::default();
        Ok((Self { copies, shown }, state.ok_or(CatalogueError::Blank)?))
    }

    /// Opens the newest sound copy and makes the others like it. `pool`: whose they are to be.
    pub(super) fn open<M: Medium>(
        regions: Vec<RegionStorage<M>>,
        pool: PoolId,
    ) -> Result<(Self, State), CatalogueError> {
        let mut found: Vec<_> = regions.iter().map(|r| open_one(r, pool)).collect();
        let winner = choose(&regions, &found)?;
        let commits = found[winner].as_ref().map_or(0, |(store, _)| store.commits);
        let state = match &found[winner] {
            Ok((_, state)) => state.clone(),
            Err(error) => return Err(error.clone()),
        };
        // After a failed write the page cache may show what the device never got.
        let alone = regions[winner].is_sole().unwrap_or(true);
        let mut degraded = None;
        let mut stores = Vec::new();
        for (index, one) in found.drain(..).enumerate() {
            if index == winner
                || one
                    .as_ref()
                    .is_ok_and(|(s, is)| !alone && s.commits == commits && is.same(&state))
            {
                stores.push(one.ok().map(|(store, _)| store));
                continue;
            }
            match one {
                Ok((store, _)) => tracing::warn!(
                    copy = index,
                    at = store.commits,
                    newest = commits,
                    "an older copy of the catalogue; made anew"
                ),
                Err(error) => {
                    tracing::warn!(copy = index, error = %crate::telemetry::Chain(&error),
                    "an unusable copy of the catalogue; made anew")
                }
            }
            match rebuild(&regions[index], &state, commits) {
                Ok(store) => stores.push(Some(store)),
                Err(error) => {
                    let why = crate::telemetry::Chain(&error).to_string();
                    tracing::error!(
                        copy = index,
                        why,
                        "a copy of the catalogue cannot be written"
                    );
                    degraded = Some(Degraded { copy: index, why });
                    stores.push(None);
                }
            }
        }
        let copies = stores.into_iter().zip(regions).map(|(store, region)| Copy {
            store,
            region: Box::new(region) as Box<dyn Sole>,
        });
        let copies = Self {
            copies: copies.collect(),
            shown: Arc::new(RwLock::new(degraded.clone())),
        };
        if degraded.is_some() {
            copies.say_sole()?;
        } else {
            copies.say_together();
        }
        Ok((copies, state))
    }

    /// What is shown of their state, now and later.
    pub(super) fn shown(&self) -> Shown {
        Arc::clone(&self.shown)
    }

    /// Bytes that keys and rows may take in each.
    pub(super) fn limit(&self) -> goldleaf_types::Bytes {
        let limits = self
            .copies
            .iter()
            .filter_map(|c| Some(c.store.as_ref()?.limit));
        limits.min().unwrap_or(goldleaf_types::Bytes(0))
    }

    /// Makes a batch durable in every copy that works; one is enough.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), CatalogueError> {
        let results = self.commit_each(batch);
        if !results.iter().any(Result::is_ok) {
            let error = results.into_iter().find_map(Result::err);
            return error.map_or(Err(CatalogueError::Closed), Err);
        }
        let alive = self.copies.iter_mut().enumerate();
        let alive = alive.filter(|(_, copy)| copy.store.is_some());
        let mut failed = None;
        for ((index, copy), result) in alive.zip(results) {
            if let Err(error) = result {
                let why = crate::telemetry::Chain(&error).to_string();
                tracing::error!(
                    copy = index,
                    why,
                    "a copy of the catalogue failed; left behind"
                );
                copy.store = None;
                failed = Some(Degraded { copy: index, why });
            }
        }
        if failed.is_some() {
            self.say_sole()?;
            *self.shown.write().unwrap_or_else(PoisonError::into_inner) = failed;
        }
        Ok(())
    }

    /// Commits to each copy that works, all at once: a flush takes the device's time, not ours.
    fn commit_each(&mut self, batch: &Batch) -> Vec<Result<(), CatalogueError>> {
        let mut stores: Vec<&mut Store> = self
            .copies
            .iter_mut()
            .filter_map(|c| c.store.as_mut())
            .collect();
        let next = stores.iter().map(|s| s.commits).max().unwrap_or(0) + 1;
        let Some((first, others)) = stores.split_first_mut() else {
            return Vec::new();
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = others
                .iter_mut()
                .map(|store| scope.spawn(move || store.commit(batch, next)))
                .collect();
            let mut results = vec![first.commit(batch, next)];
            results.extend(others.into_iter().map(|other| match other.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
            results
        })
    }

    /// The copies that work say that they alone have everything.
    fn say_sole(&self) -> Result<(), CatalogueError> {
        for copy in self.copies.iter().filter(|c| c.store.is_some()) {
            let said = copy.region.set(true);
            said.map_err(|e| CatalogueError::Commit(Arc::new(redb::Error::Io(e))))?;
        }
        Ok(())
    }

    /// All copies have everything again. A word that stays is too careful, not wrong.
    fn say_together(&self) {
        for copy in &self.copies {
            if let Err(error) = copy.region.set(false) {
                tracing::warn!(%error, "a copy of the catalogue goes on saying that it is the only one");
            }
        }
    }
}

fn open_one<M: Medium>(
    region: &RegionStorage<M>,
    pool: PoolId,
) -> Result<(Store, State), CatalogueError> {
    let (store, state) = Store::open(region.clone())?;
    if state.pool.id != pool {
        let of = format!("it is of pool {}", state.pool.id);
        return Err(CatalogueError::Unusable(of));
    }
    Ok((store, state))
}

/// Which copy has every answered change; the errors when none can be said to. Writes nothing.
fn choose<M: Medium>(
    regions: &[RegionStorage<M>],
    found: &[Result<(Store, State), CatalogueError>],
) -> Result<usize, CatalogueError> {
    let errors = || found.iter().filter_map(|one| one.as_ref().err());
    // What a newer version wrote is no damage: nothing is made anew over it.
    if let Some(newer) = errors().find(|error| error.is_newer()) {
        return Err(newer.clone());
    }
    let mut best: Option<(usize, u64)> = None;
    for (index, one) in found.iter().enumerate() {
        if let Ok((store, _)) = one
            && best.is_none_or(|(_, commits)| store.commits > commits)
        {
            best = Some((index, store.commits));
        }
    }
    let Some((winner, _)) = best else {
        let all: Vec<String> = errors()
            .map(|e| crate::telemetry::Chain(e).to_string())
            .collect();
        return Err(match errors().next() {
            Some(only) if all.len() == 1 => only.clone(),
            Some(_) => CatalogueError::NoCopy(all.join("; ")),
            None => CatalogueError::Blank,
        });
    };
    for (index, one) in found.iter().enumerate() {
        if let Err(error) = one
            && regions[index].is_sole().unwrap_or(false)
        {
            let why = crate::telemetry::Chain(error).to_string();
            return Err(CatalogueError::OnlyOlderCopy { newest: index, why });
        }
    }
    Ok(winner)
}

/// Makes a copy anew. A crash leaves it blank, or whole: its rows come in one transaction.
fn rebuild<M: Medium>(
    region: &RegionStorage<M>,
    state: &State,
    commits: u64,
) -> Result<Store, CatalogueError> {
    let mut rows = Batch::new();
    rows.insert(
        pool_key(),
        Some(encode_pool(&state.pool).map_err(unwritable)?),
    );
    for (owner, thin) in &state.thins {
        let row = encode_thin(&thin.record).map_err(unwritable)?;
        rows.insert(thin_key(*owner), Some(row));
    }
    region
        .erase()
        .map_err(|e| CatalogueError::storage(redb::Error::Io(e)))?;
    Store::filled(region.clone(), &rows, commits)
}

impl State {
    /// Whether both say the same of everything.
    fn same(&self, other: &Self) -> bool {
        let records = |state: &Self| -> Vec<_> {
            state
                .thins
                .values()
                .map(|thin| thin.record.clone())
                .collect()
        };
        self.pool == other.pool && records(self) == records(other)
    }
}
