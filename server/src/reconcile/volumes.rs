//! Which volumes are unfinished. How one is finished the service knows: the same code serves a call.

use crate::domain::{Phase, Volume};
use crate::service::{Service, ServiceError, Unfinished};

/// Volumes to make, to grow or to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<Volume>().await?;
    Ok(all
        .iter()
        .filter(|record| is_unfinished(record))
        .map(|r| Unfinished::Volume(r.id))
        .collect())
}

fn is_unfinished(record: &Volume) -> bool {
    match record.phase {
        Phase::Creating | Phase::Deleting => true,
        Phase::Ready => record.wishes(),
        Phase::Failed | Phase::Closed => false,
    }
}
