//! Steps of a life that have to do with nodes, and with what a pool's catalogue says of its volumes.
//!
//! Used by `life`.

use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::volumes::volume;
use super::{Step, refused, step};
use crate::host::{Host, NODE, blank};

const MIB: u64 = 1 << 20;

/// A node is drained, given up, taken back and adopted.
pub(super) const STEPS: &[Step] = &[
    step("drain the node", "NodeService.Drain", drain),
    step(
        "a volume on a drained node",
        "VolumeService.CreateThin",
        |h| {
            refused(
                h.create_thin(blank("none", MIB)).map(volume),
                Code::FailedPrecondition,
                || h.delete_volume("none"),
            )
        },
    ),
    step("resume the node", "NodeService.Resume", |h| {
        h.resume_node().map(marks)
    }),
    step("give the node up", "NodeService.MarkLost", |h| {
        h.lose_node(true)
            .map(|loss| format!("{}", loss.given_up.len()))
    }),
    step(
        "delete a snapshot of the lost node",
        "VolumeService.DeleteSnapshot",
        |h| h.delete_snapshot("s2").map(|()| "gone".into()),
    ),
    step("take the node back", "NodeService.TakeBack", |h| {
        h.take_node_back().map(marks)
    }),
    step(
        "see that what was deleted meanwhile goes",
        "",
        gone_meanwhile,
    ),
    step("adopt what the node has", "NodeService.Adopt", adopt),
];

/// Changes labels and protection, and sees that the pool's catalogue hears of it.
pub(super) fn relabel(h: &Host, protect: bool) -> Result<String, Status> {
    let changed = h.update_volume(api::UpdateRequest {
        target: "v".into(),
        set_labels: [("team".to_owned(), "db".to_owned())].into(),
        deletion_protection: Some(protect),
        ..Default::default()
    })?;
    let word = format!("\"deletion_protection\":{protect}");
    h.soon("the catalogue has it", || {
        let thins = match h.thins() {
            Ok(thins) => thins,
            // It died of what it was told, after the change was answered.
            Err(away) if away.code() == Code::Unavailable => return Some(Err(away)),
            Err(_) => return None,
        };
        let thin = thins.iter().find(|thin| thin.owner == changed.id)?;
        (thin.marks.contains("\"team\"") && thin.marks.contains(&word)).then_some(Ok(()))
    })?;
    Ok(format!(
        "{:?} {}",
        changed.labels, changed.deletion_protection
    ))
}

pub(super) fn marks(n: api::Node) -> String {
    let (drained, lost) = (n.drained_since.is_some(), n.lost_since.is_some());
    format!("drained {drained} lost {lost}")
}

pub(super) fn drain(h: &Host) -> Result<String, Status> {
    h.drain_node(true)
        .map(|d| format!("{} active, {:?}", d.active.len(), d.unknown))
}

/// Once the node is heard again, it has no thin of what was deleted while it was lost.
pub(super) fn gone_meanwhile(h: &Host) -> Result<String, Status> {
    let gone = || {
        // First, since one that died is soon not heard either.
        let thins = h.thins()?;
        let heard = h.is_heard(NODE)?;
        Ok::<_, Status>(heard && thins.iter().all(|thin| thin.name != "s2"))
    };
    h.soon("the snapshot's thin is gone", || match gone() {
        Ok(gone) => gone.then_some(Ok("gone".into())),
        // Whoever deletes it may die of that: the caller brings it back and looks again.
        Err(away) if away.code() == Code::Unavailable => Some(Err(away)),
        Err(_) => None,
    })
}

pub(super) fn adopt(h: &Host) -> Result<String, Status> {
    let adopted = h.adopt_node(true)?;
    let pools: Vec<_> = adopted.changes.iter().map(|c| c.becomes.clone()).collect();
    Ok(format!("{pools:?}"))
}

/// All devices that the pool has by then are named.
pub(super) fn import_closed(h: &Host) -> Result<String, Status> {
    let file = |name: &str| {
        let path = h.dir().join("agent/pools").join(name);
        path.display().to_string()
    };
    h.import_pool(api::ImportPoolRequest {
        devices: ["p.pool", "more.pool", "metadata.pool", "spare.pool"]
            .map(file)
            .into(),
        ..Default::default()
    })
    .map(|p| format!("{} phase {}", p.name, p.phase))
}
