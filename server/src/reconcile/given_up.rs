//! Which thins that were given up can be deleted by now. How, the service knows.

use crate::service::{Service, ServiceError, Unfinished};

/// Thins to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    service.returned_thins().await
}
