//! Every dm name and UUID that Goldleaf uses, made in this one file from ids, never from what
//! users call things.
//!
//! The kernel takes names of at most 127 bytes and UUIDs of at most 128. Our longest is an image's:
//! "goldleaf-image-" and 64 digits are 79 bytes; a pool's part, "goldleaf-pool-", 32 digits and
//! "-tmeta", is 52. So the bound holds by construction.

use std::fmt;

use goldleaf_types::{Digest, PoolId, ThinId, ThinOwner};

const NAME_PREFIX: &str = "goldleaf-";
const UUID_PREFIX: &str = goldleaf_types::DEVICE_UUID_PREFIX;

/// A device's name: 1 to 127 bytes without `/` and NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmName(String);

/// A device's UUID: 1 to 128 bytes without NUL; never reused while the device lives.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmUuid(String);

impl DmName {
    /// A name for a device that is not Goldleaf's own, as tests make.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let ok = (1..=127).contains(&text.len()) && !text.contains(['/', '\0']);
        ok.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DmUuid {
    /// A UUID for a device that is not Goldleaf's own, as tests make.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let ok = (1..=128).contains(&text.len()) && !text.contains('\0');
        ok.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for DmUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DmUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What one of Goldleaf's devices is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owned {
    /// A pool's thin-pool.
    Pool(PoolId),
    /// The linear device under a pool's metadata.
    PoolMetadata(PoolId),
    /// The linear device under a pool's data.
    PoolData(PoolId),
    /// A thin of a volume or snapshot.
    Thin(ThinOwner),
    /// An image: the origin of thins.
    Image(Digest),
    /// A private device over a thin, for a look or for work on it; never anybody's device.
    Probe(PoolId, ThinId),
}

impl Owned {
    fn core(self) -> String {
        match self {
            Self::Pool(id) => format!("{id}-pool"),
            Self::PoolMetadata(id) => format!("{id}-tmeta"),
            Self::PoolData(id) => format!("{id}-tdata"),
            Self::Thin(owner) => owner.to_string(),
            Self::Image(digest) => format!("image-{}", digest.hex()),
            Self::Probe(pool, thin) => format!("probe-{pool}-{thin}"),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> DmName {
        DmName(format!("{NAME_PREFIX}{}", self.core()))
    }

    /// Its UUID.
    #[must_use]
    pub fn uuid(self) -> DmUuid {
        DmUuid(format!("{UUID_PREFIX}{}", self.core()))
    }

    /// What a device of this UUID is; `None` for anybody else's.
    #[must_use]
    pub fn from_uuid(uuid: &str) -> Option<Self> {
        let core = uuid.strip_prefix(UUID_PREFIX)?;
        if let Some(hex) = core.strip_prefix("image-") {
            return hex.parse().ok().map(Self::Image);
        }
        if let Some(text) = core.strip_prefix("probe-") {
            let (pool, thin) = text.rsplit_once('-')?;
            let thin = ThinId::new(thin.parse().ok()?).ok()?;
            return Some(Self::Probe(pool.parse().ok()?, thin));
        }
        for (suffix, make) in [
            ("-pool", Self::Pool as fn(PoolId) -> Self),
            ("-tmeta", Self::PoolMetadata),
            ("-tdata", Self::PoolData),
        ] {
            if let Some(id) = core.strip_suffix(suffix) {
                return id.parse().ok().map(make);
            }
        }
        core.parse().ok().map(Self::Thin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use goldleaf_types::{SnapshotId, VolumeId};

    #[test]
    fn a_uuid_tells_what_the_device_is_and_names_stay_in_bounds() {
        let pool = PoolId::mint();
        for owned in [
            Owned::Pool(pool),
            Owned::PoolMetadata(pool),
            Owned::PoolData(pool),
            Owned::Thin(VolumeId::mint().into()),
            Owned::Thin(SnapshotId::mint().into()),
            Owned::Image(Digest::from_bytes([7; 32])),
            Owned::Probe(pool, ThinId::new(0xff_ffff).unwrap()),
        ] {
            assert_eq!(Owned::from_uuid(owned.uuid().as_str()), Some(owned));
            assert!(DmName::new(owned.name().as_str()).is_some());
            assert!(DmUuid::new(owned.uuid().as_str()).is_some());
        }
        for other in [
            "",
            "LVM-abc",
            "GOLDLEAF-",
            "GOLDLEAF-vol-1",
            "goldleaf-image-00",
            "GOLDLEAF-probe-1",
        ] {
            assert_eq!(Owned::from_uuid(other), None);
        }
    }
}
