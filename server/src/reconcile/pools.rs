//! Which pools are unfinished. How one is finished the service knows: the same code serves a call.

use crate::domain::{Phase, Pool};
use crate::service::{Service, ServiceError, Unfinished};

/// Pools to make, to rename, to delete or to adopt.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<Pool>().await?;
    Ok(all
        .iter()
        .filter(|record| is_unfinished(record))
        .map(|r| Unfinished::Pool(r.id))
        .collect())
}

fn is_unfinished(record: &Pool) -> bool {
    if record.adopting.is_some() {
        return true;
    }
    match record.phase {
        Phase::Creating | Phase::Deleting => true,
        Phase::Ready | Phase::Failed | Phase::Closed => record.wanted_name.is_some(),
    }
}
