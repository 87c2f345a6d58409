//! Which snapshots are unfinished. How one is finished the service knows: the same code serves a call.

use crate::domain::{Phase, Snapshot};
use crate::service::{Service, ServiceError, Unfinished};

/// Snapshots to make or to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<Snapshot>().await?;
    Ok(all
        .iter()
        .filter(|record| is_unfinished(record))
        .map(|r| Unfinished::Snapshot(r.id))
        .collect())
}

fn is_unfinished(record: &Snapshot) -> bool {
    match record.phase {
        Phase::Creating | Phase::Deleting => true,
        Phase::Ready | Phase::Failed | Phase::Closed => false,
    }
}
