//! Content on its way out: whole files in the export folder, raw or qcow2.
//!
//! Called by `ops` with a thin that it keeps still meanwhile. A file is written in a folder of its
//! own for parts, made durable, and only then given its name, so that a name never stands for half of
//! it. Names lie below the export folder: no part of one is followed through a link. A crash leaves a
//! part, which the next opening removes, or the file whole.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use goldleaf_types::{Bytes, Digest};
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags};
use sha2::{Digest as _, Sha256};

use super::budget::Budget;
use super::content::{self, digest_of};
use super::error::ImageError;
use super::import::Format;
use super::meter::Meter;
use super::writer::{PART, Part, RawWriter, is_zero};
use crate::failpoint::{Point, hit};

/// The folder for parts, in the export folder: a rename out of it needs one file system.
const PARTS: &str = ".goldleaf-parts";

/// Zeroes are left out in pieces of this many bytes: qcow2's usual cluster.
const CLUSTER: usize = 64 << 10;

type Access = FormatAccess<imago::file::File>;

/// The folder that files are exported to.
#[derive(Debug)]
pub struct ExportFolder {
    dir: PathBuf,
}

/// What to write, from its beginning.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where it is read from.
    pub file: &'a File,
    /// How much of it there is.
    pub size: Bytes,
    /// What it is of, for people.
    pub source: String,
    /// How it is read past its image's end, if not as before it.
    pub past: Option<Past>,
}

/// The rest of a thin that is longer than its image, in a pool that is read-only: there the kernel reads
/// the image past its end where the thin maps nothing, and fails.
///
/// Source: Linux `drivers/md/dm-thin.c`, `__process_bio_read_only`, beside `process_cell`.
#[derive(Debug)]
pub struct Past {
    /// The thin without its image: zeroes where it maps nothing.
    pub bare: File,
    /// The image's content.
    pub image: File,
    /// How long that is.
    pub size: Bytes,
}

/// What a block device is read by at least.
const PAGE: u64 = 4096;

impl Outgoing<'_> {
    fn read(&self, to: &mut [u8], at: u64) -> io::Result<()> {
        let Some(past) = &self.past else {
            return self.file.read_exact_at(to, at);
        };
        // The page in which the image ends is read with it only if the thin has that page.
        let (whole, end) = (
            past.size.0 / PAGE * PAGE,
            past.size.0.next_multiple_of(PAGE),
        );
        let mut done = 0;
        while done < to.len() {
            let here = at + done as u64;
            let until = [whole, end].into_iter().find(|edge| here < *edge);
            let n = until.map_or(to.len(), |edge| content::piece(edge - here, to.len()));
            let n = n.min(to.len() - done);
            let part = &mut to[done..done + n];
            match until {
                Some(edge) if edge == whole => self.file.read_exact_at(part, here)?,
                Some(_) => past.read_last_page(self.file, part, here)?,
                None => past.bare.read_exact_at(part, here)?,
            }
            done += n;
        }
        Ok(())
    }
}

impl Past {
    fn read_last_page(&self, file: &File, to: &mut [u8], at: u64) -> io::Result<()> {
        if file.read_exact_at(to, at).is_ok() {
            return Ok(());
        }
        self.bare.read_exact_at(to, at)?; // not there, or it cannot be read either
        let of_image = content::piece(self.size.0.saturating_sub(at), to.len());
        self.image.read_exact_at(&mut to[..of_image], at)
    }
}

/// The file to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportTarget {
    /// Its path below the export folder.
    pub file: PathBuf,
    /// How to store the content; never guessed.
    pub format: Format,
    /// Whether to take the place of a file that has the name.
    pub replace: bool,
}

/// A file that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its path on this host.
    pub path: PathBuf,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content.
    pub size: Bytes,
    /// SHA-256 of the file as it is stored; that of the content if it is raw.
    pub file_digest: Digest,
    /// Length of the file.
    pub file_size: Bytes,
    /// What the file takes on its file system.
    pub stored: Bytes,
}

/// Where a file is to get its name.
#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    name: PathBuf,
}

impl ExportFolder {
    /// Opens the folder, making it if need be, and removes what a crash left. Blocks.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        let parts = dir.join(PARTS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&parts)?;
        for found in fs::read_dir(&parts)? {
            let path = found?.path();
            if path.extension().is_some_and(|e| e == PART) {
                tracing::info!(path = %path.display(), "removing what an export left");
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { dir })
    }

    /// Sees that a file of this name can be made. Called before anything is read. Blocks.
    ///
    /// # Errors
    ///
    /// [`ImageError::Source`] naming `file` for a name that does not lie below the folder, and
    /// [`ImageError::Exists`].
    pub fn check(&self, target: &ExportTarget) -> Result<(), ImageError> {
        self.place(target).map(drop)
    }

    /// Writes a file, whole and durable before it has its name. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], and what reading and writing meet; nothing is left then.
    pub fn write(
        &self,
        outgoing: &Outgoing<'_>,
        target: &ExportTarget,
        meter: &Meter,
    ) -> Result<Exported, ImageError> {
        let place = self.place(target)?;
        let (mut part, digest) = match target.format {
            Format::Qcow2 => self.qcow2(outgoing, meter)?,
            Format::Detect | Format::Raw => self.raw(outgoing, meter)?,
        };
        let wrong = ImageError::in_folder(&self.dir, "make an exported file durable");
        let meta = part.file().metadata().map_err(&wrong)?;
        let file_size = Bytes(meta.len());
        let file_digest = match target.format {
            Format::Qcow2 => content::hash(part.file(), file_size, meter, &wrong)?,
            Format::Detect | Format::Raw => digest,
        };
        part.file()
            .set_permissions(fs::Permissions::from_mode(0o600))
            .and_then(|()| part.file().sync_all())
            .map_err(&wrong)?;
        meter.go_on()?;
        hit(Point::ExportWritten);
        place.name(&mut part, target)?;
        hit(Point::ExportNamed);
        let path = self.dir.join(&target.file);
        tracing::info!(path = %path.display(), source = outgoing.source, %digest, "exported");
        Ok(Exported {
            path,
            digest,
            size: outgoing.size,
            file_digest,
            file_size,
            // Sectors of 512 bytes whatever the file system's block is: stat(2).
            stored: Bytes(meta.blocks().saturating_mul(512)),
        })
    }

    fn parts(&self) -> PathBuf {
        self.dir.join(PARTS)
    }

    fn raw(&self, out: &Outgoing<'_>, meter: &Meter) -> Result<(Part, Digest), ImageError> {
        // The disk is the only bound: what is exported is not this agent's to keep.
        let room = Budget::new(Bytes(u64::MAX)).reserve();
        let mut writer = RawWriter::create(&self.parts(), room)?;
        content::read_all_with(
            |to, at| out.read(to, at),
            out.size,
            meter,
            unread(out),
            |piece| writer.write(piece),
        )?;
        let done = writer.finish()?;
        Ok((done.part, done.digest))
    }

    fn qcow2(&self, out: &Outgoing<'_>, meter: &Meter) -> Result<(Part, Digest), ImageError> {
        let part = Part::create(&self.parts())?;
        let wrong = ImageError::in_folder(&self.dir, "write a qcow2 file");
        // The library's futures wait for nothing but its writes, which block this thread.
        let made = futures::executor::block_on(create(part.file(), out.size));
        let access = made.map_err(&wrong)?;
        let mut hasher = Sha256::new();
        let mut at = 0;
        content::read_all_with(
            |to, at| out.read(to, at),
            out.size,
            meter,
            unread(out),
            |piece| {
                hasher.update(piece);
                for cluster in piece.chunks(CLUSTER) {
                    if !is_zero(cluster) {
                        let written = access.write(cluster, at);
                        futures::executor::block_on(written).map_err(&wrong)?;
                    }
                    at += cluster.len() as u64;
                }
                Ok(())
            },
        )?;
        futures::executor::block_on(access.flush()).map_err(&wrong)?;
        drop(access);
        Ok((part, digest_of(hasher)))
    }

    /// Where the file is to be. Its folder is opened here, so that nobody puts another in its place.
    fn place(&self, target: &ExportTarget) -> Result<Place, ImageError> {
        let shown = target.file.display();
        let bad = |problem: String| ImageError::source("file", format!("{shown} {problem}"));
        let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name != PARTS);
        if !target.file.components().all(plain) {
            return Err(bad(format!(
                "is no path below the export folder: name a file in {} without '..' or a leading '/'",
                self.dir.display()
            )));
        }
        let (Some(parent), Some(name)) = (target.file.parent(), target.file.file_name()) else {
            return Err(bad("is empty: name a file".into()));
        };
        let root = File::open(&self.dir)
            .map_err(ImageError::in_folder(&self.dir, "open the export folder"))?;
        let below = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = rustix::fs::openat2(&root, below, flags, Mode::empty(), resolve)
            .map_err(|e| bad(format!("lies in no folder of {}: {e}", self.dir.display())))?;
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&folder, name, flags) {
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(bad(format!("cannot be looked at: {error}"))),
            Ok(_) if !target.replace => {
                return Err(ImageError::Exists {
                    file: target.file.clone(),
                });
            }
            Ok(there) if rustix::fs::FileType::from_raw_mode(there.st_mode).is_file() => {}
            Ok(_) => return Err(bad("is there and is no file: choose another name".into())),
        }
        Ok(Place {
            folder,
            name: name.into(),
        })
    }
}

impl Place {
    /// Gives a whole file its name.
    fn name(&self, part: &mut Part, target: &ExportTarget) -> Result<(), ImageError> {
        let flags = if target.replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        match rustix::fs::renameat_with(CWD, part.path(), &self.folder, &self.name, flags) {
            Ok(()) => part.named(),
            Err(rustix::io::Errno::EXIST) => {
                return Err(ImageError::Exists {
                    file: target.file.clone(),
                });
            }
            Err(error) => return Err(ImageError::io("name an exported file")(error.into())),
        }
        rustix::fs::fsync(&self.folder)
            .map_err(|e| ImageError::io("make an exported file durable")(e.into()))
    }
}

/// An empty qcow2 file of this size.
async fn create(file: &File, size: Bytes) -> io::Result<Access> {
    let storage = imago::file::File::try_from(file.try_clone()?)?;
    let builder = imago::qcow2::Qcow2::<_, Access>::create_builder(storage)
        .size(size.0)
        .cluster_size(CLUSTER);
    let image = builder
        .create_open(DenyImplicitOpenGate::default(), |storage| {
            let image = imago::qcow2::Qcow2::<_, Access>::builder(storage);
            Ok(image.backing(None).write(true))
        })
        .await?;
    Ok(FormatAccess::new(image))
}

fn unread(out: &Outgoing<'_>) -> impl Fn(io::Error) -> ImageError {
    let what = format!("read {}", out.source);
    move |source| ImageError::Io {
        what: what.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
