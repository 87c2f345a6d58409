//! The image folder: what is in it, and whether it still is what it was.
//!
//! Called by `ops` before an image is used and by `import` when content is whole. A copy is its
//! content (`<digest>.raw`, durable first) and its record (`<digest>.json`, last): the record is
//! the fact. Content that looks other than recorded is hashed once, by one caller at a time.
//! A crash leaves parts and content without a record; opening the folder removes both.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use goldleaf_types::{Bytes, Digest};
use rustix::fs::{Advice, Mode, OFlags};

use super::budget::Budget;
use super::content;
use super::error::ImageError;
use super::identity::Identity;
use super::meter::{ImportProgress, Meter};
use super::record::{ImageRecord, Place};
use super::row;
use super::source::{SourceRules, open_device};
use super::writer::{Finished, PART};
use crate::sys::replace::sync_folder;
use crate::telemetry::Chain;

/// This host's copies of images.
#[derive(Debug)]
pub struct ImageFolder(pub(super) Arc<Folder>);

/// Content that was just compared with its record.
#[derive(Debug)]
pub struct Checked {
    /// Its record.
    pub record: ImageRecord,
    /// The content, open for reading.
    pub file: File,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) rules: SourceRules,
    pub(super) budget: Arc<Budget>,
    entries: Mutex<BTreeMap<Digest, Entry>>,
    /// One lock a digest, for whatever replaces, rehashes or removes it.
    locks: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
    /// How often content was hashed again.
    #[cfg(test)]
    hashed: std::sync::atomic::AtomicU64,
}

#[derive(Clone, Debug)]
struct Entry {
    record: ImageRecord,
    /// What it looked like when its content was found to be wrong, and how wrong.
    wrong: Option<(Identity, String)>,
}

impl ImageFolder {
    /// Opens the folder, making it if need be, and removes what a crash left. Blocks.
    ///
    /// # Errors
    ///
    /// The host's, as [`ImageError::Io`].
    pub fn open(dir: PathBuf, budget: Bytes, rules: SourceRules) -> Result<Self, ImageError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(ImageError::in_folder(&dir, "make the image folder"))?;
        let folder = Folder {
            dir,
            rules,
            budget: Budget::new(budget),
            entries: Mutex::default(),
            locks: Mutex::default(),
            #[cfg(test)]
            hashed: Default::default(),
        };
        folder
            .load()
            .map_err(ImageError::io("read the image folder"))?;
        Ok(Self(Arc::new(folder)))
    }

    /// Every image whose content is there, by digest.
    #[must_use]
    pub fn list(&self) -> Vec<ImageRecord> {
        let records: Vec<_> = self
            .0
            .entries()
            .values()
            .map(|e| e.record.clone())
            .collect();
        records.into_iter().filter(is_there).collect()
    }

    /// Whether an image's content is there, whatever it looks like. Cheap.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.0
            .find(digest)
            .is_ok_and(|entry| is_there(&entry.record))
    }

    /// Compares an image with its record: cheap while it looks as recorded, one hash if it does
    /// not. Blocks.
    ///
    /// # Errors
    ///
    /// [`ImageError::Missing`], and [`ImageError::Changed`] for other content.
    pub fn check(&self, digest: &Digest) -> Result<Checked, ImageError> {
        let folder = &self.0;
        let entry = folder.find(digest)?;
        let (file, now) = look(&entry.record)?;
        if now == entry.record.identity {
            return Ok(Checked {
                record: entry.record,
                file,
            });
        }
        let lock = folder.lock(digest);
        let _held = held(&lock);
        folder.check_alone(digest)
    }

    /// Whether an image that was compared before is still here and still looks the same. Cheap:
    /// content is never read, so this may be asked under a lock that others wait for.
    #[must_use]
    pub fn is_still(&self, checked: &Checked) -> bool {
        let same = self
            .0
            .find(&checked.record.digest)
            .is_ok_and(|entry| entry.record == checked.record);
        same && Identity::of(&checked.file).is_ok_and(|now| now == checked.record.identity)
    }

    /// The digest's lock, which a long hash holds: for who has to wait for one before taking a lock
    /// that others wait for.
    #[must_use]
    pub(crate) fn hashing(&self, digest: &Digest) -> Arc<Mutex<()>> {
        self.0.lock(digest)
    }

    /// Reads an image's content again and compares it with its digest. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn verify(
        &self,
        digest: &Digest,
        tell: impl Fn(ImportProgress) + Send + Sync + 'static,
    ) -> Result<ImageRecord, ImageError> {
        let lock = self.0.lock(digest);
        let _held = held(&lock);
        let entry = self.0.find(digest)?;
        let (file, now) = look(&entry.record)?;
        // What the disk says counts, not what the page cache remembers of it. A hint: not all can.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        self.0
            .rehash(entry.record, file, now, &Meter::new(tell))
            .map(|checked| checked.record)
    }

    /// Deletes a copy, or forgets a device. OK when it is not here. Blocks.
    ///
    /// # Errors
    ///
    /// The host's, as [`ImageError::Io`]; what is left is removed by the next call or opening.
    pub fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        let lock = self.0.lock(digest);
        let alone = held(&lock);
        self.remove_alone(digest, &alone)
    }

    /// As [`Self::remove`], for who holds the digest's lock already.
    pub(crate) fn remove_alone(
        &self,
        digest: &Digest,
        _: &MutexGuard<'_, ()>,
    ) -> Result<(), ImageError> {
        let folder = &self.0;
        // The record first: content without one is removed by whoever opens the folder next.
        for path in [
            row::row_path(&folder.dir, digest),
            row::content_path(&folder.dir, digest),
        ] {
            match fs::remove_file(&path) {
                Ok(()) => {
                    sync_folder(&folder.dir).map_err(ImageError::io("delete an image"))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ImageError::io("delete an image")(error)),
            }
        }
        if let Some(entry) = folder.entries().remove(digest) {
            folder.budget.release(entry.record.owned_bytes);
            tracing::info!(%digest, "image deleted");
        }
        Ok(())
    }
}

impl Folder {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, digest: &Digest) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(*digest).or_default())
    }

    fn find(&self, digest: &Digest) -> Result<Entry, ImageError> {
        self.entries()
            .get(digest)
            .cloned()
            .ok_or(ImageError::Missing { digest: *digest })
    }

    /// As [`ImageFolder::check`], for who holds the digest's lock: whoever waited for it finds
    /// what the one before found.
    fn check_alone(&self, digest: &Digest) -> Result<Checked, ImageError> {
        let entry = self.find(digest)?;
        let (file, now) = look(&entry.record)?;
        if now == entry.record.identity {
            return Ok(Checked {
                record: entry.record,
                file,
            });
        }
        match entry.wrong {
            Some((seen, problem)) if seen == now => Err(ImageError::Changed {
                digest: *digest,
                problem,
            }),
            Some(_) | None => self.rehash(entry.record, file, now, &Meter::silent()),
        }
    }

    /// Hashes content and records what it looks like now. The caller holds the digest's lock.
    fn rehash(
        &self,
        record: ImageRecord,
        file: File,
        now: Identity,
        meter: &Meter,
    ) -> Result<Checked, ImageError> {
        let digest = record.digest;
        let reading = format!("read the content of image {digest}");
        tracing::info!(%digest, "hashing an image's content again");
        #[cfg(test)]
        self.hashed
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let problem = if now.size() != record.size.0 {
            Some(format!(
                "it has {} and {} was recorded",
                Bytes(now.size()),
                record.size
            ))
        } else {
            let found = content::hash(&file, record.size, meter, |error| ImageError::Io {
                what: reading.clone(),
                source: error,
            })?;
            if Identity::of(&file).map_err(ImageError::io(reading.clone()))? != now {
                let problem = "it is being written now".into();
                return Err(ImageError::Changed { digest, problem });
            }
            (found != digest).then(|| format!("its digest is {found} now"))
        };
        if let Some(problem) = problem {
            tracing::error!(%digest, problem, "an image's content changed");
            if let Some(entry) = self.entries().get_mut(&digest) {
                entry.wrong = Some((now, problem.clone()));
            }
            return Err(ImageError::Changed { digest, problem });
        }
        if record.identity == now {
            return Ok(Checked { record, file });
        }
        let record = ImageRecord {
            identity: now,
            ..record
        };
        self.record(&record)?;
        Ok(Checked { record, file })
    }

    /// Makes a record the fact.
    fn record(&self, record: &ImageRecord) -> Result<(), ImageError> {
        row::store(&self.dir, record)
            .map_err(ImageError::in_folder(&self.dir, "store an image's record"))?;
        let entry = Entry {
            record: record.clone(),
            wrong: None,
        };
        self.entries().insert(record.digest, entry);
        Ok(())
    }

    /// The image, if it is here and is what it was. The caller holds the digest's lock.
    fn find_usable(&self, digest: &Digest) -> Option<ImageRecord> {
        match self.check_alone(digest) {
            Ok(checked) => Some(checked.record),
            Err(ImageError::Missing { .. }) => None,
            Err(error) => {
                tracing::warn!(%digest, error = %Chain(&error), "a bad copy is replaced");
                None
            }
        }
    }

    /// The image, if it is here and is what it was.
    pub(super) fn find_good(&self, digest: &Digest) -> Option<ImageRecord> {
        let lock = self.lock(digest);
        let _held = held(&lock);
        self.find_usable(digest)
    }

    /// Gives whole content its name and its record. Where the same content is here already, that
    /// stays and the new copy goes.
    pub(super) fn keep(&self, new: Finished, source: String) -> Result<ImageRecord, ImageError> {
        let lock = self.lock(&new.digest);
        let _held = held(&lock);
        if let Some(here) = self.find_usable(&new.digest) {
            return Ok(here);
        }
        let Finished {
            mut part,
            digest,
            size,
            owned,
            room,
        } = new;
        let old = self
            .entries()
            .get(&digest)
            .map(|entry| entry.record.owned_bytes);
        let path = row::content_path(&self.dir, &digest);
        part.rename(&path)?;
        let recorded = sync_folder(&self.dir)
            .and_then(|()| Identity::of(part.file()))
            .map_err(ImageError::in_folder(&self.dir, "name an image's file"))
            .and_then(|identity| {
                let place = Place::File(path.clone());
                let imported = jiff::Timestamp::now();
                let record = ImageRecord {
                    digest,
                    size,
                    owned_bytes: owned,
                    source,
                    place,
                    identity,
                    imported,
                };
                self.record(&record)?;
                Ok(record)
            });
        match recorded {
            Ok(record) => {
                room.keep();
                self.budget.release(old.unwrap_or_default());
                tracing::info!(%digest, %size, owned = %owned, "image imported");
                Ok(record)
            }
            Err(error) => {
                // A record that was there before says the same of the new content.
                if old.is_none() {
                    let _ = fs::remove_file(&path);
                }
                Err(error)
            }
        }
    }

    /// Records a device that is used in place. Where the same content is here already, that stays.
    pub(super) fn keep_device(
        &self,
        path: &Path,
        digest: Digest,
        identity: Identity,
    ) -> Result<ImageRecord, ImageError> {
        let lock = self.lock(&digest);
        let _held = held(&lock);
        if let Some(here) = self.find_usable(&digest) {
            return Ok(here);
        }
        let old = self
            .entries()
            .get(&digest)
            .map(|entry| entry.record.owned_bytes);
        let record = ImageRecord {
            digest,
            size: Bytes(identity.size()),
            owned_bytes: Bytes(0),
            source: path.display().to_string(),
            place: Place::Device(path.to_owned()),
            identity,
            imported: jiff::Timestamp::now(),
        };
        self.record(&record)?;
        // A bad copy's content has no record any more.
        let _ = fs::remove_file(row::content_path(&self.dir, &digest));
        self.budget.release(old.unwrap_or_default());
        tracing::info!(%digest, size = %record.size, device = %path.display(), "image imported");
        Ok(record)
    }

    /// Reads every record and removes what has none.
    fn load(&self) -> io::Result<()> {
        let mut contents = Vec::new();
        for found in fs::read_dir(&self.dir)? {
            let path = found?.path();
            let kind = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            match (kind, digest_of_name(&path)) {
                (PART | "new", _) => {
                    tracing::info!(path = %path.display(), "removing what an import left");
                    fs::remove_file(&path)?;
                }
                ("raw", Some(digest)) => contents.push((digest, path)),
                ("json", Some(digest)) => self.load_record(&digest),
                _ => tracing::debug!(path = %path.display(), "not ours"),
            }
        }
        for (digest, path) in contents {
            if self.entries().contains_key(&digest) {
                continue;
            }
            if row::row_path(&self.dir, &digest).exists() {
                // Its record cannot be read: nothing is guessed, but the room is taken.
                self.budget
                    .count(Bytes(fs::metadata(&path)?.blocks().saturating_mul(512)));
            } else {
                tracing::info!(%digest, "removing content that was never recorded");
                fs::remove_file(&path)?;
            }
        }
        sync_folder(&self.dir)
    }

    fn load_record(&self, digest: &Digest) {
        let record = match row::load(&self.dir, digest) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%digest, error = %Chain(&error), "an image's record is left alone");
                return;
            }
        };
        match (&record.place, is_there(&record)) {
            (Place::File(_) | Place::Device(_), true) => {}
            (Place::Device(path), false) => {
                tracing::warn!(%digest, device = %path.display(), "an image's device is not there");
            }
            (Place::File(_), false) => {
                tracing::warn!(%digest, "an image's content is gone: import it again");
                return;
            }
        }
        self.budget.count(record.owned_bytes);
        self.entries().insert(
            *digest,
            Entry {
                record,
                wrong: None,
            },
        );
    }
}

fn held(lock: &Mutex<()>) -> MutexGuard<'_, ()> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digest that a file of the folder is named by.
fn digest_of_name(path: &Path) -> Option<Digest> {
    let stem = path.file_stem()?.to_str()?;
    if stem.len() == 64 {
        stem.parse().ok()
    } else {
        None
    }
}

fn is_there(record: &ImageRecord) -> bool {
    match &record.place {
        Place::File(path) => fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()),
        Place::Device(path) => path.exists(),
    }
}

/// Opens an image's content and says what it looks like.
fn look(record: &ImageRecord) -> Result<(File, Identity), ImageError> {
    let digest = record.digest;
    let what = || format!("open the content of image {digest}");
    let file = match &record.place {
        Place::File(path) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(rustix::io::Errno::NOENT) => return Err(ImageError::Missing { digest }),
                Err(error) => return Err(ImageError::io(what())(error.into())),
            }
        }
        Place::Device(path) if !path.exists() => return Err(ImageError::Missing { digest }),
        Place::Device(path) => open_device(path)?,
    };
    let identity = Identity::of(&file).map_err(ImageError::io(what()))?;
    Ok((file, identity))
}

#[cfg(test)]
mod tests;
