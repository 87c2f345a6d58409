//! Goldleaf's test bed: what runs the tests, and what the kernel tests stand on.
//!
//! [`driver`] builds every test of the workspace, runs the ordinary ones here and those named
//! `kernel_*` and `e2e_*` in a test kernel (`tests/vm/run`), and adds up the results. [`support`]
//! gives kernel tests scratch devices that take themselves away; [`host`] gives end-to-end tests a
//! host with Goldleaf on it; [`model`] says what volumes ought to be, and [`power`] cuts it. Nothing of this is shipped.
#![forbid(unsafe_code)]

/// What begins a line that a test wants to be kept: see [`support::say`].
pub const FIGURE: &str = "figure: ";

pub mod command;
pub mod driver;
pub mod host;
pub mod model;
pub mod power;
pub mod support;
