//! A disk of its own, a part of which can be made to fail.

use std::fs::File;
use std::ops::Range;

use crate::command::output;

/// Where the disk begins on what is below: labels are to be seen through the disk alone.
const SHIFT: u64 = 8 << 20;

/// A linear device over a loop device over a file that nobody else sees.
///
/// Errors come from the `error` target: flushes of the rest still pass, as they would not with
/// dm-flakey.
#[derive(Debug)]
pub struct Disk {
    name: String,
    below: String,
    size: u64,
}

impl Disk {
    /// A blank disk of so many bytes, the `index`th of a test.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn new(test: &str, index: usize, size: u64) -> Self {
        let name = format!("gltest-{test}-{}-{index}", std::process::id());
        let path = format!("/dev/shm/{name}.disk");
        let file = File::create(&path).expect("a file");
        file.set_len(SHIFT + size).expect("its size");
        let below = output("losetup", &["-f", "--show", &path]).expect("a loop device");
        // The loop device keeps it.
        std::fs::remove_file(&path).expect("the file's name");
        let below = below.trim().to_owned();
        let table = format!("0 {} linear {below} {}", size / 512, SHIFT / 512);
        output("dmsetup", &["create", &name, "--table", &table]).expect("a device");
        Self { name, below, size }
    }

    /// Its node.
    ///
    /// # Panics
    ///
    /// When it is gone.
    #[must_use]
    pub fn path(&self) -> String {
        let minor = ["info", "-c", "--noheadings", "-o", "minor", &self.name];
        let minor = output("dmsetup", &minor).expect("its number");
        format!("/dev/dm-{}", minor.trim())
    }

    /// Makes every read and write of these bytes fail, from now on.
    ///
    /// # Panics
    ///
    /// When the bytes are not whole sectors of the disk, or device-mapper refuses.
    pub fn fail(&self, bytes: Range<u64>) {
        assert!(
            bytes.end <= self.size
                && [bytes.start, bytes.end]
                    .iter()
                    .all(|b| b.is_multiple_of(512))
        );
        let linear = |from: u64, to: u64| {
            let (at, len) = (from / 512, (to - from) / 512);
            let below = format!("{} {}", self.below, (from + SHIFT) / 512);
            (len > 0).then(|| format!("{at} {len} linear {below}"))
        };
        let len = (bytes.end - bytes.start) / 512;
        let middle = format!("{} {len} error", bytes.start / 512);
        let table = [
            linear(0, bytes.start),
            Some(middle),
            linear(bytes.end, self.size),
        ];
        self.switch(&table.into_iter().flatten().collect::<Vec<_>>().join("\n"));
    }

    /// Makes it whole again; what was on it is on it.
    ///
    /// # Panics
    ///
    /// When device-mapper refuses.
    pub fn heal(&self) {
        let (len, at) = (self.size / 512, SHIFT / 512);
        self.switch(&format!("0 {len} linear {} {at}", self.below));
    }

    fn switch(&self, table: &str) {
        let name = self.name.as_str();
        output("dmsetup", &["load", name, "--table", table]).expect("the table");
        output("dmsetup", &["suspend", name]).expect("suspended");
        output("dmsetup", &["resume", name]).expect("resumed");
        // What was read before must not hide what is there now.
        let _ = output("blockdev", &["--flushbufs", &self.path()]);
    }

    /// Has what was read before not hide what is there now.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn forget_cache(&self) {
        output("blockdev", &["--flushbufs", &self.path()]).expect("flushed");
    }

    /// Takes it away; nothing may use it any more.
    ///
    /// # Panics
    ///
    /// When something still uses it.
    pub fn remove(self) {
        output("dmsetup", &["remove", "--retry", &self.name]).expect("removed");
        output("losetup", &["-d", &self.below]).expect("detached");
    }
}
