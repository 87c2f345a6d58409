//! Goldleaf's CSI driver: what a container orchestrator calls to use Goldleaf's volumes.
//!
//! It keeps nothing: each call is converted, passed on and answered, so it can be stopped and
//! replaced at any moment. Rooms: `args` (the command line), `app` (serving and stopping),
//! `socket` (whose socket it is), `identity` (who we are), `telemetry` (logs). It serves the
//! Identity service; capabilities are announced only for what is served.
#![forbid(unsafe_code)]

pub mod app;
pub mod args;
pub mod identity;
pub mod socket;
pub mod telemetry;
