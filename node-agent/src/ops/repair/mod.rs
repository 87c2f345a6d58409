//! Repairing a pool's metadata: said first what that would do, then done on request.
//!
//! Called by `grpc`. Everything is tried on copies in files of the state folder, so that a repair
//! that makes nothing of it leaves all as it was. The old metadata is kept whole in such a file, for
//! good. The wish is a row of the catalogue that names the file with the repaired metadata and its
//! digest; from then on no opening loads what is on the device before that file is on it. `finish`
//! does that, at once or after a crash. What the repair did not bring back to a thin is in its row by
//! the same commit; a thin that it lost altogether is a row without a thin, as any lost data is.
//! All of that takes minutes and is beside the turn of the node's other pools: `reserved`. A look, which
//! changes nothing, ends with its caller, its files and the tool that runs for it: another repair may be
//! waiting for its turn. A repair goes on to its end without its caller.

mod files;
mod finish;
mod report;
mod reserved;
mod subject;

pub use files::RepairFolder;
pub use report::{Fate, RepairOutcome, RepairReport, RepairedThin};
pub(super) use reserved::Reservations;

use std::sync::Arc;

use goldleaf_types::{Bytes, Incarnation, PoolId};

use self::files::Scratch;
use self::report::compare;
use self::reserved::Reserved;
use self::subject::{Stillness, Subject};
use super::Agent;
use super::caller;
use super::devices::HeldDevice;
use super::error::PoolError;
use super::opening::{AsFound, catalogue_error};
use super::pools::Opening;
use super::view::PoolView;
use crate::catalogue::{Catalogue, Repair, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::kernel::{Given, KernelError, PoolSpec, Superblock};
use crate::ops::forming::catalogue_regions;
use crate::ops::opening::labelled;
use crate::sys::caller::Caller;
use crate::telemetry::Chain;

/// A pool whose metadata is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairPool {
    /// Which.
    pub id: PoolId,
    /// Do it; else say what would be done.
    pub apply: bool,
    /// Do it even if a volume or snapshot loses something by it.
    pub accept_loss: bool,
}

/// What a repair is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairStep {
    /// Another repair of this host, or a look at one, is at work.
    Waiting,
    /// The metadata is copied to a file.
    Copying,
    /// The copy is checked.
    Checking,
    /// It is repaired into another file.
    Repairing,
    /// What that made is checked.
    CheckingResult,
    /// It is put in place, and the pool is opened.
    Putting,
}

/// Told what a repair is at, how many bytes of that are done, and how many there are.
pub type RepairTold<'a> = &'a dyn Fn(RepairStep, Bytes, Bytes);

/// Who is told what a repair is at.
struct Asker<'a> {
    told: RepairTold<'a>,
    /// With whom it ends; a repair that is carried out ends with nobody.
    caller: Option<Arc<Caller>>,
}

impl Asker<'_> {
    fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    fn is_gone(&self) -> bool {
        self.caller().is_some_and(Caller::is_gone)
    }
}

/// The old metadata, what a repair made of it, and what that means.
struct Analysis {
    copy: Scratch,
    /// None when there is nothing to repair.
    repaired: Option<Scratch>,
    report: RepairReport,
}

impl Agent {
    /// Says what a repair of a pool's metadata would do, or does it: the pool is open afterwards.
    /// Asking again changes nothing. Blocks; only what changes nothing ends early, once the caller that
    /// this thread works for is gone.
    ///
    /// # Errors
    ///
    /// [`PoolError::InUse`] while volumes of it are active, and [`PoolError::WouldLose`] unless that
    /// is accepted; [`PoolError::NoRoomForFiles`]; all is then as it was.
    pub fn repair_pool(
        &self,
        caller: Option<Incarnation>,
        wanted: RepairPool,
        told: RepairTold<'_>,
    ) -> Result<RepairReport, PoolError> {
        let asker = Asker {
            told,
            caller: match wanted.apply {
                true => None,
                false => caller::current(),
            },
        };
        let waits = || told(RepairStep::Waiting, Bytes(0), Bytes(0));
        let _one = self.repairs.one_at_a_time(waits);
        if asker.is_gone() {
            return Err(PoolError::Abandoned(wanted.id));
        }
        let (subject, reserved) = {
            let _turn = self.pools.take_turn();
            let subject = self.subject(wanted.id, caller)?;
            let name = subject.record.name.to_string();
            let reserved = self.pools.reserved.reserve(wanted.id, name, wanted.apply);
            (subject, reserved)
        };
        if wanted.apply {
            self.changed();
        }
        let report = self.repair_reserved((reserved, subject), wanted, &asker);
        if wanted.apply {
            self.changed();
        }
        if report.is_err() && asker.is_gone() {
            tracing::info!(pool = %wanted.id, "a look at what a repair would do ended with its caller");
        }
        report
    }

    /// As [`Self::repair_pool`], beside whatever becomes of other pools.
    fn repair_reserved(
        &self,
        // In this order: the devices go first at the end.
        (reserved, mut subject): (Reserved<'_>, Subject),
        wanted: RepairPool,
        asker: &Asker<'_>,
    ) -> Result<RepairReport, PoolError> {
        if subject.stillness == Stillness::Writable {
            return match subject.pool {
                Some(_) => Ok(RepairReport::takes_changes(&subject.record)),
                None => Err(subject.not_now(
                    "its devices are live though it is not open: close it first (goldleaf pool close)",
                )),
            };
        }
        if wanted.apply {
            let names = self.names_in_use(&subject)?;
            if !names.is_empty() {
                return Err(PoolError::InUse {
                    pool: wanted.id,
                    names: names.join(", "),
                });
            }
        }
        if self.is_cut_short(&subject)? {
            return match wanted.apply {
                false => Ok(RepairReport::would_resume(&subject.record)),
                true => self.resume_repair(subject),
            };
        }
        let len = subject.metadata_len();
        let copy = self.copy_to_repair(&subject, asker)?;
        if !wanted.apply {
            // The rest is about the copy: nobody waits for it.
            subject.let_go();
            drop(reserved);
            return Ok(self.analyse(&subject, copy, asker)?.report);
        }
        let analysis = self.analyse(&subject, copy, asker)?;
        if analysis.repaired.is_none() {
            return Ok(analysis.report);
        }
        if !wanted.accept_loss
            && let Some(what) = analysis.report.losses()
        {
            let pool = wanted.id;
            return Err(PoolError::WouldLose { pool, what });
        }
        (asker.told)(RepairStep::Putting, Bytes(0), len);
        self.carry_out_repair(subject, analysis)
    }

    /// The pool's metadata in a file, if there is room for all that a repair takes.
    fn copy_to_repair(&self, subject: &Subject, asker: &Asker<'_>) -> Result<Scratch, PoolError> {
        let told = asker.told;
        let (id, len) = (subject.record.id, subject.metadata_len());
        self.repairs.clean_copies(id);
        self.repairs.has_room(id, Bytes(2 * len.0))?;
        told(RepairStep::Copying, Bytes(0), len);
        let copy = self.repairs.scratch(id, "copy")?;
        let mut so_far = |done| told(RepairStep::Copying, done, len);
        let copied =
            self.kernel
                .copy_metadata(&subject.spec, &copy.file, asker.caller(), &mut so_far);
        copied.map_err(PoolError::Kernel)?;
        Ok(copy)
    }

    /// The pool as it is now, open or not.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotFound`] when it is not on this node any more.
    pub fn pool_as_it_is(&self, id: PoolId) -> Result<PoolView, PoolError> {
        match self.pools.open(id) {
            Some(pool) => self.pool_view(&pool),
            None => self.closed_view(id).ok_or(PoolError::NotFound(id)),
        }
    }

    /// What is wrong with a copy, and what a repair makes of it.
    fn analyse(
        &self,
        subject: &Subject,
        copy: Scratch,
        asker: &Asker<'_>,
    ) -> Result<Analysis, PoolError> {
        let (told, caller) = (asker.told, asker.caller());
        let (id, len) = (subject.record.id, subject.metadata_len());
        let kernel = &*self.kernel;
        told(RepairStep::Checking, Bytes(0), len);
        let superblock = kernel.superblock(&copy.file).map_err(PoolError::Kernel)?;
        let damage = kernel
            .check_metadata(id, &copy.file, caller)
            .map_err(PoolError::Kernel)?;
        let needs_check = superblock.is_some_and(|s| s.needs_check);
        let mut report = RepairReport::of(&subject.record, damage, needs_check);
        // After a repair that was cut short and whose file is gone, nobody knows what is there.
        let known = subject.record.repair.is_none();
        if known && report.damage.is_none() && !needs_check && superblock.is_some() {
            report.found_transaction = superblock.map(|s| s.transaction_id);
            return Ok(Analysis {
                copy,
                repaired: None,
                report,
            });
        }
        let repaired = self.repairs.scratch(id, "repaired")?;
        let sized = repaired.file.set_len(len.0);
        sized.map_err(PoolError::io("make a file for the repaired metadata"))?;
        told(RepairStep::Repairing, Bytes(0), len);
        let given = superblock.is_none().then(|| given(subject));
        kernel
            .repair_metadata(id, (&copy.file, &repaired.file), given, caller)
            .map_err(PoolError::Kernel)?;
        told(RepairStep::CheckingResult, Bytes(0), len);
        let result = self.sound_result(subject, &repaired, caller)?;
        let before = kernel.thins_in(id, &copy.file, caller).ok();
        let after = kernel
            .thins_in(id, &repaired.file, caller)
            .map_err(PoolError::Kernel)?;
        report.found_transaction = Some(result.transaction_id);
        compare(&mut report, subject, before.as_deref(), &after);
        Ok(Analysis {
            copy,
            repaired: Some(repaired),
            report,
        })
    }

    /// What a repair made, if it is metadata of this pool and sound.
    fn sound_result(
        &self,
        subject: &Subject,
        made: &Scratch,
        caller: Option<&Caller>,
    ) -> Result<Superblock, PoolError> {
        let pool = subject.record.id;
        let unfit = |why: String| PoolError::Kernel(KernelError::NotRepaired { pool, why });
        let checked = self.kernel.check_metadata(pool, &made.file, caller);
        if let Some(why) = checked.map_err(PoolError::Kernel)? {
            return Err(unfit(format!(
                "thin_check finds errors in what it wrote: {why}"
            )));
        }
        let result = self.kernel.superblock(&made.file);
        match result.map_err(PoolError::Kernel)? {
            None => Err(unfit("what it wrote has no superblock".into())),
            Some(result) if result.needs_check => {
                Err(unfit("what it wrote still asks for a check".into()))
            }
            Some(result)
                if result.block_sectors != subject.block_sectors()
                    || result.data_blocks > subject.data_blocks() =>
            {
                Err(unfit(
                    "what it wrote is for other devices than the pool's".into(),
                ))
            }
            Some(result) => Ok(result),
        }
    }

    /// Wish, effect and fact. A pool that was open is open again, whatever comes of it. The caller
    /// has reserved the pool.
    fn carry_out_repair(
        &self,
        mut subject: Subject,
        analysis: Analysis,
    ) -> Result<RepairReport, PoolError> {
        let id = subject.record.id;
        let busy = self.pools.begin(id);
        self.pools.says(id, Opening::Repair);
        let was_open = subject.pool.take();
        let (devices, found) = match &was_open {
            Some(pool) => {
                let devices = pool.devices();
                if let Err(error) = self.take_down(pool) {
                    if self.pools.open(id).is_none() {
                        self.raise_again(id, devices, AsFound::default());
                    }
                    return Err(error);
                }
                self.pools.remove(id);
                (devices, AsFound::default())
            }
            None => {
                self.remove_tables(id)?;
                let mut devices = std::mem::take(&mut subject.devices);
                let found = self.claim_all(&mut devices)?;
                (Arc::new(devices), found)
            }
        };
        let reopen = was_open.is_some();
        drop(was_open);
        hit(Point::RepairTablesGone);
        let report = match self.wish_repair(&subject.spec, &devices, analysis) {
            Ok(report) => report,
            Err(error) => {
                // As it was; or, if the wish is stored in spite of the error, as it is to be.
                if reopen {
                    self.raise_again(id, devices, found);
                }
                return Err(error);
            }
        };
        let raised = self.raise(id, devices, found);
        drop(busy);
        self.changed();
        match raised {
            Ok(_) => Ok(report),
            Err(error) => {
                self.pools.refuse(id, Chain(&error).to_string());
                Err(error)
            }
        }
    }

    /// Opens a pool that was open before something failed. What keeps it from that is said of it.
    fn raise_again(&self, id: PoolId, devices: Arc<Vec<HeldDevice>>, found: AsFound) {
        if let Err(also) = self.raise(id, devices, found) {
            tracing::error!(pool = %id, error = %Chain(&also), "not open again");
            self.pools.refuse(id, Chain(&also).to_string());
        }
    }

    /// Keeps the old metadata, and writes down durably what is to take its place.
    fn wish_repair(
        &self,
        spec: &PoolSpec,
        devices: &[HeldDevice],
        analysis: Analysis,
    ) -> Result<RepairReport, PoolError> {
        let Analysis {
            copy,
            repaired,
            mut report,
        } = analysis;
        let (id, pool) = (spec.id, spec.id);
        let not_now = |why: &str| {
            let why = why.to_owned();
            PoolError::NotRepairable { pool, why }
        };
        let repaired = repaired.ok_or_else(|| not_now("there is nothing to put in its place"))?;
        // Looked at while it was still live, perhaps.
        if !self
            .kernel
            .is_metadata(spec, &copy.file)
            .map_err(PoolError::Kernel)?
        {
            return Err(not_now("it changed meanwhile: ask again"));
        }
        let row = self.repairs.settle(repaired)?;
        report.kept = Some(self.repairs.keep(copy, id)?);
        hit(Point::RepairKept);
        let regions = catalogue_regions(id, labelled(devices))?;
        let catalogue = Catalogue::open(regions, id)
            .map_err(|source| PoolError::Catalogue { pool: id, source })?;
        let lost = report.lost_blocks();
        let row = write_wish(row, lost, &catalogue);
        row.map_err(|error| catalogue_error(id, error))?;
        hit(Point::RepairWished);
        catalogue
            .close()
            .map_err(|source| PoolError::Catalogue { pool: id, source })?;
        report.outcome = RepairOutcome::Done;
        tracing::warn!(pool = %id, kept = ?report.kept, "its metadata is being repaired");
        Ok(report)
    }
}

fn write_wish(
    repair: Repair,
    lost: Vec<(goldleaf_types::ThinOwner, u64)>,
    catalogue: &Catalogue,
) -> Result<(), crate::catalogue::WriteError<std::convert::Infallible>> {
    catalogue.write(move |rows| {
        for (owner, blocks) in lost {
            if let Some(row) = rows.find(owner) {
                let lost_blocks = row.lost_blocks.saturating_add(blocks);
                rows.replace(ThinRecord { lost_blocks, ..row });
            }
        }
        let mut pool = rows.pool();
        pool.repair = Some(repair);
        rows.set_pool(pool);
        Ok(())
    })
}

/// What the catalogue and the labels know that a damaged superblock does not say.
fn given(subject: &Subject) -> Given {
    Given {
        transaction_id: subject.record.transaction_id,
        block_sectors: subject.block_sectors(),
        data_blocks: subject.data_blocks(),
    }
}
