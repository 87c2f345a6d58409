//! Opening a pool for rescue: what can be read of one that does not open is read, and nothing is
//! written to its devices.
//!
//! Called by `grpc`, on request alone, and at a start. The catalogue is read into memory: the copy that
//! counts, else an older one, else rows that are made up from what the metadata lists. The tables are
//! read-only and the metadata is not checked before: what the kernel can read of it is there. A file in
//! the folder of repairs says, before any table is built, that the tables are such; it goes with them
//! when the pool is closed. An agent that starts and finds it opens the pool in the same way again, so
//! that no ordinary opening ever takes unchecked metadata for its own.

use std::sync::Arc;

use goldleaf_types::{
    Bytes, Incarnation, PoolId, Sectors, ThinId, ThinOwner, VolumeId, VolumeSize,
};
use sha2::{Digest as _, Sha256};

use super::Agent;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::forming::{catalogue_places, mismatch};
use super::open_pool::{Agreed, Doubt, OpenPool, admit};
use super::opening::{labelled, spec_of};
use super::scan::{FoundDevice, Look};
use super::view::PoolView;
use crate::catalogue::{
    Catalogue, CatalogueError, InMemory, NoSpace, Phase, PoolRecord, RegionStorage, ThinRecord,
};
use crate::failpoint::{Point, hit};
use crate::kernel::{KernelError, Outcome, PoolSpec, PrivateSpec};
use crate::telemetry::Chain;

/// Longer than any thin.
const ANY_LEN: Sectors = Sectors(VolumeSize::MAX / 512);

/// Which catalogue a pool that is open for rescue shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The one that it has.
    Whole,
    /// An older copy of it: the newest cannot be read.
    Older,
    /// None can be read: each thin of the metadata is shown as a volume named by its number, as long as
    /// it is known to be, without image.
    MadeUp,
}

impl Agent {
    /// Opens a pool for reading and writes nothing to its devices: neither labels nor catalogue nor
    /// metadata. Asking again changes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// [`PoolError::Mismatch`] when it is open, or half of its metadata was replaced; when the kernel
    /// cannot read its metadata at all. Nothing of it is live then.
    pub fn open_for_rescue(
        &self,
        id: PoolId,
        caller: Option<Incarnation>,
    ) -> Result<PoolView, PoolError> {
        let _turn = self.pools.take_turn();
        self.pools.reserved.is_free(id)?;
        if let Some(pool) = self.pools.open(id) {
            pool.admit(caller)?;
            return match pool.shown() {
                Some(_) => self.pool_view(&pool),
                None => Err(mismatch(
                    id,
                    "it is open, and its volumes can be activated or exported as they are: close it \
                     first (goldleaf pool close)",
                )),
            };
        }
        let found = self.pools.scanner.scan(Look::Everywhere).remove(&id);
        let found = found.ok_or(PoolError::NotFound(id))?;
        let pool = self.rescue(id, &found, |record| Ok(admit(record, caller)?))?;
        self.pool_view(&pool)
    }

    /// Opens a pool for rescue that was found. The caller has the turn.
    pub(super) fn rescue(
        &self,
        id: PoolId,
        found: &[FoundDevice],
        admit: impl FnOnce(&PoolRecord) -> Result<(), PoolError>,
    ) -> Result<Arc<OpenPool>, PoolError> {
        let why = self.pools.why_refused(id).unwrap_or_else(|| {
            "nobody has tried to open it otherwise since the agent started".to_owned()
        });
        self.not_in_use(id)?;
        let busy = self.pools.begin(id);
        busy.nothing_written();
        let devices = self.hold_found(id, found, None)?;
        let (found, shown) = found_catalogue(id, &devices)?;
        let record = match &found {
            Some(catalogue) => catalogue.pool(),
            None => made_up_pool(id, &devices)?,
        };
        admit(&record)?;
        if record.repair.is_some() {
            return Err(mismatch(
                id,
                "a repair of it was cut short, and its metadata may be a part of what was and a part \
                 of what is to be: go on with the repair first (goldleaf pool repair)",
            ));
        }
        self.pools.name_is_free(id, record.name.as_str())?;
        let spec = PoolSpec {
            read_only: true,
            ..spec_of(&record, &devices, false)
        };
        let listed = match found {
            Some(_) => Vec::new(),
            None => self.listed(&spec)?,
        };
        self.repairs.mark_rescued(id)?;
        hit(Point::RescueMarked);
        let live = self.kernel.ensure_pool(&spec);
        let fresh = live.map_err(|error| self.not_rescued(id, PoolError::Kernel(error)))?;
        hit(Point::RescueLive);
        let catalogue = match found {
            Some(catalogue) => let_go(&catalogue).map(|()| catalogue),
            None => self.made_up(&record, &listed),
        };
        let catalogue = catalogue.map_err(|source| {
            let error = PoolError::Catalogue { pool: id, source };
            self.not_rescued(id, error)
        })?;
        let agreed = Agreed {
            doubt: Some(Doubt::Rescue { why, shown }),
            ..Agreed::default()
        };
        let pool = Arc::new(OpenPool::new(id, Arc::new(devices), catalogue, agreed));
        if fresh == Outcome::Done {
            self.clear_links(&pool.name(), &pool.catalogue.all())?;
        }
        tracing::warn!(pool = %id, ?shown, "open for rescue: nothing of it is written");
        self.pools.insert(Arc::clone(&pool));
        drop(busy);
        self.changed();
        Ok(pool)
    }

    /// Refuses a pool whose tables are live and not a rescue's: volumes over them may be written.
    fn not_in_use(&self, id: PoolId) -> Result<(), PoolError> {
        match self.kernel.pool_status(id) {
            Err(KernelError::NoPool(_)) => Ok(()),
            Ok(_) if self.repairs.is_rescued(id) => Ok(()),
            Ok(_) => Err(mismatch(
                id,
                "its devices are live though it is not open, and volumes of it may be in use: close it \
                 first (goldleaf pool close)",
            )),
            Err(error) => Err(PoolError::Kernel(error)),
        }
    }

    /// Leaves nothing of a rescue that did not come to be.
    fn not_rescued(&self, id: PoolId, error: PoolError) -> PoolError {
        if let Err(also) = self.remove_tables(id) {
            tracing::error!(pool = %id, error = %Chain(&also), "tables of a rescue are left");
        }
        error
    }

    /// Ends what an earlier agent left of a rescue, before an ordinary opening. The caller has the turn.
    pub(super) fn end_rescue(&self, id: PoolId) -> Result<(), PoolError> {
        match self.repairs.is_rescued(id) {
            true => self.remove_tables(id),
            false => Ok(()),
        }
    }

    /// What a pool's metadata lists, read from a copy of it: how many blocks each thin maps.
    fn listed(&self, spec: &PoolSpec) -> Result<Vec<(ThinId, u64)>, PoolError> {
        let len = spec.metadata.iter().map(|s| s.len.bytes().0).sum();
        self.repairs.clean_copies(spec.id);
        self.repairs.has_room(spec.id, Bytes(len))?;
        let copy = self.repairs.scratch(spec.id, "copy")?;
        self.kernel
            .copy_metadata(spec, &copy.file, None, &mut |_| ())
            .and_then(|()| self.kernel.thins_in(spec.id, &copy.file, None))
            .map_err(PoolError::Kernel)
    }

    /// A catalogue of what the metadata lists.
    fn made_up(
        &self,
        record: &PoolRecord,
        listed: &[(ThinId, u64)],
    ) -> Result<Catalogue, CatalogueError> {
        let block = record.block_size.bytes().0;
        let rows: Vec<_> = listed
            .iter()
            .map(|(thin, mapped)| {
                let least = mapped.saturating_mul(block);
                let end = self
                    .end_of(record.id, *thin)
                    .map_or(least, |end| end.max(least));
                made_up_row(record.id, *thin, end.max(block))
            })
            .collect();
        let room = (64 << 10) * (listed.len() as u64 + 1024);
        let memory = RegionStorage::new(in_memory(room)?, Bytes(0), Bytes(room));
        let catalogue = Catalogue::create(vec![memory], record)?;
        put(&catalogue, move |all| {
            rows.into_iter().for_each(|row| all.insert(row));
        })?;
        catalogue.close()?;
        Ok(catalogue)
    }

    /// Where a thin's last mapped block ends; what nobody can say is left out. One that is active, from
    /// before the agent started, was as long as that then.
    fn end_of(&self, pool: PoolId, thin: ThinId) -> Option<u64> {
        if let Ok(Some(live)) = self.kernel.find_live(made_up_owner(pool, thin)) {
            return Some(live.len.bytes().0);
        }
        let spec = PrivateSpec {
            pool,
            thin,
            len: ANY_LEN,
            origin: None,
        };
        let mapping = self.kernel.open_private(&spec).and_then(|p| p.mapping());
        match mapping {
            Ok(mapping) => Some(mapping.end.0),
            Err(error) => {
                tracing::warn!(%pool, %thin, error = %Chain(&error), "its end is not known");
                None
            }
        }
    }
}

/// The catalogue in memory, and which it is; none when no copy can be read.
fn found_catalogue(
    id: PoolId,
    devices: &[HeldDevice],
) -> Result<(Option<Catalogue>, Shown), PoolError> {
    let copies = catalogue_places(labelled(devices));
    let read = |only: Option<usize>| -> Vec<_> {
        let wanted = copies.iter().enumerate();
        let wanted = wanted.filter(|(index, _)| only.is_none_or(|only| only == *index));
        let copy = |(_, (device, region)): (usize, &(&HeldDevice, crate::catalogue::Region))| {
            let (start, len) = (region.start.bytes(), region.len.bytes());
            let file: &std::fs::File = &device.file;
            let memory = InMemory::read(file, start.0, len.0);
            let memory = memory.inspect_err(|error| {
                tracing::warn!(device = %device.path.display(), %error, "no copy of the catalogue");
            });
            Some(RegionStorage::new(memory.ok()?, Bytes(0), len))
        };
        wanted.filter_map(copy).collect()
    };
    let all = read(None);
    let whole = all.len() == copies.len();
    let first = match Catalogue::open(all, id) {
        Ok(catalogue) if whole => return Ok((Some(catalogue), Shown::Whole)),
        Ok(catalogue) => return Ok((Some(catalogue), Shown::Older)),
        Err(error) => error,
    };
    if first.is_newer() {
        return Err(PoolError::Catalogue {
            pool: id,
            source: first,
        });
    }
    tracing::warn!(pool = %id, error = %Chain(&first), "its catalogue cannot be read as it should");
    for index in 0..copies.len() {
        if let Ok(catalogue) = Catalogue::open(read(Some(index)), id) {
            return Ok((Some(catalogue), Shown::Older));
        }
    }
    Ok((None, Shown::MadeUp))
}

fn in_memory(len: u64) -> Result<InMemory, CatalogueError> {
    InMemory::blank(len).map_err(CatalogueError::memory)
}

/// Takes it that nothing is active, and refuses every change from then on: it would be lost.
fn let_go(catalogue: &Catalogue) -> Result<(), CatalogueError> {
    put(catalogue, |rows| {
        for row in rows.all() {
            // A copying to which nobody adds: the volume reads the same at every moment of it.
            let inactive = ThinRecord {
                holder: None,
                read_only: false,
                decouple: None,
                ..row
            };
            rows.replace(inactive);
        }
    })?;
    catalogue.close()
}

fn put(
    catalogue: &Catalogue,
    change: impl FnOnce(&mut crate::catalogue::Rows<'_>) + Send + 'static,
) -> Result<(), CatalogueError> {
    use crate::catalogue::WriteError;
    let written = catalogue.write(move |rows| {
        change(rows);
        Ok::<_, std::convert::Infallible>(())
    });
    written.map_err(|error| match error {
        WriteError::Refused(never) => match never {},
        WriteError::Catalogue(source) => source,
    })
}

/// What the labels say of a pool whose record is gone.
fn made_up_pool(id: PoolId, devices: &[HeldDevice]) -> Result<PoolRecord, PoolError> {
    let newest = labelled(devices)
        .map(|(_, label)| label)
        .max_by_key(|label| label.layout_generation)
        .ok_or(PoolError::NotFound(id))?;
    let name = newest.pool_name.parse();
    Ok(PoolRecord {
        id,
        name: name.map_err(|_| mismatch(id, "its labels have a name that is none"))?,
        block_size: newest.block_size,
        incarnation: None,
        transaction_id: 0,
        next_thin: 0,
        no_space: NoSpace::Error,
        wait_seconds: 0,
        overcommit_percent: 0,
        created: jiff::Timestamp::UNIX_EPOCH,
        quarantined: Vec::new(),
        home: None,
        repair: None,
    })
}

/// A thin of which nothing but its number is known. Always the same owner: its device says that too.
fn made_up_row(pool: PoolId, thin: ThinId, bytes: u64) -> ThinRecord {
    let bytes = bytes.min(VolumeSize::MAX) / 512 * 512;
    ThinRecord {
        owner: made_up_owner(pool, thin),
        name: format!("thin-{thin}").parse().expect("a name"),
        labels: goldleaf_types::Labels::default(),
        size: VolumeSize::new(bytes).expect("a size"),
        thin,
        image: None,
        parent: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        request: String::new(),
        holder: None,
        phase: Phase::Ready,
        epoch: 0,
        sealed: false,
        read_only: false,
        group: None,
        marks: String::new(),
        decouple: None,
        lost_blocks: 0,
    }
}

fn made_up_owner(pool: PoolId, thin: ThinId) -> ThinOwner {
    let sum = Sha256::new()
        .chain_update("a thin of unknown owner")
        .chain_update(pool.to_string())
        .chain_update(thin.get().to_le_bytes())
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&sum[..16]);
    VolumeId::from_bytes(id).into()
}
