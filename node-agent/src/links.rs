//! The links by which people find volumes: `/dev/goldleaf/<pool>/<volume>`.
//!
//! Called by `ops` after a device came and before it goes. A link says nothing that the kernel
//! does not know: a crash leaves at worst a link too many or too few, and the next sweep mends it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use goldleaf_types::Name;

/// The folder of links.
#[derive(Clone, Debug)]
pub struct Links {
    root: PathBuf,
}

impl Links {
    /// Links below `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The path of a volume's link. Both names are safe path parts by their type.
    #[must_use]
    pub fn path(&self, pool: &Name, volume: &Name) -> PathBuf {
        self.root.join(pool.as_str()).join(volume.as_str())
    }

    /// Makes the link point to `node`, whatever it pointed to before.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn ensure(&self, pool: &Name, volume: &Name, node: &Path) -> io::Result<PathBuf> {
        let path = self.path(pool, volume);
        if std::fs::read_link(&path).is_ok_and(|now| now == node) {
            return Ok(path);
        }
        match self.put(pool, volume, node, &path) {
            // The pool's last link went between making its folder and writing into it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.put(pool, volume, node, &path)?;
            }
            other => other?,
        }
        Ok(path)
    }

    fn put(&self, pool: &Name, volume: &Name, node: &Path, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(self.root.join(pool.as_str()))?;
        let fresh = self.fresh(pool, volume);
        if let Err(error) = std::fs::remove_file(&fresh)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        std::os::unix::fs::symlink(node, &fresh)?;
        std::fs::rename(&fresh, path)
    }

    /// Where a link is made before it takes its place. No volume's name begins with a dot, so this
    /// name is nobody's link.
    fn fresh(&self, pool: &Name, volume: &Name) -> PathBuf {
        self.root.join(pool.as_str()).join(format!(".{volume}.new"))
    }

    /// Removes the link if there is one, and the pool's folder with its last link.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn ensure_none(&self, pool: &Name, volume: &Name) -> io::Result<()> {
        for path in [self.path(pool, volume), self.fresh(pool, volume)] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        // Full or gone already are both as they should be.
        let _ = std::fs::remove_dir(self.root.join(pool.as_str()));
        Ok(())
    }

    /// Removes the links of a pool's folder that point to none of `live`, and the folder if none is
    /// left. A deletion's removal may be undone by a power cut while its row stays gone: the number
    /// in such a link may be another volume's device by now.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn ensure_only(&self, pool: &Name, live: &BTreeSet<PathBuf>) -> io::Result<()> {
        let folder = self.root.join(pool.as_str());
        for path in self.all() {
            let stale = path.parent() == Some(&folder)
                && !std::fs::read_link(&path).is_ok_and(|now| live.contains(&now));
            if stale {
                std::fs::remove_file(&path)?;
            }
        }
        // Full or gone already are both as they should be.
        let _ = std::fs::remove_dir(folder);
        Ok(())
    }

    /// Every link there is, of whatever pool.
    #[must_use]
    pub fn all(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| {
            let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
            listed.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let folders = entries(&self.root);
        folders
            .iter()
            .flat_map(|folder| entries(folder))
            .filter(|path| path.is_symlink())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_follows_its_device_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::new(dir.path().join("goldleaf"));
        let (pool, volume): (Name, Name) = ("p".parse().unwrap(), "v".parse().unwrap());
        for node in ["/dev/dm-3", "/dev/dm-4", "/dev/dm-4"] {
            let path = links.ensure(&pool, &volume, Path::new(node)).unwrap();
            assert_eq!(std::fs::read_link(path).unwrap(), Path::new(node));
        }
        links.ensure_none(&pool, &volume).unwrap();
        links.ensure_none(&pool, &volume).unwrap();
        assert!(!dir.path().join("goldleaf/p").exists());
    }

    #[test]
    fn links_of_one_pools_folder_stay_only_over_live_devices() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links::new(dir.path().join("goldleaf"));
        let name = |name: &str| name.parse::<Name>().unwrap();
        let put = |pool, volume, node| links.ensure(&name(pool), &name(volume), Path::new(node));
        let live = put("p", "live", "/dev/dm-3").unwrap();
        let stale = put("p", "stale", "/dev/dm-4").unwrap();
        let other = put("q", "stale", "/dev/dm-4").unwrap();
        let alive = BTreeSet::from([PathBuf::from("/dev/dm-3")]);
        links.ensure_only(&name("p"), &alive).unwrap();
        assert!(live.is_symlink() && !stale.is_symlink() && other.is_symlink());
        links.ensure_only(&name("p"), &BTreeSet::new()).unwrap();
        assert!(!dir.path().join("goldleaf/p").exists());
    }
}
