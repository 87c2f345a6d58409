//! Stores that are lost or put back, over nodes that have what they had.

#![allow(dead_code, reason = "each test binary uses its part")]

use goldleaf_server::service::{Adoption, Revised, ServiceError};
use tonic::Code;

use crate::support::*;

pub fn refused<T: std::fmt::Debug>(answer: Result<T, ServiceError>) -> (Code, String) {
    let (code, reason, _) = verdict(answer.unwrap_err());
    (code, reason)
}

pub async fn adopt(rig: &Rig, apply: bool) -> Adoption {
    let adoption = rig.service().adopt_node(&named("n1"), apply).await.unwrap();
    assert_eq!(adoption.applied, apply);
    adoption
}

/// What an adoption says of each thing, by name.
pub fn said(adoption: &Adoption) -> Vec<(String, &'static str)> {
    let changes = adoption.pools.iter().flat_map(|pool| &pool.changes);
    changes.map(|c| (c.name.clone(), c.becomes)).collect()
}

/// Another store with the same nodes: an empty one, or one as it was when `copy` was made.
pub async fn another_life(lost: &Rig, copy: Option<&std::path::Path>) -> Rig {
    let mut rig = Rig::empty();
    rig.agents = lost.agents.clone();
    match copy {
        Some(copy) => rig.restart_from(copy),
        None => rig.restart(),
    }
    rig.register(NODE, "n1").await;
    rig
}

pub async fn all<T: Revised>(rig: &Rig) -> Vec<T> {
    rig.service().records.all::<T>().await.unwrap()
}

/// A backup of the store as it is now.
pub async fn backup_of(rig: &Rig) -> std::path::PathBuf {
    use futures::TryStreamExt;
    let chunks = rig.service().backup().await.unwrap();
    let chunks: Vec<Vec<u8>> = chunks.try_collect().await.unwrap();
    let path = rig.store_path().with_extension("backup");
    std::fs::write(&path, chunks.concat()).unwrap();
    path
}

pub async fn filled() -> Rig {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let mut wanted = active(thin("vm1", "golden"));
    wanted.labels = labels([("team", "db")]);
    service.create_thin(wanted).await.unwrap();
    let snapshot = snapshot_of("before", "volume/vm1");
    service.create_snapshot(snapshot).await.unwrap();
    let clone = clone_of("vm2", "snapshot/before", 2 * GIB);
    service.clone_thin(clone).await.unwrap();
    rig
}
