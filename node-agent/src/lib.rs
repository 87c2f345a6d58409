//! Goldleaf's node agent: the pools, images and volumes of one host.
//!
//! The way of a call: `grpc` converts it and calls `ops`, which write a wish to the pool's
//! `catalogue`, have the `kernel` carry it out over the host's `images`, and write the fact. `app`
//! builds all of it once. Arrows go downwards only.
#![forbid(unsafe_code)]

pub mod app;
pub mod args;
pub mod catalogue;
pub mod events;
pub mod failpoint;
pub mod grpc;
pub mod host;
pub mod images;
pub mod kernel;
pub mod links;
pub mod ops;
pub mod preflight;
pub mod registration;
pub mod sys;
pub mod udev_rules;

pub use goldleaf_rpc::telemetry;
