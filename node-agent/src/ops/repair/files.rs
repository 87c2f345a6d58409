//! The files of repairs: copies of metadata, what was made of them, and old metadata that is kept.
//!
//! `<pool>.rescued` says that the pool's tables, if there are any, are those of an opening for rescue.
//! `<pool>-<time>.copy` and `.repaired` are at work, and go with the work; after a crash the next
//! opening of the pool removes them, once no row names one. `<pool>-<time>.before` is metadata as it
//! was before a repair: nothing here ever removes it. What is in them is as secret as the volumes'
//! content is not: numbers of blocks. The folder is root's alone all the same.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use goldleaf_types::{Bytes, Digest, PoolId};
use sha2::{Digest as _, Sha256};

use crate::catalogue::Repair;
use crate::ops::error::PoolError;

/// The folder for the files of repairs.
#[derive(Debug)]
pub struct RepairFolder {
    dir: PathBuf,
    turn: Mutex<()>,
}

/// Why the file that a row names cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileTrouble {
    /// It is not there.
    #[error("it is not there")]
    Missing,
    /// It is another, or a part of it.
    #[error("it has other content than was written")]
    OtherContent,
    /// Nobody knows: it may be whole.
    #[error("{0}")]
    Unreadable(io::Error),
}

/// A file at work; it goes with this, unless it is kept.
#[derive(Debug)]
pub(in crate::ops) struct Scratch {
    pub(in crate::ops) file: File,
    path: PathBuf,
    kept: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // As after a crash, if this is one.
        if !self.kept && !std::thread::panicking() {
            remove(&self.path);
        }
    }
}

impl RepairFolder {
    /// In this folder, which is made when it is first needed.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            turn: Mutex::default(),
        }
    }

    /// One repair of this host at a time: each takes room for its files, and memory. Calls `waits`
    /// first if there is another one.
    pub(super) fn one_at_a_time(&self, waits: impl FnOnce()) -> MutexGuard<'_, ()> {
        match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                waits();
                self.turn.lock().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    fn make(&self) -> Result<(), PoolError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir);
        made.map_err(PoolError::io("make the folder for repairs"))
    }

    /// Refuses what would not fit.
    pub(in crate::ops) fn has_room(&self, pool: PoolId, needed: Bytes) -> Result<(), PoolError> {
        self.make()?;
        let found = rustix::fs::statvfs(&self.dir).map_err(io::Error::from);
        let found = found.map_err(PoolError::io("see what is free for a repair"))?;
        let free = Bytes(found.f_bavail.saturating_mul(found.f_frsize));
        match free >= needed {
            true => Ok(()),
            false => Err(PoolError::NoRoomForFiles {
                pool,
                folder: self.dir.clone(),
                needed,
                free,
            }),
        }
    }

    /// An empty file to work in.
    pub(in crate::ops) fn scratch(&self, pool: PoolId, what: &str) -> Result<Scratch, PoolError> {
        self.make()?;
        let path = self.dir.join(format!("{pool}-{}.{what}", now()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600);
        let file = file.open(&path);
        Ok(Scratch {
            file: file.map_err(PoolError::io("make a file for a repair"))?,
            path,
            kept: false,
        })
    }

    /// Keeps a copy of old metadata for good; where.
    pub(super) fn keep(&self, mut copy: Scratch, pool: PoolId) -> Result<PathBuf, PoolError> {
        let path = self.dir.join(format!("{pool}-{}.before", now()));
        fs::rename(&copy.path, &path).map_err(PoolError::io("keep the old metadata"))?;
        copy.kept = true;
        self.sync()
            .map_err(PoolError::io("keep the old metadata"))?;
        Ok(path)
    }

    /// Makes repaired metadata durable, for a row that names it.
    pub(super) fn settle(&self, mut repaired: Scratch) -> Result<Repair, PoolError> {
        let keeping = || PoolError::io("keep the repaired metadata");
        repaired.file.sync_all().map_err(keeping())?;
        self.sync().map_err(keeping())?;
        let digest = digest(&repaired.file).map_err(keeping())?;
        let name = repaired.path.file_name().unwrap_or_default();
        repaired.kept = true;
        Ok(Repair {
            file: name.to_string_lossy().into_owned(),
            digest,
        })
    }

    /// Where the file of a row is on the host that made it.
    pub(in crate::ops) fn path(&self, row: &Repair) -> PathBuf {
        // A row comes from a disk: it names no file elsewhere.
        let name = Path::new(&row.file).file_name().unwrap_or_default();
        self.dir.join(name)
    }

    /// The file that a row names, if it has what the row says.
    pub(super) fn open(&self, row: &Repair) -> Result<File, FileTrouble> {
        let file = File::open(self.path(row)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                FileTrouble::Missing
            } else {
                FileTrouble::Unreadable(error)
            }
        })?;
        match digest(&file) {
            Ok(found) if found == row.digest => Ok(file),
            Ok(_) => Err(FileTrouble::OtherContent),
            Err(error) => Err(FileTrouble::Unreadable(error)),
        }
    }

    /// Removes the file that a row named.
    pub(super) fn forget(&self, row: &Repair) {
        remove(&self.path(row));
    }

    /// Removes what repairs of a pool left that were cut short. The caller knows that no row of the
    /// pool's names any of it.
    pub(in crate::ops) fn clean(&self, pool: PoolId) {
        self.clean_of(pool, &[".copy", ".repaired"]);
    }

    /// Removes copies alone: what was repaired may be what a row names.
    pub(in crate::ops) fn clean_copies(&self, pool: PoolId) {
        self.clean_of(pool, &[".copy"]);
    }

    fn clean_of(&self, pool: PoolId, endings: &[&str]) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return; // no repair yet
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let work = endings.iter().any(|end| name.ends_with(end));
            if work && name.starts_with(&format!("{pool}-")) {
                remove(&path);
            }
        }
    }

    /// Says durably that the pool's tables are to be an opening's for rescue.
    pub(in crate::ops) fn mark_rescued(&self, pool: PoolId) -> Result<(), PoolError> {
        self.make()?;
        File::create(self.rescued(pool))
            .and_then(|file| file.sync_all())
            .and_then(|()| self.sync())
            .map_err(PoolError::io("note that a pool is opened for rescue"))
    }

    /// Whether its tables, if there are any, are an opening's for rescue.
    pub(in crate::ops) fn is_rescued(&self, pool: PoolId) -> bool {
        self.rescued(pool).exists()
    }

    /// Its tables are gone.
    pub(in crate::ops) fn unmark_rescued(&self, pool: PoolId) {
        remove(&self.rescued(pool));
    }

    fn rescued(&self, pool: PoolId) -> PathBuf {
        self.dir.join(format!("{pool}.rescued"))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "a file of a repair is left");
        }
        Ok(()) | Err(_) => {}
    }
}

/// For names that no other file has, and that people can read.
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y%m%dT%H%M%S.%6fZ")
        .to_string()
}

fn digest(file: &File) -> io::Result<Digest> {
    let (mut hasher, mut piece, mut at) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            n => {
                hasher.update(&piece[..n]);
                at += n as u64;
            }
        }
    }
}
