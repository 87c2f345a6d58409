//! Images, loop devices and links against rows and devices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use goldleaf_dm::{LoopDevice, loopdev};
use goldleaf_types::{Digest, PoolId};

use super::{Code, Finding, Remedy, Severity};
use crate::catalogue::read_label;
use crate::images::{ImageError, Place};
use crate::ops::Agent;
use crate::telemetry::Chain;

impl Agent {
    pub(super) fn examine_images(&self) -> Vec<Finding> {
        let mut needed: BTreeMap<Digest, usize> = BTreeMap::new();
        for pool in self.pools.all_open() {
            for image in pool.catalogue.all().iter().filter_map(|row| row.image) {
                *needed.entry(image.digest).or_default() += 1;
            }
        }
        let here: BTreeSet<Digest> = self.images.list().iter().map(|r| r.digest).collect();
        let all: BTreeSet<Digest> = here.iter().chain(needed.keys()).copied().collect();
        all.into_iter()
            .filter_map(|digest| self.image(digest, needed.get(&digest).copied().unwrap_or(0)))
            .collect()
    }

    fn image(&self, digest: Digest, users: usize) -> Option<Finding> {
        let (code, reason) = match self.images.check(&digest) {
            Ok(_) => return None,
            Err(ImageError::Missing { .. }) => (
                Code::ImageMissing,
                format!("{users} volumes and snapshots of this host need it, and it is not here"),
            ),
            Err(error) => (
                Code::ImageChanged,
                format!(
                    "{}; {users} volumes and snapshots of this host need it",
                    Chain(&error)
                ),
            ),
        };
        Some(Finding {
            code,
            severity: if users > 0 {
                Severity::Error
            } else {
                Severity::Warning
            },
            subject: digest.to_string(),
            reason,
            advice: "bring the same content here again: goldleaf image create, from the source it \
                     came from; volumes over it are not activated until then"
                .into(),
            remedy: None,
        })
    }

    /// Loop devices over the files of pools and images that no device uses, each open.
    fn unused_loops(&self) -> Vec<(PathBuf, LoopDevice)> {
        let mut files: Vec<PathBuf> = self
            .images
            .list()
            .into_iter()
            .filter_map(|record| match record.place {
                Place::File(path) => Some(path),
                Place::Device(_) => None,
            })
            .collect();
        if let Ok(entries) = std::fs::read_dir(&self.pools.rules.pool_dir) {
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        let mut unused = Vec::new();
        for path in files {
            let Ok(meta) = std::fs::metadata(&path) else {
                continue;
            };
            let loops = loopdev::find_by_backing(meta.dev(), meta.ino()).unwrap_or_default();
            let loops = loops.into_iter().map(|(device, _)| device);
            unused.extend(loops.filter(|d| !held(d)).map(|d| (path.clone(), d)));
        }
        unused
    }

    /// As [`Self::unused_loops`], and nobody is about to use them.
    pub(super) fn examine_loops(&self) -> Vec<Finding> {
        let unused = self.unused_loops();
        if unused.is_empty() {
            return Vec::new();
        }
        // One that was just attached has no user yet. Nobody makes one while these are held, which
        // is why only what seems unused is looked at under them: activations wait meanwhile.
        let _turn = self.pools.take_turn();
        let _alone = self.image_use.write();
        // But a repair, which is beside the turn and has its pool alone. Asked first: it may end.
        let repaired = self.pools.reserved.all();
        let stray = unused
            .iter()
            .filter(|(path, device)| !held(device) && !is_of(path, &repaired));
        stray
            .map(|(path, device)| Finding {
                code: Code::StrayLoop,
                severity: Severity::Warning,
                subject: device.path().display().to_string(),
                reason: format!("it lies over {} and nothing uses it", path.display()),
                advice: "mend this finding to detach it".into(),
                remedy: Some(Remedy::DetachLoop(device.path().to_owned())),
            })
            .collect()
    }

    /// Detaches a loop device that is over a file of ours still, with nothing over it: its number is
    /// given to another file, of anybody's, as soon as it is free.
    pub(super) fn detach_loop(&self, path: &Path) -> io::Result<()> {
        let _turn = self.pools.take_turn();
        let _alone = self.image_use.write();
        let repaired = self.pools.reserved.all();
        let mut unused = self.unused_loops().into_iter();
        let found = unused.find(|(file, d)| d.path() == path && !is_of(file, &repaired));
        match found {
            Some((_, device)) => device.detach(),
            None => Err(io::Error::other(format!(
                "{} is over no file of ours any more, or something uses it",
                path.display()
            ))),
        }
    }

    /// Links against live volumes.
    pub(super) fn examine_links(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        // Before the rows: a link that comes meanwhile belongs to a volume that came meanwhile.
        let links = self.links.all();
        let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
        for pool in self.pools.all_open() {
            for row in pool.catalogue.all() {
                let _held = pool.locks.take(&[row.owner]);
                let Some(row) = pool.catalogue.find(row.owner) else {
                    continue;
                };
                let path = self.links.path(&pool.name(), &row.name);
                let Ok(Some(live)) = self.kernel.find_live(row.owner) else {
                    continue;
                };
                wanted.insert(path.clone());
                let Ok(node) = self.kernel.node(live.dev) else {
                    continue;
                };
                // One that nobody wants loses its link first.
                if row.holder.is_some() && std::fs::read_link(&path).ok().as_ref() != Some(&node) {
                    found.push(Finding {
                        code: Code::WrongLink,
                        severity: Severity::Warning,
                        subject: row.owner.to_string(),
                        reason: format!("{} does not lead to {}", path.display(), node.display()),
                        advice: "mend this finding to put the link right".into(),
                        remedy: Some(Remedy::Settle(pool.id, row.owner)),
                    });
                }
            }
        }
        for link in links {
            if !wanted.contains(&link) && link.symlink_metadata().is_ok() {
                found.push(Finding {
                    code: Code::StrayLink,
                    severity: Severity::Notice,
                    subject: link.display().to_string(),
                    reason: "no live volume has this link".into(),
                    advice: "mend this finding to remove it".into(),
                    remedy: Some(Remedy::RemoveLink(link)),
                });
            }
        }
        found
    }
}

/// Whether a pool's file is of one of these.
fn is_of(path: &Path, pools: &BTreeSet<PoolId>) -> bool {
    let label = File::open(path)
        .ok()
        .and_then(|file| read_label(&file).ok());
    label
        .flatten()
        .is_some_and(|label| pools.contains(&label.pool))
}

/// Whether another device lies over a loop device.
fn held(device: &LoopDevice) -> bool {
    let name = device.path().file_name().unwrap_or_default();
    let holders = std::path::Path::new("/sys/class/block")
        .join(name)
        .join("holders");
    // A directory that cannot be read says nothing, so nothing is said.
    std::fs::read_dir(holders).map_or(true, |mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::rig::Rig;

    /// Whatever a finding said before: the number may be another program's by now.
    #[test]
    fn a_loop_device_that_is_over_no_file_of_ours_is_not_detached() {
        let rig = Rig::new();
        let refused = rig.agent.detach_loop(Path::new("/dev/loop0")).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("over no file of ours any more"), "{said}");
    }
}
