//! What a host of the tests leaves in the kernel, and how it is taken away after a failure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use goldleaf_dm::{Control, DevNumber, DmName, Owned, Removal};

/// Every device of Goldleaf's, every loop device over a file in `dir`, and every link.
pub(super) fn left(dir: &Path) -> Vec<String> {
    let mut left: Vec<String> = devices(dir)
        .into_iter()
        .map(|(name, _)| format!("device {name}"))
        .collect();
    for (block, file) in loops(dir) {
        left.push(format!("loop {} over {}", block.display(), file.trim()));
    }
    let dir_text = dir.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    left.extend(
        mounts
            .lines()
            .filter(|l| l.contains(&dir_text))
            .map(|l| format!("mount {l}")),
    );
    for folder in ["dev", "agent/pools", "agent/images"] {
        let entries = std::fs::read_dir(dir.join(folder))
            .into_iter()
            .flatten()
            .flatten();
        left.extend(entries.map(|e| format!("file {}", e.path().display())));
    }
    left
}

/// Loop devices over files in `dir`: their folders in sysfs, and the files.
fn loops(dir: &Path) -> Vec<(PathBuf, String)> {
    let dir = format!("{}/", dir.display());
    let blocks = std::fs::read_dir("/sys/class/block");
    let loops = blocks.into_iter().flatten().flatten().filter_map(|entry| {
        // Absent for what is no attached loop device.
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        file.contains(&dir).then(|| (entry.path(), file))
    });
    loops.collect()
}

/// Goldleaf's devices that are of the host in `dir`. In a test kernel that is every one; on a
/// machine's own kernel another Goldleaf may be at work, and only those that lie over `dir` count.
pub(super) fn devices(dir: &Path) -> Vec<(DmName, Owned)> {
    let mut devices = all_devices();
    if std::env::var_os("GOLDLEAF_TEST_KERNEL").is_some_and(|kernel| kernel == "host") {
        keep_those_over(dir, &mut devices);
    }
    devices
        .into_iter()
        .map(|(name, owned, _)| (name, owned))
        .collect()
}

type Found = (DmName, Owned, DevNumber);

fn all_devices() -> Vec<Found> {
    let control = Control::open().expect("device-mapper and root");
    let listed = control.list().expect("a list of devices");
    let ours = listed.into_iter().filter_map(|device| {
        let owned = Owned::from_uuid(device.uuid.as_deref()?)?;
        Some((DmName::new(&device.name)?, owned, device.dev))
    });
    ours.collect()
}

/// Keeps the devices that lie, through whatever of ours is between, over a file in `dir`.
fn keep_those_over(dir: &Path, devices: &mut Vec<Found>) {
    let control = Control::open().expect("device-mapper and root");
    let below = loops(dir).into_iter().filter_map(|(block, _)| {
        let number = std::fs::read_to_string(block.join("dev")).ok()?;
        number.trim().parse::<DevNumber>().ok()
    });
    let mut below: BTreeSet<DevNumber> = below.collect();
    // As many storeys as there are: a thin, its pool, the linear devices.
    for _ in 0..3 {
        for (name, _, dev) in devices.iter() {
            // One that went meanwhile lies over nothing.
            let deps = control.deps(name).unwrap_or_default();
            if deps.iter().any(|dep| below.contains(dep)) {
                below.insert(*dev);
            }
        }
    }
    devices.retain(|(_, _, dev)| below.contains(dev));
}

/// Takes everything away.
pub(super) fn clear(dir: &Path) {
    clear_devices(dir);
    let _ = std::fs::remove_dir_all(dir);
}

/// Takes the devices away, in as many rounds as they lie over each other.
pub(super) fn clear_devices(dir: &Path) {
    let control = Control::open().expect("device-mapper and root");
    for _ in 0..4 {
        let mut devices = all_devices();
        keep_those_over(dir, &mut devices);
        for (name, _, _) in devices {
            // Busy ones go in the next round; suspended ones would not go at all.
            let _ = control.resume(&name);
            let _ = control.remove(&name, Removal::Now);
        }
    }
}
