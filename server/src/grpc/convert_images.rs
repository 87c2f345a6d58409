//! Requests about images become the domain's values.

use goldleaf_proto::v1 as api;
use goldleaf_types::{ImageId, NodeId};

use super::convert::{BadField, LONGEST_PATH, bad, field, labels, name, optional, path};
use crate::domain::{ImageAsked, ImageFormat, ImageSource, Ref};
use crate::service::CreateImage;

/// Most nodes that one call names.
const MOST_NODES: usize = 256;

/// An image, nodes to hold it, and whether to wait for that.
type Place = (Ref<ImageId>, Vec<Ref<NodeId>>, bool);

/// Which nodes are to hold an image.
///
/// # Errors
///
/// [`BadField`] that names the field.
pub fn place(r: &api::PlaceImageRequest) -> Result<Place, BadField> {
    if r.nodes.is_empty() || r.nodes.len() > MOST_NODES {
        return Err(bad("nodes", "want 1 to 256 nodes"));
    }
    let nodes = r.nodes.iter().map(|node| field("nodes", node));
    let nodes: Result<Vec<_>, _> = nodes.collect();
    Ok((field("image", &r.image)?, nodes?, r.wait))
}

fn sha256(field: &str, text: &str) -> Result<String, BadField> {
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    match text.len() {
        0 => Ok(String::new()),
        64 if hex => Ok(text.to_ascii_lowercase()),
        _ => Err(bad(field, "want 64 hexadecimal digits")),
    }
}

fn url(text: &str) -> Result<String, BadField> {
    let uri: http::Uri = field("url", text)?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() && text.len() <= LONGEST_PATH => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err(bad("url", "want http://... or https://...")),
    }
}

impl TryFrom<api::CreateImageRequest> for CreateImage {
    type Error = BadField;

    fn try_from(r: api::CreateImageRequest) -> Result<Self, BadField> {
        use api::create_image_request::Source;
        let source = match &r.source {
            Some(Source::File(file)) => ImageSource::File(path("file", file)?),
            Some(Source::Device(device)) => ImageSource::Device(path("device", device)?),
            Some(Source::Url(text)) => ImageSource::Url(url(text)?),
            None => return Err(bad("source", "is unset: give file, device or url")),
        };
        let source_sha256 = sha256("source_sha256", &r.source_sha256)?;
        if matches!(source, ImageSource::Url(_)) && source_sha256.is_empty() {
            return Err(bad(
                "source_sha256",
                "is empty: what comes over a network needs one",
            ));
        }
        let format = match api::ImageFormat::try_from(r.format) {
            Ok(api::ImageFormat::Unspecified) => ImageFormat::Guess,
            Ok(api::ImageFormat::Raw) => ImageFormat::Raw,
            Ok(api::ImageFormat::Qcow2) => ImageFormat::Qcow2,
            Err(_) => return Err(bad("format", "is no known format")),
        };
        let digest = optional("digest", &r.digest)?;
        Ok(Self {
            name: name(&r.name)?,
            asked: ImageAsked {
                source,
                format,
                source_sha256,
                digest,
            },
            node: optional("node", &r.node)?,
            labels: labels("labels", r.labels)?,
            deletion_protection: r.deletion_protection,
            wait: r.wait,
        })
    }
}
