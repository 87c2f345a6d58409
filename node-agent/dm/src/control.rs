//! The control node: one method for each ioctl.
//!
//! Every method blocks as long as the kernel does. Queries ask again with twice the room when a
//! reply did not fit; nothing that changes anything has such a reply, so nothing is done twice.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use goldleaf_types::Sectors;
use rustix::io::Errno;

use crate::buffer::{self, Buffer, Head, Reply};
use crate::error::DmError;
use crate::ioctl;
use crate::message::{MessageReply, PoolMessage};
use crate::names::{DmName, DmUuid};
use crate::number::DevNumber;
pub use crate::options::{Commit, Flush, LockFs, Removal};
use crate::table::{Table, Target};
use crate::udev;

const CONTROL: &str = "/dev/mapper/control";
const ROOM: usize = 16 << 10;

/// Numbers of the commands (linux/dm-ioctl.h).
#[derive(Clone, Copy)]
enum Command {
    Version = 0,
    ListDevices = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    DevStatus = 7,
    Load = 9,
    Clear = 10,
    Deps = 11,
    TableStatus = 12,
    ListVersions = 13,
    Message = 14,
    ArmPoll = 16,
}

impl Command {
    const fn name(self) -> &'static str {
        match self {
            Self::Version => "DM_VERSION",
            Self::ListDevices => "DM_LIST_DEVICES",
            Self::Create => "DM_DEV_CREATE",
            Self::Remove => "DM_DEV_REMOVE",
            Self::Suspend => "DM_DEV_SUSPEND",
            Self::DevStatus => "DM_DEV_STATUS",
            Self::Load => "DM_TABLE_LOAD",
            Self::Clear => "DM_TABLE_CLEAR",
            Self::Deps => "DM_TABLE_DEPS",
            Self::TableStatus => "DM_TABLE_STATUS",
            Self::ListVersions => "DM_LIST_VERSIONS",
            Self::Message => "DM_TARGET_MSG",
            Self::ArmPoll => "DM_DEV_ARM_POLL",
        }
    }
}

/// The interface's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0[0], self.0[1], self.0[2])
    }
}

/// A target type that the kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: [u32; 3],
}

/// A device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its UUID; may be empty.
    pub uuid: String,
    /// Its number.
    pub dev: DevNumber,
    /// Moves with each event.
    pub event_nr: u32,
    /// How many hold it open, other tables included.
    pub open_count: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether its I/O is stopped.
    pub suspended: bool,
    /// Whether it has a live table.
    pub has_active_table: bool,
    /// Whether a table is loaded that a resume would make live.
    pub has_inactive_table: bool,
    /// Whether it goes with its last user.
    pub deferred_remove: bool,
}

/// A line of the list of all devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its number.
    pub dev: DevNumber,
    /// Moves with each event.
    pub event_nr: u32,
    /// Its UUID; `None` when it has none or the kernel is older than interface 4.45.
    pub uuid: Option<String>,
}

/// One target of a status or table, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetLine {
    /// Where it begins.
    pub start: Sectors,
    /// Its length.
    pub len: Sectors,
    /// Its type.
    pub kind: String,
    /// The rest.
    pub text: String,
}

/// A device and its targets' lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The device.
    pub device: Device,
    /// Its targets.
    pub targets: Vec<TargetLine>,
}

/// The open control node.
#[derive(Debug)]
pub struct Control {
    file: File,
    version: Version,
    /// Room for replies, in bytes; grows to the longest so far.
    room: AtomicUsize,
}

pub(crate) fn open_node() -> Result<File, DmError> {
    let open = || OpenOptions::new().read(true).write(true).open(CONTROL);
    let failed = |error: std::io::Error| {
        DmError::new(
            "open",
            CONTROL,
            Errno::from_io_error(&error).unwrap_or(Errno::IO),
        )
    };
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make_node().map_err(failed)?;
            open().map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Makes the control node where nothing else did, from the number that the kernel publishes.
fn make_node() -> std::io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let misc = std::fs::read_to_string("/proc/misc")?;
    let minor = misc
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .find_map(|(minor, name)| (name.trim() == "device-mapper").then(|| minor.parse().ok())?)
        .ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::create_dir_all("/dev/mapper")?;
    let dev = rustix::fs::makedev(10, minor);
    mknodat(
        CWD,
        CONTROL,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        dev,
    )?;
    Ok(())
}

impl Control {
    /// Opens the control node. Needs root.
    ///
    /// # Errors
    ///
    /// ENOENT when the kernel has no device-mapper, EACCES without root.
    pub fn open() -> Result<Self, DmError> {
        let mut control = Self {
            file: open_node()?,
            version: Version([4, 0, 0]),
            room: AtomicUsize::new(ROOM),
        };
        let (reply, _) = control.query(Command::Version, Head::default())?;
        control.version = Version(reply.version);
        Ok(control)
    }

    /// The interface's version.
    ///
    /// # Errors
    ///
    /// None after a successful open.
    pub fn version(&self) -> Result<Version, DmError> {
        Ok(self.version)
    }

    /// Every target type that is loaded.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn target_versions(&self) -> Result<Vec<TargetVersion>, DmError> {
        let (_, data) = self.query(Command::ListVersions, Head::default())?;
        let found = buffer::versions(&data);
        Ok(found
            .into_iter()
            .map(|(name, version)| TargetVersion { name, version })
            .collect())
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    ///
    /// EBUSY when the name or the UUID is taken.
    pub fn create(&self, name: &DmName, uuid: &DmUuid) -> Result<Device, DmError> {
        let head = Head {
            name: name.as_str(),
            uuid: uuid.as_str(),
            event_nr: udev::COOKIE,
            ..Head::default()
        };
        self.run(Command::Create, head, &[]).map(device)
    }

    /// Removes a device.
    ///
    /// # Errors
    ///
    /// EBUSY while it is open, ENXIO when there is none.
    pub fn remove(&self, name: &DmName, when: Removal) -> Result<(), DmError> {
        let flags = match when {
            Removal::Now => 0,
            Removal::Deferred => buffer::DEFERRED_REMOVE,
        };
        let head = Head {
            name: name.as_str(),
            flags,
            event_nr: udev::COOKIE,
            ..Head::default()
        };
        self.run(Command::Remove, head, &[]).map(drop)
    }

    /// Loads a table, which a resume makes live.
    ///
    /// # Errors
    ///
    /// ENODATA for a thin that is not in the pool, EINVAL for what the target refuses.
    pub fn load(&self, name: &DmName, table: &Table) -> Result<(), DmError> {
        let mut start = 0;
        let mut specs = Vec::new();
        for target in &table.targets {
            specs.push((
                start,
                target.len().0,
                target.kind().to_owned(),
                target.to_string(),
            ));
            start += target.len().0;
        }
        let count = u32::try_from(specs.len())
            .map_err(|_| DmError::new(Command::Load.name(), name, Errno::INVAL))?;
        let head = Head {
            name: name.as_str(),
            flags: if table.read_only { buffer::READONLY } else { 0 },
            target_count: count,
            ..Head::default()
        };
        self.run(Command::Load, head, &buffer::target_specs(&specs))
            .map(drop)
    }

    /// Drops a loaded table that is not live.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn clear(&self, name: &DmName) -> Result<(), DmError> {
        let head = Head {
            name: name.as_str(),
            ..Head::default()
        };
        self.run(Command::Clear, head, &[]).map(drop)
    }

    /// Stops a device's I/O until a resume. Hold a [`crate::Suspended`] instead where possible.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn suspend(&self, name: &DmName, flush: Flush, lockfs: LockFs) -> Result<(), DmError> {
        let flush = match flush {
            Flush::Yes => 0,
            Flush::No => buffer::NOFLUSH,
        };
        let lockfs = match lockfs {
            LockFs::Yes => 0,
            LockFs::No => buffer::SKIP_LOCKFS,
        };
        let head = Head {
            name: name.as_str(),
            flags: buffer::SUSPEND | flush | lockfs,
            ..Head::default()
        };
        self.run(Command::Suspend, head, &[]).map(drop)
    }

    /// Makes a loaded table live, if there is one, and lets I/O flow.
    ///
    /// # Errors
    ///
    /// EINVAL when the loaded table does not fit: it is live then, and the device stays suspended.
    pub fn resume(&self, name: &DmName) -> Result<Device, DmError> {
        let head = Head {
            name: name.as_str(),
            event_nr: udev::COOKIE,
            ..Head::default()
        };
        self.run(Command::Suspend, head, &[]).map(device)
    }

    /// A device by name.
    ///
    /// # Errors
    ///
    /// As the kernel says; a missing one is `None`.
    pub fn find(&self, name: &DmName) -> Result<Option<Device>, DmError> {
        self.find_device(Head {
            name: name.as_str(),
            ..Head::default()
        })
    }

    /// A device by UUID, however many others there are.
    ///
    /// # Errors
    ///
    /// As the kernel says; a missing one is `None`.
    pub fn find_uuid(&self, uuid: &DmUuid) -> Result<Option<Device>, DmError> {
        self.find_device(Head {
            uuid: uuid.as_str(),
            ..Head::default()
        })
    }

    fn find_device(&self, head: Head<'_>) -> Result<Option<Device>, DmError> {
        match self.run(Command::DevStatus, head, &[]) {
            Ok(reply) => Ok(Some(device(reply))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A device's status lines.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn status(&self, name: &DmName, commit: Commit) -> Result<Status, DmError> {
        let flags = match commit {
            Commit::No => buffer::NOFLUSH,
            Commit::Yes => 0,
        };
        self.lines(name, flags)
    }

    /// A device's live table; no target when it has none.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn table(&self, name: &DmName) -> Result<Status, DmError> {
        self.lines(name, buffer::STATUS_TABLE | buffer::NOFLUSH)
    }

    /// A device's loaded table that is not live yet.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn inactive_table(&self, name: &DmName) -> Result<Status, DmError> {
        let flags = buffer::STATUS_TABLE | buffer::NOFLUSH | buffer::QUERY_INACTIVE_TABLE;
        self.lines(name, flags)
    }

    fn lines(&self, name: &DmName, flags: u32) -> Result<Status, DmError> {
        let head = Head {
            name: name.as_str(),
            flags,
            ..Head::default()
        };
        let (reply, data) = self.query(Command::TableStatus, head)?;
        let targets = buffer::targets(&data, reply.target_count)
            .into_iter()
            .map(|(start, len, kind, text)| TargetLine {
                start: Sectors(start),
                len: Sectors(len),
                kind,
                text,
            })
            .collect();
        Ok(Status {
            device: device(reply),
            targets,
        })
    }

    /// Sends a message to a device's target.
    ///
    /// # Errors
    ///
    /// As the target says. A success is no promise of a commit: see [`PoolMessage`].
    pub fn message(&self, name: &DmName, text: &str) -> Result<MessageReply, DmError> {
        let mut payload = 0u64.to_ne_bytes().to_vec();
        payload.extend(text.as_bytes());
        payload.push(0);
        let head = Head {
            name: name.as_str(),
            ..Head::default()
        };
        let mut buffer = Buffer::new(head, &payload, ROOM);
        self.call(Command::Message, head, &mut buffer)?;
        let (reply, data) = buffer.reply();
        // Without an answer the kernel leaves our own message in the buffer.
        const DATA_OUT: u32 = 1 << 16;
        let text = if reply.flags & DATA_OUT == 0 {
            String::new()
        } else {
            buffer::text(&data)
        };
        Ok(MessageReply {
            event_nr: reply.event_nr,
            text,
        })
    }

    /// Sends a message to a pool.
    ///
    /// # Errors
    ///
    /// EEXIST, ENODATA, EBUSY by the message; EOPNOTSUPP when the pool takes none.
    pub fn pool_message(
        &self,
        pool: &DmName,
        message: &PoolMessage,
    ) -> Result<MessageReply, DmError> {
        self.message(pool, &message.to_string())
    }

    /// The devices that a live table uses.
    ///
    /// # Errors
    ///
    /// ENXIO when there is no such device.
    pub fn deps(&self, name: &DmName) -> Result<Vec<DevNumber>, DmError> {
        let head = Head {
            name: name.as_str(),
            ..Head::default()
        };
        let (_, data) = self.query(Command::Deps, head)?;
        Ok(buffer::deps(&data)
            .into_iter()
            .map(DevNumber::from_raw)
            .collect())
    }

    /// Every device of the host, one call for all.
    ///
    /// # Errors
    ///
    /// As the kernel says.
    pub fn list(&self) -> Result<Vec<Listed>, DmError> {
        let head = Head {
            flags: buffer::UUID_FLAG,
            ..Head::default()
        };
        let (_, data) = self.query(Command::ListDevices, head)?;
        let mut listed: Vec<Listed> = buffer::names(&data, self.version.0[1])
            .into_iter()
            .map(|(dev, name, event_nr, uuid)| Listed {
                name,
                dev: DevNumber::from_raw(dev),
                event_nr,
                uuid: uuid.filter(|u| !u.is_empty()),
            })
            .collect();
        if self.version < Version([4, 45, 0]) {
            for line in &mut listed {
                let name = DmName::new(&line.name);
                let found = name.map(|name| self.find(&name)).transpose()?.flatten();
                line.uuid = found.map(|d| d.uuid).filter(|u| !u.is_empty());
            }
        }
        Ok(listed)
    }

    fn run(&self, command: Command, head: Head<'_>, payload: &[u8]) -> Result<Reply, DmError> {
        let mut buffer = Buffer::new(head, payload, 0);
        self.call(command, head, &mut buffer)?;
        Ok(buffer.reply().0)
    }

    fn query(&self, command: Command, head: Head<'_>) -> Result<(Reply, Vec<u8>), DmError> {
        // A host with many devices has long lists: what the last one took is asked for at once.
        let mut room = self.room.load(Ordering::Relaxed);
        loop {
            let mut buffer = Buffer::new(head, &[], room);
            self.call(command, head, &mut buffer)?;
            let (reply, data) = buffer.reply();
            if reply.flags & buffer::BUFFER_FULL == 0 {
                return Ok((reply, data));
            }
            room = buffer.len() * 2;
            self.room.fetch_max(room, Ordering::Relaxed);
        }
    }

    fn call(&self, command: Command, head: Head<'_>, buffer: &mut Buffer) -> Result<(), DmError> {
        let device = if head.name.is_empty() {
            "device-mapper"
        } else {
            head.name
        };
        tracing::debug!(ioctl = command.name(), device);
        ioctl::dm(self.file.as_fd(), command as u8, buffer.words())
            .map_err(|errno| DmError::new(command.name(), device, errno))
    }
}

pub(crate) fn arm(file: &File) -> Result<(), DmError> {
    let mut buffer = Buffer::new(Head::default(), &[], 0);
    ioctl::dm(file.as_fd(), Command::ArmPoll as u8, buffer.words())
        .map_err(|errno| DmError::new(Command::ArmPoll.name(), "device-mapper", errno))
}

fn device(reply: Reply) -> Device {
    let has = |flag| reply.flags & flag != 0;
    Device {
        dev: DevNumber::from_raw(reply.dev),
        event_nr: reply.event_nr,
        open_count: reply.open_count,
        read_only: has(buffer::READONLY),
        suspended: has(buffer::SUSPEND),
        has_active_table: has(buffer::ACTIVE_PRESENT),
        has_inactive_table: has(buffer::INACTIVE_PRESENT),
        deferred_remove: has(buffer::DEFERRED_REMOVE),
        name: reply.name,
        uuid: reply.uuid,
    }
}

impl Status {
    /// The targets as this crate's types; `None` when one is of a type that it does not make.
    #[must_use]
    pub fn parsed(&self) -> Option<Vec<Target>> {
        self.targets
            .iter()
            .map(|t| Target::parse(t.len, &t.kind, &t.text))
            .collect()
    }
}
