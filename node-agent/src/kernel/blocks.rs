//! Runs of a thin's blocks, as `thin_delta` tells of them.
//!
//! Used by `metadata`. Pure. What is kept is bounded: whoever asks gets the first runs and asks for
//! those after them, which works for snapshots alone, since their mappings do not change.

use goldleaf_types::ThinId;

use super::metadata::Read;

/// Neighbouring blocks of a thin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The first, counted from the thin's beginning.
    pub begin: u64,
    /// How many.
    pub len: u64,
}

impl BlockRun {
    /// The block after the last one.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.begin.saturating_add(self.len)
    }
}

/// Which blocks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockQuery {
    /// The thin: those that it maps.
    pub thin: ThinId,
    /// Another: those that are mapped in one of the two only, or to something else.
    pub base: Option<ThinId>,
    /// The first block that matters.
    pub from: u64,
    /// Most runs to answer.
    pub most: usize,
}

/// Some runs, in order, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockRuns {
    /// The runs.
    pub runs: Vec<BlockRun>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// A line of `thin_delta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delta {
    /// What stands around the runs.
    Frame,
    /// Mapped in both, to the same.
    Same(BlockRun),
    /// Mapped in one only, or to something else.
    Other(BlockRun),
}

impl Delta {
    /// Reads a line; `None` for one that the tool is not known to write.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let tag = line.strip_prefix('<')?.strip_suffix('>')?;
        let (name, rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let run = || {
            let run = BlockRun {
                begin: attribute(rest, "begin")?,
                len: attribute(rest, "length")?,
            };
            (run.len > 0 && run.begin.checked_add(run.len).is_some()).then_some(run)
        };
        match name {
            "superblock" | "diff" | "/diff" | "/superblock" => Some(Self::Frame),
            "same" => run().map(Self::Same),
            "different" | "left_only" | "right_only" => run().map(Self::Other),
            _ => None,
        }
    }
}

fn attribute(rest: &str, name: &str) -> Option<u64> {
    rest.trim_end_matches('/')
        .split_whitespace()
        .find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            (key == name).then(|| value.parse().ok())?
        })
}

/// What was asked for, as far as it has come.
#[derive(Debug)]
pub(super) struct Collected {
    query: BlockQuery,
    found: BlockRuns,
    /// No run begins before it.
    end: u64,
}

impl Collected {
    pub(super) fn new(query: &BlockQuery) -> Self {
        Self {
            query: *query,
            found: BlockRuns::default(),
            end: 0,
        }
    }

    pub(super) fn take(&mut self, delta: Delta) -> Read {
        let (run, wanted) = match delta {
            Delta::Frame => return Read::On,
            Delta::Same(run) => (run, self.query.base.is_none()),
            Delta::Other(run) => (run, self.query.base.is_some()),
        };
        if run.begin < self.end {
            return Read::Strange; // out of order
        }
        self.end = run.end();
        if !wanted || run.end() <= self.query.from {
            return Read::On;
        }
        let begin = run.begin.max(self.query.from);
        let run = BlockRun {
            begin,
            len: run.end() - begin,
        };
        let is_full = self.found.runs.len() >= self.query.most;
        match self.found.runs.last_mut() {
            Some(last) if last.end() == run.begin => last.len += run.len,
            Some(_) if is_full => {
                self.found.more = true;
                return Read::Enough;
            }
            Some(_) | None => self.found.runs.push(run),
        }
        Read::On
    }

    pub(super) fn into_runs(self) -> BlockRuns {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"<superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="9">
  <diff left="1" right="2">
    <same begin="0" length="2"/>
    <different begin="2" length="1"/>
    <left_only begin="3" length="4"/>
    <same begin="8" length="1"/>
    <right_only begin="9" length="1"/>
    <different begin="20" length="5"/>
  </diff>
</superblock>"#;

    fn read(base: bool, from: u64, most: usize) -> (Vec<(u64, u64)>, bool) {
        let thin = |n| ThinId::new(n).unwrap();
        let query = BlockQuery {
            thin: thin(2),
            base: base.then(|| thin(1)),
            from,
            most,
        };
        let mut collected = Collected::new(&query);
        for line in TEXT.lines() {
            match collected.take(Delta::parse(line.trim()).unwrap()) {
                Read::On => {}
                Read::Enough => break,
                Read::Strange => panic!("{line}"),
            }
        }
        let found = collected.into_runs();
        (
            found.runs.iter().map(|r| (r.begin, r.len)).collect(),
            found.more,
        )
    }

    #[test]
    fn mapped_and_changed_blocks_are_told_apart_and_neighbours_are_one_run() {
        assert_eq!(read(false, 0, 9), (vec![(0, 2), (8, 1)], false));
        assert_eq!(read(true, 0, 9), (vec![(2, 5), (9, 1), (20, 5)], false));
    }

    #[test]
    fn a_part_can_be_asked_for_and_says_whether_more_follows() {
        assert_eq!(read(true, 4, 9), (vec![(4, 3), (9, 1), (20, 5)], false));
        assert_eq!(read(true, 0, 1), (vec![(2, 5)], true));
        assert_eq!(read(true, 7, 2), (vec![(9, 1), (20, 5)], false));
        assert_eq!(read(true, 25, 1), (vec![], false));
        // Part by part it is the whole.
        let (mut all, mut from) = (vec![], 0);
        loop {
            let (runs, more) = read(true, from, 1);
            all.extend(runs);
            if !more {
                break;
            }
            from = all.last().map(|(begin, len)| begin + len).unwrap();
        }
        assert_eq!(all, read(true, 0, 9).0);
    }

    #[test]
    fn lines_that_the_tool_does_not_write_are_refused() {
        for bad in [
            "",
            "same begin=\"0\" length=\"1\"",
            "<same begin=\"0\"/>",
            "<same begin=\"0\" length=\"0\"/>",
            "<same begin=\"-1\" length=\"1\"/>",
            "<same begin=\"18446744073709551615\" length=\"2\"/>",
            "<other begin=\"0\" length=\"1\"/>",
        ] {
            assert_eq!(Delta::parse(bad), None, "{bad:?}");
        }
        let query = BlockQuery {
            thin: ThinId::new(1).unwrap(),
            base: None,
            from: 0,
            most: 9,
        };
        let mut collected = Collected::new(&query);
        let run = |begin| Delta::Same(BlockRun { begin, len: 2 });
        assert_eq!(collected.take(run(4)), Read::On);
        assert_eq!(collected.take(run(5)), Read::Strange);
    }
}
