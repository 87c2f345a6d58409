//! What only the store knows of a node, and what the node keeps of it for the day when the store is
//! lost. What a pool's catalogue has is not among it.

use std::collections::{BTreeMap, BTreeSet};

use goldleaf_types::{Digest, Incarnation, NodeId, PoolId};

use super::{Channel, Image, ImageCopy, KeptMarks, Phase, Pool};

/// What a node keeps, as it came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptText {
    /// The store that has it kept.
    pub store: Incarnation,
    /// [`KeptRecords`], encoded.
    pub records: String,
}

/// Records of what is on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptRecords {
    /// The images that it holds; its own is their only copy.
    pub images: Vec<Image>,
    /// The channels that point to one of them.
    pub channels: Vec<Channel>,
    /// What users changed of its pools.
    pub pools: BTreeMap<PoolId, KeptMarks>,
}

impl KeptRecords {
    /// Those of a node, of all that there are.
    #[must_use]
    pub fn of(node: NodeId, images: &[Image], channels: &[Channel], pools: &[Pool]) -> Self {
        let images = images.iter().filter(|image| {
            image.is_on(node) && image.digest.is_some() && image.phase != Phase::Deleting
        });
        let images: Vec<Image> = images.map(|image| copy_of(node, image)).collect();
        let held: BTreeSet<Digest> = images.iter().filter_map(|image| image.digest).collect();
        let channels = channels.iter().filter(|at| held.contains(&at.digest));
        let pools = pools.iter().filter(|pool| pool.node == node);
        let marked = pools.map(|pool| (pool.id, pool.kept_marks()));
        Self {
            images,
            channels: channels.cloned().collect(),
            pools: marked
                .filter(|(_, kept)| *kept != KeptMarks::default())
                .collect(),
        }
    }
}

/// An image as one node has it, without what changes from moment to moment.
fn copy_of(node: NodeId, image: &Image) -> Image {
    Image {
        phase: Phase::Ready,
        conditions: Vec::new(),
        copies: vec![ImageCopy {
            phase: Phase::Ready,
            ..ImageCopy::wanted(node)
        }],
        ..image.clone()
    }
}

impl Pool {
    fn kept_marks(&self) -> KeptMarks {
        KeptMarks {
            labels: self.labels.clone(),
            marks: self.marks.clone(),
        }
    }
}
