//! Ways to use a volume: block device or file system, from where, for what.

use csi::volume_capability::AccessType;
use csi::volume_capability::access_mode::Mode;
use csi_proto::v1 as csi;

use crate::status::CsiError;

/// A file system that the driver makes, mounts and grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, what is made when nobody says.
    Ext4,
    /// XFS.
    Xfs,
}

impl FileSystem {
    /// Its name, as the kernel and `blkid` spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs]
            .into_iter()
            .find(|fs| fs.name() == name)
    }
}

/// Who may write, all on the volume's one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Nobody.
    Nobody,
    /// Whoever is on the node.
    Node,
    /// One workload alone.
    One,
}

/// What a workload is to see.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// The block device.
    Block,
    /// A file system.
    Mount {
        /// Which; none takes what is there, or else ext4.
        fs: Option<FileSystem>,
        /// Options of mount(8). They may be confidential: `Debug` does not show them.
        flags: Vec<String>,
    },
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Block => f.write_str("Block"),
            Self::Mount { fs, flags } => write!(f, "Mount {{ {fs:?}, {} flags }}", flags.len()),
        }
    }
}

/// One way to use a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What is seen.
    pub access: Access,
    /// Who may write.
    pub writers: Writers,
}

/// Reads one way to use a volume.
///
/// # Errors
///
/// [`CsiError::BadField`] for what is missing, [`CsiError::Unsupported`] for what is not served;
/// access from several nodes among it.
pub fn usage(
    field: &'static str,
    capability: Option<&csi::VolumeCapability>,
) -> Result<Usage, CsiError> {
    let wrong = |problem: String| Err(CsiError::field(field, problem));
    let unsupported = |problem: String| Err(CsiError::Unsupported { field, problem });
    let Some(capability) = capability else {
        return wrong("is missing".into());
    };
    let mode = capability
        .access_mode
        .as_ref()
        .map(csi::volume_capability::AccessMode::mode);
    let writers = match mode {
        None | Some(Mode::Unknown) => return wrong("its access_mode is missing".into()),
        Some(Mode::SingleNodeReaderOnly) => Writers::Nobody,
        Some(Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter) => Writers::Node,
        Some(Mode::SingleNodeSingleWriter) => Writers::One,
        Some(
            mode @ (Mode::MultiNodeReaderOnly
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter),
        ) => {
            return unsupported(format!(
                "{} is not served: a volume is local to the node of its pool; ask for a \
                 single-node mode (ReadWriteOnce or ReadWriteOncePod)",
                mode.as_str_name()
            ));
        }
    };
    let access = match &capability.access_type {
        None => return wrong("its access_type is missing: block or mount".into()),
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => return mounted(field, mount, writers),
    };
    Ok(Usage { access, writers })
}

fn mounted(
    field: &'static str,
    mount: &csi::volume_capability::MountVolume,
    writers: Writers,
) -> Result<Usage, CsiError> {
    let wrong = |problem: &str| Err(CsiError::field(field, problem));
    let unsupported = |problem: &str| {
        let problem = problem.to_owned();
        Err(CsiError::Unsupported { field, problem })
    };
    let fs = match mount.fs_type.as_str() {
        "" => None,
        name => match FileSystem::named(name) {
            Some(fs) => Some(fs),
            None => return unsupported("its fs_type is not served: ext4 or xfs"),
        },
    };
    if !mount.volume_mount_group.is_empty() {
        return unsupported(
            "volume_mount_group is not served: ext4 and xfs keep owners on disk; let the \
             orchestrator set them (fsGroupPolicy: File)",
        );
    }
    let lawful = |flag: &String| !flag.is_empty() && !flag.contains(['\0', '\n']);
    let length: usize = mount.mount_flags.iter().map(|flag| flag.len() + 1).sum();
    if !mount.mount_flags.iter().all(lawful) || length > 4000 {
        return wrong("its mount_flags are not options of mount(8), or too long"); // not shown
    }
    let flags = mount.mount_flags.clone();
    Ok(Usage {
        access: Access::Mount { fs, flags },
        writers,
    })
}

/// Reads every way in which a volume will be used.
///
/// # Errors
///
/// As [`usage`]; none at all, or both kinds of access, is wrong too.
pub fn usages(capabilities: &[csi::VolumeCapability]) -> Result<Vec<Usage>, CsiError> {
    const FIELD: &str = "volume_capabilities";
    if capabilities.is_empty() {
        return Err(CsiError::field(FIELD, "is missing"));
    }
    let usages = capabilities
        .iter()
        .map(|capability| usage(FIELD, Some(capability)))
        .collect::<Result<Vec<_>, _>>()?;
    let blocks = usages.iter().filter(|u| u.access == Access::Block).count();
    if blocks != 0 && blocks != usages.len() {
        return Err(CsiError::field(
            FIELD,
            "a volume is used as a block device or as a file system, not as both",
        ));
    }
    Ok(usages)
}
