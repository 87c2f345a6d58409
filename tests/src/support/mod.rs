//! What kernel tests stand on, as nouns: [`Scratch`], [`Pool`], [`Node`], [`Pattern`].
//!
//! Everything is made through `goldleaf-dm`, carries the process and the test in its name, and goes
//! when the test ends; that nothing is left is asserted then. `KEEP=1` leaves the wreck instead.
//! Only run where `GOLDLEAF_TEST_KERNEL` says that the kernel is there to be tested.

mod disk;
mod leftovers;
mod metadata;
mod node;
mod patience;
mod pattern;
mod plug;
mod pool;
mod region;
mod said;
mod scratch;
mod udev;
mod verity;

pub use disk::Disk;
pub use metadata::Metadata;
pub use node::Node;
pub use patience::{emulated, patience};
pub use pattern::Pattern;
pub use plug::Plug;
pub use pool::{Pool, PoolPlan};
pub use region::{check_metadata, held_root, metadata_region};
pub use said::{say, setting};
pub use scratch::{Mounted, Scratch};
pub use udev::Udev;
pub use verity::HashTree;

use goldleaf_dm::Control;
use std::io::Write;
use std::sync::Once;

/// Opens device-mapper, and says once per binary which kernel is under test.
///
/// # Panics
///
/// When nobody asked for tests of this kernel: they make devices, and do so by no surprise.
#[must_use]
pub fn kernel_under_test() -> Control {
    static SAID: Once = Once::new();
    assert!(
        std::env::var_os("GOLDLEAF_TEST_KERNEL").is_some(),
        "this test makes devices in the running kernel: run it by `tests/run`, which starts a test \
         kernel, or with KERNEL=host"
    );
    let control = Control::open().expect("device-mapper and root");
    SAID.call_once(|| {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
        let targets = control.target_versions().expect("the list of targets");
        let pool = targets
            .iter()
            .find(|t| t.name == "thin-pool")
            .expect("the thin-pool target");
        let [major, minor, patch] = pool.version;
        // Past libtest's capture: the driver reads it.
        let line = format!(
            "\nkernel: {} thin-pool {major}.{minor}.{patch}\n",
            kernel.trim()
        );
        std::io::stderr()
            .write_all(line.as_bytes())
            .expect("standard error");
    });
    control
}
