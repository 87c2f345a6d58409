//! What a thin takes in its pool, counted when somebody asks.
//!
//! Called by `grpc`. Nothing is stored and nothing polls this: the kernel's metadata is the one
//! owner of the figures, and counting what is shared walks all mappings of the pool. A crash leaves
//! at worst a held metadata snapshot, which the next opening of the pool releases.

use goldleaf_types::{Bytes, ThinOwner};

use super::Agent;
use super::error::ThinError;
use super::view::ThinView;
use crate::kernel::KernelError;

/// What a thin takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What it maps.
    pub owned: Bytes,
    /// What nothing else maps.
    pub exclusive: Bytes,
}

impl Agent {
    /// One thin with what it takes in its pool. Blocks, for about a second for each million
    /// mappings of the pool.
    ///
    /// # Errors
    ///
    /// [`ThinError::PoolReadOnly`] while the pool takes no change: a metadata snapshot is one.
    pub fn thin_with_usage(&self, owner: ThinOwner) -> Result<(ThinView, Usage), ThinError> {
        let (pool, row) = self.find_row(owner)?;
        super::thins::usable(&pool, &row)?;
        pool.check_writable(&*self.kernel)?;
        let all = self.kernel.thin_usage(pool.id).map_err(ThinError::Kernel)?;
        let found = all.into_iter().find(|found| found.thin == row.thin);
        let found = found.ok_or(ThinError::Kernel(KernelError::ThinMissing {
            pool: pool.id,
            thin: row.thin,
        }))?;
        let block = pool.block().bytes().0;
        let usage = Usage {
            owned: Bytes(found.mapped_blocks.saturating_mul(block)),
            exclusive: Bytes(found.exclusive_blocks.saturating_mul(block)),
        };
        Ok((self.view(&pool, &row)?, usage))
    }
}
