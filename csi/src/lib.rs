//! Goldleaf's CSI driver: what a container orchestrator calls to use Goldleaf's volumes.
//!
//! It keeps nothing: each call is converted, passed on and answered, so it can be stopped and
//! replaced at any moment. Rooms: `args` (the command line), `app` (serving and stopping),
//! `identity` (who we are), `controller` (volumes and snapshots, over
//! the control plane), `node` (devices and mounts, over this host's agent), `registration` (kubelet),
//! `health` (HTTP), `failpoint` (places to die at), `convert` (the wire of CSI), `status` (errors to codes), `scrub` (requests in
//! the log without secrets), `run` (other programs). Capabilities are announced
//! only for what is served.
#![forbid(unsafe_code)]

pub mod app;
pub mod args;
pub mod controller;
pub mod convert;
pub mod failpoint;
pub mod health;
pub mod identity;
pub mod node;
pub mod registration;
pub mod run;
pub mod scrub;
pub mod status;
