//! What the agent asks of the host beside the kernel's device-mapper.

pub mod caller;
pub mod replace;
pub mod run;
