//! Places: a volume can be reached from the node of its pool and from nowhere else.

use csi_proto::v1 as csi;

/// The key of a place's one segment. Its value is the node's id: stored in every PersistentVolume,
/// it must stay when the node gets another name.
pub const NODE_KEY: &str = "goldleaf.dev/node";

/// The place of a node.
#[must_use]
pub fn place(node: &str) -> csi::Topology {
    csi::Topology {
        segments: [(NODE_KEY.to_owned(), node.to_owned())].into(),
    }
}

/// Where a thing may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Nodes that were named, best first, each once.
    nodes: Vec<String>,
    /// Whether it must be one of those.
    only: bool,
}

impl Places {
    /// Reads where a thing must or should be.
    #[must_use]
    pub fn read(requirement: Option<&csi::TopologyRequirement>) -> Self {
        let Some(requirement) = requirement else {
            return Self {
                nodes: vec![],
                only: false,
            };
        };
        let mut nodes: Vec<String> = vec![];
        let all = requirement.preferred.iter().chain(&requirement.requisite);
        for node in all.filter_map(node_of) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        // Preferred ones that are not among the requisite ones are no places to go to.
        let requisite: Vec<_> = requirement.requisite.iter().filter_map(node_of).collect();
        let only = !requirement.requisite.is_empty();
        if only {
            nodes.retain(|node| requisite.contains(node));
        }
        Self { nodes, only }
    }

    /// Each place to try, in order; none stands for anywhere.
    #[must_use]
    pub fn in_order(&self) -> Vec<Option<String>> {
        let named = self.nodes.iter().cloned().map(Some);
        named.chain((!self.only).then_some(None)).collect()
    }

    /// Whether a thing on this node is where it must be.
    #[must_use]
    pub fn allow(&self, node: &str) -> bool {
        !self.only || self.nodes.iter().any(|named| named == node)
    }
}

/// The node of a place; `None` for a place with segments that are not ours.
#[must_use]
pub fn node_of(place: &csi::Topology) -> Option<String> {
    place.segments.get(NODE_KEY).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_places_come_first_and_others_than_the_requisite_never() {
        let places = |names: &[&str]| names.iter().map(|n| place(n)).collect::<Vec<_>>();
        let read = |requisite: &[&str], preferred: &[&str]| {
            Places::read(Some(&csi::TopologyRequirement {
                requisite: places(requisite),
                preferred: places(preferred),
            }))
        };
        let some = |name: &str| Some(name.to_owned());
        let both = read(&["a", "b"], &["b", "z"]);
        assert_eq!(both.in_order(), [some("b"), some("a")]);
        assert!(both.allow("a") && !both.allow("z"));
        assert_eq!(read(&[], &["c"]).in_order(), [some("c"), None]);
        assert_eq!(Places::read(None).in_order(), [None]);
        let elsewhere = csi::TopologyRequirement {
            requisite: vec![csi::Topology {
                segments: [("zone".into(), "1".into())].into(),
            }],
            preferred: vec![],
        };
        assert_eq!(Places::read(Some(&elsewhere)).in_order(), []);
    }
}
