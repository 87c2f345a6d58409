//! Which images are unfinished: those with a copy to fetch or to take away, and those to delete.

use crate::domain::{Image, Phase};
use crate::service::{Service, ServiceError, Unfinished};

/// Images to fetch somewhere or to delete.
pub(super) async fn unfinished(service: &Service) -> Result<Vec<Unfinished>, ServiceError> {
    let all = service.records.all::<Image>().await?;
    Ok(all
        .iter()
        .filter(|image| is_unfinished(image))
        .map(|i| Unfinished::Image(i.id))
        .collect())
}

fn is_unfinished(image: &Image) -> bool {
    image.phase == Phase::Deleting
        || image
            .copies
            .iter()
            .any(|copy| matches!(copy.phase, Phase::Creating | Phase::Deleting))
}
