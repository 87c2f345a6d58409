//! Living with udev, and without it.
//!
//! With udev, the upper half of an ioctl's event number is handed to the rules as the "cookie".
//! Its flags are set so that nothing on the host looks inside a volume: no scan for file systems,
//! LVM or md, no links by label. The lower half, a semaphore that libdevmapper waits on, stays 0:
//! we link to the kernel's own nodes, so there is nothing to wait for.
//!
//! The flags are always set. Whether a udevd listens cannot be seen from inside a container, one
//! that starts later believes what its database says of the first event, and nobody else reads them.
//!
//! Flag values: libdevmapper.h, `DM_UDEV_*_FLAG` and `DM_UDEV_FLAGS_SHIFT`.

const SHIFT: u32 = 16;
/// Do not apply rules of other subsystems (LVM's own among them).
const DISABLE_SUBSYSTEM_RULES: u32 = 0x0002;
/// Do not apply the general disk rules: no blkid, no links by label or UUID.
const DISABLE_DISK_RULES: u32 = 0x0004;
/// Do not apply anybody else's rules: no auto-activation of what is inside.
const DISABLE_OTHER_RULES: u32 = 0x0008;
/// This event comes from the device's owner: the rules may believe the flags.
const PRIMARY_SOURCE: u32 = 0x0040;

/// The event number for create, resume and remove.
pub(crate) const COOKIE: u32 =
    (DISABLE_SUBSYSTEM_RULES | DISABLE_DISK_RULES | DISABLE_OTHER_RULES | PRIMARY_SOURCE) << SHIFT;
