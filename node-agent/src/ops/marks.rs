//! What a thin's user changed of it since it was made: kept on the pool for the day when the control
//! plane's store is lost.
//!
//! Called by `grpc`. One durable row and no effect in the kernel. Nobody here reads the text.

use goldleaf_types::{Incarnation, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::thins::{check_epoch, write};
use super::view::ThinView;
use crate::catalogue::{Phase, ThinRecord};
use crate::failpoint::{Point, hit};

impl Agent {
    /// Keeps the text with the thin's row, in the place of an earlier one. Blocks.
    ///
    /// # Errors
    ///
    /// [`ThinError::NotFound`], [`ThinError::Deleting`], another store than the pool's, or a call of
    /// before a move.
    pub fn mark_thin(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        marks: String,
        epoch: u64,
    ) -> Result<ThinView, ThinError> {
        let (pool, _) = self.find_row(owner)?;
        pool.admit(caller)?;
        let _held = pool.lock(&[owner])?;
        let row = write(&pool, move |rows| {
            let row = rows.find(owner).ok_or(ThinError::NotFound(owner))?;
            if row.phase == Phase::Deleting {
                return Err(ThinError::Deleting(owner));
            }
            check_epoch(&row, epoch)?;
            let row = ThinRecord { marks, ..row };
            rows.replace(row.clone());
            Ok(row)
        })?;
        hit(Point::ThinMarked);
        self.view(&pool, &row)
    }
}
