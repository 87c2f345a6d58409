//! `goldleaf volume export`, `goldleaf snapshot export`.

use goldleaf_proto::v1 as api;
use indicatif::ProgressBar;

use super::Call;
use crate::args::{Export, ExportFormat};
use crate::failure::Failure;
use crate::output;

/// Writes a thing of this kind to a file, as long as that takes: every byte is read.
pub async fn run(call: &Call, kind: &str, wanted: Export) -> Result<(), Failure> {
    let bar = super::image::bar(&wanted.target);
    let exported = follow(call, request(kind, wanted), &bar).await;
    bar.finish_and_clear();
    output::one(call.global.output, &exported?)
}

async fn follow(
    call: &Call,
    request: api::ExportRequest,
    bar: &ProgressBar,
) -> Result<api::ExportedFile, Failure> {
    let mut events = call.answer(call.client.volumes().export(request)).await?;
    while let Some(event) = events.message().await.map_err(|e| call.client.refused(e))? {
        if let Some(file) = event.file {
            return Ok(file);
        }
        if let Some(progress) = event.progress {
            bar.set_length(progress.total_bytes.max(progress.done_bytes));
            bar.set_position(progress.done_bytes);
        }
    }
    Err(Failure::WatchEnded)
}

fn request(kind: &str, wanted: Export) -> api::ExportRequest {
    let format = match wanted.format {
        ExportFormat::Raw => api::ExportFormat::Raw,
        ExportFormat::Qcow2 => api::ExportFormat::Qcow2,
    };
    // By id as it is, by name with its kind: `volume export` never means a snapshot.
    let id = wanted.target.starts_with("vol-") || wanted.target.starts_with("snap-");
    let source = if id {
        wanted.target
    } else {
        format!("{kind}/{}", wanted.target)
    };
    api::ExportRequest {
        source,
        file: wanted.file,
        format: format.into(),
        replace: wanted.replace,
        image: wanted.image.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_the_kind_that_is_spoken_of() {
        let asked = |kind, target: &str| {
            let wanted = Export {
                target: target.into(),
                file: "f".into(),
                format: ExportFormat::Qcow2,
                replace: false,
                image: None,
            };
            request(kind, wanted).source
        };
        assert_eq!(asked("volume", "vm1"), "volume/vm1");
        assert_eq!(asked("snapshot", "s1"), "snapshot/s1");
        assert_eq!(asked("volume", "vol-1"), "vol-1");
    }
}
