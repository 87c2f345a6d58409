//! Which records say that something about them is unfinished. How it is finished the service knows:
//! the same code serves a call.

use std::collections::BTreeSet;

use goldleaf_types::NodeId;

use crate::domain::{GroupSnapshot, Image, Node, Phase, Pool, Snapshot, Volume};
use crate::service::{Revised, Service, ServiceError, Unfinished};

/// Everything unfinished, of every kind.
pub(super) async fn all(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let nodes = service.records.all::<Node>().await?;
    let lost = nodes.iter().filter(|node| node.lost.is_some());
    let lost: BTreeSet<NodeId> = lost.map(|node| node.id).collect();
    let mut all = of(service, |p: &Pool| {
        is_pool_unfinished(p).then_some(Unfinished::Pool(p.id))
    })
    .await?;
    all.extend(
        of(service, |i: &Image| {
            is_image_unfinished(i, &lost).then_some(Unfinished::Image(i.id))
        })
        .await?,
    );
    all.extend(
        of(service, |g: &GroupSnapshot| {
            g.phase.is_underway().then_some(Unfinished::Group(g.id))
        })
        .await?,
    );
    all.extend(
        of(service, |s: &Snapshot| {
            s.phase.is_underway().then_some(Unfinished::Snapshot(s.id))
        })
        .await?,
    );
    all.extend(
        of(service, |v: &Volume| {
            is_volume_unfinished(v).then_some(Unfinished::Volume(v.id))
        })
        .await?,
    );
    all.extend(service.returned_thins().await?);
    all.extend(service.untold().await?);
    Ok(all)
}

/// What the records of one kind say.
async fn of<T: Revised>(
    service: &Service,
    said: impl Fn(&T) -> Option<Unfinished>,
) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<T>().await?;
    Ok(all.iter().filter_map(said).collect())
}

/// Pools also change their name and are adopted.
const fn is_pool_unfinished(pool: &Pool) -> bool {
    pool.adopting.is_some() || pool.wanted_name.is_some() || pool.phase.is_underway()
}

/// Volumes also grow and leave their image.
fn is_volume_unfinished(volume: &Volume) -> bool {
    volume.phase.is_underway() || (volume.phase == Phase::Ready && volume.wishes())
}

/// Of an image each copy is fetched or taken away, or is lost with its node and counts no more.
fn is_image_unfinished(image: &Image, lost: &BTreeSet<NodeId>) -> bool {
    image.phase == Phase::Deleting
        || image.copies.iter().any(|copy| match copy.phase {
            Phase::Creating | Phase::Deleting => true,
            Phase::Ready | Phase::Closed => lost.contains(&copy.node),
            Phase::Failed => false,
        })
}
