//! Finding pools by the labels on this host's devices.
//!
//! Called by `ops::pools` and `sweep`. Only reads. Opening a device of somebody else's, however
//! briefly, can make its owner's removal of it fail, so what was looked at once is looked at again
//! only when somebody asks, and device-mapper devices never by the sweep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use goldleaf_dm::loopdev;
use goldleaf_types::{DEVICE_UUID_PREFIX, PoolId};

use crate::catalogue::{Label, read_label};
use crate::telemetry::Chain;

/// A device with a label of ours, not held.
#[derive(Clone, Debug)]
pub struct FoundDevice {
    /// Where.
    pub path: PathBuf,
    /// What is written on it.
    pub label: Label,
}

/// Devices with a label of ours, by pool.
pub type Found = BTreeMap<PoolId, Vec<FoundDevice>>;

/// How hard to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At every device there is, device-mapper's too: a pool may lie on LVM or dm-crypt.
    Everywhere,
    /// At what was not there the last time; the rest is as it was then.
    AtNew,
}

/// What makes a device at a path the one that was looked at before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    /// Number of a block device, or inode of a file.
    number: (u64, u64),
    /// The kernel's count of disks: a number is given to another disk after the first one went.
    sequence: Option<String>,
}

/// The devices of this host as they were last looked at.
#[derive(Debug)]
pub struct Scanner {
    pool_dir: PathBuf,
    seen: Mutex<HashMap<PathBuf, (Identity, Option<Label>)>>,
}

impl Scanner {
    /// Looks at block devices and at the files of `pool_dir`. Nothing was looked at yet.
    #[must_use]
    pub fn new(pool_dir: PathBuf) -> Self {
        Self {
            pool_dir,
            seen: Mutex::default(),
        }
    }

    /// Labels were written: nothing that was seen counts any more. That there was one of ours on a
    /// device-mapper device is kept, so that [`Look::AtNew`] reads it again and finds the pool.
    pub fn forget(&self) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path, (_, label)| label.is_some() && is_mapped(path));
    }

    /// Every device of this host with a label of ours. Unreadable devices are left out: a pool
    /// that misses one says so when it is opened. Blocks.
    #[must_use]
    pub fn scan(&self, look: Look) -> Found {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::new();
        let mut found = Found::new();
        for path in self.candidates(look) {
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            let identity = identity(&path, &metadata);
            let label = match seen.remove(&path) {
                Some((known, label)) if look == Look::AtNew && known == identity => label,
                Some(_) | None => label(&path),
            };
            if let Some(label) = &label {
                let device = FoundDevice {
                    path: path.clone(),
                    label: label.clone(),
                };
                found.entry(label.pool).or_default().push(device);
            }
            now.insert(path, (identity, label));
        }
        if look == Look::AtNew {
            // Device-mapper's, which this look passed over: those of ours, if they still are.
            for (path, (known, seen)) in seen.drain().filter(|(path, _)| is_mapped(path)) {
                let same = std::fs::metadata(&path).is_ok_and(|m| identity(&path, &m) == known);
                if let Some(label) = seen.filter(|_| same).and_then(|_| label(&path)) {
                    let device = FoundDevice {
                        path: path.clone(),
                        label: label.clone(),
                    };
                    found.entry(label.pool).or_default().push(device);
                    now.insert(path, (known, Some(label)));
                }
            }
        }
        *seen = now;
        found
    }

    /// The paths to look at: pool files, and block devices that are neither a loop device over one
    /// of those nor under somebody's.
    fn candidates(&self, look: Look) -> Vec<PathBuf> {
        let mut paths = list(&self.pool_dir);
        let inodes: HashSet<(u64, u64)> = paths
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|m| (m.dev(), m.ino()))
            .collect();
        let devices = list(Path::new("/sys/class/block"))
            .into_iter()
            .filter_map(|entry| Some(Path::new("/dev").join(entry.file_name()?)))
            .filter(|path| !is_under_anothers(path))
            .filter(|path| match is_mapped(path) {
                true => look == Look::Everywhere,
                false => !backs_one_of(path, &inodes),
            });
        paths.extend(devices);
        paths
    }
}

/// The label on what is there now, if it is one to look at.
fn label(path: &Path) -> Option<Label> {
    // Asked here and not when the paths were listed: the next device may have got its number since.
    if is_mapped(path) && !is_anothers(path) {
        return None;
    }
    let file = File::open(path).ok()?;
    match read_label(&file) {
        Ok(label) => label,
        Err(error) => {
            tracing::warn!(device = %path.display(), error = %Chain(&error), "an unreadable label");
            None
        }
    }
}

fn identity(path: &Path, metadata: &Metadata) -> Identity {
    let sequence = std::fs::read_to_string(sysfs(path).join("diskseq")).ok();
    match metadata.is_file() {
        true => Identity {
            number: (metadata.dev(), metadata.ino()),
            sequence: None,
        },
        false => Identity {
            number: (metadata.rdev(), 0),
            sequence,
        },
    }
}

fn sysfs(path: &Path) -> PathBuf {
    Path::new("/sys/class/block").join(path.file_name().unwrap_or_default())
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|e| e.path()).collect();
    paths.sort();
    paths
}

/// Whether it is a loop device over one of the files that are looked at themselves. Asked only of
/// loop devices: asking opens the device.
fn backs_one_of(path: &Path, inodes: &HashSet<(u64, u64)>) -> bool {
    if !sysfs(path).join("loop").exists() {
        return false;
    }
    loopdev::status(path)
        .ok()
        .flatten()
        .is_some_and(|s| inodes.contains(&(s.backing_dev, s.backing_inode)))
}

/// Whether it is a device-mapper device. The kernel gives them their names; that sysfs tells of one
/// comes a moment later, when it can be opened already.
fn is_mapped(path: &Path) -> bool {
    path.parent() == Some(Path::new("/dev"))
        && path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"dm-"))
}

/// Whether it is a device-mapper device of ours: what a guest wrote there is no label to us.
fn is_ours(path: &Path) -> bool {
    uuid(path).is_some_and(|uuid| uuid.starts_with(DEVICE_UUID_PREFIX))
}

/// Whether it is one of somebody else's. One that is being made or taken away has no uuid that can be
/// read, and may be ours.
fn is_anothers(path: &Path) -> bool {
    uuid(path).is_some_and(|uuid| !uuid.starts_with(DEVICE_UUID_PREFIX))
}

/// The uuid of a device-mapper device; empty if it was made without one.
fn uuid(path: &Path) -> Option<String> {
    std::fs::read_to_string(sysfs(path).join("dm/uuid")).ok()
}

/// Whether others' devices lie over it and none of ours: legs of multipath or md show the same label as
/// the device on top, and that one is the pool's.
fn is_under_anothers(path: &Path) -> bool {
    let holders = list(&sysfs(path).join("holders"));
    !holders.is_empty() && !holders.iter().any(|holder| is_ours(holder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Role, write_label};

    fn labelled(path: &Path, generation: u64) {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path);
        let file = file.unwrap();
        file.set_len(4 << 20).unwrap();
        let label = Label {
            pool: PoolId::from_bytes([1; 16]),
            pool_name: "p".into(),
            role: Role::Data,
            index: 0,
            data_count: 1,
            metadata_count: 0,
            layout_generation: generation,
            owner_host: [2; 16],
            claimed: 0,
            clean: false,
            compatible: 0,
            incompatible: 0,
            device_size: goldleaf_types::Sectors(8192),
            block_size: goldleaf_types::BlockSize::DEFAULT,
            regions: vec![],
        };
        write_label(&file, &label).unwrap();
    }

    fn generation(found: &Found) -> Option<u64> {
        let devices = found.get(&PoolId::from_bytes([1; 16]))?;
        Some(devices.first()?.label.layout_generation)
    }

    #[test]
    fn what_was_seen_is_remembered_until_somebody_asks_or_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let scanner = Scanner::new(dir.path().to_owned());
        assert_eq!(generation(&scanner.scan(Look::AtNew)), None);
        let path = dir.path().join("p.pool");
        labelled(&path, 1);
        assert_eq!(
            generation(&scanner.scan(Look::AtNew)),
            Some(1),
            "a new one is looked at"
        );
        labelled(&path, 2);
        assert_eq!(
            generation(&scanner.scan(Look::AtNew)),
            Some(1),
            "a known one is not"
        );
        assert_eq!(generation(&scanner.scan(Look::Everywhere)), Some(2));
        labelled(&path, 3);
        scanner.forget();
        assert_eq!(generation(&scanner.scan(Look::AtNew)), Some(3));
        // Another file in its place is another device.
        labelled(&dir.path().join("other"), 4);
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert_eq!(generation(&scanner.scan(Look::AtNew)), Some(4));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(generation(&scanner.scan(Look::AtNew)), None);
    }

    #[test]
    fn a_mapped_device_of_which_sysfs_does_not_tell_yet_is_not_opened() {
        let unborn = Path::new("/dev/dm-4000000");
        assert!(!sysfs(unborn).exists() && is_mapped(unborn) && !is_anothers(unborn));
        for other in ["/dev/sda", "/dev/dm", "/dev/mapper/dm-1", "/pools/dm-1"] {
            assert!(!is_mapped(Path::new(other)), "{other}");
        }
    }
}
