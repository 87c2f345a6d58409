//! Sizes as CSI asks for them: a least, a largest, both or none.

use csi_proto::v1 as csi;
use goldleaf_types::{SECTOR, VolumeSize};

use crate::status::CsiError;

/// The size of a blank volume when nobody says one: 1 GiB.
pub const DEFAULT: u64 = 1 << 30;

/// What a size is rounded up to when the bounds allow it: a page.
pub const UNIT: u64 = 4096;

/// The bounds of a size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// At least this; 0 is no bound.
    pub required: u64,
    /// At most this.
    pub limit: Option<u64>,
}

impl Range {
    /// Reads the bounds.
    ///
    /// # Errors
    ///
    /// [`CsiError::BadField`] for negative or contradictory ones, [`CsiError::OutOfRange`] for those
    /// that no volume can have.
    pub fn read(range: Option<&csi::CapacityRange>) -> Result<Self, CsiError> {
        const FIELD: &str = "capacity_range";
        let Some(range) = range else {
            return Ok(Self::default());
        };
        let bound = |bytes: i64| {
            u64::try_from(bytes).map_err(|_| CsiError::field(FIELD, "a size is not negative"))
        };
        let required = bound(range.required_bytes)?;
        let limit = Some(bound(range.limit_bytes)?).filter(|limit| *limit != 0);
        if limit.is_some_and(|limit| limit < required) {
            return Err(CsiError::field(
                FIELD,
                "limit_bytes is below required_bytes",
            ));
        }
        if required > VolumeSize::MAX {
            return Err(CsiError::OutOfRange("more than 64 PiB".into()));
        }
        Ok(Self { required, limit })
    }

    /// Whether a size is within the bounds.
    #[must_use]
    pub fn admits(&self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }

    /// The size of a new volume that needs at least `least` bytes, and gets `usual` when nothing
    /// is required.
    ///
    /// # Errors
    ///
    /// [`CsiError::OutOfRange`] when the bounds leave none.
    pub fn choose(&self, least: u64, usual: u64) -> Result<u64, CsiError> {
        if self.required != 0 && self.required < least {
            return Err(CsiError::OutOfRange(format!(
                "{} bytes are asked and the source has {least}: ask for at least that",
                self.required
            )));
        }
        let wanted = match self.required {
            0 => self.limit.map_or(usual, |limit| limit.min(usual)),
            required => required,
        };
        let wanted = wanted.max(least).max(SECTOR);
        self.fit(wanted).ok_or_else(|| {
            CsiError::OutOfRange(format!(
                "no size of at least {wanted} bytes in whole sectors of {SECTOR} is within \
                 limit_bytes"
            ))
        })
    }

    /// The nearest size from `wanted` on that is whole pages, or else whole sectors.
    fn fit(&self, wanted: u64) -> Option<u64> {
        let rounded = |unit| wanted.checked_next_multiple_of(unit);
        [rounded(UNIT), rounded(SECTOR)]
            .into_iter()
            .flatten()
            .find(|size| *size <= VolumeSize::MAX && self.limit.is_none_or(|limit| *size <= limit))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A size that is chosen is one that a volume can have, is within the bounds, and holds
        /// the source; and one is found whenever a whole number of sectors fits.
        #[test]
        fn a_chosen_size_fits(required in 0..1_u64 << 40, room in 0..1_u64 << 20,
                least in prop_oneof![Just(0), 1..1_u64 << 40]) {
            let least = least.next_multiple_of(SECTOR);
            let range = Range { required, limit: Some(required + room).filter(|l| *l != 0) };
            match range.choose(least, DEFAULT) {
                Ok(size) => {
                    prop_assert!(VolumeSize::new(size).is_ok());
                    prop_assert!(range.admits(size) && size >= least);
                }
                Err(_) => {
                    let smallest = required.max(least).max(SECTOR).next_multiple_of(SECTOR);
                    let fits = range.admits(smallest) && (required == 0 || required >= least);
                    prop_assert!(!fits, "{smallest} fits {range:?}");
                }
            }
        }
    }

    #[test]
    fn without_a_wish_a_volume_gets_the_usual_size_or_what_the_limit_leaves() {
        assert_eq!(Range::default().choose(0, DEFAULT).unwrap(), DEFAULT);
        let small = Range {
            required: 0,
            limit: Some(1 << 20),
        };
        assert_eq!(small.choose(0, DEFAULT).unwrap(), 1 << 20);
    }
}
