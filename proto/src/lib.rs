//! The wire: `goldleaf.v1`, which people and programs call, and `goldleaf.agent.v1`, which the
//! control plane calls. Generated code and nothing else; each side converts it once, at its door.
#![forbid(unsafe_code)]

/// Metadata key of the caller's store incarnation, on calls to an agent that change something.
pub const INCARNATION_KEY: &str = "goldleaf-incarnation";

/// Metadata key of the id that follows one request from the command line to the kernel.
pub const REQUEST_ID_KEY: &str = "x-request-id";

/// Metadata key of the trace that a request is a part of: W3C trace context.
pub const TRACEPARENT_KEY: &str = "traceparent";

/// Every message and service of both packages with their comments, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/goldleaf.fds"));

/// The public API.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("goldleaf.v1");
}

/// What a node's agent serves.
pub mod agent {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("goldleaf.agent.v1");
    }
}
