//! The rows' bytes: JSON that says its version, and the one conversion to and from records.
//!
//! Used by `store` alone. Names here are the disk's and never change; records may. A row of a newer
//! version is refused with what to do, and so is a field that this version does not know: nothing
//! is read half. Golden files of every version are in `tests/golden`.

use goldleaf_types::{
    BlockSize, Bytes, Digest, GroupId, Incarnation, Labels, Name, NodeId, PoolId, ThinId,
    ThinOwner, VolumeSize,
};
use serde::{Deserialize, Serialize};

use super::rows::{Decouple, Holder, ImageRef, NoSpace, Phase, PoolRecord, Repair, ThinRecord};

/// The version that is written, and the newest that is read.
const VERSION: &str = "1";

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadRow {
    /// A newer version wrote it.
    #[error("it is of format {found:?} and this version reads up to {VERSION:?}: upgrade")]
    Newer {
        /// Its format.
        found: String,
    },
    /// It is no JSON of the known shape.
    #[error("it does not have the shape of a row")]
    Shape(#[from] serde_json::Error),
    /// It lies under another owner's key.
    #[error("it is the row of {0}")]
    OtherOwner(ThinOwner),
}

#[derive(Deserialize)]
struct Version {
    v: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum ThinRow {
    #[serde(rename = "1")]
    V1(ThinV1),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "v")]
enum PoolRow {
    #[serde(rename = "1")]
    V1(PoolV1),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ThinV1 {
    owner: ThinOwner,
    name: Name,
    labels: Labels,
    size_bytes: VolumeSize,
    thin: ThinId,
    image: Option<ImageV1>,
    parent: Option<ThinOwner>,
    created: jiff::Timestamp,
    request: String,
    holder: Option<HolderV1>,
    read_only: bool,
    phase: PhaseV1,
    epoch: u64,
    sealed: bool,
    // Since 0.2; left out when there is none, so that older versions read such rows too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<GroupId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    marks: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decouple: Option<DecoupleV1>,
    #[serde(default, skip_serializing_if = "is_none_lost")]
    lost_blocks: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecoupleV1 {
    rate_bytes: u64,
    done_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageV1 {
    digest: Digest,
    size_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HolderV1 {
    Host,
    Csi,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseV1 {
    Creating,
    Ready,
    Deleting,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolV1 {
    id: PoolId,
    name: Name,
    block_size_bytes: BlockSize,
    incarnation: Option<Incarnation>,
    transaction_id: u64,
    next_thin: u32,
    no_space: NoSpaceV1,
    created: jiff::Timestamp,
    quarantined: Vec<u32>,
    // Since 0.2; left out when there is none, so that older versions read such rows too.
    #[serde(default, skip_serializing_if = "is_zero")]
    wait_seconds: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    overcommit_percent: u32,
    // Left out when it is not known, so that older versions read such rows too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home: Option<NodeId>,
    // Left out when there is none. An older version refuses a row that has one, as it must: it would
    // load metadata of which a part is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repair: Option<RepairV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepairV1 {
    file: String,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoSpaceV1 {
    Queue,
    Error,
}

/// The row of a thin.
///
/// # Errors
///
/// Never for a record that the types let be; the library says so with a `Result`.
pub(super) fn encode_thin(record: &ThinRecord) -> Result<Vec<u8>, serde_json::Error> {
    let r = record.clone();
    serde_json::to_vec(&ThinRow::V1(ThinV1 {
        owner: r.owner,
        name: r.name,
        labels: r.labels,
        size_bytes: r.size,
        thin: r.thin,
        image: r.image.map(|i| ImageV1 {
            digest: i.digest,
            size_bytes: i.size.0,
        }),
        parent: r.parent,
        created: r.created,
        request: r.request,
        holder: r.holder.map(|h| match h {
            Holder::Host => HolderV1::Host,
            Holder::Csi => HolderV1::Csi,
        }),
        read_only: r.read_only,
        phase: match r.phase {
            Phase::Creating => PhaseV1::Creating,
            Phase::Ready => PhaseV1::Ready,
            Phase::Deleting => PhaseV1::Deleting,
        },
        epoch: r.epoch,
        sealed: r.sealed,
        group: r.group,
        decouple: r.decouple.map(|d| DecoupleV1 {
            rate_bytes: d.rate.0,
            done_bytes: d.done.0,
        }),
        lost_blocks: r.lost_blocks,
        marks: r.marks,
    }))
}

/// A thin's row, read.
///
/// # Errors
///
/// [`BadRow`].
pub(super) fn decode_thin(bytes: &[u8]) -> Result<ThinRecord, BadRow> {
    known(bytes)?;
    let ThinRow::V1(r) = serde_json::from_slice(bytes)?;
    Ok(ThinRecord {
        owner: r.owner,
        name: r.name,
        labels: r.labels,
        size: r.size_bytes,
        thin: r.thin,
        image: r.image.map(|i| ImageRef {
            digest: i.digest,
            size: Bytes(i.size_bytes),
        }),
        parent: r.parent,
        created: r.created,
        request: r.request,
        holder: r.holder.map(|h| match h {
            HolderV1::Host => Holder::Host,
            HolderV1::Csi => Holder::Csi,
        }),
        read_only: r.read_only,
        phase: match r.phase {
            PhaseV1::Creating => Phase::Creating,
            PhaseV1::Ready => Phase::Ready,
            PhaseV1::Deleting => Phase::Deleting,
        },
        epoch: r.epoch,
        sealed: r.sealed,
        group: r.group,
        decouple: r.decouple.map(|d| Decouple {
            rate: Bytes(d.rate_bytes),
            done: Bytes(d.done_bytes),
        }),
        lost_blocks: r.lost_blocks,
        marks: r.marks,
    })
}

/// The row of a pool.
///
/// # Errors
///
/// As [`encode_thin`].
pub(super) fn encode_pool(record: &PoolRecord) -> Result<Vec<u8>, serde_json::Error> {
    let r = record.clone();
    serde_json::to_vec(&PoolRow::V1(PoolV1 {
        id: r.id,
        name: r.name,
        block_size_bytes: r.block_size,
        incarnation: r.incarnation,
        transaction_id: r.transaction_id,
        next_thin: r.next_thin,
        no_space: match r.no_space {
            NoSpace::Queue => NoSpaceV1::Queue,
            NoSpace::Error => NoSpaceV1::Error,
        },
        created: r.created,
        quarantined: r.quarantined,
        wait_seconds: r.wait_seconds,
        overcommit_percent: r.overcommit_percent,
        home: r.home,
        repair: r.repair.map(|r| RepairV1 {
            file: r.file,
            digest: r.digest,
        }),
    }))
}

/// A pool's row, read.
///
/// # Errors
///
/// [`BadRow`].
pub(super) fn decode_pool(bytes: &[u8]) -> Result<PoolRecord, BadRow> {
    known(bytes)?;
    let PoolRow::V1(r) = serde_json::from_slice(bytes)?;
    Ok(PoolRecord {
        id: r.id,
        name: r.name,
        block_size: r.block_size_bytes,
        incarnation: r.incarnation,
        transaction_id: r.transaction_id,
        next_thin: r.next_thin,
        no_space: match r.no_space {
            NoSpaceV1::Queue => NoSpace::Queue,
            NoSpaceV1::Error => NoSpace::Error,
        },
        created: r.created,
        quarantined: r.quarantined,
        wait_seconds: r.wait_seconds,
        overcommit_percent: r.overcommit_percent,
        home: r.home,
        repair: r.repair.map(|r| Repair {
            file: r.file,
            digest: r.digest,
        }),
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_none_lost(blocks: &u64) -> bool {
    *blocks == 0
}

fn known(bytes: &[u8]) -> Result<(), BadRow> {
    let Version { v } = serde_json::from_slice(bytes)?;
    if v == VERSION {
        Ok(())
    } else {
        Err(BadRow::Newer { found: v })
    }
}
