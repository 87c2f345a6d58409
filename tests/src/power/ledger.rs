//! What was asked for and what was answered, written down outside of the kernel that dies.
//!
//! Used by [`super::load`]. Each line is on the outer host before the load goes on: an operation
//! without its answer may have happened or not, one with it has.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::model::{Op, World};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    worker: usize,
    /// What is asked for now; without, the last one was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asks: Option<Op>,
}

/// The file.
#[derive(Debug)]
pub struct Ledger(Mutex<File>);

/// What a worker's part of the ledger says.
#[derive(Clone, Debug)]
pub struct Page {
    /// All that was answered.
    pub world: World,
    /// What was asked for and never answered.
    pub open: Option<Op>,
    /// How many were answered.
    pub answered: u64,
}

impl Ledger {
    /// Opens it, and reads a page for each worker; a line that was cut short counts for nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path, workers: usize) -> Result<(Self, Vec<Page>)> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let mut options = File::options();
        options.create(true).append(true);
        let file = options.open(path)?;
        file.set_len(u64::try_from(whole).unwrap_or(0))?;
        let mut pages: Vec<_> = (0..workers)
            .map(|worker| Page {
                world: World::of(&format!("w{worker}-")),
                open: None,
                answered: 0,
            })
            .collect();
        for line in text[..whole].lines() {
            let line: Line = serde_json::from_str(line)?;
            let page = &mut pages[line.worker];
            match line.asks {
                Some(op) => page.open = Some(op),
                None => {
                    let op = page.open.take().expect("an answer to something");
                    page.world.apply(&op);
                    page.answered += 1;
                }
            }
        }
        Ok((Self(Mutex::new(file)), pages))
    }

    /// Something is asked for.
    ///
    /// # Errors
    ///
    /// When it cannot be written down.
    pub fn asks(&self, worker: usize, op: &Op) -> Result<()> {
        let asks = Some(op.clone());
        self.put(&Line { worker, asks })
    }

    /// It was answered.
    ///
    /// # Errors
    ///
    /// When it cannot be written down.
    pub fn answered(&self, worker: usize) -> Result<()> {
        self.put(&Line { worker, asks: None })
    }

    fn put(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let mut file = self.0.lock().expect("nobody panics while writing");
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_open_and_a_torn_line_counts_for_nothing() {
        let path = std::env::temp_dir().join(format!("gl-ledger-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let op = |name: &str| Op::Create {
            name: name.into(),
            size: 2 << 20,
            image: false,
            active: false,
        };
        {
            let (ledger, _) = Ledger::open(&path, 2).unwrap();
            ledger.asks(0, &op("volume/a")).unwrap();
            ledger.answered(0).unwrap();
            ledger.asks(1, &op("volume/b")).unwrap();
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(b"{\"worker\":1").unwrap();
        }
        for _ in 0..2 {
            let (_, pages) = Ledger::open(&path, 2).unwrap();
            assert!(pages[0].world.things.contains_key("volume/a"));
            assert_eq!(pages[0].answered, 1);
            assert!(pages[0].open.is_none() && pages[1].world.things.is_empty());
            assert_eq!(pages[1].open, Some(op("volume/b")));
        }
        std::fs::remove_file(path).unwrap();
    }
}
