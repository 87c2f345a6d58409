//! Putting repaired metadata in place: at once, or at the first opening after a crash.
//!
//! Called at every opening, before the pool's tables. A row that names a file is the wish; the
//! metadata on the device is not looked at before that file is on it whole, and compared. Then the
//! row goes: the fact. A crash in between has it put once more.

use goldleaf_types::PoolId;

use super::files::FileTrouble;
use super::subject::Subject;
use super::{RepairOutcome, RepairReport};
use crate::catalogue::{Catalogue, PoolRecord, Repair};
use crate::failpoint::{Point, hit};
use crate::ops::Agent;
use crate::ops::devices::HeldDevice;
use crate::ops::error::PoolError;
use crate::ops::opening::{catalogue_error, spec_of};
use crate::ops::pools::Opening;
use crate::telemetry::Chain;

impl Agent {
    /// Puts what a repair made in place, if a row says so; whether one did.
    pub(in crate::ops) fn finish_repair(
        &self,
        id: PoolId,
        devices: &[HeldDevice],
        catalogue: &Catalogue,
    ) -> Result<bool, PoolError> {
        let record = catalogue.pool();
        let Some(row) = &record.repair else {
            return Ok(false);
        };
        self.pools.says(id, Opening::Repair);
        let file = self.repairs.open(row);
        let file = file.map_err(|why| self.repair_file(&record, row, &why))?;
        tracing::warn!(pool = %id, file = row.file, "putting its repaired metadata in place");
        let spec = spec_of(&record, devices, false);
        self.kernel
            .put_metadata(&spec, &file, &mut |_| ())
            .map_err(PoolError::Kernel)?;
        hit(Point::RepairPut);
        catalogue
            .write(|rows| {
                let mut pool = rows.pool();
                pool.repair = None;
                rows.set_pool(pool);
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(|error| catalogue_error(id, error))?;
        hit(Point::RepairRecorded);
        self.repairs.forget(row);
        Ok(true)
    }

    /// Whether a repair was cut short that can be gone on with. Refused while its file cannot be read:
    /// it may be the only whole metadata that there is.
    pub(super) fn is_cut_short(&self, subject: &Subject) -> Result<bool, PoolError> {
        let Some(row) = &subject.record.repair else {
            return Ok(false);
        };
        match self.repairs.open(row) {
            Ok(_) => Ok(true),
            Err(FileTrouble::Missing | FileTrouble::OtherContent) => Ok(false),
            Err(why @ FileTrouble::Unreadable(_)) => {
                Err(self.repair_file(&subject.record, row, &why))
            }
        }
    }

    fn repair_file(&self, record: &PoolRecord, row: &Repair, why: &FileTrouble) -> PoolError {
        PoolError::RepairFile {
            pool: record.id,
            path: self.repairs.path(row),
            host: record
                .home
                .map_or_else(|| "this one".into(), |home| home.to_string()),
            why: why.to_string(),
        }
    }

    /// Goes on with a repair that was cut short: an opening does that. The caller has reserved the pool.
    pub(super) fn resume_repair(&self, mut subject: Subject) -> Result<RepairReport, PoolError> {
        let id = subject.record.id;
        let busy = self.pools.begin(id);
        self.pools.says(id, Opening::Repair);
        self.remove_tables(id)?;
        let raised = self.bring_up(id, std::mem::take(&mut subject.devices));
        raised.inspect_err(|error| self.pools.refuse(id, Chain(error).to_string()))?;
        drop(busy);
        self.changed();
        Ok(RepairReport {
            outcome: RepairOutcome::Done,
            ..RepairReport::would_resume(&subject.record)
        })
    }
}
