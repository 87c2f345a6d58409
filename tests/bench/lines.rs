//! What `measure` printed for one kernel, read back: samples, wall times, flushes and facts.
//!
//! Called by `summary`. A line that does not read is an error, not skipped: a benchmark that loses
//! samples lies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};

/// What one figure was measured in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// "goldleaf", "floor", "dmsetup", "lvm"; "csi", "server" and "agent" for the driver and those below
    /// it; or "storage" for the cost of a flush.
    pub variant: String,
    /// Active volumes beside.
    pub beside: u32,
    /// Operations at once.
    pub at_once: u32,
    /// "create", "snap" or "delete"; a part of one has a "/" in it.
    pub op: String,
}

/// Operations done together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// How many.
    pub count: u32,
    /// Their wall time, in microseconds.
    pub wall: f64,
    /// Flushes that reached the pool's device meanwhile.
    pub pool_flushes: u32,
    /// Flushes that reached the device of the server's store meanwhile.
    pub store_flushes: u32,
}

/// All of one kernel.
#[derive(Debug, Default)]
pub struct Measured {
    /// Times of single operations, in microseconds, each list sorted.
    pub samples: BTreeMap<Cell, Vec<f64>>,
    /// Sums over them.
    pub sums: BTreeMap<Cell, Sum>,
    /// Named facts: "kernel".
    pub facts: BTreeMap<String, String>,
}

impl Measured {
    /// Reads what `measure` printed.
    ///
    /// # Errors
    ///
    /// A line it would not print, or the last line lacking: then the run broke off.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for line in text.lines() {
            all.take(line)
                .with_context(|| format!("cannot read {line:?}"))?;
        }
        if !all.facts.contains_key("done") {
            bail!("the measurement broke off");
        }
        for times in all.samples.values_mut() {
            times.sort_by(f64::total_cmp);
        }
        Ok(all)
    }

    fn take(&mut self, line: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["sample", variant, beside, at_once, op, micros] => {
                let cell = Cell::read(variant, beside, at_once, op)?;
                self.samples.entry(cell).or_default().push(micros.parse()?);
            }
            ["wall", variant, beside, at_once, op, count, micros] => {
                let sum = self
                    .sums
                    .entry(Cell::read(variant, beside, at_once, op)?)
                    .or_default();
                sum.count += count.parse::<u32>()?;
                sum.wall += micros.parse::<f64>()?;
            }
            ["flushes", variant, beside, at_once, op, _, pool, store] => {
                let sum = self
                    .sums
                    .entry(Cell::read(variant, beside, at_once, op)?)
                    .or_default();
                sum.pool_flushes += pool.parse::<u32>()?;
                sum.store_flushes += store.parse::<u32>()?;
            }
            ["fact", name, ref text @ ..] => {
                self.facts.insert(name.to_owned(), text.join(" "));
            }
            _ => bail!("not a line of measure's"),
        }
        Ok(())
    }

    /// The middle one of a cell's times.
    pub fn median(&self, cell: &Cell) -> Option<f64> {
        self.quantile(cell, 50)
    }

    /// The time that so many percent of a cell's do not pass.
    pub fn quantile(&self, cell: &Cell, percent: usize) -> Option<f64> {
        let times = self.samples.get(cell)?;
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).copied()
    }

    /// Wall time of an operation among others, in microseconds.
    pub fn each(&self, cell: &Cell) -> Option<f64> {
        let sum = self.sums.get(cell).filter(|sum| sum.count > 0)?;
        Some(sum.wall / f64::from(sum.count))
    }

    /// Flushes of Goldleaf's own that an operation costs: in its catalogue, and in its store. The
    /// pool's are what reached its device beyond what the floor's same work sent there.
    pub fn own_flushes(&self, cell: &Cell) -> Option<(f64, f64)> {
        let per = |variant: &str| {
            let sum = self
                .sums
                .get(&cell.of(variant))
                .filter(|sum| sum.count > 0)?;
            let count = f64::from(sum.count);
            Some((
                f64::from(sum.pool_flushes) / count,
                f64::from(sum.store_flushes) / count,
            ))
        };
        let ((pool, store), (floor, _)) = (per("goldleaf")?, per("floor")?);
        Some(((pool - floor).max(0.0), store))
    }

    /// The numbers of volumes beside that were measured, growing.
    pub fn levels(&self) -> Vec<u32> {
        self.distinct(|cell| cell.beside)
    }

    /// How many operations at once were measured, growing.
    pub fn loads(&self) -> Vec<u32> {
        self.distinct(|cell| cell.at_once)
    }

    fn distinct(&self, of: impl Fn(&Cell) -> u32) -> Vec<u32> {
        self.sums
            .keys()
            .map(of)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

impl Cell {
    fn read(variant: &str, beside: &str, at_once: &str, op: &str) -> anyhow::Result<Self> {
        Ok(Self {
            variant: variant.to_owned(),
            beside: beside.parse()?,
            at_once: at_once.parse()?,
            op: op.to_owned(),
        })
    }

    /// The same of another variant.
    pub fn of(&self, variant: &str) -> Self {
        Self {
            variant: variant.to_owned(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(variant: &str) -> Cell {
        Cell {
            variant: variant.into(),
            beside: 10,
            at_once: 1,
            op: "create".into(),
        }
    }

    #[test]
    fn times_of_several_rounds_come_together() {
        let text = "sample floor 10 1 create 30.5\nwall floor 10 1 create 1 40\n\
                    sample floor 10 1 create 10.5\nwall floor 10 1 create 1 20\n\
                    sample floor 10 1 create 20.5\nwall floor 10 1 create 1 30\nfact done\n";
        let all = Measured::read(text).unwrap();
        assert_eq!(all.median(&cell("floor")), Some(20.5));
        assert_eq!(all.quantile(&cell("floor"), 90), Some(30.5));
        assert_eq!(all.each(&cell("floor")), Some(30.0));
        assert_eq!(all.median(&cell("lvm")), None);
    }

    #[test]
    fn own_flushes_are_those_beyond_the_floor() {
        let text = "wall floor 10 1 create 10 1\nflushes floor 10 1 create 10 30 0\n\
                    wall goldleaf 10 1 create 10 1\nflushes goldleaf 10 1 create 10 50 20\nfact done\n";
        let all = Measured::read(text).unwrap();
        assert_eq!(all.own_flushes(&cell("floor")), Some((2.0, 2.0)));
    }

    #[test]
    fn a_run_that_broke_off_is_no_result() {
        assert!(Measured::read("sample floor 10 1 create 1\n").is_err());
        assert!(Measured::read("sample floor 10 create 1\nfact done\n").is_err());
        assert!(Measured::read("sample floor 10 1 create slow\nfact done\n").is_err());
    }
}
