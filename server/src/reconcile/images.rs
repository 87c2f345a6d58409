//! Which images are unfinished: those with a copy to fetch, to take away, or that is lost with its
//! node, and those to delete.

use std::collections::BTreeSet;

use goldleaf_types::NodeId;

use crate::domain::{Image, Node, Phase};
use crate::service::{Service, ServiceError, Unfinished};

/// Images to fetch somewhere or to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let nodes = service.records.all::<Node>().await?;
    let lost: BTreeSet<NodeId> = nodes
        .iter()
        .filter(|node| node.lost.is_some())
        .map(|node| node.id)
        .collect();
    let all = service.records.all::<Image>().await?;
    Ok(all
        .iter()
        .filter(|image| is_unfinished(image, &lost))
        .map(|i| Unfinished::Image(i.id))
        .collect())
}

fn is_unfinished(image: &Image, lost: &BTreeSet<NodeId>) -> bool {
    image.phase == Phase::Deleting
        || image.copies.iter().any(|copy| match copy.phase {
            Phase::Creating | Phase::Deleting => true,
            Phase::Ready | Phase::Closed => lost.contains(&copy.node), // it counts no more
            Phase::Failed => false,
        })
}
