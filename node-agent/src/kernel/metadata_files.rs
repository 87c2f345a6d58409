//! A pool's metadata in files: copied off its device, checked, repaired, and put back.
//!
//! Called by `ops::repair`. The field's own tools do the work; they want block devices, so a file
//! gets a loop device as long as one runs. What is on a pool's device is read past the page cache,
//! for the kernel writes there past it too. Nothing here changes a pool's device but
//! [`MetadataFiles::put_metadata`], and a crash in the middle of that leaves metadata that is none:
//! who calls it has written down first where the rest of it is. What takes long and changes nothing is
//! broken off as soon as the caller that it is done for, if there is one, goes away.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use goldleaf_dm::{Access, Owned, nodes};
use goldleaf_types::{Bytes, PoolId, ThinId};
use rustix::fs::OFlags;

use super::dm::{DmKernel, ensure_none, find, total};
use super::metadata::listed_in;
use super::pool::attach_whole;
use super::pool_tables::metadata_device;
use super::superblock::{BLOCK, Superblock};
use super::{KernelError, PoolSpec};
use crate::failpoint::{Point, hit};
use crate::sys::caller::Caller;
use crate::sys::run::{RunError, run_streamed};

/// Most that is read or written at once; what a device takes without the page cache, it takes at
/// multiples of a metadata block.
const PIECE: usize = 1 << 20;

/// How long a check or a repair may take. A check takes about a second for a million mappings where
/// the metadata is on flash, a repair some seconds; the largest metadata has some hundred millions,
/// and on a spinning disk each of their blocks is a seek. A pool that is checked too briefly never opens.
pub(super) const WHOLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Most of a tool's words that are told.
const WORDS: usize = 600;

/// Told how many bytes are done.
pub type Told<'a> = &'a mut dyn FnMut(Bytes);

/// What a repair is told of metadata whose superblock says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The transaction id.
    pub transaction_id: u64,
    /// Sectors of a block of data.
    pub block_sectors: u64,
    /// Blocks of data.
    pub data_blocks: u64,
}

/// What the agent does with metadata in files.
pub trait MetadataFiles {
    /// Copies all of a pool's metadata into an empty file, durably. Changes nothing. The pool is not
    /// live, or takes no change.
    ///
    /// # Errors
    ///
    /// When the device cannot be read, or the file not written; [`KernelError::Abandoned`].
    fn copy_metadata(
        &self,
        spec: &PoolSpec,
        to: &File,
        caller: Option<&Caller>,
        told: Told<'_>,
    ) -> Result<(), KernelError>;

    /// Whether a pool's metadata is what a file has.
    ///
    /// # Errors
    ///
    /// When either cannot be read.
    fn is_metadata(&self, spec: &PoolSpec, file: &File) -> Result<bool, KernelError>;

    /// What is wrong with the metadata in a file, in the words of `thin_check`; `None` when it is
    /// sound.
    ///
    /// # Errors
    ///
    /// When that cannot be asked; [`KernelError::Abandoned`].
    fn check_metadata(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Option<String>, KernelError>;

    /// What the superblock in a file says; `None` when it is damaged.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    fn superblock(&self, file: &File) -> Result<Option<Superblock>, KernelError>;

    /// The thins in a file's metadata and how many blocks each is said to map, in order.
    ///
    /// # Errors
    ///
    /// [`KernelError::Metadata`] when the list of them is damaged; [`KernelError::Abandoned`].
    fn thins_in(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Vec<(ThinId, u64)>, KernelError>;

    /// Has `thin_repair` write into the second file what it can make of the metadata in the first;
    /// `given` is for metadata whose superblock is damaged. The file to write is as long as the
    /// other. What it makes needs no check.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotRepaired`] in the tool's words; [`KernelError::Abandoned`].
    fn repair_metadata(
        &self,
        pool: PoolId,
        files: (&File, &File),
        given: Option<Given>,
        caller: Option<&Caller>,
    ) -> Result<(), KernelError>;

    /// Puts what a file has in the place of a pool's metadata, durably, and compares. The pool is
    /// not live. Cut short, it leaves a part of either.
    ///
    /// # Errors
    ///
    /// [`KernelError::Busy`] when the pool is live; also when the device cannot be written.
    fn put_metadata(&self, spec: &PoolSpec, from: &File, told: Told<'_>)
    -> Result<(), KernelError>;
}

impl MetadataFiles for DmKernel {
    fn copy_metadata(
        &self,
        spec: &PoolSpec,
        to: &File,
        caller: Option<&Caller>,
        told: Told<'_>,
    ) -> Result<(), KernelError> {
        self.with_device(spec, |node| {
            let device = open_direct(node).map_err(reading)?;
            let len = length(spec);
            to.set_len(len.0).map_err(writing)?;
            each_piece(&device, len, |at, piece| {
                if caller.is_some_and(Caller::is_gone) {
                    return Err(KernelError::Abandoned(spec.id));
                }
                // Holes read as zeroes: most of a pool's metadata was never written.
                if piece.iter().any(|byte| *byte != 0) {
                    to.write_all_at(piece, at).map_err(writing)?;
                }
                told(Bytes(at + piece.len() as u64));
                Ok(true)
            })?;
            to.sync_all().map_err(writing)
        })
    }

    fn is_metadata(&self, spec: &PoolSpec, file: &File) -> Result<bool, KernelError> {
        self.with_device(spec, |node| same(node, length(spec), file))
    }

    fn check_metadata(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Option<String>, KernelError> {
        over_loop(file, Access::ReadOnly, |node| {
            let path = node.to_string_lossy();
            match ended(caller, WHOLE_LIMIT, "thin_check", &[path.as_ref()]) {
                Ok(words) => Ok(words),
                Err(RunError::Abandoned { .. }) => Err(KernelError::Abandoned(pool)),
                // So many errors that nobody reads them.
                Err(RunError::TooMuchOutput { .. }) => Ok(Some("it has errors without end".into())),
                Err(error) => Err(KernelError::Metadata {
                    pool,
                    why: error.to_string(),
                }),
            }
        })
    }

    fn superblock(&self, file: &File) -> Result<Option<Superblock>, KernelError> {
        let mut block = [0; BLOCK];
        file.read_exact_at(&mut block, 0).map_err(reading)?;
        Ok(Superblock::of(&block))
    }

    fn thins_in(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Vec<(ThinId, u64)>, KernelError> {
        let mut thins = over_loop(file, Access::ReadOnly, |node| listed_in(pool, node, caller))?;
        thins.sort_unstable();
        Ok(thins)
    }

    fn repair_metadata(
        &self,
        pool: PoolId,
        files: (&File, &File),
        given: Option<Given>,
        caller: Option<&Caller>,
    ) -> Result<(), KernelError> {
        let (from, to) = files;
        let repaired = |ended: Result<Option<String>, RunError>| {
            let why = match ended {
                Ok(None) => return Ok(()),
                Ok(Some(words)) => words,
                Err(RunError::Abandoned { .. }) => return Err(KernelError::Abandoned(pool)),
                Err(error) => error.to_string(),
            };
            Err(KernelError::NotRepaired { pool, why })
        };
        over_loop(from, Access::ReadOnly, |from| {
            over_loop(to, Access::ReadWrite, |to| {
                let mut args = vec![
                    "-i".to_owned(),
                    from.display().to_string(),
                    "-o".to_owned(),
                    to.display().to_string(),
                ];
                if let Some(given) = given {
                    args.extend([
                        format!("--transaction-id={}", given.transaction_id),
                        format!("--data-block-size={}", given.block_sectors),
                        format!("--nr-data-blocks={}", given.data_blocks),
                    ]);
                }
                repaired(ended(caller, WHOLE_LIMIT, "thin_repair", &args))
            })
        })?;
        if self.superblock(to)?.is_some_and(|s| s.needs_check) {
            // thin_repair keeps the flag. thin_check takes it off what it finds sound, and only that.
            over_loop(to, Access::ReadWrite, |node| {
                let path = node.display().to_string();
                let args = ["--clear-needs-check-flag", path.as_str()];
                repaired(ended(caller, WHOLE_LIMIT, "thin_check", &args))
            })?;
        }
        to.sync_all().map_err(writing)
    }

    fn put_metadata(
        &self,
        spec: &PoolSpec,
        from: &File,
        told: Told<'_>,
    ) -> Result<(), KernelError> {
        if let Some(live) = find(&self.control, Owned::Pool(spec.id))? {
            return Err(KernelError::Busy {
                what: Owned::Pool(spec.id).name().to_string(),
                openers: live.device.open_count,
            });
        }
        let len = length(spec);
        self.with_device(spec, |node| {
            let device = File::options().write(true).open(node).map_err(writing)?;
            let mut first = true;
            each_piece(from, len, |at, piece| {
                device.write_all_at(piece, at).map_err(writing)?;
                if std::mem::take(&mut first) {
                    device.sync_all().map_err(writing)?;
                    hit(Point::RepairBegunPutting);
                }
                told(Bytes(at + piece.len() as u64));
                Ok(true)
            })?;
            device.sync_all().map_err(writing)?;
            drop(device);
            match same(node, len, from)? {
                true => Ok(()),
                false => Err(KernelError::Metadata {
                    pool: spec.id,
                    why: "what was written reads otherwise: see to the device below it".into(),
                }),
            }
        })
    }
}

impl DmKernel {
    /// Calls `use_it` with the node of the pool's metadata device, which goes again if it was not
    /// there.
    fn with_device<T>(
        &self,
        spec: &PoolSpec,
        use_it: impl FnOnce(&Path) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let owned = Owned::PoolMetadata(spec.id);
        let made = find(&self.control, owned)?.is_none();
        let device = metadata_device(&self.control, spec)?;
        let node = nodes::ensure(device).map_err(KernelError::io("make a device's node"))?;
        let done = use_it(&node);
        if made {
            let _ = ensure_none(&self.control, owned)?;
        }
        done
    }
}

fn reading(source: io::Error) -> KernelError {
    KernelError::io("read a pool's metadata")(source)
}

fn writing(source: io::Error) -> KernelError {
    KernelError::io("write a pool's metadata")(source)
}

fn length(spec: &PoolSpec) -> Bytes {
    total(spec.metadata.iter().map(|s| s.len)).bytes()
}

/// Opened past the page cache.
fn open_direct(node: &Path) -> io::Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    File::options().read(true).custom_flags(direct).open(node)
}

/// Reads `len` bytes of a device or file piece by piece; `take` says whether to go on.
fn each_piece(
    from: &File,
    len: Bytes,
    mut take: impl FnMut(u64, &[u8]) -> Result<bool, KernelError>,
) -> Result<(), KernelError> {
    // Where a device is read past the page cache, memory is to begin at a block too.
    let mut room = vec![0; PIECE + BLOCK];
    let begin = room.as_ptr().align_offset(BLOCK).min(BLOCK);
    let mut at = 0;
    while at < len.0 {
        let n = usize::try_from(len.0 - at).unwrap_or(PIECE).min(PIECE);
        let piece = &mut room[begin..begin + n];
        from.read_exact_at(piece, at).map_err(reading)?;
        if !take(at, piece)? {
            return Ok(());
        }
        at += n as u64;
    }
    Ok(())
}

/// Whether a device, read past the page cache, has what a file has.
fn same(node: &Path, len: Bytes, file: &File) -> Result<bool, KernelError> {
    let device = open_direct(node).map_err(reading)?;
    let mut other = vec![0; PIECE];
    let mut same = true;
    each_piece(&device, len, |at, piece| {
        let other = &mut other[..piece.len()];
        file.read_exact_at(other, at).map_err(reading)?;
        same = piece == other;
        Ok(same)
    })?;
    Ok(same)
}

/// Calls `run` with a loop device over a file, which goes with it.
fn over_loop<T>(
    file: &File,
    access: Access,
    run: impl FnOnce(&Path) -> Result<T, KernelError>,
) -> Result<T, KernelError> {
    let failed = |source| KernelError::io("attach a loop device")(source);
    let device = attach_whole(file, access).map_err(failed)?;
    let node = nodes::ensure(device.dev()).map_err(KernelError::io("make a device's node"))?;
    run(&node)
}

/// Runs a tool to its end, or until its caller is gone: nothing when it succeeds, else its words.
fn ended<A: AsRef<std::ffi::OsStr>>(
    caller: Option<&Caller>,
    limit: Duration,
    program: &str,
    args: &[A],
) -> Result<Option<String>, RunError> {
    let mut said = Vec::new();
    let mut keep = |chunk: &[u8]| {
        said.extend_from_slice(&chunk[..chunk.len().min(WORDS.saturating_sub(said.len()))]);
        ControlFlow::Continue(())
    };
    match run_streamed(caller, limit, program, args, &mut keep)? {
        Some((status, _)) if status.success() => Ok(None),
        Some((status, stderr)) => Ok(Some(words(program, &stderr, &said, status))),
        None => Ok(Some(format!("{program} was broken off"))),
    }
}

/// A tool's errors on one line; what else it wrote, if it has none.
fn words(program: &str, stderr: &[u8], stdout: &[u8], status: std::process::ExitStatus) -> String {
    let line = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        // What it is at, not what it found.
        let at_work = [
            "examining ",
            "checking ",
            "TRANSACTION_ID=",
            "METADATA_FREE_BLOCKS=",
        ];
        let lines = lines.filter(|line| !at_work.iter().any(|word| line.starts_with(word)));
        let text = lines.collect::<Vec<_>>().join("; ");
        text.chars().take(WORDS).collect::<String>()
    };
    match (line(stderr), line(stdout)) {
        (errors, _) if !errors.is_empty() => errors,
        (_, said) if !said.is_empty() => said,
        (_, _) => format!("{program} ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_begin_at_a_block_in_memory_and_cover_all_once() {
        let file = tempfile::tempfile().unwrap();
        let len = 2 * PIECE as u64 + BLOCK as u64;
        file.set_len(len).unwrap();
        file.write_all_at(b"end", len - 3).unwrap();
        let (mut next, mut last) = (0, Vec::new());
        each_piece(&file, Bytes(len), |at, piece| {
            assert_eq!(at, next);
            assert!((piece.as_ptr() as usize).is_multiple_of(BLOCK));
            next += piece.len() as u64;
            last = piece.to_vec();
            Ok(true)
        })
        .unwrap();
        assert_eq!(next, len);
        assert!(last.ends_with(b"end") && last.len() == BLOCK);
    }

    #[test]
    fn a_tools_words_are_what_it_found_on_one_line() {
        let said = |script: &str| ended(None, WHOLE_LIMIT, "sh", &["-c", script]).unwrap();
        assert_eq!(said("echo fine"), None);
        let found = "echo examining it >&2; echo TRANSACTION_ID=9; echo '  bad block' >&2; \
                     echo ' 7 ' >&2; exit 1";
        assert_eq!(said(found).as_deref(), Some("bad block; 7"));
        assert_eq!(said("echo no; exit 1").as_deref(), Some("no"));
        assert!(said("exit 3").unwrap().contains("exit status: 3"));
        let long = said("yes bad | head -n 100000; exit 1").unwrap();
        assert!(long.len() <= WORDS, "{}", long.len());
    }
}
