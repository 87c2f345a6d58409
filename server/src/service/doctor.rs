//! The doctor: the nodes' own findings, and the control plane's records against what the nodes have.
//!
//! Called by `grpc`. Looking changes nothing. Only nodes mend, each what it found itself: what is
//! wrong between records and nodes takes a person, for either side may be the stale one.

use std::collections::{BTreeMap, BTreeSet};

use goldleaf_types::{Name, NodeId, PoolId, ThinOwner};

use super::{Service, ServiceError};
use crate::domain::{
    Finding, Image, MendOutcome, Mended, Node, Phase, PoolReport, Ref, Severity, Snapshot,
    ThinReport, Volume,
};

/// What an examination found.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Nodes that answered.
    pub examined: Vec<Name>,
}

/// What the control plane's records say that a node has.
struct Expected {
    /// By owner: its name, and its size where no change of it is on the way.
    thins: BTreeMap<ThinOwner, Recorded>,
    images: Vec<Image>,
}

struct Recorded {
    node: NodeId,
    pool: PoolId,
    what: String,
    ready: bool,
    size: Option<u64>,
}

/// What a node says that it has.
struct Present {
    pools: Vec<PoolReport>,
    thins: Vec<ThinReport>,
    digests: BTreeSet<goldleaf_types::Digest>,
}

impl Service {
    /// Looks at the named nodes, or at all. A node that does not answer is a finding, and one that
    /// counts as lost is another: nothing is asked of it.
    ///
    /// # Errors
    ///
    /// When a node is unknown, or the store is away.
    pub async fn examine(&self, nodes: &[Ref<NodeId>]) -> Result<Examination, ServiceError> {
        let mut chosen = Vec::new();
        for what in nodes {
            chosen.push(self.records.get::<Node>(what, "nodes").await?);
        }
        if nodes.is_empty() {
            chosen = self.records.all::<Node>().await?;
        }
        let expected = self.expected().await?;
        let mut found = Examination {
            findings: Vec::new(),
            examined: Vec::new(),
        };
        for node in &chosen {
            match self.examine_node(node, &expected).await {
                Ok(findings) => {
                    found.findings.extend(findings);
                    found.examined.push(node.name.clone());
                }
                Err(error) => found.findings.push(away(node, &error)),
            }
        }
        found
            .findings
            .sort_by(|a, b| (b.severity, a.id()).cmp(&(a.severity, b.id())));
        Ok(found)
    }

    /// Mends findings by their ids, if `apply`; else says what would be done.
    ///
    /// # Errors
    ///
    /// [`ServiceError::BadField`] for what is no finding's id; when the store or a node is away, or
    /// a node counts as lost.
    pub async fn mend(&self, ids: &[String], apply: bool) -> Result<Vec<Mended>, ServiceError> {
        let mut by_node: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for id in ids {
            let (node, key) = Finding::split(id).ok_or_else(|| ServiceError::BadField {
                field: "findings",
                problem: format!(
                    "{id:?} is no finding's id: examine, and give the ids that it answers"
                ),
            })?;
            by_node.entry(node).or_default().push(key.to_owned());
        }
        let mut results: BTreeMap<String, Mended> = BTreeMap::new();
        for (name, keys) in by_node {
            let Some(node) = self.node_of_findings(name).await? else {
                continue;
            };
            let agent = self.agent_of(node.id).await?;
            for mended in agent.mend(&keys, apply).await? {
                let finding = format!("{name}/{}", mended.finding);
                results.insert(finding.clone(), Mended { finding, ..mended });
            }
        }
        // What a node does not know of may be between it and the records: that takes a person.
        let unknown = |m: &Mended| m.outcome == MendOutcome::NotFound;
        let ours: BTreeSet<String> = match ids
            .iter()
            .all(|id| results.get(id).is_some_and(|m| !unknown(m)))
        {
            true => BTreeSet::new(),
            false => {
                let examination = self.examine(&[]).await?;
                examination.findings.iter().map(Finding::id).collect()
            }
        };
        let of = |id: &String| match results.get(id) {
            Some(mended) if !unknown(mended) => mended.clone(),
            Some(_) | None => Mended {
                finding: id.clone(),
                outcome: match ours.contains(id) {
                    true => MendOutcome::NeedsPerson,
                    false => MendOutcome::NotFound,
                },
                action: String::new(),
                problem: String::new(),
            },
        };
        Ok(ids.iter().map(of).collect())
    }

    async fn node_of_findings(&self, name: &str) -> Result<Option<Node>, ServiceError> {
        match name.parse::<Name>() {
            Ok(name) => self.records.by_name::<Node>(&name).await,
            Err(_) => Ok(None),
        }
    }

    async fn expected(&self) -> Result<Expected, ServiceError> {
        let mut thins = BTreeMap::new();
        for v in self.records.all::<Volume>().await? {
            let recorded = Recorded {
                node: v.node,
                pool: v.pool,
                what: format!("volume {}", v.name),
                ready: v.phase == Phase::Ready,
                size: v.wanted_size.is_none().then_some(v.size.bytes().0),
            };
            thins.insert(ThinOwner::from(v.id), recorded);
        }
        for s in self.records.all::<Snapshot>().await? {
            let recorded = Recorded {
                node: s.node,
                pool: s.pool,
                what: format!("snapshot {}", s.name),
                ready: s.phase == Phase::Ready,
                size: Some(s.size.bytes().0),
            };
            thins.insert(ThinOwner::from(s.id), recorded);
        }
        let images = self.records.all::<Image>().await?;
        Ok(Expected { thins, images })
    }

    async fn examine_node(
        &self,
        node: &Node,
        expected: &Expected,
    ) -> Result<Vec<Finding>, ServiceError> {
        let agent = self.agent_of(node.id).await?;
        let mut findings = agent.examine().await?;
        let present = Present {
            pools: agent.pools().await?,
            thins: agent.thins().await?,
            digests: agent
                .images()
                .await?
                .into_iter()
                .map(|i| i.digest)
                .collect(),
        };
        // What was made or deleted between the two looks is no finding, so records are read again.
        let now = self.expected().await.ok();
        let strange = compared(node, expected, &present);
        findings.extend(match now {
            Some(now) => {
                let again = compared(node, &now, &present);
                strange.into_iter().filter(|f| again.contains(f)).collect()
            }
            None => strange,
        });
        Ok(findings)
    }
}

/// Where the control plane's records and a node differ.
fn compared(node: &Node, expected: &Expected, present: &Present) -> Vec<Finding> {
    let mut found = Vec::new();
    let open: BTreeSet<PoolId> = present
        .pools
        .iter()
        .filter(|pool| pool.phase == Phase::Ready)
        .map(|pool| pool.id)
        .collect();
    let reported: BTreeMap<ThinOwner, &ThinReport> = present
        .thins
        .iter()
        .map(|thin| (thin.owner, thin))
        .collect();
    for (owner, recorded) in expected.thins.iter().filter(|(_, r)| r.node == node.id) {
        match reported.get(owner) {
            None if recorded.ready && open.contains(&recorded.pool) => found.push(finding(
                node,
                ("NotOnNode", Severity::Error),
                owner.to_string(),
                format!(
                    "{} is recorded as ready, and its node does not have it",
                    recorded.what
                ),
                "if its pool was put back to an older state, restore it; else delete it here",
            )),
            Some(thin) if thin.phase == Phase::Ready && recorded.ready => {
                if let Some(size) = recorded.size.filter(|size| *size != thin.size.0) {
                    found.push(finding(
                        node,
                        ("SizeDiffers", Severity::Warning),
                        owner.to_string(),
                        format!(
                            "{} is recorded with {size} bytes and its node has {}",
                            recorded.what, thin.size.0
                        ),
                        "resize it to the larger of the two",
                    ));
                }
            }
            Some(_) | None => {}
        }
    }
    for thin in present.thins.iter().filter(|t| t.phase != Phase::Deleting) {
        if !expected.thins.contains_key(&thin.owner) {
            found.push(finding(
                node,
                ("UnknownToServer", Severity::Warning),
                thin.owner.to_string(),
                "its node has it, and the control plane has no record of it".into(),
                "the store may be older than the pool: restore a newer one, or import the pool",
            ));
        }
    }
    found.extend(missing_copies(node, expected, present));
    found
}

fn missing_copies(node: &Node, expected: &Expected, present: &Present) -> Vec<Finding> {
    let here = |image: &&Image| {
        let copies = image.copies.iter();
        copies
            .filter(|copy| copy.node == node.id)
            .any(|copy| copy.phase == Phase::Ready)
    };
    let lacking = expected.images.iter().filter(here).filter(|image| {
        image
            .digest
            .is_some_and(|digest| !present.digests.contains(&digest))
    });
    lacking
        .map(|image| {
            finding(
                node,
                ("CopyMissing", Severity::Warning),
                image.id.to_string(),
                format!(
                    "image {} is recorded as being there, and it is not",
                    image.name
                ),
                "create it again from its source: goldleaf image create",
            )
        })
        .collect()
}

fn finding(
    node: &Node,
    (code, severity): (&str, Severity),
    subject: String,
    reason: String,
    remedy: &str,
) -> Finding {
    Finding {
        node: node.name.clone(),
        severity,
        code: code.into(),
        subject,
        reason,
        remedy: remedy.into(),
        mend: String::new(),
    }
}

fn away(node: &Node, error: &ServiceError) -> Finding {
    let (kind, remedy) = if matches!(error, ServiceError::NodeLost { .. }) {
        (
            ("NodeLost", Severity::Warning),
            "import its pools elsewhere, or take it back: goldleaf node take-back",
        )
    } else {
        (
            ("NodeAway", Severity::Error),
            "start its agent, or look at the network between it and the control plane",
        )
    };
    let reason = format!("it was not examined: {error}");
    finding(node, kind, node.id.to_string(), reason, remedy)
}
