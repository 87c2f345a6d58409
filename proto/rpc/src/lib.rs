//! What every part does the same around a call: its ids, its log, its first look at fields, where it
//! may be served, how a process stops, and where a test has it die.
//!
//! Used by the control plane, the node agent, the CSI driver and the command line. Holds no rule of Goldleaf and
//! knows no noun of it; what only one part needs stays in that part.
#![forbid(unsafe_code)]

pub mod address;
pub mod call;
pub mod failpoint;
pub mod field;
pub mod layer;
pub mod socket;
pub mod stop;
pub mod telemetry;
pub mod traceparent;

pub use call::CallId;
pub use field::BadField;
pub use layer::Calls;
pub use traceparent::Traceparent;
