//! Sizes with their units in the type.

use std::fmt;
use std::str::FromStr;

/// Bytes in a sector, the unit of every device-mapper table.
pub const SECTOR: u64 = 512;

/// A number that is out of its type's range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value} {problem}")]
pub struct BadSize {
    /// What was given.
    pub value: u64,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

/// A number of bytes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One binary megabyte.
    pub const MIB: Self = Self(1 << 20);
    /// One binary gigabyte.
    pub const GIB: Self = Self(1 << 30);

    /// The same length in sectors, unless it ends inside one.
    #[must_use]
    pub const fn exact_sectors(self) -> Option<Sectors> {
        if self.0.is_multiple_of(SECTOR) {
            Some(Sectors(self.0 / SECTOR))
        } else {
            None
        }
    }
}

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBytes {
    /// It is no number with a unit that we know.
    #[error("want a whole number of bytes, or one with K, M, G, T or P")]
    NoSize,
    /// Its unit means 10^9 to some and 2^30 to others.
    #[error("write K, M, G, T or P, or KiB, MiB...: powers of 1024")]
    Ambiguous,
    /// It does not fit.
    #[error("too large: at most 2^64 - 1 bytes")]
    TooLarge,
}

impl FromStr for Bytes {
    type Err = BadBytes;

    /// Reads what people write: K, M, G, T, P, or KiB, MiB..., powers of 1024 as a disk's sizes are.
    fn from_str(text: &str) -> Result<Self, BadBytes> {
        let text = text.trim();
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let shift = match unit.trim_start().to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            "P" | "PIB" => 50,
            "KB" | "MB" | "GB" | "TB" | "PB" => return Err(BadBytes::Ambiguous),
            _ => return Err(BadBytes::NoSize),
        };
        let digits = &text[..text.len() - unit.len()];
        if digits.is_empty() {
            return Err(BadBytes::NoSize);
        }
        let number: u64 = digits.parse().map_err(|_| BadBytes::TooLarge)?;
        let bytes = number.checked_mul(1 << shift).ok_or(BadBytes::TooLarge)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit that divides it, so that nothing is rounded away.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// A number of 512-byte sectors.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The same length in bytes. Saturates, which no device reaches.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0.saturating_mul(SECTOR))
    }
}

/// A volume's size: a multiple of 512 bytes, from 512 bytes to 64 PiB.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct VolumeSize(u64);

impl VolumeSize {
    /// The largest size, in bytes.
    pub const MAX: u64 = 1 << 56;

    /// Checks a size in bytes.
    ///
    /// # Errors
    ///
    /// [`BadSize`] when it is 0, no multiple of 512, or above [`Self::MAX`].
    pub const fn new(bytes: u64) -> Result<Self, BadSize> {
        let problem = if bytes == 0 {
            "is no size: want a multiple of 512 above 0"
        } else if !bytes.is_multiple_of(SECTOR) {
            "is not a multiple of 512: round it up"
        } else if bytes > Self::MAX {
            "is more than 64 PiB"
        } else {
            return Ok(Self(bytes));
        };
        Err(BadSize {
            value: bytes,
            problem,
        })
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0)
    }

    /// In sectors, exactly.
    #[must_use]
    pub const fn sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR)
    }
}

impl TryFrom<u64> for VolumeSize {
    type Error = BadSize;

    fn try_from(bytes: u64) -> Result<Self, BadSize> {
        Self::new(bytes)
    }
}

impl From<VolumeSize> for u64 {
    fn from(size: VolumeSize) -> u64 {
        size.0
    }
}

/// What a pool allocates at a time: 64 KiB to 1 GiB, a multiple of 64 KiB, fixed for its life.
///
/// Source: Linux `Documentation/admin-guide/device-mapper/thin-provisioning.rst`, "Setting up a
/// fresh pool device".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct BlockSize(u64);

impl BlockSize {
    /// What a pool gets when nobody asks: equal to the discard granularity that guests are told.
    pub const DEFAULT: Self = Self(64 << 10);

    /// Checks a block size in bytes.
    ///
    /// # Errors
    ///
    /// [`BadSize`] outside 64 KiB to 1 GiB, or when no multiple of 64 KiB.
    pub const fn new(bytes: u64) -> Result<Self, BadSize> {
        if bytes >= 64 << 10 && bytes <= 1 << 30 && bytes.is_multiple_of(64 << 10) {
            Ok(Self(bytes))
        } else {
            Err(BadSize {
                value: bytes,
                problem: "is no block size: want 64 KiB to 1 GiB, a multiple of 64 KiB",
            })
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0)
    }

    /// In sectors.
    #[must_use]
    pub const fn sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR)
    }
}

impl TryFrom<u64> for BlockSize {
    type Error = BadSize;

    fn try_from(bytes: u64) -> Result<Self, BadSize> {
        Self::new(bytes)
    }
}

impl From<BlockSize> for u64 {
    fn from(size: BlockSize) -> u64 {
        size.0
    }
}

/// The number dm-thin knows a volume by inside one pool; 24 bits wide.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "u32", into = "u32")]
pub struct ThinId(u32);

impl ThinId {
    /// The largest id the kernel takes.
    pub const MAX: u32 = (1 << 24) - 1;

    /// Checks a thin id.
    ///
    /// # Errors
    ///
    /// [`BadSize`] above [`Self::MAX`].
    pub const fn new(raw: u32) -> Result<Self, BadSize> {
        if raw <= Self::MAX {
            Ok(Self(raw))
        } else {
            Err(BadSize {
                value: raw as u64,
                problem: "is no thin id: the kernel has 24 bits",
            })
        }
    }

    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for ThinId {
    type Error = BadSize;

    fn try_from(raw: u32) -> Result<Self, BadSize> {
        Self::new(raw)
    }
}

impl From<ThinId> for u32 {
    fn from(id: ThinId) -> u32 {
        id.0
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_that_no_device_can_have_are_refused() {
        for bad in [0, 1, 511, 513, VolumeSize::MAX + 512, u64::MAX] {
            assert!(VolumeSize::new(bad).is_err(), "{bad} passed");
        }
        for bad in [0, 512, 65_535, 65_537, 96 << 10, (1 << 30) + (64 << 10)] {
            assert!(BlockSize::new(bad).is_err(), "{bad} passed");
        }
        assert!(ThinId::new(ThinId::MAX + 1).is_err());
        assert!(serde_json::from_str::<ThinId>("16777216").is_err());
    }

    #[test]
    fn sizes_carry_their_units() {
        let read = |text: &str| text.parse::<Bytes>();
        assert_eq!(read("100G"), Ok(Bytes(100 << 30)));
        assert_eq!(read("5MiB"), Ok(Bytes(5 << 20)));
        assert_eq!(read("1 p"), Ok(Bytes(1 << 50)));
        assert_eq!(read("512"), Ok(Bytes(512)));
        for bad in ["", "G", "1X", "-1", "5IB", "1.5G"] {
            assert_eq!(read(bad), Err(BadBytes::NoSize), "{bad:?}");
        }
        assert_eq!(read("1GB"), Err(BadBytes::Ambiguous));
        for large in ["99999999999T", "99999999999999999999"] {
            assert_eq!(read(large), Err(BadBytes::TooLarge), "{large:?}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_size_is_whole_sectors(sectors in 1..=VolumeSize::MAX / SECTOR) {
            let size = VolumeSize::new(sectors * SECTOR).unwrap();
            prop_assert_eq!(size.sectors().bytes(), size.bytes());
        }

        #[test]
        fn printing_a_size_loses_nothing(bytes in any::<u64>()) {
            let text = Bytes(bytes).to_string();
            prop_assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)));
        }
    }
}
