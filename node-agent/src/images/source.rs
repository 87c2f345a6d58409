//! Sources on this node: which files may be read, and which devices are devices.
//!
//! Used by `import`. The agent is root, its callers need not be: a file is read only if it lies
//! under a folder that the administrator named, after every link was followed, and the kernel is
//! asked to open it without following any more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::error::ImageError;

/// Where sources may lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// Folders under which image files may be read.
    pub roots: Vec<PathBuf>,
}

impl SourceRules {
    /// Opens an image file to read it. Blocks.
    ///
    /// # Errors
    ///
    /// [`ImageError::Source`] that names the field `file`, for what is no file below the folders.
    pub(super) fn open_file(&self, path: &Path) -> Result<File, ImageError> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err(ImageError::source(
                "file",
                format!("{shown} is no absolute path"),
            ));
        }
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            // Outside of the folders nobody learns what is there and what is not.
            Err(_) if !self.seems_inside(path) => return Err(self.outside(path)),
            Err(error) => {
                return Err(ImageError::source(
                    "file",
                    format!("{shown} cannot be read: {error}"),
                ));
            }
        };
        let Some((root, below)) = self.roots.iter().find_map(|root| {
            let root = fs::canonicalize(root).ok()?;
            let below = real.strip_prefix(&root).ok()?.to_owned();
            Some((root, below))
        }) else {
            return Err(self.outside(path));
        };
        let file = open_beneath(&root, &below).map_err(|error| {
            ImageError::source("file", format!("{shown} cannot be read: {error}"))
        })?;
        let meta = file
            .metadata()
            .map_err(ImageError::io("look at the image file"))?;
        if !meta.is_file() {
            return Err(ImageError::source(
                "file",
                format!("{shown} is no regular file: give a block device as `device`"),
            ));
        }
        Ok(file)
    }

    fn outside(&self, path: &Path) -> ImageError {
        let roots: Vec<_> = self.roots.iter().map(|r| r.display().to_string()).collect();
        ImageError::source(
            "file",
            format!(
                "{} is not under {}: move it there, or start the agent with another --image-source",
                path.display(),
                if roots.is_empty() {
                    "any allowed folder".into()
                } else {
                    roots.join(" or ")
                },
            ),
        )
    }

    fn seems_inside(&self, path: &Path) -> bool {
        let plain = path.components().all(|c| c != Component::ParentDir);
        plain && self.roots.iter().any(|root| path.starts_with(root))
    }
}

/// Opens a file below a folder. The path has no links in it; one that was put there since is not
/// followed.
fn open_beneath(root: &Path, below: &Path) -> io::Result<File> {
    let folder = File::open(root)?;
    // Not blocking: a pipe with nobody at its other end must not hold a thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let below = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    let file = rustix::fs::openat2(&folder, below, flags, Mode::empty(), resolve)?;
    Ok(File::from(file))
}

/// Opens a block device to read it. Blocks.
///
/// # Errors
///
/// [`ImageError::Source`] that names the field `device`.
pub(super) fn open_device(path: &Path) -> Result<File, ImageError> {
    let shown = path.display();
    let refuse = |problem: String| Err(ImageError::source("device", problem));
    if !path.is_absolute() {
        return refuse(format!("{shown} is no absolute path"));
    }
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => {}
        Ok(_) => return refuse(format!("{shown} is no block device: give a file as `file`")),
        Err(error) => return refuse(format!("{shown} cannot be read: {error}")),
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(error) => return refuse(format!("{shown} cannot be read: {error}")),
    };
    let meta = file
        .metadata()
        .map_err(ImageError::io("look at the device"))?;
    if meta.file_type().is_block_device() {
        Ok(file)
    } else {
        refuse(format!("{shown} is no block device any more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn field(result: Result<File, ImageError>) -> String {
        match result {
            Ok(_) => panic!("it was opened"),
            Err(ImageError::Source { field, problem }) => format!("{field}: {problem}"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn only_files_below_the_folders_are_opened_whatever_links_say() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let rules = SourceRules {
            roots: vec![inside.path().into(), "/nowhere/at/all".into()],
        };
        let good = inside.path().join("good.img");
        let secret = outside.path().join("secret");
        fs::write(&good, b"x").unwrap();
        fs::write(&secret, b"x").unwrap();
        rules.open_file(&good).unwrap();
        let link = |to: &Path, name: &str| {
            let path = inside.path().join(name);
            symlink(to, &path).unwrap();
            path
        };
        rules.open_file(&link(&good, "inner")).unwrap();

        let up = inside
            .path()
            .join("..")
            .join(outside.path().file_name().unwrap());
        for bad in [
            secret.clone(),
            outside.path().join("absent"),
            link(&secret, "out"),
            link(outside.path(), "folder").join("secret"),
            up.join("secret"),
            up.join("absent"),
        ] {
            let error = field(rules.open_file(&bad));
            assert!(
                error.contains("is not under") && error.contains("--image-source"),
                "{error}"
            );
        }
        for (bad, why) in [
            (inside.path().to_owned(), "no regular file"),
            (inside.path().join("absent"), "cannot be read"),
            ("good.img".into(), "no absolute path"),
        ] {
            let error = field(rules.open_file(&bad));
            assert!(
                error.starts_with("file: ") && error.contains(why),
                "{error}"
            );
        }
        assert!(field(SourceRules::default().open_file(&good)).contains("any allowed folder"));
    }

    #[test]
    fn a_link_that_appears_after_the_path_was_resolved_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("real"), b"x").unwrap();
        symlink("real", folder.path().join("swapped")).unwrap();
        assert!(open_beneath(folder.path(), Path::new("swapped")).is_err());
        open_beneath(folder.path(), Path::new("real")).unwrap();
    }

    #[test]
    fn only_a_block_device_is_a_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(field(open_device(file.path())).contains("no block device"));
        assert!(field(open_device(Path::new("/dev/null"))).contains("no block device"));
        assert!(field(open_device(Path::new("/dev/absent"))).contains("cannot be read"));
        assert!(field(open_device(Path::new("sda"))).contains("no absolute path"));
    }
}
