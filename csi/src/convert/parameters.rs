//! Parameters: what a StorageClass, a VolumeSnapshotClass and a VolumeAttributesClass can say.

use std::collections::{BTreeMap, HashMap};

use csi_proto::v1 as csi;

use crate::status::CsiError;

/// Keys with this beginning tell what the orchestrator calls things. They change nothing: the claim
/// they name may be one that only exists for a moment.
const ORCHESTRATORS: &str = "csi.storage.k8s.io/";

/// A mutable parameter with this beginning is a label of the volume.
const LABEL: &str = "label.";

/// The parameters of a class of volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// `image`: the image that volumes begin as, by name, id, digest or channel.
    pub image: Option<String>,
    /// `pool`: the pool, by name or id.
    pub pool: Option<String>,
    /// `poolLabels`: labels that a pool must carry, as `key=value,...`.
    pub pool_labels: BTreeMap<String, String>,
}

impl Class {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// [`CsiError::BadField`] for a parameter that nobody knows.
    pub fn read(parameters: &HashMap<String, String>) -> Result<Self, CsiError> {
        let mut class = Self::default();
        for (key, value) in parameters {
            match key.as_str() {
                "image" => class.image = text(value)?,
                "pool" => class.pool = text(value)?,
                "poolLabels" => class.pool_labels = labels(value)?,
                key if key.starts_with(ORCHESTRATORS) => {}
                key => return Err(unknown("parameters", key, "image, pool, poolLabels")),
            }
        }
        Ok(class)
    }
}

/// Checks the parameters of a class of snapshots, which has none.
///
/// # Errors
///
/// As [`Class::read`].
pub fn none(parameters: &HashMap<String, String>) -> Result<(), CsiError> {
    let strange = parameters
        .keys()
        .find(|key| !key.starts_with(ORCHESTRATORS));
    strange.map_or(Ok(()), |key| {
        Err(unknown("parameters", key, "none for snapshots"))
    })
}

/// What can be changed of a volume at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutable {
    /// `deletionProtection`.
    pub deletion_protection: Option<bool>,
    /// `label.<key>`: labels to set.
    pub labels: HashMap<String, String>,
}

impl Mutable {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// [`CsiError::BadField`] for one that nobody knows or a wrong value.
    pub fn read(parameters: &HashMap<String, String>) -> Result<Self, CsiError> {
        const FIELD: &str = "mutable_parameters";
        let mut mutable = Self::default();
        for (key, value) in parameters {
            if let Some(label) = key.strip_prefix(LABEL) {
                mutable.labels.insert(label.into(), value.clone());
            } else if key == "deletionProtection" {
                let on = value.parse().map_err(|_| {
                    CsiError::field(FIELD, "deletionProtection is \"true\" or \"false\"")
                })?;
                mutable.deletion_protection = Some(on);
            } else {
                return Err(unknown(FIELD, key, "deletionProtection, label.<key>"));
            }
        }
        Ok(mutable)
    }
}

/// What a volume begins as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A snapshot or an image, by its handle.
    Handle(super::names::Handle),
    /// Another volume.
    Volume(goldleaf_types::VolumeId),
}

/// Reads what a volume begins as.
///
/// # Errors
///
/// [`CsiError::BadField`] when it says nothing, [`CsiError::NotFound`] for an id of another form.
pub fn source(source: Option<&csi::VolumeContentSource>) -> Result<Option<Source>, CsiError> {
    use csi::volume_content_source::Type;
    const FIELD: &str = "volume_content_source";
    let Some(source) = source else {
        return Ok(None);
    };
    match &source.r#type {
        None => Err(CsiError::field(FIELD, "names no source")),
        Some(Type::Snapshot(s)) => {
            super::names::handle(FIELD, &s.snapshot_id).map(|h| Some(Source::Handle(h)))
        }
        Some(Type::Volume(v)) => {
            super::names::volume(FIELD, &v.volume_id).map(|v| Some(Source::Volume(v)))
        }
    }
}

fn text(value: &str) -> Result<Option<String>, CsiError> {
    if value.len() > 256 {
        return Err(CsiError::field("parameters", "a value is too long"));
    }
    Ok(Some(value.to_owned()).filter(|value| !value.is_empty()))
}

fn labels(value: &str) -> Result<BTreeMap<String, String>, CsiError> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    let pairs = value.split(',').filter(|part| !part.trim().is_empty());
    pairs
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| CsiError::field("parameters", "poolLabels is key=value,..."))
}

fn unknown(field: &'static str, key: &str, known: &str) -> CsiError {
    let key: String = key.chars().take(80).collect();
    CsiError::field(field, format!("{key:?} is unknown; there are: {known}"))
}
