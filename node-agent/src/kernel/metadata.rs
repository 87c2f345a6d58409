//! Reading a live pool's metadata with the field's own tools, from a metadata snapshot.
//!
//! Used by `dm`, one reader at a time: a pool holds one metadata snapshot. It is released on every
//! way out; one that a crash leaves is released when the pool is opened. While it is held, blocks
//! that are deleted are not freed, so nothing else is done meanwhile: what is read is kept, within
//! bounds, and told to whoever asked only afterwards. A tool's output may be of any length; it is
//! read line by line as it comes.

use std::ops::ControlFlow;
use std::path::Path;

use goldleaf_dm::{Control, Owned, PoolMessage, nodes};
use goldleaf_types::{PoolId, ThinId};

use super::blocks::{Collected, Delta};
use super::pool::{Refused, message};
use super::{BlockQuery, BlockRuns, KernelError, ThinUse};
use crate::failpoint::{Point, hit};
use crate::sys::caller::Caller;
use crate::sys::run::{RunError, run_streamed};

/// How long a tool may read. It takes about a second for a million mappings, and the largest
/// metadata has some hundred millions.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

/// Longest line that is no nonsense.
const LINE: usize = 4096;

/// Calls `read` with the metadata device's path while a metadata snapshot is held.
fn with_snapshot<T>(
    control: &Control,
    pool: PoolId,
    read: impl FnOnce(&Path) -> Result<T, KernelError>,
) -> Result<T, KernelError> {
    let device = control
        .find(&Owned::PoolMetadata(pool).name())
        .map_err(KernelError::dm("look at a pool's metadata device"))?
        .ok_or(KernelError::NoPool(pool))?;
    let node = nodes::ensure(device.dev).map_err(KernelError::io("make a device's node"))?;
    message(control, pool, &PoolMessage::ReserveMetadataSnap).map_err(Refused::into_error)?;
    hit(Point::MetadataHeld);
    let answer = read(&node);
    message(control, pool, &PoolMessage::ReleaseMetadataSnap).map_err(Refused::into_error)?;
    answer
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It was understood; go on.
    On,
    /// No more is needed.
    Enough,
    /// It is none that the tool is known to write.
    Strange,
}

/// Gives each line that a tool writes to `line`.
fn lines_of(
    pool: PoolId,
    caller: Option<&Caller>,
    program: &str,
    args: &[&str],
    line: &mut dyn FnMut(&str) -> Read,
) -> Result<(), KernelError> {
    let failed = |why: String| KernelError::Metadata { pool, why };
    let mut lines = Lines::default();
    let mut last = Read::On;
    let mut sink = |chunk: &[u8]| {
        last = lines.feed(chunk, line);
        match last {
            Read::On => ControlFlow::Continue(()),
            Read::Enough | Read::Strange => ControlFlow::Break(()),
        }
    };
    let ended = run_streamed(caller, LIMIT, program, args, &mut sink);
    let ended = ended.map_err(|error| match error {
        RunError::Abandoned { .. } => KernelError::Abandoned(pool),
        error @ (RunError::Missing { .. }
        | RunError::Io { .. }
        | RunError::Timeout { .. }
        | RunError::TooMuchOutput { .. }) => failed(error.to_string()),
    })?;
    let strange = || Err(failed(format!("{program} wrote what it is not known to")));
    match ended {
        None if last == Read::Enough => Ok(()),
        None => strange(),
        Some((status, _)) if status.success() => match lines.is_empty() {
            true => Ok(()),
            false => strange(), // it ended within a line
        },
        Some((_, stderr)) => {
            let words = String::from_utf8_lossy(&stderr);
            Err(failed(words.trim().chars().take(300).collect()))
        }
    }
}

/// The line that is being written.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn feed(&mut self, mut chunk: &[u8], line: &mut dyn FnMut(&str) -> Read) -> Read {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.0.extend_from_slice(&chunk[..end]);
            chunk = &chunk[end + 1..];
            let read = match std::str::from_utf8(&self.0) {
                Ok(text) if text.trim().is_empty() => Read::On,
                Ok(text) => line(text.trim()),
                Err(_) => Read::Strange,
            };
            self.0.clear();
            if read != Read::On {
                return read;
            }
        }
        self.0.extend_from_slice(chunk);
        match self.0.len() > LINE {
            true => Read::Strange,
            false => Read::On,
        }
    }

    fn is_empty(&self) -> bool {
        self.0.trim_ascii().is_empty()
    }
}

/// A list that a tool writes, each line one thing.
fn listed<T>(
    pool: PoolId,
    caller: Option<&Caller>,
    args: &[&str],
    parse: fn(&str) -> Option<T>,
) -> Result<Vec<T>, KernelError> {
    let mut all = Vec::new();
    lines_of(
        pool,
        caller,
        "thin_ls",
        args,
        &mut |line| match parse(line) {
            Some(found) => {
                all.push(found);
                Read::On
            }
            None => Read::Strange,
        },
    )?;
    Ok(all)
}

/// Every thin in the metadata, in order.
pub(super) fn known_thins(control: &Control, pool: PoolId) -> Result<Vec<ThinId>, KernelError> {
    let mut known = with_snapshot(control, pool, |metadata| {
        let path = metadata.to_string_lossy();
        // The number alone: its mappings are not walked for it.
        let args = ["-m", "--no-headers", "-o", "DEV", path.as_ref()];
        listed(pool, None, &args, |line| {
            ThinId::new(line.parse().ok()?).ok()
        })
    })?;
    known.sort_unstable();
    Ok(known)
}

/// Every thin in metadata that nothing uses, and how many blocks each is recorded to map.
pub(super) fn listed_in(
    pool: PoolId,
    metadata: &Path,
    caller: Option<&Caller>,
) -> Result<Vec<(ThinId, u64)>, KernelError> {
    let path = metadata.to_string_lossy();
    // Neither number is counted: the mappings are not walked, so that they may be damaged.
    let args = ["--no-headers", "-o", "DEV,MAPPED_BLOCKS", path.as_ref()];
    listed(pool, caller, &args, |line| {
        let (thin, blocks) = line.split_once(char::is_whitespace)?;
        let thin = ThinId::new(thin.parse().ok()?).ok()?;
        Some((thin, blocks.trim().parse().ok()?))
    })
}

/// What each thin of the pool takes, in order of thin.
pub(super) fn usage(control: &Control, pool: PoolId) -> Result<Vec<ThinUse>, KernelError> {
    let mut all = with_snapshot(control, pool, |metadata| {
        let path = metadata.to_string_lossy();
        let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
        let args = ["-m", "--no-headers", "-o", columns, path.as_ref()];
        listed(pool, None, &args, parse_use)
    })?;
    all.sort_by_key(|found| found.thin);
    Ok(all)
}

/// Three numbers, of which the last is no larger than the second.
fn parse_use(line: &str) -> Option<ThinUse> {
    let mut words = line.split_whitespace();
    let found = ThinUse {
        thin: ThinId::new(words.next()?.parse().ok()?).ok()?,
        mapped_blocks: words.next()?.parse().ok()?,
        exclusive_blocks: words.next()?.parse().ok()?,
    };
    let sane = words.next().is_none() && found.exclusive_blocks <= found.mapped_blocks;
    sane.then_some(found)
}

/// What a thin maps, or in what it differs from another.
pub(super) fn blocks(
    control: &Control,
    pool: PoolId,
    query: &BlockQuery,
) -> Result<BlockRuns, KernelError> {
    let mut collected = Collected::new(query);
    with_snapshot(control, pool, |metadata| {
        let path = metadata.to_string_lossy();
        // Compared with itself, a thin has in common what it maps.
        let (base, thin) = (
            query.base.unwrap_or(query.thin).to_string(),
            query.thin.to_string(),
        );
        let args = [
            "-m",
            "--thin1",
            base.as_str(),
            "--thin2",
            thin.as_str(),
            path.as_ref(),
        ];
        lines_of(pool, None, "thin_delta", &args, &mut |line| {
            Delta::parse(line).map_or(Read::Strange, |delta| collected.take(delta))
        })
    })?;
    Ok(collected.into_runs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_thins_take_is_read_whole_or_not_at_all() {
        let found = parse_use("1 17 3").unwrap();
        let numbers = (
            found.thin.get(),
            found.mapped_blocks,
            found.exclusive_blocks,
        );
        assert_eq!(numbers, (1, 17, 3));
        for bad in ["1 2", "1 2 3", "1 2 2 2", "x 2 1", "1 -2 0"] {
            assert!(parse_use(bad).is_none(), "{bad:?} passed");
        }
    }

    /// Lines are the same however a pipe cuts them.
    #[test]
    fn lines_come_whole_in_pieces_of_any_length() {
        let text = "  1   2\n\n3\n4 5 6\n";
        for piece in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for chunk in text.as_bytes().chunks(piece) {
                let read = lines.feed(chunk, &mut |line| {
                    found.push(line.to_owned());
                    Read::On
                });
                assert_eq!(read, Read::On);
            }
            assert_eq!(found, ["1   2", "3", "4 5 6"], "in pieces of {piece}");
            assert!(lines.is_empty());
        }
        let mut lines = Lines::default();
        let mut any = |_: &str| Read::On;
        assert_eq!(lines.feed(&[b'x'; LINE + 1], &mut any), Read::Strange);
        assert_eq!(Lines::default().feed(b"\xff\n", &mut any), Read::Strange);
        let mut cut = Lines::default();
        assert_eq!(cut.feed(b"1 2", &mut any), Read::On);
        assert!(!cut.is_empty());
    }

    #[test]
    fn a_tools_lines_are_read_to_the_end_or_its_words_are_told() {
        let pool = PoolId::from_bytes([1; 16]);
        let run = |script: &str| {
            let mut seen = 0;
            let ended = lines_of(pool, None, "sh", &["-c", script], &mut |line| match line {
                "strange" => Read::Strange,
                "enough" => Read::Enough,
                _ => {
                    seen += 1;
                    Read::On
                }
            });
            ended.map(|()| seen).map_err(|error| error.to_string())
        };
        // More than an ordinary program's output may have, for a pool of many thins.
        assert_eq!(run("yes 123456789 | head -n 300000"), Ok(300_000));
        assert_eq!(run("echo 1; echo enough; cat /dev/zero"), Ok(1));
        for (script, why) in [
            ("echo 1; echo strange; sleep 60", "not known to"),
            ("printf 1", "not known to"),
            ("echo 1; echo no such thin >&2; exit 1", "no such thin"),
        ] {
            let error = run(script).unwrap_err();
            assert!(error.contains(why), "{script}: {error}");
        }
    }
}
