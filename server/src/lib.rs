//! Goldleaf's control plane: which pools, images, volumes and snapshots should exist, and where.
//!
//! The way of a call: `grpc` converts it and calls `service`, which writes a wish to the `store`,
//! has the node's agent carry it out (`agents`), and writes the fact. `reconcile` finishes what a
//! crash cut short, from the same records. `app` builds all of it once. Arrows go downwards only:
//! `grpc` and `reconcile` never call each other, `domain` calls nobody.
#![forbid(unsafe_code)]

pub mod agents;
pub mod app;
pub mod args;
pub mod domain;
pub mod failpoint;
pub mod grpc;
pub mod reconcile;
pub mod service;
pub mod store;

pub use goldleaf_rpc::telemetry;
