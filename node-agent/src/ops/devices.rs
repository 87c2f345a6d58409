//! A pool's devices: held against other agents, given to the kernel.
//!
//! Called by `ops::pools`. A held device is locked (flock) for as long as this process has it: a
//! second agent of this host finds it in use; another host is kept out by the owner in the label.
//! A file gets a loop device, which goes by itself with its last user. Nothing is written here; a file
//! that was made here goes again unless the pool comes to be ([`HeldDevice::keep`]).

use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use goldleaf_dm::{DevNumber, block};
use goldleaf_types::{Bytes, Sectors};
use rustix::fs::FlockOperation;

use super::error::PoolError;
use crate::catalogue::{Label, read_label};
use crate::kernel::{Attached, Kernel, KernelError, Stretch};

/// A device that this process holds.
#[derive(Debug)]
pub struct HeldDevice {
    /// Its path as it was given or found.
    pub path: PathBuf,
    /// Open for reading and writing, and locked.
    pub file: Arc<Locked>,
    /// The block device that tables name.
    pub dev: DevNumber,
    /// Its size.
    pub size: Bytes,
    /// What is written on it; `None` on a blank one.
    pub label: Option<Label>,
    /// Its label in memory is older than the one on it, which a crash cut short.
    pub(super) taken_back: bool,
    /// Keeps a file's loop device until a table holds it.
    _attached: Option<Arc<Attached>>,
    /// The file, if this call made it and the pool is not there yet.
    made: MadeFile,
}

/// A file that goes again unless it is kept.
#[derive(Debug, Default)]
struct MadeFile(Option<PathBuf>);

impl Drop for MadeFile {
    fn drop(&mut self) {
        let Some(path) = self.0.take() else { return };
        if std::thread::panicking() {
            return; // As after a crash: the repeated call finds it.
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "a pool file of no use is left");
        }
    }
}

/// An open file that is locked as long as it is here.
#[derive(Debug)]
pub struct Locked(File);

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl HeldDevice {
    /// The same device, held once more.
    pub(super) fn again(&self) -> Self {
        Self {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            dev: self.dev,
            size: self.size,
            label: self.label.clone(),
            taken_back: self.taken_back,
            _attached: self._attached.clone(),
            made: MadeFile::default(),
        }
    }

    /// The same device, as it is after its label was written anew.
    pub(super) fn relabelled(&self, label: Label) -> Self {
        Self {
            size: self.size.max(label.device_size.bytes()),
            label: Some(label),
            taken_back: false,
            ..self.again()
        }
    }

    /// What is in a file of the pool's folder, and not a block device.
    pub(super) fn is_file(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.is_file())
    }

    /// The pool comes to be: a file that was made for it stays.
    pub(super) fn keep(&mut self) {
        self.made.0 = None;
    }

    /// A stretch of it.
    #[must_use]
    pub fn stretch(&self, start: Sectors, len: Sectors) -> Stretch {
        Stretch {
            dev: self.dev,
            start,
            len,
        }
    }
}

impl Locked {
    /// Gives the lock up, whoever looks at the pool still and has the file open for that. Nothing is
    /// written from here on.
    pub(super) fn release(&self) {
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(file = ?self.0, %error, "its lock goes with this process");
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Said, not left to the close: a program that is just being started has the file open too,
        // for the moment between its fork and its exec, and would go on holding the lock.
        self.release();
    }
}

/// Which paths may become a pool's devices.
#[derive(Clone, Debug)]
pub struct DeviceRules {
    /// The folder for file-backed devices.
    pub pool_dir: PathBuf,
}

impl DeviceRules {
    /// Opens, locks and reads one device. Makes the file first if `create` says how large.
    ///
    /// # Errors
    ///
    /// [`PoolError::BadDevice`] for a path that may not serve; [`PoolError::DeviceInUse`] when
    /// another process holds it.
    pub fn hold(
        &self,
        kernel: &dyn Kernel,
        field: &str,
        path: &Path,
        create: Option<Bytes>,
    ) -> Result<HeldDevice, PoolError> {
        let bad = |problem: &str| PoolError::BadDevice {
            field: field.to_owned(),
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        let made = match create {
            Some(size) => self.create_file(field, path, size)?,
            None => MadeFile::default(),
        };
        let real =
            std::fs::canonicalize(path).map_err(|e| bad(&format!("cannot be found: {e}")))?;
        let kind = std::fs::metadata(&real).map_err(PoolError::io("look at a device"))?;
        if kind.is_file() && real.parent() != self.real_pool_dir()?.as_deref() {
            return Err(bad(&format!(
                "is a file outside the pool folder: use a block device, or a file in {}",
                self.pool_dir.display()
            )));
        }
        if !kind.is_file() && !kind.file_type().is_block_device() {
            return Err(bad("is neither a block device nor a file"));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&real)
            .map_err(|e| bad(&format!("cannot be opened: {e}")))?;
        // The lock is also what tells udev not to probe the device while we have it.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            PoolError::DeviceInUse {
                path: path.to_owned(),
                by: "another agent or program holds its lock".into(),
            }
        })?;
        let label = read_label(&file).map_err(|source| PoolError::Label {
            path: path.to_owned(),
            source,
        })?;
        let (dev, size, attached) = if kind.is_file() {
            let attached = kernel.attach(&file).map_err(|e| in_use(path, e))?;
            (attached.dev, Bytes(kind.len()), Some(Arc::new(attached)))
        } else {
            let size = block::size(&file).map_err(PoolError::io("read a device's size"))?;
            let dev = block::number(&file).map_err(PoolError::io("read a device's number"))?;
            (dev, size, None)
        };
        Ok(HeldDevice {
            path: path.to_owned(),
            file: Arc::new(Locked(file)),
            dev,
            size,
            label,
            taken_back: false,
            _attached: attached,
            made,
        })
    }

    fn real_pool_dir(&self) -> Result<Option<PathBuf>, PoolError> {
        match std::fs::canonicalize(&self.pool_dir) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PoolError::io("find the pool folder")(error)),
        }
    }

    /// Sees that a file of this size can be made there, or is there already. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`PoolError::BadDevice`].
    pub(super) fn check_create(
        &self,
        field: &str,
        path: &Path,
        size: Bytes,
    ) -> Result<(), PoolError> {
        let bad = |problem: &str| {
            Err(PoolError::BadDevice {
                field: field.to_owned(),
                path: path.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if !size.0.is_multiple_of(Bytes::MIB.0) {
            return bad("create_file_bytes is not a multiple of 1 MiB");
        }
        if path.parent() != Some(&self.pool_dir) || path.file_name().is_none() {
            return bad(&format!(
                "a file can only be made in the pool folder, {}",
                self.pool_dir.display()
            ));
        }
        match std::fs::metadata(path) {
            Ok(there) if there.len() != 0 && there.len() != size.0 => {
                bad(&format!("exists already with {} bytes", there.len()))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(PoolError::io("look at a file")(error)),
        }
    }

    /// Makes a sparse file; one of that size that is there already is left as it is, for a call
    /// that is repeated after a crash. What it holds is looked at like any device's content.
    fn create_file(&self, field: &str, path: &Path, size: Bytes) -> Result<MadeFile, PoolError> {
        self.check_create(field, path, size)?;
        // What is in the files is the volumes' content: nobody else's to read.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.pool_dir)
            .map_err(PoolError::io("make the pool folder"))?;
        let mut options = OpenOptions::new();
        let (file, made) = match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => (file, MadeFile(Some(path.to_owned()))),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).open(path);
                let file = file.map_err(PoolError::io("open a pool file"))?;
                (file, MadeFile::default())
            }
            Err(error) => return Err(PoolError::io("make a pool file")(error)),
        };
        let len = file
            .metadata()
            .map_err(PoolError::io("look at a file"))?
            .len();
        if len == 0 {
            file.set_len(size.0)
                .and_then(|()| file.sync_all())
                .and_then(|()| File::open(&self.pool_dir)?.sync_all())
                .map_err(PoolError::io("make a pool file"))?;
        }
        Ok(made)
    }
}

/// A device that somebody uses is refused by its path; any other error stays what it is.
pub(super) fn in_use(path: &Path, error: KernelError) -> PoolError {
    if let KernelError::Busy { what, .. } = error {
        PoolError::DeviceInUse {
            path: path.to_owned(),
            by: format!("{what}: take that away first, if nobody needs it"),
        }
    } else {
        PoolError::Kernel(error)
    }
}
