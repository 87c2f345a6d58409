//! The doctor: what this host has, compared with what its records say.
//!
//! Called by `grpc`. Looking changes nothing. Each finding says what is wrong, why that is thought,
//! and what to do; `mend` does what can be done without losing anything, on request, and only after
//! it has found the same again. Data of unknown owner is quarantined first and deleted only by a
//! second request that names it. Everything is idempotent: a crash leaves the finding, or nothing.

mod devices;
mod files;
mod mending;
mod pools;

pub use mending::{Mended, Outcome};

use std::fmt;
use std::path::PathBuf;

use goldleaf_dm::Owned;
use goldleaf_types::{PoolId, ThinId, ThinOwner};

use super::Agent;
use super::scan::Look;
use crate::preflight;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Notice,
    /// Something is left over or unfinished; nothing is lost.
    Warning,
    /// Data cannot be reached, or is lost.
    Error,
}

/// What kind of thing was found. Its name is what programs look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The host lacks something.
    HostLacks,
    /// A pool of this host does not open.
    PoolNotOpen,
    /// A pool takes no change.
    PoolReadOnly,
    /// A pool has no room for new data.
    PoolFull,
    /// One copy of a pool's catalogue cannot be used.
    CatalogueDegraded,
    /// A row says that there is data, and the pool's metadata has none.
    LostThin,
    /// A repair of a pool's metadata did not bring back a part of a volume or snapshot.
    ShortenedThin,
    /// The metadata has a thin that no row owns.
    UnknownThin,
    /// A thin that a rescue shows by its number alone.
    RescuedThin,
    /// A thin of unknown owner that nothing will touch.
    QuarantinedThin,
    /// A row whose operation did not come to its end.
    UnfinishedRow,
    /// A device without a row, or of a pool that is not open.
    StrayDevice,
    /// A device that nobody wants any more.
    UnwantedDevice,
    /// A device whose I/O is stopped.
    SuspendedDevice,
    /// A device over another thin, origin or length than its row says.
    WrongDevice,
    /// A live volume that its link does not lead to.
    WrongLink,
    /// A link to a volume that is not live.
    StrayLink,
    /// A loop device that nothing uses.
    StrayLoop,
    /// An image that volumes need is not on this host.
    ImageMissing,
    /// An image is not what it was when it was recorded.
    ImageChanged,
}

impl Code {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::HostLacks => "HostLacks",
            Self::PoolNotOpen => "PoolNotOpen",
            Self::PoolReadOnly => "PoolReadOnly",
            Self::PoolFull => "PoolFull",
            Self::CatalogueDegraded => "CatalogueDegraded",
            Self::LostThin => "LostThin",
            Self::ShortenedThin => "ShortenedThin",
            Self::UnknownThin => "UnknownThin",
            Self::RescuedThin => "RescuedThin",
            Self::QuarantinedThin => "QuarantinedThin",
            Self::UnfinishedRow => "UnfinishedRow",
            Self::StrayDevice => "StrayDevice",
            Self::UnwantedDevice => "UnwantedDevice",
            Self::SuspendedDevice => "SuspendedDevice",
            Self::WrongDevice => "WrongDevice",
            Self::WrongLink => "WrongLink",
            Self::StrayLink => "StrayLink",
            Self::StrayLoop => "StrayLoop",
            Self::ImageMissing => "ImageMissing",
            Self::ImageChanged => "ImageChanged",
        }
    }
}

/// What can be done about a finding without losing anything that has an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Keep everybody's hands off a thin of unknown owner.
    Quarantine(PoolId, ThinId),
    /// Delete a quarantined thin and what it holds.
    DeleteThin(PoolId, ThinId),
    /// Remove a device that nobody holds open.
    RemoveDevice(Owned),
    /// No longer say that a repair lost a part of it: somebody has seen to that.
    ForgetLoss(PoolId, ThinOwner),
    /// Bring a row to what it says: finish it, resume its device or take that away.
    Settle(PoolId, ThinOwner),
    /// Remove a link.
    RemoveLink(PathBuf),
    /// Detach a loop device.
    DetachLoop(PathBuf),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quarantine(pool, thin) => write!(f, "quarantine thin {thin} of {pool}"),
            Self::DeleteThin(pool, thin) => {
                write!(f, "delete thin {thin} of {pool} and all that it holds")
            }
            Self::RemoveDevice(device) => write!(f, "remove device {}", device.name()),
            Self::ForgetLoss(_, owner) => write!(f, "take {owner} for whole again"),
            Self::Settle(_, owner) => write!(f, "bring {owner} to what its record says"),
            Self::RemoveLink(path) => write!(f, "remove link {}", path.display()),
            Self::DetachLoop(path) => write!(f, "detach {}", path.display()),
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// What it is about: an id, a device, a path.
    pub subject: String,
    /// What was seen, and against what.
    pub reason: String,
    /// What a person does about it.
    pub advice: String,
    /// What [`Agent::mend`] would do; none when that takes a person.
    pub remedy: Option<Remedy>,
}

impl Finding {
    /// Names the finding: the same as long as it lasts.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.code.word(), self.subject)
    }
}

impl Agent {
    /// Looks at everything. Changes nothing; reads each pool's metadata once, and an image's
    /// content only if it looks changed. Blocks.
    #[must_use]
    pub fn examine(&self) -> Vec<Finding> {
        let mut found = host();
        found.extend(self.examine_closed_pools());
        for pool in self.pools.all_open() {
            found.extend(self.examine_pool(&pool));
        }
        found.extend(self.examine_devices());
        found.extend(self.examine_images());
        found.extend(self.examine_loops());
        found.extend(self.examine_links());
        found.sort_by(|a, b| {
            (b.severity, a.code, &a.subject).cmp(&(a.severity, b.code, &b.subject))
        });
        found
    }

    fn examine_closed_pools(&self) -> Vec<Finding> {
        pools::closed(&self.pools(Look::Everywhere))
    }
}

fn host() -> Vec<Finding> {
    let lacking = preflight::checks().into_iter().filter(|check| !check.ok);
    lacking
        .map(|check| Finding {
            code: Code::HostLacks,
            severity: Severity::Error,
            subject: check.subject.into(),
            reason: format!("found: {}", check.found),
            advice: check.remedy.into(),
            remedy: None,
        })
        .collect()
}
