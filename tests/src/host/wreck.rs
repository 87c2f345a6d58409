//! What a host of the tests leaves in the kernel, and how it is taken away after a failure.

use std::path::Path;

use goldleaf_dm::{Control, DmName, Owned, Removal};

/// Every device of Goldleaf's, every loop device over a file in `dir`, and every link.
pub(super) fn left(dir: &Path) -> Vec<String> {
    let mut left: Vec<String> = devices()
        .into_iter()
        .map(|name| format!("device {name}"))
        .collect();
    let dir_text = dir.display().to_string();
    for entry in std::fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
    {
        // Absent for what is no attached loop device.
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        if let Ok(file) = backing
            && file.contains(&dir_text)
        {
            left.push(format!(
                "loop {} over {}",
                entry.path().display(),
                file.trim()
            ));
        }
    }
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

fn devices() -> Vec<String> {
    let control = Control::open().expect("device-mapper and root");
    let listed = control.list().expect("a list of devices");
    listed
        .into_iter()
        .filter(|d| {
            d.uuid
                .as_deref()
                .is_some_and(|uuid| Owned::from_uuid(uuid).is_some())
        })
        .map(|d| d.name)
        .collect()
}

/// Takes everything away. Devices go in as many rounds as they lie over each other.
pub(super) fn clear(dir: &Path) {
    let control = Control::open().expect("device-mapper and root");
    for _ in 0..4 {
        for name in devices() {
            if let Some(name) = DmName::new(&name) {
                // Busy ones go in the next round; suspended ones would not go at all.
                let _ = control.resume(&name);
                let _ = control.remove(&name, Removal::Now);
            }
        }
    }
    let _ = std::fs::remove_dir_all(dir);
}
