//! Mounts: what this process sees mounted, and the calls that change it.
//!
//! Called by `stage` and `publish`. What is there is read from the kernel each time, before anything
//! is changed, so each step can be asked for again after a crash anywhere. Blocks.

use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::status::CsiError;

/// Mounts on one another at one place, more than any crash leaves.
const DEEPEST: usize = 64;

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Of its driver.
    pub major: u32,
    /// Of itself.
    pub minor: u32,
}

/// One mount.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The device that it shows.
    pub number: Number,
    /// What of it is shown: "/", or the path of a file that was bound.
    pub root: String,
    /// Where.
    pub target: PathBuf,
    /// The file system.
    pub fs_type: String,
    /// Flags that hold here, whatever they are elsewhere.
    pub flags: MountFlags,
}

impl Mount {
    /// Whether it refuses writes.
    pub const fn read_only(&self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }
}

/// Flags of a mount that are flags to the kernel; the rest is for the file system.
const FLAGS: &[(&str, MountFlags)] = &[
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("lazytime", MountFlags::LAZYTIME),
];

/// What is the kernel's default, and so said by no flag.
const DEFAULTS: &[&str] = &[
    "rw", "defaults", "suid", "dev", "exec", "async", "atime", "diratime",
];

fn flag(name: &str) -> Option<MountFlags> {
    let known = FLAGS.iter().find(|(known, _)| *known == name);
    known.map(|(_, flag)| *flag)
}

/// Options of mount(8) as the kernel wants them: flags, and text for the file system.
pub fn split(options: &[String]) -> (MountFlags, Vec<&str>) {
    let mut flags = MountFlags::empty();
    let mut rest = vec![];
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim) {
        match flag(option) {
            Some(flag) => flags |= flag,
            None if option.is_empty() || DEFAULTS.contains(&option) => {}
            None => rest.push(option),
        }
    }
    (flags, rest)
}

fn read(info: MountInfo) -> Option<Mount> {
    let (major, minor) = info.majmin.split_once(':')?;
    let names = info.mount_options.keys();
    Some(Mount {
        number: Number {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        root: info.root,
        target: unescaped(&info.mount_point),
        fs_type: info.fs_type,
        flags: names.filter_map(|name| flag(name)).collect(),
    })
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
fn unescaped(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = path.as_os_str().as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes
            .get(at + 1..at + 4)
            .and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (*byte, code) {
            (b'\\', Some(code)) => {
                plain.push(code);
                at += 4;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

/// Every mount that this process sees, in the order in which they were made.
pub fn all() -> Result<Vec<Mount>, CsiError> {
    let infos = Process::myself().and_then(|myself| myself.mountinfo());
    let infos = infos.map_err(|error| {
        CsiError::host("read the mounts in", "/proc/self/mountinfo")(io::Error::other(error))
    })?;
    Ok(infos.into_iter().filter_map(read).collect())
}

/// The path as the kernel knows it: what leads to it may have links, itself has none.
pub fn resolved(path: &Path) -> PathBuf {
    let folder = path
        .parent()
        .and_then(|folder| fs::canonicalize(folder).ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        (None, _) | (_, None) => path.into(),
    }
}

/// The mount on a path, the topmost one.
pub fn on(path: &Path) -> Result<Option<Mount>, CsiError> {
    let path = resolved(path);
    let mounts = all()?.into_iter().rev();
    Ok(mounts.into_iter().find(|mount| mount.target == path))
}

/// Mounts a device.
pub fn mount(
    device: &Path,
    target: &Path,
    fs_type: &str,
    (flags, data): (MountFlags, &str),
) -> Result<(), CsiError> {
    let data = CString::new(data)
        .map_err(|_| CsiError::field("volume_capability", "its mount_flags hold a NUL"))?;
    rustix::mount::mount(device, target, fs_type, flags, data.as_c_str()).map_err(|errno| {
        CsiError::Unfit(format!(
            "the {fs_type} of {} cannot be mounted on {}: {errno}; the kernel's log says more \
             (are the mount flags right?)",
            device.display(),
            target.display()
        ))
    })
}

/// Shows at `target` what is at `source`.
pub fn bind(source: &Path, target: &Path) -> Result<(), CsiError> {
    rustix::mount::mount_bind(source, target).map_err(CsiError::errno("bind", target))
}

/// Has a bound mount refuse writes, whatever the one it shows does. Its other flags stay.
pub fn refuse_writes(mount: &Mount) -> Result<(), CsiError> {
    let flags = mount.flags | MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(&mount.target, flags, c"")
        .map_err(CsiError::errno("make read-only", &mount.target))
}

/// Takes away every mount on a path, however many a crash left.
pub fn unmount_all(path: &Path) -> Result<(), CsiError> {
    let path = resolved(path);
    for _ in 0..DEEPEST {
        if on(&path)?.is_none() {
            return Ok(());
        }
        rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW)
            .map_err(CsiError::errno("unmount", &path))?;
    }
    Err(CsiError::Unfit(format!(
        "{} has more mounts on one another than any of ours: unmount them by hand",
        path.display()
    )))
}

/// Takes away what a target was mounted on: an empty folder or file.
pub fn remove_target(path: &Path) -> Result<(), CsiError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir(path),
        Ok(there) if there.is_file() && there.len() == 0 => fs::remove_file(path),
        Ok(_) => Err(io::Error::other("it is neither an empty file nor a folder")),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(CsiError::host("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mount_are_flags_and_what_only_the_file_system_knows() {
        let options = ["ro,noatime", "discard", "rw", "data=ordered,"].map(str::to_owned);
        let (flags, rest) = split(&options);
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOATIME);
        assert_eq!(rest, ["discard", "data=ordered"]);
    }

    #[test]
    fn a_path_with_blanks_reads_as_it_is() {
        assert_eq!(unescaped(Path::new(r"/a\040b\134c")), Path::new(r"/a b\c"));
        assert_eq!(unescaped(Path::new(r"/a\9")), Path::new(r"/a\9"));
    }

    #[test]
    fn this_process_sees_its_root() {
        let root = all()
            .unwrap()
            .into_iter()
            .find(|m| m.target == Path::new("/"));
        assert_eq!(root.unwrap().root.chars().next(), Some('/'));
    }
}
