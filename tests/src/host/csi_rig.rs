//! The CSI driver on a host of the tests, with steps that nothing refuses.

use csi_proto::v1 as csi;
use tonic::{Code, Status};

use super::csi::Use;
use super::{Host, Process};

const MIB: u64 = 1 << 20;

/// A gibibyte, as CSI counts.
pub const GIB: i64 = 1 << 30;

/// A host with both of the driver's processes.
#[derive(Debug)]
pub struct Rig {
    /// The host.
    pub host: Host,
    /// The controller.
    pub controller: Process,
    /// The node plugin, while it runs.
    pub node: Option<Process>,
}

/// A host with the pool `p`, and the driver on it.
///
/// # Panics
///
/// When anything of it does not start.
#[must_use]
pub fn rig(test: &str) -> Rig {
    let host = Host::start(test);
    host.pool("p", 900 * MIB);
    let controller = host.start_csi_controller();
    let node = Some(host.start_csi_node(&[]));
    Rig {
        host,
        controller,
        node,
    }
}

impl Rig {
    /// A volume of this size, begun as an image if one is named.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[must_use]
    pub fn volume(&self, name: &str, image: &str, bytes: i64, how: csi::VolumeCapability) -> Use {
        let parameters = [("image".to_owned(), image.to_owned())];
        let parameters = parameters
            .into_iter()
            .filter(|(_, image)| !image.is_empty());
        let volume = self.host.csi_create(csi::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![how.clone()],
            parameters: parameters.collect(),
            ..Default::default()
        });
        let volume = volume.unwrap_or_else(|e| panic!("{e:?}\n{}", self.host.csi_logs()));
        self.host.csi_use(&volume.volume_id, how)
    }

    /// A clone of twice the size that all sources here have.
    ///
    /// # Panics
    ///
    /// When it is refused.
    #[must_use]
    pub fn larger_clone(&self, of: &Use) -> Use {
        let source = csi::volume_content_source::VolumeSource {
            volume_id: of.volume.clone(),
        };
        let clone = self.host.csi_create(csi::CreateVolumeRequest {
            name: "c".into(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: 2 * GIB,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![of.capability.clone()],
            volume_content_source: Some(csi::VolumeContentSource {
                r#type: Some(csi::volume_content_source::Type::Volume(source)),
            }),
            ..Default::default()
        });
        let clone = self.fine("clone", clone).volume_id;
        self.host.csi_use(&clone, of.capability.clone())
    }

    /// What was answered; nothing is refused.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn fine<T>(&self, what: &str, answer: Result<T, Status>) -> T {
        answer.unwrap_or_else(|e| panic!("{what}: {e:?}\n{}", self.host.csi_logs()))
    }

    /// Stages and publishes.
    pub fn up(&self, u: &Use) {
        self.fine("stage", self.host.stage(u));
        self.fine("publish", self.host.publish(u, false));
    }

    /// Takes both back.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn down(&self, u: &Use) {
        self.fine("unpublish", self.host.unpublish(u));
        assert!(!u.target.exists(), "the target is left");
        self.fine("unstage", self.host.unstage(u));
    }

    /// What is mounted for a volume, as the kernel names it.
    ///
    /// # Panics
    ///
    /// When nothing is.
    #[must_use]
    pub fn kind(&self, u: &Use) -> String {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let target = u.target.display().to_string();
        let mut fields = mounts.lines().map(|line| line.split(' '));
        let found = fields.find_map(|mut f| (f.nth(1)? == target).then(|| f.next())?);
        found
            .unwrap_or_else(|| panic!("nothing on {target}\n{}", self.host.csi_logs()))
            .into()
    }

    /// The path of a volume's device, which is active.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[must_use]
    pub fn device(&self, name: &str) -> String {
        let volume = self.host.volume(name).expect("a volume");
        volume.activation.expect("an active one").device_path
    }

    /// Deletes a volume.
    pub fn delete(&self, u: &Use) {
        self.fine("delete", self.host.csi_delete(&u.volume));
    }

    /// Stops everything, and sees that nothing is left.
    pub fn end(self) {
        self.end_after(&[]);
    }

    /// As [`Self::end`], where these words are expected in the logs.
    ///
    /// # Panics
    ///
    /// When something is left or unexpected.
    pub fn end_after(self, expected: &[&str]) {
        for mut process in self.node.into_iter().chain([self.controller]) {
            assert!(process.stop().success(), "{}", self.host.csi_logs());
        }
        self.host.end_after(expected);
    }
}

/// The size of a volume that is published, as it is seen there.
#[must_use]
pub fn total(rig: &Rig, u: &Use) -> i64 {
    let stats = rig.fine("stats", rig.host.stats(u));
    stats[0].total
}

/// The code of a refusal.
///
/// # Panics
///
/// When it is none.
pub fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map(drop).expect_err("not refused").code()
}
