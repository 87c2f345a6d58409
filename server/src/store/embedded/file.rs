//! The store's file on disk: locked by one server, made whole or not at all.
//!
//! Used when a store is opened. A new store is made under another name, flushed, and then renamed,
//! so that a crash leaves either no store or one with its format and incarnation in it. The lock is
//! a file beside it that is never removed. Only the server's user may read what is in it: addresses
//! of images can carry secrets.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, DatabaseError};

use super::{OpenError, format};

/// How every store is opened: what is read was checked.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_check_integrity_on_open(true);
    builder
}

/// Nobody but the owner reads or writes.
const OWNER_ONLY: u32 = 0o600;

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { what, path, source }
}

/// What a failure to open the database means.
pub(super) fn database(path: &Path, error: DatabaseError) -> OpenError {
    let held = matches!(
        error,
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch
    );
    if held {
        OpenError::InUse { path: path.into() }
    } else {
        OpenError::Database {
            path: path.into(),
            source: error.into(),
        }
    }
}

/// Keeps other servers out until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let beside = beside(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(OWNER_ONLY)
        .open(&beside)
        .map_err(io("open the lock", &beside))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io {
            what: "lock",
            path: beside,
            source,
        }),
    }
}

/// Makes the store unless it is there. The caller holds the lock.
pub(super) fn ensure(path: &Path) -> Result<(), OpenError> {
    if path.try_exists().map_err(io("look for", path))? {
        // One that was copied back from a backup may have come with other rights.
        return std::fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))
            .map_err(io("restrict the rights of", path));
    }
    make(path, format::prepare)
}

/// Makes a store in the place of whatever is there, whole or not at all. The caller holds the lock.
pub(super) fn make<E: From<OpenError>>(
    path: &Path,
    fill: impl FnOnce(&Database, &Path) -> Result<(), E>,
) -> Result<(), E> {
    let new = emptied(path)?;
    let db = builder()
        .create(&new)
        .map_err(|error| database(&new, error))?;
    fill(&db, &new)?;
    db.close().map_err(|error| database(&new, error))?;
    Ok(put_in_place(&new, path)?)
}

/// The file that a new store is made in, empty.
fn emptied(path: &Path) -> Result<PathBuf, OpenError> {
    let new = beside(path, ".new");
    match std::fs::remove_file(&new) {
        Ok(()) => tracing::info!(path = %new.display(), "removed a store that was half made"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(OpenError::Io {
                what: "remove",
                path: new,
                source,
            });
        }
    }
    let made = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(OWNER_ONLY)
        .open(&new);
    drop(made.map_err(io("make", &new))?);
    Ok(new)
}

fn put_in_place(new: &Path, path: &Path) -> Result<(), OpenError> {
    File::open(new)
        .and_then(|file| file.sync_all())
        .map_err(io("flush", new))?;
    std::fs::rename(new, path).map_err(io("rename the new store to", path))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io("flush the folder", folder))
}
