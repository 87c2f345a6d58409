//! `goldleaf volume decouple`: begins it and follows the copying.

use std::time::Duration;

use goldleaf_proto::v1 as api;
use indicatif::ProgressBar;

use super::Call;
use crate::args::VolumeDecouple;
use crate::failure::Failure;
use crate::output;

/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

pub async fn run(call: &Call, wanted: VolumeDecouple) -> Result<(), Failure> {
    let request = api::DecoupleRequest {
        volume: wanted.target,
        rate_bytes_per_second: wanted.rate,
        wait: false,
    };
    let bar = ProgressBar::new(0).with_message(request.volume.clone());
    loop {
        let mut volumes = call.client.volumes();
        // Asking again says how far it is, and never begins it twice.
        let volume = call.answer(volumes.decouple(request.clone())).await?;
        if wanted.no_wait || volume.image_digest.is_empty() {
            bar.finish_and_clear();
            return output::one(call.global.output, &volume);
        }
        if let Some(progress) = volume.progress {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        }
        tokio::time::sleep(LOOK).await;
    }
}
