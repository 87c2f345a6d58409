//! Requests about images become the domain's values.

use goldleaf_proto::v1 as api;
use goldleaf_types::{ImageId, NodeId};

use super::convert::{BadField, LONGEST_PATH, bad, field, labels, name, optional, path};
use crate::domain::{
    ExportFormat, ExportOrder, ImageAsked, ImageFormat, ImageRef, ImageSource, Ref, SourceRef,
};
use crate::service::{CreateImage, SetChannel};

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

/// A volume or snapshot, and the file to write it to.
///
/// # Errors
///
/// [`BadField`] that names the field.
pub fn export(
    r: api::ExportRequest,
) -> Result<(SourceRef, ExportOrder, Option<ImageRef>), BadField> {
    let source = thin_source("source", &r.source)?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let fits = r.file.len() <= LONGEST_PATH && !r.file.contains('\0');
    if !fits || !r.file.split('/').all(plain) {
        let problem = "want a path below the node's export folder, without '..' or a leading '/'";
        return Err(bad("file", problem));
    }
    let format = match api::ExportFormat::try_from(r.format) {
        Ok(api::ExportFormat::Unspecified | api::ExportFormat::Raw) => ExportFormat::Raw,
        Ok(api::ExportFormat::Qcow2) => ExportFormat::Qcow2,
        Err(_) => return Err(bad("format", "is no known format")),
    };
    let order = ExportOrder {
        file: r.file,
        format,
        replace: r.replace,
        image: None,
    };
    Ok((source, order, optional("image", &r.image)?))
}

impl TryFrom<api::SetChannelRequest> for SetChannel {
    type Error = BadField;

    fn try_from(r: api::SetChannelRequest) -> Result<Self, BadField> {
        Ok(Self {
            name: field("name", &r.name)?,
            image: field("image", &r.image)?,
            labels: labels("labels", r.labels)?,
            revision: r.expected_revision,
        })
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
            Some(Source::Volume(text)) => ImageSource::Volume(text.clone()),
            None => return Err(bad("source", "is unset: give file, device, url or volume")),
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
        let thin = match &source {
            ImageSource::Volume(text) => {
                plain_source(format, &source_sha256)?;
                Some(thin_source("volume", text)?)
            }
            ImageSource::File(_) | ImageSource::Device(_) | ImageSource::Url(_) => None,
        };
        Ok(Self {
            source: thin,
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

/// What is read off a thin is raw, and its sum is the digest.
fn plain_source(format: ImageFormat, source_sha256: &str) -> Result<(), BadField> {
    if format == ImageFormat::Qcow2 {
        return Err(bad(
            "format",
            "a volume is read as the disk it is: leave it out",
        ));
    }
    if !source_sha256.is_empty() {
        return Err(bad("source_sha256", "a volume is raw: give its `digest`"));
    }
    Ok(())
}

fn thin_source(name: &str, text: &str) -> Result<SourceRef, BadField> {
    match field(name, text)? {
        SourceRef::Image(_) => Err(bad(name, "is an image: name a volume or a snapshot")),
        source @ (SourceRef::Volume(_) | SourceRef::Snapshot(_)) => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exports_file_lies_below_the_folder_and_its_source_is_a_thin() {
        let asked = |source: &str, file: &str| {
            export(api::ExportRequest {
                source: source.into(),
                file: file.into(),
                ..Default::default()
            })
        };
        assert!(asked("volume/vm1", "a/b.raw").is_ok());
        for bad_file in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            "./a",
            "a\0",
            &"a/".repeat(4096),
        ] {
            assert_eq!(
                asked("snapshot/s1", bad_file).unwrap_err().field,
                "file",
                "{bad_file}"
            );
        }
        for bad_source in [
            "",
            "vm1",
            "image/golden",
            "img-55555555555555555555555555555555",
        ] {
            assert_eq!(
                asked(bad_source, "a").unwrap_err().field,
                "source",
                "{bad_source}"
            );
        }
    }

    #[test]
    fn an_image_of_a_volume_is_raw_and_of_a_thin() {
        type Spoil = fn(&mut api::CreateImageRequest);
        let asked = |spoil: Spoil| {
            let mut request = api::CreateImageRequest {
                name: "a".into(),
                source: Some(api::create_image_request::Source::Volume("volume/v".into())),
                ..Default::default()
            };
            spoil(&mut request);
            CreateImage::try_from(request)
                .map(drop)
                .map_err(|bad| bad.field)
        };
        assert_eq!(asked(|_| {}), Ok(()));
        let cases: [(&str, Spoil); 3] = [
            ("format", |r| r.format = api::ImageFormat::Qcow2.into()),
            ("source_sha256", |r| r.source_sha256 = "0".repeat(64)),
            ("volume", |r| {
                r.source = Some(api::create_image_request::Source::Volume("image/i".into()));
            }),
        ];
        for (field, spoil) in cases {
            assert_eq!(asked(spoil), Err(field.to_owned()));
        }
    }

    #[test]
    fn at_least_one_node_is_named_to_hold_an_image() {
        let asked = |nodes: &[&str]| {
            place(&api::PlaceImageRequest {
                image: "golden".into(),
                nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
                wait: false,
            })
        };
        assert!(asked(&["n1", "n2"]).is_ok());
        assert_eq!(asked(&[]).unwrap_err().field, "nodes");
        assert_eq!(asked(&["n1", "a b"]).unwrap_err().field, "nodes");
    }
}
