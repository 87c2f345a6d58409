//! The wire of CSI to what the driver works with, and back: the one door on this side.
//!
//! Called by `controller` and `node`. Each request is checked here as a whole before anything is
//! asked of anybody; each refusal names the field as the specification spells it. Pure.

pub mod answers;
pub mod capability;
pub mod capacity;
pub mod names;
pub mod parameters;
pub mod topology;
