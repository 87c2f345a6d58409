//! Which groups are unfinished. How one is finished the service knows: the same code serves a call.

use crate::domain::{GroupSnapshot, Phase};
use crate::service::{Service, ServiceError, Unfinished};

/// Groups to make or to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<GroupSnapshot>().await?;
    let unfinished = all.iter().filter(|group| match group.phase {
        Phase::Creating | Phase::Deleting => true,
        Phase::Ready | Phase::Failed | Phase::Closed => false,
    });
    Ok(unfinished
        .map(|group| Unfinished::Group(group.id))
        .collect())
}
