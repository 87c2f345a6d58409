//! The Container Storage Interface at version 1.13: messages, clients and servers, generated from
//! `csi.proto` and nothing else. Usable by any plugin or orchestrator, not only by Goldleaf.
//!
//! The names and numbers are those of the published specification: `tests/descriptors.rs` compares
//! the two, so a change here is either a new version of the specification or a mistake.
#![forbid(unsafe_code)]

/// The version of the specification that this crate speaks.
pub const SPEC_VERSION: &str = "1.13.0";

/// `csi.proto` and what it imports, with comments and custom options, for reflection and tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/csi.fds"));

/// Package `csi.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// `pluginregistration.proto` with its comments, for tests.
pub const KUBELET_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kubelet.fds"));

/// Package `pluginregistration`: how kubelet learns of a driver on its node.
#[allow(missing_docs, clippy::all)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
