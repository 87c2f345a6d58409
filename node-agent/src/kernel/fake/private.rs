//! A private device over a fake thin: it counts what is given up.

use std::fs::File;

use goldleaf_types::{Bytes, PoolId, ThinId};

use super::{BLOCK, FakeKernel};
use crate::kernel::{KernelError, Mapping, PrivateSpec, PrivateThin};

/// The longest file that there can be everywhere.
const LONGEST: u64 = 1 << 42;

/// The device. As on the real kernel its thin is not deleted as long as it is there.
pub(super) struct FakePrivate<'k> {
    kernel: &'k FakeKernel,
    pool: PoolId,
    thin: ThinId,
    end: Bytes,
    /// Its content, which nobody else has.
    file: File,
}

impl<'k> FakePrivate<'k> {
    pub(super) fn new(kernel: &'k FakeKernel, spec: &PrivateSpec) -> Self {
        let mut world = kernel.world();
        world.private.insert((spec.pool, spec.thin));
        let len = spec.len.bytes();
        // Of a device that is longer than any file, all that the thin maps lies at its beginning.
        let end = match len.0 <= LONGEST {
            true => len,
            false => Bytes(BLOCK * world.pools[&spec.pool].thins[&spec.thin]),
        };
        drop(world);
        let file = tempfile::tempfile().expect("a file");
        file.set_len(end.0).expect("its length");
        Self {
            kernel,
            pool: spec.pool,
            thin: spec.thin,
            end,
            file,
        }
    }
}

impl Drop for FakePrivate<'_> {
    fn drop(&mut self) {
        let mut world = self.kernel.world();
        world.private.remove(&(self.pool, self.thin));
    }
}

impl PrivateThin for FakePrivate<'_> {
    fn mapping(&self) -> Result<Mapping, KernelError> {
        let mut world = self.kernel.world();
        let blocks = world.pool(self.pool)?.thins.get(&self.thin).copied();
        Ok(Mapping {
            mapped: Bytes(blocks.unwrap_or(0) * BLOCK),
            end: self.end,
        })
    }

    fn discard(&self, start: Bytes, len: Bytes) -> Result<(), KernelError> {
        let mut world = self.kernel.world();
        world.discards.push((self.thin, start, len));
        if let Some(blocks) = world.writable(self.pool)?.thins.get_mut(&self.thin) {
            *blocks = blocks.saturating_sub(len.0 / BLOCK);
        }
        Ok(())
    }

    fn file(&self) -> &File {
        &self.file
    }
}
