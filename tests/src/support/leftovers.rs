//! What a test left in the kernel: each line is a failure.

use std::fs;
use std::time::{Duration, Instant};

use goldleaf_dm::Control;

/// Every device, loop, mount and file whose name has `prefix` in it and that is there after a while.
/// The kernel gives a loop device up after its last user is gone, not before that returns.
pub(super) fn after(limit: Duration, control: &Control, prefix: &str) -> Vec<String> {
    let began = Instant::now();
    loop {
        let left = of(control, prefix);
        if left.is_empty() || began.elapsed() > limit {
            return left;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn of(control: &Control, prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    match control.list() {
        Ok(devices) => {
            let own = devices.iter().filter(|d| d.name.contains(prefix));
            left.extend(own.map(|d| format!("device {}", d.name)));
        }
        Err(error) => left.push(format!("no list of devices: {error}")),
    }
    for entry in fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
    {
        // Absent for what is no attached loop device.
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        if let Ok(file) = backing
            && file.contains(prefix)
        {
            left.push(format!(
                "loop {} over {}",
                entry.path().display(),
                file.trim()
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = mounts.lines().filter(|line| line.contains(prefix));
    left.extend(own.map(|line| format!("mount {line}")));
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().contains(prefix) {
            left.push(format!("file {}", entry.path().display()));
        }
    }
    left
}
