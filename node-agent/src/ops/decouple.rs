//! Making a volume independent of its image.
//!
//! Called by `grpc` for the wish and by `work` for the rest. What still reads through is copied
//! block by block through a private device over the image; then one commit drops the image from the
//! row, and the next table is made without it. The row keeps up to where the copy is durable, so a
//! crash costs a few steps. Snapshots and clones have the image in their own rows, and keep it.
//! Meanwhile the row refuses every use; a deletion ends the copying.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use goldleaf_dm::PoolStatus;
use goldleaf_types::{Bytes, Incarnation, ThinOwner};

use super::Agent;
use super::activation::ImageUsed;
use super::drain::shares;
use super::error::ThinError;
use super::open_pool::OpenPool;
use super::space_rules::{DATA_WARNINGS, data_free};
use super::thins::{check_epoch, length, usable, write};
use super::view::ThinView;
use super::work::{Halted, Job, LONGEST_REST, WorkProgress};
use crate::catalogue::{Decouple, Phase, ThinRecord};
use crate::failpoint::{Point, hit};
use crate::kernel::{KernelError, PrivateSpec, PrivateThin};

/// Bytes that one step goes through at most, or one block when that is more; each step is made
/// durable, so that no neighbour waits for much that was written before.
const STEP: u64 = 4 << 20;
/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;
/// After so many bytes the row says how far it is.
const MARK: u64 = 64 << 20;

impl Agent {
    /// Wishes that a volume be independent of its image. Asking again says how far that is. Blocks,
    /// but not for the copying.
    ///
    /// # Errors
    ///
    /// [`ThinError::Active`] while it has a device; [`ThinError::NoRoom`] when a copy of all that
    /// may read through does not fit.
    pub fn decouple(
        &self,
        caller: Option<Incarnation>,
        owner: ThinOwner,
        epoch: u64,
        rate: Bytes,
    ) -> Result<ThinView, ThinError> {
        let (pool, row) = self.find_row(owner)?;
        pool.admit(caller)?;
        let image = self.compared(&row);
        let held = pool.lock(&[owner])?;
        let found = pool.catalogue.find(owner);
        let row = found.ok_or(ThinError::NotFound(owner))?;
        check_epoch(&row, epoch)?;
        if row.phase == Phase::Ready && row.decouple.is_some() {
            drop(held);
            self.work.ring();
            return self.view(&pool, &row);
        }
        usable(&pool, &row)?;
        self.not_read(owner)?;
        let Some(needed) = row.image else {
            return self.view(&pool, &row);
        };
        let live = self.kernel.find_live(owner).map_err(ThinError::Kernel)?;
        if live.is_some() {
            return Err(ThinError::Active(owner));
        }
        pool.check_room(&*self.kernel)?;
        self.check_copy_fits(&pool, &row)?;
        let _ = self
            .use_image(needed.digest, image)
            .map(ImageUsed::release)?;
        let done = Bytes(0);
        let row = ThinRecord {
            decouple: Some(Decouple { rate, done }),
            holder: None,
            ..row
        };
        let wish = row.clone();
        write(&pool, move |rows| {
            // What a crash cut short begins as it: nothing may be at work on it then.
            let unfinished =
                |child: &ThinRecord| child.phase == Phase::Creating && child.parent == Some(owner);
            if let Some(child) = rows.find_where(unfinished) {
                return Err(ThinError::Needed {
                    owner,
                    child: child.owner,
                });
            }
            rows.replace(wish);
            Ok(())
        })?;
        hit(Point::DecoupleWished);
        drop(held);
        self.work.ring();
        self.thin_changed(owner);
        self.view(&pool, &row)
    }

    /// Refuses a copy that may not fit: every block of the image that the volume does not have for
    /// itself.
    fn check_copy_fits(&self, pool: &OpenPool, row: &ThinRecord) -> Result<(), ThinError> {
        let block = pool.block().bytes().0;
        let whole = |bytes: u64| bytes.div_ceil(block).saturating_mul(block);
        let mapped = self
            .kernel
            .open_private(&spec(pool, row, None))
            .and_then(|device| device.mapping())
            .map_err(ThinError::Kernel)?
            .mapped;
        let size = row.size.bytes().0;
        let shown = row.image.map_or(0, |image| image.size.0.min(size));
        // What it maps is written again where it reads as the image does, and takes room only where
        // a snapshot has the block too.
        let needed = match shares(pool, row) {
            true => whole(shown),
            false => whole(shown).min(whole(size).saturating_sub(mapped.0)),
        };
        self.check_free(pool, needed.saturating_add(wished_already(pool)))
    }

    /// Refuses to take so many bytes unless some room is left after it: the last of it is for those
    /// who write, and no copy is ever to wait in the kernel for more.
    fn check_free(&self, pool: &OpenPool, needed: u64) -> Result<(), ThinError> {
        let status = self.kernel.pool_status(pool.id);
        let block = pool.block().bytes().0;
        let spare = match status.map_err(ThinError::Kernel)? {
            PoolStatus::Working(status) => {
                let reserve = status.total_data_blocks.saturating_mul(DATA_WARNINGS[1]) / 100;
                data_free(&status)
                    .saturating_sub(reserve)
                    .saturating_mul(block)
            }
            PoolStatus::Fail => 0,
        };
        if needed > spare {
            return Err(ThinError::NoRoom {
                pool: pool.id,
                needed: Bytes(needed),
                free: Bytes(spare),
            });
        }
        Ok(())
    }

    /// Effect and fact.
    pub(super) fn decouple_in_steps(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        job: &Job<'_>,
    ) -> Result<(), ThinError> {
        if let Err(Halted) = self.copy_image(pool, row, job)? {
            return Ok(());
        }
        hit(Point::DecoupleCopied);
        let _held = pool.locks.take(&[row.owner]);
        let Some(row) = pool.catalogue.find(row.owner).filter(wants_copy) else {
            return Ok(());
        };
        let done = ThinRecord {
            image: None,
            decouple: None,
            ..row
        };
        let fact = done.clone();
        write(pool, move |rows| {
            rows.replace(fact);
            Ok(())
        })?;
        hit(Point::DecoupleRecorded);
        tracing::info!(owner = %done.owner, "independent of its image");
        self.mapped.forget(done.owner);
        self.thin_changed(done.owner);
        self.image_bell.ring();
        Ok(())
    }

    fn copy_image(
        &self,
        pool: &OpenPool,
        row: &ThinRecord,
        job: &Job<'_>,
    ) -> Result<Result<(), Halted>, ThinError> {
        let (Some(image), Some(wish)) = (row.image, row.decouple) else {
            return Ok(Ok(()));
        };
        let checked = self.check_image(image.digest)?;
        let (origin, used) = self.ensure_used_origin(image, Some(checked))?;
        let device = self
            .kernel
            .open_private(&spec(pool, row, Some(origin)))
            .map_err(ThinError::Kernel)?;
        let content = used.release().file; // its device is held by ours from now on
        let total = Bytes(image.size.0.min(row.size.bytes().0));
        let step = step(pool.block().bytes().0);
        let copy = Copy {
            device: &*device,
            content: &content,
            image: image.size,
            block: pool.block().bytes().0,
            size: row.size.bytes().0,
        };
        let mut at = begin(wish.done.0, step);
        let mut marked = at;
        while at < total.0 {
            let began = Instant::now();
            let end = total.0.min(at.saturating_add(step));
            // Others may have filled the pool meanwhile: it is not the copy that is to fill it.
            pool.check_room(&*self.kernel)?;
            self.check_free(pool, step)?;
            copy.stretch(at, end).map_err(|source| {
                let what = format!("copy from image {} to {}", image.digest, row.owner);
                ThinError::Kernel(KernelError::Io { what, source })
            })?;
            let read = Bytes(end - at);
            at = end;
            hit(Point::DecoupleStepped);
            if at - marked >= MARK {
                if !mark(pool, row.owner, Bytes(at))? {
                    return Ok(Err(Halted));
                }
                marked = at;
            }
            let now = WorkProgress {
                done: Bytes(at),
                total,
            };
            let rest = rest(read, wish.rate, began.elapsed());
            if let Err(halted) = job.rest_for(now, rest) {
                return Ok(Err(halted));
            }
        }
        Ok(Ok(()))
    }
}

/// Whether a row wants to be independent of its image.
pub(super) fn wants_copy(row: &ThinRecord) -> bool {
    row.phase == Phase::Ready && row.decouple.is_some()
}

/// What copies that were wished for before may still take.
fn wished_already(pool: &OpenPool) -> u64 {
    let rows = pool.catalogue.all();
    let wished = rows.iter().filter(|row| wants_copy(row)).map(|row| {
        let shown = row.image.map_or(0, |i| i.size.0.min(row.size.bytes().0));
        shown.saturating_sub(row.decouple.map_or(0, |wish| wish.done.0))
    });
    wished.fold(0, u64::saturating_add)
}

fn spec(pool: &OpenPool, row: &ThinRecord, origin: Option<goldleaf_dm::DevNumber>) -> PrivateSpec {
    PrivateSpec {
        pool: pool.id,
        thin: row.thin,
        len: length(row),
        origin,
    }
}

/// Puts down that everything before `done` is copied. Whether anybody wants it still.
fn mark(pool: &OpenPool, owner: ThinOwner, done: Bytes) -> Result<bool, ThinError> {
    write(pool, move |rows| {
        let Some(row) = rows.find(owner).filter(wants_copy) else {
            return Ok(false);
        };
        let decouple = row.decouple.map(|wish| Decouple { done, ..wish });
        rows.replace(ThinRecord { decouple, ..row });
        Ok(true)
    })
}

/// Bytes that one step goes through: whole blocks. What is compared is written back whole, so it must
/// be a block of the pool's: of two neighbours one may be its user's and the other the image's.
fn step(block: u64) -> u64 {
    (STEP / block).max(1) * block
}

/// Where the copying goes on. Before a mark that no step of ours ends at, blocks that still read
/// through may have been passed over: steps were once of [`STEP`], whatever the block was.
fn begin(done: u64, step: u64) -> u64 {
    let foreign = step < STEP && done.is_multiple_of(STEP);
    match done.is_multiple_of(step) && !foreign {
        true => done,
        false => 0,
    }
}

/// How long to rest after a step: as long as it took, or longer to keep to the rate.
fn rest(step: Bytes, rate: Bytes, took: Duration) -> Duration {
    let fair = took.min(LONGEST_REST);
    if rate.0 == 0 {
        return fair;
    }
    let due = u128::from(step.0) * 1_000_000 / u128::from(rate.0);
    let due = Duration::from_micros(u64::try_from(due).unwrap_or(u64::MAX));
    due.saturating_sub(took)
}

/// What a copy goes from and to.
struct Copy<'a> {
    /// The volume, over the image.
    device: &'a dyn PrivateThin,
    /// The image alone.
    content: &'a File,
    /// Size of the image.
    image: Bytes,
    /// What the pool allocates at a time, in bytes.
    block: u64,
    /// Size of the volume, in bytes.
    size: u64,
}

impl Copy<'_> {
    /// Copies the blocks from `start` to `end`, durably.
    fn stretch(&self, start: u64, end: u64) -> io::Result<()> {
        let device = self.device.file();
        let mut at = start;
        while at < end {
            // A whole block, also past the image's end: then the kernel copies nothing first.
            let len = self.block.min(self.size - at);
            copy_block(device, self.content, (at, len), self.image)?;
            at += len;
        }
        device.sync_data()
    }
}

/// Writes a block back that reads as the image does: it may read through to it. Zeroes need no
/// room, for what nothing is under reads so anyway; what differs was written by its user.
fn copy_block(device: &File, image: &File, (at, len): (u64, u64), size: Bytes) -> io::Result<()> {
    let mut blank = true;
    let mut reads = Vec::new();
    for (from, len) in pieces(at, len) {
        reads.resize(len, 0);
        device.read_exact_at(&mut reads, from)?;
        if reads != shown(image, from, len, size)? {
            return Ok(());
        }
        blank &= reads.iter().all(|byte| *byte == 0);
    }
    if blank {
        return Ok(());
    }
    for (from, len) in pieces(at, len) {
        device.write_all_at(&shown(image, from, len, size)?, from)?;
    }
    Ok(())
}

/// What the image shows there: zeroes past its end.
fn shown(image: &File, at: u64, len: usize, size: Bytes) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let within = usize::try_from(size.0.saturating_sub(at)).unwrap_or(usize::MAX);
    image.read_exact_at(&mut bytes[..within.min(len)], at)?;
    Ok(bytes)
}

/// A block in pieces: where each begins and how long it is.
fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = at + len;
    let starts = std::iter::successors(Some(at), |from| Some(from + PIECE));
    starts.take_while(move |from| *from < end).map(move |from| {
        let len = (end - from).min(PIECE);
        (from, usize::try_from(len).unwrap_or(usize::MAX)) // at most a piece
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_rest_is_as_long_as_the_step_or_as_the_rate_wants() {
        let ms = Duration::from_millis;
        assert_eq!(rest(Bytes::MIB, Bytes(0), ms(30)), ms(30));
        assert_eq!(rest(Bytes::MIB, Bytes(0), ms(900)), ms(200));
        assert_eq!(rest(Bytes::MIB, Bytes::MIB, ms(300)), ms(700));
        assert_eq!(rest(Bytes::MIB, Bytes::MIB, ms(1300)), ms(0));
    }

    #[test]
    fn a_block_is_gone_through_in_pieces_that_fill_it() {
        let found: Vec<_> = pieces(512, 2 * PIECE + 512).collect();
        let piece = usize::try_from(PIECE).unwrap();
        assert_eq!(
            found,
            [(512, piece), (512 + PIECE, piece), (512 + 2 * PIECE, 512)]
        );
    }

    #[test]
    fn a_large_block_that_differs_in_its_last_piece_is_left_as_it_is() {
        let files = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let [device, image] = &files;
        let size = 3 * PIECE;
        image
            .write_all_at(&vec![7; usize::try_from(size).unwrap()], 0)
            .unwrap();
        device
            .write_all_at(&vec![7; usize::try_from(size).unwrap()], 0)
            .unwrap();
        device.write_all_at(&[8], size - 1).unwrap();
        let read_only =
            std::fs::File::open(format!("/proc/self/fd/{}", device.as_raw_fd())).unwrap();
        copy_block(&read_only, image, (0, size), Bytes(size)).unwrap();
        device.write_all_at(&[7], size - 1).unwrap();
        copy_block(&read_only, image, (0, size), Bytes(size)).expect_err("it is written");
    }

    /// Two blocks that were written in, the first near its end and the other near its beginning, and
    /// one between them that still reads through: it is written, wherever a step ends.
    #[test]
    fn a_block_between_two_written_ones_is_copied_whatever_the_size_of_a_block() {
        for block in [192 << 10, 64 << 10, 1 << 20, 3 << 20, 5 << 20] {
            let total = 3 * STEP.max(block) / block * block + 512;
            let first = (STEP / block).max(1);
            for middle in [1, 2, first, first + 1] {
                let files = [(); 2].map(|()| tempfile::tempfile().unwrap());
                for file in &files {
                    file.set_len(total).unwrap();
                    file.write_all_at(&[7], middle * block).unwrap();
                }
                let [device, image] = &files;
                device.write_all_at(&[8], middle * block - 1).unwrap();
                device.write_all_at(&[8], (middle + 1) * block).unwrap();
                let path = format!("/proc/self/fd/{}", device.as_raw_fd());
                let device = Device(std::fs::File::open(path).unwrap());
                let copy = Copy {
                    device: &device,
                    content: image,
                    image: Bytes(total),
                    block,
                    size: total,
                };
                let step = step(block);
                let mut ends = (0..total).step_by(usize::try_from(step).unwrap());
                let written = |at: u64| copy.stretch(at, total.min(at + step)).is_err();
                assert!(ends.any(written), "{block} {middle}");
            }
        }
    }

    /// A thin's device that takes no write: one that is tried fails.
    struct Device(File);

    impl PrivateThin for Device {
        fn mapping(&self) -> Result<crate::kernel::Mapping, KernelError> {
            unreachable!("a copy is of what reads through")
        }

        fn discard(&self, _: Bytes, _: Bytes) -> Result<(), KernelError> {
            unreachable!("a copy gives nothing up")
        }

        fn file(&self) -> &File {
            &self.0
        }
    }

    #[test]
    fn a_mark_of_steps_that_were_no_whole_blocks_is_not_believed() {
        let block = 192 << 10;
        let step = step(block);
        assert_eq!(step, 21 * block);
        assert_eq!(begin(17 * step, step), 17 * step);
        for done in [MARK, 63 * MARK] {
            assert_eq!(begin(done, step), 0, "{done}");
        }
        assert_eq!(begin(63 * MARK, STEP), 63 * MARK);
        assert_eq!(begin(3 * (5 << 20), 5 << 20), 3 * (5 << 20));
    }

    #[test]
    fn only_what_reads_as_the_image_and_is_not_zero_is_written() {
        let files = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let [device, image] = &files;
        image.set_len(6 << 10).unwrap();
        image.write_all_at(&[7; 5 << 10], 0).unwrap();
        device.set_len(12 << 10).unwrap();
        device.write_all_at(&[7; 5 << 10], 0).unwrap();
        device.write_all_at(&[9; 1 << 10], 0).unwrap();
        for at in [0, 4 << 10, 8 << 10] {
            copy_block(device, image, (at, 4 << 10), Bytes(6 << 10)).unwrap();
        }
        let mut found = vec![0; 12 << 10];
        device.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found[0], 9);
        assert_eq!(found[1024..5120], [7; 4096]);
        assert!(found[5120..].iter().all(|byte| *byte == 0));
    }
}
