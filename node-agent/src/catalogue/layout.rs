//! Where on its devices a pool keeps what. Pure: sizes in, labels out.
//!
//! Called when a pool is made. Every device begins with the MiB of its labels. Data device 0 then
//! has the catalogue, the metadata unless that has a device of its own, and data; data device 1 has
//! room for the catalogue's twin, and data; the others have data alone. Data begins at a multiple
//! of the block size and is a multiple of it, so that no block crosses from one device to the next.

use goldleaf_dm::{METADATA_BLOCK, METADATA_BLOCKS_MAX};
use goldleaf_types::{BlockSize, Bytes, Name, PoolId, Sectors};

use super::label::{FEATURE_TWIN, HEADER_BYTES, Label, Region, RegionKind, Role};

/// The most metadata that the kernel uses, in bytes. Pools that were made with more keep it.
pub const METADATA_MAX: u64 = METADATA_BLOCKS_MAX * METADATA_BLOCK;

const METADATA_MIN: u64 = 32 << 20;
const METADATA_BASE: u64 = 16 << 20;
pub(super) const METADATA_PER_BLOCK: u64 = 64;

const CATALOGUE_SHARE: u64 = 256;
const CATALOGUE_MIN: u64 = 16 << 20;
const CATALOGUE_MAX: u64 = 1 << 30;

/// No device is larger: sums of them stay far from overflowing.
const DEVICE_MAX: u64 = 1 << 56;
pub(super) const DEVICES_MAX: usize = 256;

/// A device to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedDevice {
    /// Its size.
    pub size: Bytes,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    block: BlockSize,
    /// Each data device's size and regions, in order.
    data: Vec<(Bytes, Vec<Region>)>,
    metadata: Option<(Bytes, Vec<Region>)>,
}

/// Why devices make no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No data device was given.
    #[error("a pool needs a data device")]
    NoDataDevice,
    /// Too many were given.
    #[error("a pool has at most {DEVICES_MAX} data devices")]
    TooManyDevices,
    /// A device is larger than anything there is.
    #[error("{device} says that it has {size}: more than 64 PiB is not served")]
    TooLarge {
        /// Which.
        device: String,
        /// Its size.
        size: Bytes,
    },
    /// A device is too small.
    #[error("{device} has {size} and needs at least {smallest}")]
    TooSmall {
        /// Which.
        device: String,
        /// Its size.
        size: Bytes,
        /// The smallest size that works beside the other devices as they are.
        smallest: Bytes,
    },
    /// New room does not have what was asked of it.
    #[error("{asked} of metadata were asked for and the new room has {room}: add a larger device")]
    NoRoomForMetadata {
        /// What was asked for.
        asked: Bytes,
        /// What there is.
        room: Bytes,
    },
    /// A device grew too often in between others.
    #[error("{device} has no place for another region in its label: add a device instead")]
    TooManyRegions {
        /// Which.
        device: String,
    },
    /// The data has more blocks than the kernel's metadata can describe.
    #[error("the devices have {blocks} blocks, more than metadata can hold: use larger blocks")]
    TooManyBlocks {
        /// How many.
        blocks: u64,
    },
}

/// Plans a pool's devices.
///
/// # Errors
///
/// [`LayoutError`], which names the device and the smallest size that works.
pub fn plan_layout(
    data: &[PlannedDevice],
    metadata: Option<PlannedDevice>,
    block: BlockSize,
) -> Result<Layout, LayoutError> {
    let first = data.first().ok_or(LayoutError::NoDataDevice)?;
    if data.len() > DEVICES_MAX {
        return Err(LayoutError::TooManyDevices);
    }
    let names = (0..data.len()).map(|i| format!("data device {i}"));
    let named = names
        .chain(["the metadata device".to_owned()])
        .zip(data.iter().chain(&metadata));
    for (device, planned) in named {
        if planned.size.0 > DEVICE_MAX {
            return Err(LayoutError::TooLarge {
                device,
                size: planned.size,
            });
        }
    }
    let others: u64 = data[1..].iter().map(|d| d.size.0 / block.bytes().0).sum();
    let catalogue = catalogue_bytes(first.size.0);
    let mut planned = Vec::with_capacity(data.len());
    for (index, device) in data.iter().enumerate() {
        // What lies between the labels and the data, on a device of this size.
        let before = |size: u64| -> Vec<(RegionKind, u64)> {
            match index {
                0 => {
                    let catalogue = (RegionKind::Catalogue, catalogue_bytes(size));
                    let blocks = size / block.bytes().0 + others;
                    let carved = (RegionKind::Metadata, metadata_bytes(blocks));
                    let twin = catalogue; // On the only device there is: bad sectors are local.
                    std::iter::once(catalogue)
                        .chain(metadata.is_none().then_some(carved))
                        .chain((data.len() == 1).then_some(twin))
                        .collect()
                }
                1 => vec![(RegionKind::Catalogue, catalogue)],
                _ => vec![],
            }
        };
        let regions =
            with_data(device.size.0, block, &before).map_err(|smallest| LayoutError::TooSmall {
                device: format!("data device {index}"),
                size: device.size,
                smallest: Bytes(smallest),
            })?;
        planned.push((device.size, regions));
    }
    let blocks = first.size.0 / block.bytes().0 + others;
    if METADATA_PER_BLOCK * blocks > METADATA_MAX {
        return Err(LayoutError::TooManyBlocks { blocks });
    }
    let metadata = match metadata {
        None => None,
        Some(device) => Some((device.size, vec![whole_metadata(device.size, blocks)?])),
    };
    Ok(Layout {
        block,
        data: planned,
        metadata,
    })
}

impl Layout {
    /// The labels: the data devices' in order, then the metadata device's.
    #[must_use]
    pub fn labels(&self, pool: PoolId, name: &Name, owner_host: [u8; 16]) -> Vec<Label> {
        let count = |n: usize| u32::try_from(n).expect("bounded by DEVICES_MAX");
        let label = |role, index, (size, regions): &(Bytes, Vec<Region>)| Label {
            pool,
            pool_name: name.as_str().to_owned(),
            role,
            index: count(index),
            data_count: count(self.data.len()),
            metadata_count: count(self.metadata.iter().len()),
            layout_generation: 1,
            owner_host,
            claimed: jiff::Timestamp::now().as_second(),
            clean: false,
            compatible: 0,
            incompatible: FEATURE_TWIN,
            device_size: sectors(size.0),
            block_size: self.block,
            regions: regions.clone(),
        };
        let data = self
            .data
            .iter()
            .enumerate()
            .map(|(i, device)| label(Role::Data, i, device));
        data.chain(
            self.metadata
                .iter()
                .map(|device| label(Role::Metadata, 0, device)),
        )
        .collect()
    }
}

/// 1/256 of data device 0, from 16 MiB to 1 GiB.
fn catalogue_bytes(device: u64) -> u64 {
    round_down(device / CATALOGUE_SHARE, METADATA_BLOCK).clamp(CATALOGUE_MIN, CATALOGUE_MAX)
}

/// 64 bytes for each block of data and 16 MiB besides, from 32 MiB to [`METADATA_MAX`]: twice
/// what one full volume needs, for the snapshots.
pub(super) fn metadata_bytes(blocks: u64) -> u64 {
    let wanted = round_up(METADATA_PER_BLOCK * blocks + METADATA_BASE, METADATA_BLOCK);
    wanted.clamp(METADATA_MIN, METADATA_MAX)
}

/// The regions of a device that ends in data, or the smallest size that has room for a block.
fn with_data(
    size: u64,
    block: BlockSize,
    before: &dyn Fn(u64) -> Vec<(RegionKind, u64)>,
) -> Result<Vec<Region>, u64> {
    let block = block.bytes().0;
    let data_start = |size: u64| {
        round_up(
            HEADER_BYTES + before(size).iter().map(|(_, len)| len).sum::<u64>(),
            block,
        )
    };
    let start = data_start(size);
    if size < start + block {
        // What lies before the data only grows with the size, so this comes to rest at the
        // smallest size that has room.
        let mut smallest = 0;
        while smallest < data_start(smallest) + block {
            smallest = data_start(smallest) + block;
        }
        return Err(smallest);
    }
    let mut at = HEADER_BYTES;
    let mut regions = Vec::new();
    for (kind, len) in before(size) {
        regions.push(Region {
            kind,
            start: sectors(at),
            len: sectors(len),
            order: 0,
        });
        at += len;
    }
    let len = round_down(size - start, block);
    regions.push(Region {
        kind: RegionKind::Data,
        start: sectors(start),
        len: sectors(len),
        order: 0,
    });
    Ok(regions)
}

/// All of a metadata device that the kernel will use.
fn whole_metadata(size: Bytes, blocks: u64) -> Result<Region, LayoutError> {
    let smallest = HEADER_BYTES + metadata_bytes(blocks);
    if size.0 < smallest {
        let device = "the metadata device".to_owned();
        return Err(LayoutError::TooSmall {
            device,
            size,
            smallest: Bytes(smallest),
        });
    }
    let len = round_down(size.0 - HEADER_BYTES, METADATA_BLOCK).min(METADATA_MAX);
    Ok(Region {
        kind: RegionKind::Metadata,
        start: sectors(HEADER_BYTES),
        len: sectors(len),
        order: 0,
    })
}

const fn sectors(bytes: u64) -> Sectors {
    Sectors(bytes / goldleaf_types::SECTOR)
}

pub(super) const fn round_up(bytes: u64, unit: u64) -> u64 {
    bytes.div_ceil(unit) * unit
}

pub(super) const fn round_down(bytes: u64, unit: u64) -> u64 {
    bytes / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn devices(sizes: &[u64]) -> Vec<PlannedDevice> {
        sizes
            .iter()
            .map(|size| PlannedDevice { size: Bytes(*size) })
            .collect()
    }

    fn labels(layout: &Layout) -> Vec<Label> {
        layout.labels(PoolId::from_bytes([7; 16]), &"p1".parse().unwrap(), [9; 16])
    }

    #[test]
    fn one_device_carries_both_copies_of_the_catalogue_metadata_and_data() {
        let layout = plan_layout(&devices(&[100 * GIB]), None, BlockSize::DEFAULT).unwrap();
        let labels = labels(&layout);
        let regions: Vec<_> = labels[0]
            .regions
            .iter()
            .map(|r| (r.kind, r.start.bytes().0, r.len.bytes().0))
            .collect();
        let metadata = 64 * (100 * GIB / 65_536) + (16 << 20);
        let start = (1 << 20) + (800 << 20) + metadata;
        assert_eq!(
            regions,
            [
                (RegionKind::Catalogue, 1 << 20, 400 << 20),
                (RegionKind::Metadata, 401 << 20, metadata),
                (RegionKind::Catalogue, (401 << 20) + metadata, 400 << 20),
                (RegionKind::Data, start, 100 * GIB - start),
            ]
        );
    }

    #[test]
    fn a_second_device_carries_the_twin() {
        let data = devices(&[8 * GIB, 4 * GIB, 4 * GIB]);
        let meta = Some(PlannedDevice {
            size: Bytes(20 * GIB),
        });
        let labels = labels(&plan_layout(&data, meta, BlockSize::DEFAULT).unwrap());
        let kinds = |i: usize| labels[i].regions.iter().map(|r| r.kind).collect::<Vec<_>>();
        assert_eq!(kinds(0), [RegionKind::Catalogue, RegionKind::Data]);
        assert_eq!(labels[0].regions[0], labels[1].regions[0]);
        assert_eq!(kinds(2), [RegionKind::Data]);
        assert_eq!(labels[3].role, Role::Metadata);
        assert_eq!(
            labels[3].regions[0].len.bytes().0,
            METADATA_MAX,
            "the kernel uses no more"
        );
        assert!(
            labels
                .iter()
                .all(|l| (l.data_count, l.metadata_count) == (3, 1))
        );
    }

    #[test]
    fn devices_that_cannot_serve_are_named() {
        assert_eq!(
            plan_layout(&[], None, BlockSize::DEFAULT),
            Err(LayoutError::NoDataDevice)
        );
        let data = devices(&[GIB, 1 << 20]);
        let error = plan_layout(&data, None, BlockSize::DEFAULT).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("data device 1 has 1 MiB and needs"),
            "{error}"
        );
        let small = Some(PlannedDevice {
            size: Bytes(1 << 20),
        });
        let error = plan_layout(&devices(&[GIB]), small, BlockSize::DEFAULT).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the metadata device has 1 MiB"),
            "{error}"
        );
        let error = plan_layout(&devices(&[DEVICE_MAX]), None, BlockSize::DEFAULT).unwrap_err();
        assert!(
            matches!(error, LayoutError::TooManyBlocks { .. }),
            "{error}"
        );
        let error = plan_layout(&devices(&[u64::MAX]), None, BlockSize::DEFAULT).unwrap_err();
        assert!(matches!(error, LayoutError::TooLarge { .. }), "{error}");
    }

    fn block() -> impl Strategy<Value = BlockSize> {
        prop_oneof![Just(1u64), 1u64..64, Just(16_384)]
            .prop_map(|n| BlockSize::new(n << 16).unwrap())
    }

    proptest! {
        #[test]
        fn regions_lie_apart_inside_and_aligned(
            sizes in proptest::collection::vec(1u64..(8 << 40), 1..5),
            separate in proptest::option::of(1u64..(32 << 30)),
            block in block(),
        ) {
            let meta = separate.map(|size| PlannedDevice { size: Bytes(size) });
            let Ok(layout) = plan_layout(&devices(&sizes), meta, block) else { return Ok(()) };
            let labels = labels(&layout);
            prop_assert_eq!(labels.len(), sizes.len() + usize::from(separate.is_some()));
            let mut metadata = Vec::new();
            let mut blocks = 0;
            for label in &labels {
                // Decoding checks that regions lie apart, after the labels and inside.
                prop_assert_eq!(&Label::decode(&label.encode().unwrap()).unwrap(), label);
                for region in &label.regions {
                    let (start, len) = (region.start.bytes().0, region.len.bytes().0);
                    match region.kind {
                        RegionKind::Data => {
                            prop_assert!(start.is_multiple_of(block.bytes().0));
                            prop_assert!(len.is_multiple_of(block.bytes().0));
                            blocks += len / block.bytes().0;
                        }
                        RegionKind::Metadata => metadata.push(len),
                        RegionKind::Catalogue => prop_assert!(len >= CATALOGUE_MIN),
                    }
                    prop_assert!(start.is_multiple_of(4096) && len.is_multiple_of(4096));
                }
            }
            prop_assert_eq!(metadata.len(), 1);
            prop_assert!((METADATA_MIN..=METADATA_MAX).contains(&metadata[0]));
            prop_assert!(metadata[0] == METADATA_MAX || metadata[0] >= 64 * blocks);
        }

        #[test]
        fn the_smallest_size_works_and_less_does_not(
            first in 0u64..(4 << 30),
            other in proptest::option::of((64 << 20)..(1u64 << 40)),
            block in block(),
        ) {
            let with = |size: u64| {
                let sizes: Vec<u64> = [size].into_iter().chain(other).collect();
                plan_layout(&devices(&sizes), None, block)
            };
            let too_small = |plan: &Result<Layout, LayoutError>| match plan {
                Err(LayoutError::TooSmall { device, smallest, .. }) if device == "data device 0" => {
                    Some(smallest.0)
                }
                Ok(_) | Err(_) => None,
            };
            if let Some(smallest) = too_small(&with(first)) {
                prop_assert_eq!(too_small(&with(smallest)), None);
                prop_assert!(too_small(&with(smallest - 1)).is_some());
                prop_assert!(first < smallest);
            }
        }
    }
}
