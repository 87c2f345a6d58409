//! Imports: content from a file, a device or a url becomes a copy with a record.
//!
//! Called by `grpc` through `ImageFolder::import`. Reading, hashing and writing are done on blocking
//! threads; only a download's network side is not. Nothing has a name before all of it was read,
//! compared with what was asked for and made durable. When the caller's future is dropped the work
//! stops at its next piece and removes its part.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use goldleaf_types::{Bytes, Digest};
use url::Url;

use super::content;
use super::error::ImageError;
use super::folder::{Folder, ImageFolder};
use super::format::{self, Stored};
use super::http;
use super::identity::Identity;
use super::meter::{ImportProgress, Meter};
use super::qcow2;
use super::record::ImageRecord;
use super::source::open_device;
use super::writer::RawWriter;

/// Largest content, in bytes: what every file system that copies lie on can hold (ext4's limit).
pub(super) const MAX_SIZE: u64 = 16 << 40;

/// Where content is.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file on this node, below the allowed folders.
    File(PathBuf),
    /// A block device on this node, used in place.
    Device(PathBuf),
    /// http or https.
    Url(Url),
}

/// As it may be logged and recorded.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Device(path) => path.display().fmt(f),
            Self::Url(url) => without_credentials(url).fmt(f),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A url without what may be secret: user, password, query (signatures) and fragment.
pub(super) fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // These fail for urls that have no place for a user; such have none to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// How a source is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// By its first bytes.
    Detect,
    /// As a disk reads it.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// An image that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRequest {
    /// Where its content is.
    pub source: Source,
    /// How it is stored there.
    pub format: Format,
    /// SHA-256 of the source as it comes. A url must have one.
    pub source_sha256: Option<Digest>,
    /// SHA-256 of the raw content.
    pub expect: Option<Digest>,
}

impl ImageFolder {
    /// Brings an image's content here. Asked for content that is here already it answers that.
    /// Dropping the future stops the work and leaves nothing.
    ///
    /// # Errors
    ///
    /// One of [`ImageError`] for each thing that can be done about it; nothing is left then.
    pub async fn import(
        &self,
        request: ImportRequest,
        tell: impl Fn(ImportProgress) + Send + Sync + 'static,
    ) -> Result<ImageRecord, ImageError> {
        self.import_metered(request, &Meter::new(tell)).await
    }

    /// As [`Self::import`], reporting to a meter that others may stop too.
    ///
    /// # Errors
    ///
    /// As [`Self::import`].
    pub async fn import_metered(
        &self,
        request: ImportRequest,
        meter: &Meter,
    ) -> Result<ImageRecord, ImageError> {
        let _stop = meter.stop_on_drop();
        let job = Job {
            folder: Arc::clone(&self.0),
            request,
            meter: meter.clone(),
        };
        if let Source::Url(url) = &job.request.source {
            let url = url.clone();
            job.url(url).await
        } else {
            blocking(move || job.local()).await
        }
    }
}

/// Runs work where it may block. Its panic is our bug and is answered as a failure.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ImageError::io("finish the import")(io::Error::other(error)))?
}

/// One import under way.
#[derive(Clone)]
struct Job {
    folder: Arc<Folder>,
    request: ImportRequest,
    meter: Meter,
}

impl Job {
    /// The content that is wanted, if it is named and here.
    fn find_here(&self) -> Option<ImageRecord> {
        self.request
            .expect
            .and_then(|digest| self.folder.find_good(&digest))
    }

    fn local(&self) -> Result<ImageRecord, ImageError> {
        if let Some(here) = self.find_here() {
            return Ok(here);
        }
        match &self.request.source {
            Source::File(path) => self.file(path),
            Source::Device(path) => self.device(path),
            Source::Url(_) => Err(ImageError::source("url", "is no local source")),
        }
    }

    fn file(&self, path: &Path) -> Result<ImageRecord, ImageError> {
        let file = self.folder.rules.open_file(path)?;
        let before = seen(&file)?;
        let meta = file
            .metadata()
            .map_err(ImageError::io("look at the image file"))?;
        // Holes of the source are holes of the copy; what it takes there it takes here, or less.
        let takes = meta.len().min(meta.blocks().saturating_mul(512));
        self.folder.budget.would_fit(Bytes(takes))?;
        let mut writer = RawWriter::create(&self.folder.dir, self.folder.budget.reserve())?;
        match format::detect(self.request.format, &head(&file)?)? {
            Stored::Raw => {
                let size = content_size("file", meta.len())?;
                let wrong = |error| self.reading_failed("file", error);
                content::read_all(&file, size, &self.meter, wrong, |piece| writer.write(piece))?;
                self.compare_source(writer.digest())?;
            }
            Stored::Qcow2 => {
                if self.request.source_sha256.is_some() {
                    let wrong = |error| self.reading_failed("file", error);
                    let size = Bytes(meta.len());
                    self.compare_source(content::hash(&file, size, &self.meter, wrong)?)?;
                }
                qcow2::convert(&file, "file", &mut writer, &self.meter)?;
            }
        }
        if seen(&file)? != before {
            return Err(self.unsettled("file"));
        }
        self.keep(writer)
    }

    fn device(&self, path: &Path) -> Result<ImageRecord, ImageError> {
        let device = open_device(path)?;
        let before = seen(&device)?;
        let size = content_size("device", before.size())?;
        if format::detect(self.request.format, &head(&device)?)? == Stored::Qcow2 {
            return Err(ImageError::format(
                "format",
                "a device is used in place and so must be raw: copy the qcow2 image on it to a \
                 file, or say RAW if a disk really begins so",
            ));
        }
        let wrong = |error| self.reading_failed("device", error);
        let digest = content::hash(&device, size, &self.meter, wrong)?;
        if seen(&device)? != before {
            return Err(self.unsettled("device"));
        }
        self.compare_source(digest)?;
        self.compare_content(digest)?;
        self.meter.go_on()?;
        self.folder.keep_device(path, digest, before)
    }

    async fn url(self, url: Url) -> Result<ImageRecord, ImageError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ImageError::source("url", "is neither http nor https"));
        }
        if self.request.source_sha256.is_none() {
            return Err(ImageError::source(
                "source_sha256",
                "is needed for a url: give the SHA-256 that its publisher gives",
            ));
        }
        let job = self.clone();
        let ready = blocking(move || match job.find_here() {
            Some(here) => Ok(Err(here)),
            None => RawWriter::create(&job.folder.dir, job.folder.budget.reserve()).map(Ok),
        });
        let writer = match ready.await? {
            Ok(writer) => writer,
            Err(here) => return Ok(here),
        };
        let download = http::fetch(&url, writer, &self.folder.budget, &self.meter).await?;
        blocking(move || self.downloaded(download)).await
    }

    /// Makes content of a whole download.
    fn downloaded(&self, download: RawWriter) -> Result<ImageRecord, ImageError> {
        self.compare_source(download.digest())?;
        let file = download.file()?;
        match format::detect(self.request.format, &head(file)?)? {
            Stored::Raw => {
                content_size("url", download.len())?;
                self.keep(download)
            }
            Stored::Qcow2 => {
                let room = self.folder.budget.reserve();
                let mut writer = RawWriter::create(&self.folder.dir, room)?;
                qcow2::convert(file, "url", &mut writer, &self.meter)?;
                drop(download);
                self.keep(writer)
            }
        }
    }

    fn keep(&self, writer: RawWriter) -> Result<ImageRecord, ImageError> {
        self.compare_content(writer.digest())?;
        let done = writer.finish()?;
        self.meter.go_on()?;
        self.folder.keep(done, self.request.source.to_string())
    }

    fn compare_source(&self, found: Digest) -> Result<(), ImageError> {
        match self.request.source_sha256 {
            Some(wanted) if wanted != found => Err(ImageError::WrongSource { wanted, found }),
            Some(_) | None => Ok(()),
        }
    }

    fn compare_content(&self, found: Digest) -> Result<(), ImageError> {
        match self.request.expect {
            Some(wanted) if wanted != found => Err(ImageError::WrongDigest { wanted, found }),
            Some(_) | None => Ok(()),
        }
    }

    fn unsettled(&self, field: &'static str) -> ImageError {
        ImageError::Unsettled {
            field,
            source_name: self.request.source.to_string(),
        }
    }

    fn reading_failed(&self, field: &'static str, error: io::Error) -> ImageError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.unsettled(field)
        } else {
            ImageError::Io {
                what: format!("read {}", self.request.source),
                source: error,
            }
        }
    }
}

fn seen(file: &File) -> Result<Identity, ImageError> {
    Identity::of(file).map_err(ImageError::io("look at the source"))
}

/// The first bytes of a source, fewer if it has fewer.
fn head(file: &File) -> Result<Vec<u8>, ImageError> {
    let mut head = vec![0; format::HEAD];
    let mut len = 0;
    while len < head.len() {
        match file.read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ImageError::io("read the source")(error)),
        }
    }
    head.truncate(len);
    Ok(head)
}

/// The size of raw content, which a device of that size can have.
fn content_size(field: &'static str, bytes: u64) -> Result<Bytes, ImageError> {
    let problem = if bytes == 0 {
        "is empty: an image has at least 512 bytes".into()
    } else if !bytes.is_multiple_of(512) {
        format!(
            "has {bytes} bytes, which is not a multiple of 512: if it is whole, pad it with \
             `truncate -s %512` or `qemu-img resize`"
        )
    } else if bytes > MAX_SIZE {
        format!(
            "has {} and an image has at most {}",
            Bytes(bytes),
            Bytes(MAX_SIZE)
        )
    } else {
        return Ok(Bytes(bytes));
    };
    Err(ImageError::format(field, problem))
}
