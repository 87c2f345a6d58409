//! Snapshots, and images that are shown as snapshots.
//!
//! Called by `controller`. A handle is a snapshot's id or an image's: both are listed, got and
//! restored alike, so that a claim can begin as a golden image by plain means. Images are never
//! deleted from here.

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;

use super::ControllerApi;
use super::control_plane::PAGE;
use crate::convert::names::{self, Handle};
use crate::convert::topology::Places;
use crate::convert::{answers, parameters};
use crate::status::CsiError;

/// Tokens of pages of snapshots begin so, those of images, which come after them, otherwise.
const SNAPSHOTS: &str = "s";
const IMAGES: &str = "i";

/// How many entries a page may have; 0 asks for as many as we like.
pub(super) fn page_size(max_entries: i32) -> Result<u32, CsiError> {
    let most =
        u32::try_from(max_entries).map_err(|_| CsiError::field("max_entries", "is negative"))?;
    Ok(if most == 0 { PAGE } else { most.min(PAGE) })
}

impl ControllerApi {
    pub(super) async fn take_snapshot(
        &self,
        r: csi::CreateSnapshotRequest,
    ) -> Result<csi::Snapshot, CsiError> {
        let name = names::name("name", &r.name)?;
        if r.source_volume_id.is_empty() {
            return Err(CsiError::field("source_volume_id", "is missing"));
        }
        parameters::none(&r.parameters)?;
        let source = names::volume("source_volume_id", &r.source_volume_id)?.to_string();
        let places = Places::read(r.accessibility_requirements.as_ref());
        let snapshot = match self.control_plane.find_snapshot(&name).await? {
            Some(there) if there.source != source => {
                return Err(CsiError::Other {
                    what: format!("snapshot {name}"),
                    field: "source_volume_id",
                });
            }
            Some(there) if there.phase() == api::Phase::Ready => there,
            Some(_) => self.ask_for_snapshot(name, source).await?,
            None => {
                let volume = self.control_plane.volume(&source).await?;
                allowed(&places, &volume.node)?;
                self.ask_for_snapshot(name, source).await?
            }
        };
        allowed(&places, &snapshot.node)?;
        Ok(answers::snapshot(&snapshot))
    }

    async fn ask_for_snapshot(
        &self,
        name: String,
        source: String,
    ) -> Result<api::Snapshot, CsiError> {
        let request = api::CreateSnapshotRequest {
            name,
            source,
            ..Default::default()
        };
        self.control_plane.create_snapshot(request).await
    }

    pub(super) async fn drop_snapshot(&self, id: &str) -> Result<(), CsiError> {
        match names::handle("snapshot_id", id) {
            Ok(Handle::Snapshot(id)) => {
                self.stands_alone(id).await?;
                self.control_plane.delete_snapshot(&id.to_string()).await
            }
            Ok(Handle::Image(id)) => {
                let there = self.control_plane.find_image(&id.to_string()).await?;
                there.map_or(Ok(()), |image| {
                    Err(CsiError::Unfit(format!(
                        "snapshot_id: {id} is the image {}, and images are not deleted through \
                         CSI: keep the VolumeSnapshotContent with deletionPolicy Retain, or \
                         delete the image with `goldleaf image delete`",
                        image.name
                    )))
                })
            }
            Err(CsiError::NotFound { .. }) => Ok(()), // nobody's id: as good as deleted
            Err(error) => Err(error),
        }
    }

    /// One snapshot or image.
    pub(super) async fn find_handle(&self, id: &str) -> Result<Option<csi::Snapshot>, CsiError> {
        match names::handle("snapshot_id", id) {
            Ok(Handle::Snapshot(id)) => {
                let found = self.control_plane.find_snapshot(&id.to_string()).await?;
                Ok(found.as_ref().map(answers::snapshot))
            }
            Ok(Handle::Image(id)) => {
                let found = self.control_plane.find_image(&id.to_string()).await?;
                Ok(found.as_ref().map(answers::image))
            }
            Err(CsiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A page of snapshots and then of images, those that are asked for.
    pub(super) async fn list_handles(
        &self,
        r: &csi::ListSnapshotsRequest,
    ) -> Result<(Vec<csi::Snapshot>, String), CsiError> {
        let most = page_size(r.max_entries)?;
        if !r.snapshot_id.is_empty() {
            let found = self.find_handle(&r.snapshot_id).await?;
            let wanted = |s: &csi::Snapshot| {
                r.source_volume_id.is_empty() || s.source_volume_id == r.source_volume_id
            };
            return Ok((found.into_iter().filter(wanted).collect(), String::new()));
        }
        let (mut kind, mut token) = match r.starting_token.split_at_checked(1) {
            None => (SNAPSHOTS, String::new()),
            Some((SNAPSHOTS, rest)) => (SNAPSHOTS, rest.to_owned()),
            Some((IMAGES, rest)) => (IMAGES, rest.to_owned()),
            Some(_) => return Err(CsiError::BadToken),
        };
        let mut page = vec![];
        loop {
            let room = most.saturating_sub(u32::try_from(page.len()).unwrap_or(most));
            if room == 0 {
                return Ok((page, format!("{kind}{token}")));
            }
            let (found, next) = if kind == SNAPSHOTS {
                let (found, next) = self.control_plane.list_snapshots(room, token).await?;
                (
                    found.iter().map(answers::snapshot).collect::<Vec<_>>(),
                    next,
                )
            } else {
                let (found, next) = self.control_plane.list_images(room, token).await?;
                (found.iter().map(answers::image).collect(), next)
            };
            let wanted = |s: &csi::Snapshot| {
                r.source_volume_id.is_empty() || s.source_volume_id == r.source_volume_id
            };
            page.extend(found.into_iter().filter(wanted));
            token = next;
            if token.is_empty() {
                if kind == IMAGES {
                    return Ok((page, String::new()));
                }
                kind = IMAGES;
                // An image is its own source: nobody who asks for a volume's snapshots wants one.
                if !r.source_volume_id.is_empty() && !r.source_volume_id.starts_with("img-") {
                    return Ok((page, String::new()));
                }
            }
        }
    }
}

fn allowed(places: &Places, node: &str) -> Result<(), CsiError> {
    if places.allow(node) {
        return Ok(());
    }
    Err(CsiError::NoPlace(format!(
        "a snapshot lies with its volume, on node {node}: ask for that node"
    )))
}
