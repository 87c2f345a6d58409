//! CreateVolume: from a name, bounds, parameters and places to one volume, however often asked.
//!
//! Called by `controller`. The name is the identity: a volume that has it is compared with what is
//! asked and answered; placement is no part of that, but must be compatible. Nothing is kept here,
//! so a call that was cut short anywhere is simply asked again.

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;

use super::ControllerApi;
use crate::convert::capacity::{DEFAULT, Range};
use crate::convert::names::Handle;
use crate::convert::parameters::{Class, Mutable, Source, source};
use crate::convert::topology::Places;
use crate::convert::{answers, capability, names};
use crate::status::CsiError;

/// Reasons of the control plane for which another node may serve. Each leaves nothing of the volume
/// on the node that it speaks of: the wish was never written, or was taken back.
const TRY_ANOTHER: &[&str] = &[
    "NO_POOL_MATCHES",
    "POOL_FULL",
    "METADATA_LOW",
    "OVERCOMMITTED",
    "POOL_NOT_WRITABLE",
    "IMAGE_ELSEWHERE",
    "NODE_DRAINED",
    "NODE_LOST",
];

/// A request whose shape is right.
struct Asked {
    name: String,
    range: Range,
    class: Class,
    mutable: Mutable,
    source: Option<Source>,
    places: Places,
    content_source: Option<csi::VolumeContentSource>,
}

impl TryFrom<csi::CreateVolumeRequest> for Asked {
    type Error = CsiError;

    fn try_from(r: csi::CreateVolumeRequest) -> Result<Self, CsiError> {
        let name = names::name("name", &r.name)?;
        capability::usages(&r.volume_capabilities)?;
        let asked = Self {
            name,
            range: Range::read(r.capacity_range.as_ref())?,
            class: Class::read(&r.parameters)?,
            mutable: Mutable::read(&r.mutable_parameters)?,
            source: source(r.volume_content_source.as_ref())?,
            places: Places::read(r.accessibility_requirements.as_ref()),
            content_source: r.volume_content_source,
        };
        Ok(asked)
    }
}

/// What the volume begins as.
enum Begin {
    Blank,
    /// An image, and the words that it is asked for by.
    Image {
        asked: String,
        size: u64,
    },
    Thin {
        id: String,
        node: String,
        size: u64,
    },
}

impl Begin {
    fn size(&self) -> u64 {
        match self {
            Self::Blank => 0,
            Self::Image { size, .. } | Self::Thin { size, .. } => *size,
        }
    }
}

impl ControllerApi {
    /// Makes a volume, or answers the one that the name stands for.
    pub(super) async fn create(
        &self,
        r: csi::CreateVolumeRequest,
    ) -> Result<csi::Volume, CsiError> {
        let asked = Asked::try_from(r)?;
        let volume = match self.control_plane.find_volume(&asked.name).await? {
            Some(volume) => self.same(volume, &asked).await?,
            None => {
                let begin = self.begin(&asked).await?;
                let usual = match begin {
                    Begin::Blank => DEFAULT,
                    Begin::Image { .. } | Begin::Thin { .. } => begin.size(),
                };
                let size = asked.range.choose(begin.size(), usual)?;
                self.make(&asked, &begin, size).await?
            }
        };
        Ok(answers::volume(&volume, asked.content_source))
    }

    /// A volume that has the name: the one that is asked for, or a conflict.
    async fn same(&self, volume: api::Volume, asked: &Asked) -> Result<api::Volume, CsiError> {
        let other = |field| {
            Err(CsiError::Other {
                what: format!("volume {}", asked.name),
                field,
            })
        };
        if volume.phase() == api::Phase::Deleting {
            return Err(CsiError::Busy(volume.id));
        }
        if !asked.range.admits(volume.size_bytes) {
            return other("capacity_range");
        }
        let same_source = match (&asked.source, &asked.class.image) {
            (Some(Source::Volume(id)), _) => volume.source == id.to_string(),
            (Some(Source::Handle(Handle::Snapshot(id))), _) => volume.source == id.to_string(),
            (Some(Source::Handle(Handle::Image(_))), _) | (None, Some(_)) => {
                self.same_image(&volume, asked).await?
            }
            (None, None) => volume.source.is_empty() && volume.image_digest.is_empty(),
        };
        if !same_source {
            return other("volume_content_source");
        }
        if let Some(pool) = &asked.class.pool {
            let pool = self.control_plane.find_pool(pool).await?;
            if pool.is_none_or(|pool| pool.id != volume.pool) {
                return other("parameters");
            }
        }
        if !asked.places.allow(&volume.node) {
            return Err(CsiError::NoPlace(format!(
                "volume {} lies on node {} already and does not move: ask for that node",
                asked.name, volume.node
            )));
        }
        if volume.phase() == api::Phase::Creating {
            // The control plane finishes what it recorded, on the node that it chose then.
            let mut begin = self.begin(asked).await?;
            if let Begin::Image { asked, .. } = &mut begin {
                asked.clone_from(&volume.asked_image);
            }
            return self.once(asked, &begin, volume.size_bytes, None).await;
        }
        Ok(volume)
    }

    /// Whether a volume began as the image that is asked for. The same words ask for the same: they may
    /// be a channel's name, which points elsewhere by now, or the volume may have left its image.
    async fn same_image(&self, volume: &api::Volume, asked: &Asked) -> Result<bool, CsiError> {
        if !volume.source.is_empty() {
            return Ok(false);
        }
        if words(asked).is_some_and(|words| words == volume.asked_image) {
            return Ok(true);
        }
        let image = self.image(asked).await?;
        Ok(image.is_some_and(|(_, image)| image.digest == volume.image_digest))
    }

    /// The image that is asked for, if one, and the words that it is asked for by.
    async fn image(&self, asked: &Asked) -> Result<Option<(String, api::Image)>, CsiError> {
        let Some(id) = words(asked) else {
            return Ok(None);
        };
        let image = self.control_plane.find_image(&id).await?;
        match image {
            Some(image) => Ok(Some((id, image))),
            None => Err(CsiError::NotFound { what: "image", id }),
        }
    }

    /// What the volume is to begin as, as it is now.
    async fn begin(&self, asked: &Asked) -> Result<Begin, CsiError> {
        let missing = |what, id: &str| CsiError::NotFound {
            what,
            id: id.into(),
        };
        match &asked.source {
            Some(Source::Volume(id)) => {
                let id = id.to_string();
                let volume = self.control_plane.find_volume(&id).await?;
                let volume = volume.ok_or_else(|| missing("volume", &id))?;
                Ok(Begin::Thin {
                    id,
                    node: volume.node,
                    size: volume.size_bytes,
                })
            }
            Some(Source::Handle(Handle::Snapshot(id))) => {
                let id = id.to_string();
                let snapshot = self.control_plane.find_snapshot(&id).await?;
                let snapshot = snapshot.ok_or_else(|| missing("snapshot", &id))?;
                Ok(Begin::Thin {
                    id,
                    node: snapshot.node,
                    size: snapshot.size_bytes,
                })
            }
            Some(Source::Handle(Handle::Image(_))) | None => {
                let image = self.image(asked).await?;
                Ok(image.map_or(Begin::Blank, |(asked, image)| Begin::Image {
                    asked,
                    size: image.size_bytes,
                }))
            }
        }
    }

    /// Makes it at the first of the places asked for that can take it.
    async fn make(&self, asked: &Asked, begin: &Begin, size: u64) -> Result<api::Volume, CsiError> {
        if let Begin::Thin { id, node, .. } = begin {
            if !asked.places.allow(node) {
                return Err(CsiError::NoPlace(format!(
                    "{id} lies on node {node}, and what begins as it can only be there"
                )));
            }
            return self.once(asked, begin, size, None).await;
        }
        let mut why = "no node of Goldleaf's is among the places".to_owned();
        for node in asked.places.in_order() {
            let anywhere = node.is_none();
            match self.once(asked, begin, size, node).await {
                Err(error) if !anywhere && elsewhere(&error) => why = error.to_string(),
                answer => return answer,
            }
        }
        Err(CsiError::NoPlace(why))
    }

    /// Asks for it once, on this node or on any.
    async fn once(
        &self,
        asked: &Asked,
        begin: &Begin,
        size_bytes: u64,
        node: Option<String>,
    ) -> Result<api::Volume, CsiError> {
        let labels = asked.mutable.labels.clone();
        let deletion_protection = asked.mutable.deletion_protection.unwrap_or(false);
        let image = match begin {
            Begin::Thin { id, .. } => {
                let request = api::CloneRequest {
                    name: asked.name.clone(),
                    source: id.clone(),
                    size_bytes,
                    labels,
                    deletion_protection,
                    ..Default::default()
                };
                return self.control_plane.clone_thin(request).await;
            }
            Begin::Image { asked, .. } => asked.clone(),
            Begin::Blank => String::new(),
        };
        let request = api::CreateThinRequest {
            name: asked.name.clone(),
            size_bytes,
            image,
            // A channel may move between our look and this: never to an image that does not fit.
            whole_image: true,
            pool: asked.class.pool.clone().unwrap_or_default(),
            placement: Some(api::Placement {
                node: node.unwrap_or_default(),
                pool_labels: asked.class.pool_labels.clone().into_iter().collect(),
            }),
            labels,
            deletion_protection,
            ..Default::default()
        };
        self.control_plane.create_thin(request).await
    }
}

/// The words that an image is asked for by, if one is.
fn words(asked: &Asked) -> Option<String> {
    match (&asked.source, &asked.class.image) {
        (Some(Source::Handle(Handle::Image(id))), _) => Some(id.to_string()),
        (None, image) => image.clone(),
        (Some(Source::Volume(_) | Source::Handle(Handle::Snapshot(_))), _) => None,
    }
}

/// Whether another of the places asked for may serve.
fn elsewhere(error: &CsiError) -> bool {
    TRY_ANOTHER.contains(&error.reason().as_str())
        || (error.is_not_found() && error.refused_field() == "placement.node")
}
