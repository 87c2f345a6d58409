//! How long a test waits for what comes by itself, and how much of the long tests it does.
//!
//! Used by whatever bounds a wait, and by the driver. An emulated processor is many times slower than
//! User-Mode Linux; a bound that was made for the one would say of the other only that it is slow. A
//! longer bound hides nothing: what never comes does not come then either.

use std::time::Duration;

/// How many times longer a wait may be under QEMU's emulator. Some ten times is what a call takes there
/// by docs/benchmark.md; most bounds have room enough for half of that.
const EMULATED: u32 = 5;

/// Whether the kernel under test runs on an emulated processor. Inside it `GOLDLEAF_TEST_KERNEL` says
/// so; the tests that start kernels themselves have `KERNEL`, as those who called them.
#[must_use]
pub fn emulated() -> bool {
    let kernel = std::env::var_os("GOLDLEAF_TEST_KERNEL").or_else(|| std::env::var_os("KERNEL"));
    kernel.is_some_and(|kernel| kernel == "qemu")
}

/// The bound of a wait that is over within `time` on a processor of its own.
#[must_use]
pub fn patience(time: Duration) -> Duration {
    if emulated() { time * EMULATED } else { time }
}
