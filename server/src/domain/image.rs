//! An image: a name for immutable content, and the nodes that hold or are to hold it.

use goldleaf_types::{Bytes, Digest, ImageId, Labels, Name, NodeId, ThinOwner};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Condition, First, Marks, Phase, Refusal};

/// Where an image's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// A file on the node.
    File(String),
    /// A block device on the node.
    Device(String),
    /// http or https.
    Url(String),
    /// A volume or snapshot, as the request pointed at it.
    Volume(String),
}

/// How a source is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// By its first bytes.
    #[default]
    Guess,
    /// As a disk reads it.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// The parameters of an image as its user gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAsked {
    /// Where the content is.
    pub source: ImageSource,
    /// How it is stored there.
    pub format: ImageFormat,
    /// SHA-256 of the source as it comes, 64 hexadecimal digits; empty if unknown.
    pub source_sha256: String,
    /// The content's digest, if known.
    pub digest: Option<Digest>,
}

impl ImageSource {
    /// The place without credentials, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::File(path) | Self::Device(path) => path.clone(),
            Self::Volume(source) => source.clone(),
            Self::Url(url) => without_credentials(url),
        }
    }
}

/// Drops "user:secret@" and the query, where tokens hide.
fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(h, p)| (h, Some(p)));
    let host = host.rsplit('@').next().unwrap_or(host);
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

/// One node's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCopy {
    /// The node.
    pub node: NodeId,
    /// Where the copy is in its life.
    pub phase: Phase,
    /// What went wrong, as the node said it; empty unless failed.
    pub message: String,
    /// The kind of refusal behind it, so that a waiting caller gets the same code later.
    pub refusal: Option<Refusal>,
}

impl ImageCopy {
    /// A copy that is still wanted.
    #[must_use]
    pub const fn wanted(node: NodeId) -> Self {
        Self {
            node,
            phase: Phase::Creating,
            message: String::new(),
            refusal: None,
        }
    }
}

/// An image's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its user's name for it.
    pub name: Name,
    /// Its user's labels.
    pub labels: Labels,
    /// Grows with each change.
    pub revision: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// What is worth knowing about it.
    pub conditions: Vec<Condition>,
    /// When it was asked for.
    pub created: Timestamp,
    /// What was asked for.
    pub asked: ImageAsked,
    /// The volume or snapshot that it is made of, if its source is one.
    pub thin: Option<ThinOwner>,
    /// The content's name, once known.
    pub digest: Option<Digest>,
    /// The content's size, once known.
    pub size: Bytes,
    /// The nodes that hold it or are to.
    pub copies: Vec<ImageCopy>,
    /// What its user marked it with.
    pub marks: Marks,
}

impl Image {
    /// Whether a request with these parameters asks for this very image.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(&self, asked: &ImageAsked, first: &First) -> Result<(), &'static str> {
        if self.asked.source != asked.source {
            Err(match asked.source {
                ImageSource::File(_) => "file",
                ImageSource::Device(_) => "device",
                ImageSource::Url(_) => "url",
                ImageSource::Volume(_) => "volume",
            })
        } else if self.asked.format != asked.format {
            Err("format")
        } else if self.asked.source_sha256 != asked.source_sha256 {
            Err("source_sha256")
        } else if self.asked.digest != asked.digest {
            Err("digest")
        } else {
            self.marks.same_or_conflict(&self.labels, first)
        }
    }

    /// The copy of one node.
    #[must_use]
    pub fn copy_on(&self, node: NodeId) -> Option<&ImageCopy> {
        self.copies.iter().find(|copy| copy.node == node)
    }

    /// Whether a node holds it.
    #[must_use]
    pub fn is_on(&self, node: NodeId) -> bool {
        self.copy_on(node)
            .is_some_and(|copy| copy.phase == Phase::Ready)
    }

    /// Whether a copy of it is wished for on a node and is not there yet.
    #[must_use]
    pub fn is_wanted_on(&self, node: NodeId) -> bool {
        self.copy_on(node)
            .is_some_and(|copy| copy.phase == Phase::Creating)
    }

    /// Whether it is being made of a thin, which must stay as it is until then.
    #[must_use]
    pub fn is_made_of(&self, owner: ThinOwner) -> bool {
        self.thin == Some(owner)
            && self.phase != Phase::Deleting
            && self.copies.iter().any(|copy| copy.phase == Phase::Creating)
    }

    /// Whether its record gives a node's content a reason to stay there.
    #[must_use]
    pub fn keeps(&self, digest: Digest, node: NodeId) -> bool {
        let here = self.copy_on(node);
        self.digest == Some(digest)
            && self.phase != Phase::Deleting
            && here.is_some_and(|copy| copy.phase != Phase::Deleting)
    }

    /// Forgets one node's copy.
    pub fn forget_copy(&mut self, node: NodeId) {
        self.copies.retain(|copy| copy.node != node);
        self.phase = self.phase_of_copies();
    }

    /// Where it is in its life, by its copies alone. One without copies is known by its digest.
    #[must_use]
    pub fn phase_of_copies(&self) -> Phase {
        let any = |phase| self.copies.iter().any(|copy| copy.phase == phase);
        if any(Phase::Ready) {
            Phase::Ready
        } else if any(Phase::Creating) {
            Phase::Creating
        } else if any(Phase::Failed) || self.digest.is_none() {
            Phase::Failed
        } else {
            Phase::Ready
        }
    }

    /// Records what became of one copy, and what that means for the whole.
    pub fn settle(&mut self, copy: ImageCopy) {
        match self.copies.iter_mut().find(|known| known.node == copy.node) {
            Some(known) => *known = copy,
            None => self.copies.push(copy),
        }
        if self.phase == Phase::Creating {
            let all_failed = self.copies.iter().all(|copy| copy.phase == Phase::Failed);
            if self.copies.iter().any(|copy| copy.phase == Phase::Ready) {
                self.phase = Phase::Ready;
            } else if all_failed {
                self.phase = Phase::Failed;
            }
        }
    }
}

/// How far long work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done so far.
    pub done: Bytes,
    /// In all; 0 while unknown.
    pub total: Bytes,
}

/// An image's content as a node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReport {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub size: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_source_has_no_credentials() {
        let shown = |url: &str| ImageSource::Url(url.into()).shown();
        assert_eq!(
            shown("https://me:pw@host/a/b.qcow2?token=1"),
            "https://host/a/b.qcow2"
        );
        assert_eq!(shown("http://host"), "http://host");
        assert_eq!(shown("http://me@host#x"), "http://host");
    }
}
