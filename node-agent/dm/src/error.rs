//! What the kernel said no to.

use rustix::io::Errno;

/// An ioctl that failed: facts, for whoever decides what they mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} of {device} failed: {errno}")]
pub struct DmError {
    /// The ioctl.
    pub op: &'static str,
    /// The device, by name or path; "device-mapper" for the control node itself.
    pub device: String,
    /// The kernel's error number.
    pub errno: Errno,
}

impl DmError {
    pub(crate) fn new(op: &'static str, device: impl ToString, errno: Errno) -> Self {
        Self {
            op,
            device: device.to_string(),
            errno,
        }
    }

    /// No such device (ENXIO).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno == Errno::NXIO
    }

    /// No such thin in the metadata (ENODATA).
    #[must_use]
    pub fn is_no_data(&self) -> bool {
        self.errno == Errno::NODATA
    }

    /// In use, or the name or UUID is taken (EBUSY).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno == Errno::BUSY
    }

    /// The thin exists (EEXIST).
    #[must_use]
    pub fn exists(&self) -> bool {
        self.errno == Errno::EXIST
    }

    /// The pool takes no message: read-only, failed, or out of metadata (EOPNOTSUPP).
    #[must_use]
    pub fn is_refused_by_mode(&self) -> bool {
        self.errno == Errno::OPNOTSUPP
    }

    /// Whether the same call may succeed later without anything being done about it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        [Errno::BUSY, Errno::INTR, Errno::AGAIN, Errno::NOMEM].contains(&self.errno)
    }
}

impl From<DmError> for std::io::Error {
    fn from(error: DmError) -> Self {
        Self::new(std::io::Error::from(error.errno).kind(), error)
    }
}
