//! Nodes, and what is said of them, for the wire. Nothing can fail here.
//!
//! Called by the handlers, as `answers`.

use goldleaf_proto::v1 as api;
use jiff::Timestamp;

use super::answers::{labels, phase, timestamp};
use crate::domain::{Check, Holder, Node};
use crate::service::{Active, AdoptedPool, Adoption, Change, Drained, Forsaken, Loss, NodeView};

/// A node for the wire.
#[must_use]
pub fn node(view: &NodeView) -> api::Node {
    let n = &view.node;
    let reachable = view.reach.as_ref().map(|reach| api::Condition {
        r#type: "NodeReachable".into(),
        status: reach.up,
        reason: if reach.up {
            "AgentAnswers".into()
        } else {
            "AgentAway".into()
        },
        message: reach.why.clone(),
        since: Some(timestamp(reach.since)),
    });
    let unkept = view.unkept.as_ref().map(|unkept| api::Condition {
        r#type: "RecordsKept".into(),
        status: false,
        reason: "RecordsRefused".into(),
        message: unkept.why.clone(),
        since: Some(timestamp(unkept.since)),
    });
    let live = reachable.into_iter().chain(unkept);
    api::Node {
        id: n.id.to_string(),
        name: n.name.to_string(),
        labels: labels(&n.labels),
        revision: n.revision,
        phase: phase(n.phase),
        conditions: live.chain(marks(n)).collect(),
        created: Some(timestamp(n.created)),
        address: n.address.clone(),
        agent_version: n.agent_version.clone(),
        kernel_release: n.kernel_release.clone(),
        drained_since: n.drained.map(timestamp),
        lost_since: n.lost.map(timestamp),
    }
}

/// What an administrator marked a node with.
fn marks(n: &Node) -> impl Iterator<Item = api::Condition> {
    let mark = |kind: &str, reason: &str, message: String, since: Timestamp| api::Condition {
        r#type: kind.into(),
        status: false,
        reason: reason.into(),
        message,
        since: Some(timestamp(since)),
    };
    let drained = n.drained.map(|since| {
        let message = format!(
            "new volumes keep off it: `goldleaf node resume {}` ends that",
            n.name
        );
        mark("TakesVolumes", "Drained", message, since)
    });
    let lost = n.lost.map(|since| {
        let message = format!(
            "nothing is asked of it and nothing that it says counts: `goldleaf node take-back {}` \
             trusts it again",
            n.name
        );
        mark("Trusted", "MarkedLost", message, since)
    });
    drained.into_iter().chain(lost)
}

/// A host's checks for the wire.
#[must_use]
pub fn preflight(checks: Vec<Check>) -> api::PreflightResponse {
    let ok = checks.iter().all(|check| check.ok);
    let check = |c: Check| api::PreflightCheck {
        subject: c.subject,
        ok: c.ok,
        found: c.found,
        remedy: c.remedy,
    };
    api::PreflightResponse {
        checks: checks.into_iter().map(check).collect(),
        ok,
    }
}

/// A drained node for the wire.
#[must_use]
pub fn drained(drained: &Drained) -> api::DrainNodeResponse {
    let active = |found: &Active| api::ActiveVolume {
        id: found.volume.to_string(),
        name: found.name.clone(),
        holder: match found.activation.holder {
            Holder::Host => api::Holder::Host.into(),
            Holder::Csi => api::Holder::Csi.into(),
        },
        device_path: found.activation.device_path.clone(),
        kept_because: found.kept_because.clone(),
    };
    let (all, unknown) = match &drained.active {
        Ok(all) => (all.iter().map(active).collect(), String::new()),
        Err(why) => (Vec::new(), why.clone()),
    };
    api::DrainNodeResponse {
        node: Some(node(&drained.node)),
        active: all,
        deactivated: drained.deactivated,
        unknown,
    }
}

/// What is given up with a node, for the wire.
#[must_use]
pub fn loss(loss: &Loss) -> api::MarkNodeLostResponse {
    let given_up = |forsaken: &Forsaken| api::GivenUp {
        kind: forsaken.kind.into(),
        id: forsaken.id.clone(),
        name: forsaken.name.clone(),
        becomes: forsaken.becomes.into(),
    };
    api::MarkNodeLostResponse {
        node: Some(node(&loss.node)),
        given_up: loss.forsaken.iter().map(given_up).collect(),
        applied: loss.applied,
    }
}

/// What is taken over with a node, for the wire.
#[must_use]
pub fn adoption(adoption: &Adoption) -> api::AdoptNodeResponse {
    api::AdoptNodeResponse {
        node: Some(node(&adoption.node)),
        changes: (adoption.records.iter().map(change))
            .chain(adoption.pools.iter().flat_map(adopted))
            .collect(),
        applied: adoption.applied,
    }
}

fn adopted(pool: &AdoptedPool) -> Vec<api::AdoptionChange> {
    let becomes = match pool.former {
        _ if pool.ours => "is this store's already".to_owned(),
        Some(store) => format!("taken over from the store {store}"),
        None => "taken over; no store has it".to_owned(),
    };
    let itself = api::AdoptionChange {
        kind: "pool".into(),
        id: pool.pool.to_string(),
        name: pool.name.clone(),
        becomes,
    };
    std::iter::once(itself)
        .chain(pool.changes.iter().map(change))
        .collect()
}

fn change(change: &Change) -> api::AdoptionChange {
    api::AdoptionChange {
        kind: change.kind.into(),
        id: change.id.clone(),
        name: change.name.clone(),
        becomes: change.becomes.into(),
    }
}
