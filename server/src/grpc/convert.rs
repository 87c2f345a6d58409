//! Requests become the domain's values, once, at the door. A wrong field is named.
//!
//! Called by the handlers. What leaves is converted in `answers`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::str::FromStr;

use goldleaf_proto::v1 as api;
pub(super) use goldleaf_rpc::field::bad;
pub use goldleaf_rpc::field::{BadField, field, optional};
use goldleaf_types::{BlockSize, Labels, Name, VolumeId, VolumeSize};

use crate::domain::{
    ActivateOptions, Holder, NodeAsked, PoolAsked, PoolDevice, Ref, VolumeAsked, WhenFull,
    looks_like_an_id,
};
use crate::service::{
    Clone as CloneThin, CreatePool, CreateSnapshot, CreateThin, Listing, Placement, Target, Watch,
};

/// Items of a page when nobody says how many.
const PAGE: u32 = 100;
/// Most items of a page.
const LARGEST_PAGE: u32 = 1000;
/// Longest path or URL.
pub(super) const LONGEST_PATH: usize = 4096;

/// A new thing's name: no id of anything, so that a reference is never ambiguous.
pub(super) fn name(text: &str) -> Result<Name, BadField> {
    let name = field("name", text)?;
    if looks_like_an_id(text) {
        return Err(bad(
            "name",
            "looks like an id or digest: choose one that does not",
        ));
    }
    Ok(name)
}

pub(super) fn labels(field: &str, map: HashMap<String, String>) -> Result<Labels, BadField> {
    Labels::try_from(BTreeMap::from_iter(map)).map_err(|e| {
        bad(
            field,
            format!(
                "{:?}: want at most 64 labels, keys of 1 to 128 and values of 0 to 256 printable \
                 ASCII characters, no '=' or ',' in a key",
                e.0
            ),
        )
    })
}

fn size(field: &str, bytes: u64) -> Result<VolumeSize, BadField> {
    VolumeSize::new(bytes).map_err(|e| bad(field, e))
}

/// How to activate.
///
/// # Errors
///
/// [`BadField`] for an unknown holder.
pub fn activation(prefix: &str, o: api::ActivateOptions) -> Result<ActivateOptions, BadField> {
    let holder = match api::Holder::try_from(o.holder) {
        Ok(api::Holder::Unspecified | api::Holder::Host) => Holder::Host,
        Ok(api::Holder::Csi) => Holder::Csi,
        Err(_) => return Err(bad(&format!("{prefix}.holder"), "is no known holder")),
    };
    Ok(ActivateOptions {
        holder,
        read_only: o.read_only,
    })
}

fn activate(options: Option<api::ActivateOptions>) -> Result<Option<ActivateOptions>, BadField> {
    options.map(|o| activation("activate", o)).transpose()
}

impl TryFrom<api::CreateThinRequest> for CreateThin {
    type Error = BadField;

    fn try_from(r: api::CreateThinRequest) -> Result<Self, BadField> {
        let placement = r.placement.unwrap_or_default();
        Ok(Self {
            name: name(&r.name)?,
            size: size("size_bytes", r.size_bytes)?,
            image: optional("image", &r.image)?,
            whole_image: r.whole_image,
            placement: Placement {
                pool: optional("pool", &r.pool)?,
                node: optional("placement.node", &placement.node)?,
                pool_labels: labels("placement.pool_labels", placement.pool_labels)?,
            },
            labels: labels("labels", r.labels)?,
            deletion_protection: r.deletion_protection,
            activate: activate(r.activate)?,
            asked: VolumeAsked {
                size_bytes: r.size_bytes,
                image: r.image,
                source: String::new(),
            },
        })
    }
}

impl TryFrom<api::CloneRequest> for CloneThin {
    type Error = BadField;

    fn try_from(r: api::CloneRequest) -> Result<Self, BadField> {
        Ok(Self {
            name: name(&r.name)?,
            source: field("source", &r.source)?,
            size: (r.size_bytes != 0)
                .then(|| size("size_bytes", r.size_bytes))
                .transpose()?,
            placement: Placement {
                pool: optional("pool", &r.pool)?,
                ..Placement::default()
            },
            labels: labels("labels", r.labels)?,
            deletion_protection: r.deletion_protection,
            activate: activate(r.activate)?,
            asked: VolumeAsked {
                size_bytes: r.size_bytes,
                image: String::new(),
                source: r.source,
            },
        })
    }
}

impl TryFrom<api::CreateSnapshotRequest> for CreateSnapshot {
    type Error = BadField;

    fn try_from(r: api::CreateSnapshotRequest) -> Result<Self, BadField> {
        Ok(Self {
            name: name(&r.name)?,
            source: field("source", &r.source)?,
            labels: labels("labels", r.labels)?,
            deletion_protection: r.deletion_protection,
            asked: r.source,
        })
    }
}

/// A size to grow to.
///
/// # Errors
///
/// [`BadField`] that names the field.
pub fn resize(r: &api::ResizeRequest) -> Result<(Ref<VolumeId>, VolumeSize), BadField> {
    Ok((
        field("volume", &r.volume)?,
        size("size_bytes", r.size_bytes)?,
    ))
}

/// What to delete.
///
/// # Errors
///
/// [`BadField`] when it points at nothing.
pub fn target<Id: FromStr, N: FromStr>(
    r: &api::DeleteRequest,
) -> Result<Target<Ref<Id, N>>, BadField> {
    Ok(Target {
        what: field("target", &r.target)?,
        revision: r.expected_revision,
    })
}

/// Which part of a list.
///
/// # Errors
///
/// [`BadField`] for a page or filter that cannot be.
pub fn listing(r: api::ListRequest) -> Result<Listing, BadField> {
    let page = r.page.unwrap_or_default();
    let size = match page.size {
        0 => PAGE,
        size if size <= LARGEST_PAGE => size,
        _ => return Err(bad("page.size", "is more than 1000")),
    };
    Ok(Listing {
        size: usize::try_from(size).map_err(|e| bad("page.size", e))?,
        token: page.token,
        labels: labels("filter.labels", r.filter.unwrap_or_default().labels)?,
    })
}

/// What to watch.
///
/// # Errors
///
/// [`BadField`] for a filter that cannot be.
pub fn watch(r: api::WatchRequest) -> Result<Watch, BadField> {
    let labels = labels("filter.labels", r.filter.unwrap_or_default().labels)?;
    Ok(Watch {
        token: r.resume_token,
        labels,
    })
}

pub(super) fn path(field: &str, text: &str) -> Result<String, BadField> {
    let whole = text.starts_with('/') && text.len() <= LONGEST_PATH && !text.contains('\0');
    if whole {
        Ok(text.to_owned())
    } else {
        Err(bad(field, "want a whole path, from '/' on"))
    }
}

pub(super) fn device(prefix: &str, d: &api::PoolDevice) -> Result<PoolDevice, BadField> {
    if !d.create_file_bytes.is_multiple_of(1 << 20) {
        let field = format!("{prefix}.create_file_bytes");
        return Err(bad(&field, "is not a multiple of 1 MiB: round it up"));
    }
    let path = path(&format!("{prefix}.path"), &d.path)?;
    Ok(PoolDevice {
        path,
        create_file_bytes: d.create_file_bytes,
    })
}

impl TryFrom<api::CreatePoolRequest> for CreatePool {
    type Error = BadField;

    fn try_from(r: api::CreatePoolRequest) -> Result<Self, BadField> {
        if r.devices.is_empty() {
            return Err(bad(
                "devices",
                "is empty: name at least one block device or file",
            ));
        }
        let devices: Result<Vec<_>, _> = r
            .devices
            .iter()
            .enumerate()
            .map(|(at, d)| device(&format!("devices[{at}]"), d))
            .collect();
        Ok(Self {
            name: name(&r.name)?,
            node: optional("node", &r.node)?,
            asked: PoolAsked {
                devices: devices?,
                metadata_device: match &r.metadata_device {
                    Some(d) => Some(device("metadata_device", d)?),
                    None => None,
                },
                block_size: match r.block_size_bytes {
                    0 => BlockSize::DEFAULT,
                    bytes => BlockSize::new(bytes).map_err(|e| bad("block_size_bytes", e))?,
                },
                when_full: match api::WhenFull::try_from(r.when_full) {
                    Ok(api::WhenFull::Unspecified | api::WhenFull::Error) => WhenFull::Error,
                    Ok(api::WhenFull::Queue) => WhenFull::Queue,
                    Err(_) => return Err(bad("when_full", "is no known choice")),
                },
            },
            labels: labels("labels", r.labels)?,
            deletion_protection: r.deletion_protection,
        })
    }
}

/// An agent's address: a URI that leads to this host, until there is TLS.
fn address(text: &str) -> Result<String, BadField> {
    let uri: http::Uri = field("address", text)?;
    let host = uri.host().unwrap_or_default();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    if uri.scheme_str() != Some("http") || uri.port_u16().is_none() {
        return Err(bad("address", "want http://ADDRESS:PORT"));
    }
    if !ip.is_ok_and(|ip| ip.is_loopback()) {
        let problem = "only a loopback address (127.0.0.1 or [::1]) is called until there is TLS";
        return Err(bad("address", problem));
    }
    Ok(text.to_owned())
}

fn short(field: &str, text: String) -> Result<String, BadField> {
    let ok = text.len() <= 256 && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if ok {
        Ok(text)
    } else {
        Err(bad(field, "want at most 256 printable ASCII characters"))
    }
}

impl TryFrom<api::RegisterNodeRequest> for NodeAsked {
    type Error = BadField;

    fn try_from(r: api::RegisterNodeRequest) -> Result<Self, BadField> {
        Ok(Self {
            id: field("id", &r.id)?,
            name: name(&r.name)?,
            labels: labels("labels", r.labels)?,
            address: address(&r.address)?,
            agent_version: short("agent_version", r.agent_version)?,
            kernel_release: short("kernel_release", r.kernel_release)?,
        })
    }
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
