//! A pool's layout after it grew. Pure: labels and sizes in, labels out.
//!
//! Called when a pool is extended, and when an extension that a crash cut short is taken back.
//! Every addition is a region of its own that carries the generation that added it, so the layout
//! before is the same labels without those regions; data device 0 says which generation holds.
//! What was mapped stays where it is: regions of a kind follow each other by generation first.

use goldleaf_dm::METADATA_BLOCK;
use goldleaf_types::{Bytes, SECTOR, Sectors};

use super::label::{GROWN, HEADER_BYTES, Label, REGIONS_MAX, Region, RegionKind, Role, WAS_SPARE};
use super::layout::{
    DEVICES_MAX, LayoutError, METADATA_MAX, METADATA_PER_BLOCK, metadata_bytes, round_down,
    round_up,
};

/// What a pool is to get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// The size of each device that it has, in the order of its labels; the same is no growth.
    pub sizes: Vec<Bytes>,
    /// New devices and what they are to be.
    pub added: Vec<(Role, Bytes)>,
    /// A spare that becomes a data device: the place of its label.
    pub spare: Option<usize>,
    /// How much more metadata at least, besides what the new data asks for.
    pub metadata: Bytes,
}

/// Room at the end of a device.
#[derive(Clone, Copy, Debug)]
struct Room {
    device: usize,
    start: u64,
    end: u64,
}

/// Plans a growth: the labels that the pool has, changed, and the new devices' after them. `None`
/// when there is no room that was not there before.
///
/// # Errors
///
/// [`LayoutError`] when the room does not serve for what was asked.
pub fn plan_growth(labels: &[Label], growth: &Growth) -> Result<Option<Vec<Label>>, LayoutError> {
    let first = labels.first().ok_or(LayoutError::NoDataDevice)?;
    let generation = first.layout_generation + 1;
    let mut grown = labels.to_vec();
    join(&mut grown);
    for (label, size) in grown.iter_mut().zip(&growth.sizes) {
        label.device_size = Sectors((size.0 / SECTOR).max(label.device_size.0));
    }
    if let Some(place) = growth.spare {
        let spare = &grown[place];
        let size = spare.device_size.bytes();
        let compatible = spare.compatible | WAS_SPARE;
        grown[place] = Label {
            compatible,
            ..added(&grown, Role::Data, size)?
        };
    }
    for (role, size) in &growth.added {
        let label = added(&grown, *role, *size)?;
        grown.push(label);
    }
    let count = |role| grown.iter().filter(|l| l.role == role).count();
    let (data, metadata) = (count(Role::Data), count(Role::Metadata));
    if data.max(metadata) > DEVICES_MAX {
        return Err(LayoutError::TooManyDevices);
    }
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let order = u32::try_from(generation).unwrap_or(u32::MAX);
    let new = fill(&mut grown, order, growth.metadata)?;
    let waits = growth.added.iter().any(|(role, _)| *role == Role::Spare);
    if !new && !waits {
        return Ok(None);
    }
    for label in &mut grown {
        label.layout_generation = generation;
        (label.data_count, label.metadata_count) = (number(data), number(metadata));
        label.incompatible |= GROWN;
        if label.regions.len() > REGIONS_MAX {
            return Err(LayoutError::TooManyRegions {
                device: format!("{} device {}", label.role, label.index),
            });
        }
    }
    Ok(Some(grown))
}

/// The label as it was before the growth to a generation that data device 0 does not have yet; a
/// spare that was to hold data is a spare again.
#[must_use]
pub fn taken_back(label: &Label, truth: &Label) -> Label {
    let generation = truth.layout_generation;
    let mut before = Label {
        layout_generation: generation,
        data_count: truth.data_count,
        metadata_count: truth.metadata_count,
        ..label.clone()
    };
    let counted = match label.role {
        Role::Data => label.index < truth.data_count,
        Role::Metadata => label.index < truth.metadata_count,
        Role::Spare => true,
    };
    if !counted && label.compatible & WAS_SPARE != 0 {
        before.role = Role::Spare;
        before.compatible &= !WAS_SPARE;
        before.regions.clear();
    }
    before
        .regions
        .retain(|region| u64::from(region.order) <= generation);
    before
}

/// The label of a new device, without room taken yet.
fn added(labels: &[Label], role: Role, size: Bytes) -> Result<Label, LayoutError> {
    let first = labels.first().ok_or(LayoutError::NoDataDevice)?;
    // Spares come and go from anywhere among them; the others only ever come.
    let last = labels.iter().filter(|l| l.role == role).map(|l| l.index);
    let index = last.max().map_or(0, |last| last + 1);
    let block = first.block_size.bytes().0;
    // A pool that has no twin of its catalogue gets the place of one.
    let mut copies = labels
        .iter()
        .flat_map(|l| &l.regions)
        .filter(|r| r.kind == RegionKind::Catalogue);
    let catalogue = copies
        .next()
        .filter(|_| copies.next().is_none() && role == Role::Data);
    let regions: Vec<_> = catalogue
        .map(|region| Region {
            start: Sectors(HEADER_BYTES / SECTOR),
            ..*region
        })
        .into_iter()
        .collect();
    let used = HEADER_BYTES + regions.iter().map(|r| r.len.bytes().0).sum::<u64>();
    let unit = match role {
        Role::Data => block,
        Role::Metadata | Role::Spare => METADATA_BLOCK,
    };
    let smallest = round_up(used, unit) + unit;
    if size.0 < smallest {
        return Err(LayoutError::TooSmall {
            device: format!("the new {role} device"),
            size,
            smallest: Bytes(smallest),
        });
    }
    Ok(Label {
        role,
        index,
        device_size: Sectors(size.0 / SECTOR),
        regions,
        compatible: 0,
        ..first.clone()
    })
}

/// Puts new regions into all room there is; false when there is none.
fn fill(labels: &mut [Label], order: u32, asked: Bytes) -> Result<bool, LayoutError> {
    let block = labels[0].block_size.bytes().0;
    let sum = |labels: &[Label], kind| -> u64 {
        let regions = labels.iter().flat_map(|l| &l.regions);
        let of_kind = regions.filter(|r| r.kind == kind);
        of_kind.map(|r| r.len.bytes().0).sum()
    };
    let had = sum(labels, RegionKind::Metadata);
    let mut most = METADATA_MAX.saturating_sub(had);
    let mut got = 0;
    for room in rooms(labels, Role::Metadata) {
        let taken = take(
            labels,
            (RegionKind::Metadata, order),
            room,
            METADATA_BLOCK,
            most,
        );
        got += taken;
        most -= taken;
    }
    let rooms = rooms(labels, Role::Data);
    let new: u64 = rooms.iter().map(|r| (r.end - r.start) / block).sum();
    let blocks = sum(labels, RegionKind::Data) / block + new;
    if METADATA_PER_BLOCK * blocks > METADATA_MAX {
        return Err(LayoutError::TooManyBlocks { blocks });
    }
    let ruled = match new {
        0 => 0, // nothing asks for it
        _ => metadata_bytes(blocks).saturating_sub(had + got),
    };
    let asked = asked.0.saturating_sub(got);
    let mut need = round_up(ruled.max(asked), METADATA_BLOCK).min(most);
    let mut data = 0;
    for room in rooms {
        let taken = take(
            labels,
            (RegionKind::Metadata, order),
            room,
            METADATA_BLOCK,
            need,
        );
        need -= taken;
        got += taken;
        let rest = Room {
            start: room.start + taken,
            ..room
        };
        data += take(labels, (RegionKind::Data, order), rest, block, u64::MAX);
    }
    if need > 0 && asked > 0 && got + data > 0 {
        return Err(LayoutError::NoRoomForMetadata {
            asked: Bytes(asked),
            room: Bytes(got),
        });
    }
    Ok(got + data > 0)
}

/// What no region of a device has, at its end.
fn rooms(labels: &[Label], role: Role) -> Vec<Room> {
    let room = |(device, label): (usize, &Label)| {
        let ends = label
            .regions
            .iter()
            .map(|r| r.start.bytes().0 + r.len.bytes().0);
        let start = round_up(ends.max().unwrap_or(HEADER_BYTES), METADATA_BLOCK);
        let end = label.device_size.bytes().0;
        (label.role == role && start < end).then_some(Room { device, start, end })
    };
    labels.iter().enumerate().filter_map(room).collect()
}

/// Takes at most `most` bytes of a room, aligned to `unit`: how much.
fn take(
    labels: &mut [Label],
    (kind, order): (RegionKind, u32),
    room: Room,
    unit: u64,
    most: u64,
) -> u64 {
    let start = round_up(room.start, unit);
    let len = round_down(room.end.saturating_sub(start).min(most), unit);
    if len == 0 {
        return 0;
    }
    labels[room.device].regions.push(Region {
        kind,
        start: Sectors(start / SECTOR),
        len: Sectors(len / SECTOR),
        order,
    });
    start - room.start + len
}

/// Regions of a pool in the order in which they are mapped: label and region, by number.
pub fn in_order(labels: &[Label], kind: RegionKind) -> Vec<(usize, usize)> {
    let mut found: Vec<_> = labels
        .iter()
        .enumerate()
        .flat_map(|(l, label)| {
            let regions = label.regions.iter().enumerate();
            let of_kind = regions.filter(move |(_, region)| region.kind == kind);
            of_kind.map(move |(r, region)| {
                let device = (label.role == Role::Metadata, label.index);
                ((region.order, device, r), (l, r))
            })
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at)| at).collect()
}

/// Makes one region of two that follow each other on the device and in the order: the same map.
fn join(labels: &mut [Label]) {
    for kind in [RegionKind::Metadata, RegionKind::Data] {
        loop {
            let order = in_order(labels, kind);
            let meets = |pair: &&[(usize, usize)]| {
                let [(l, r), (m, s)] = **pair else {
                    return false;
                };
                let (a, b) = (labels[l].regions[r], labels[m].regions[s]);
                l == m && a.start.0 + a.len.0 == b.start.0
            };
            let Some([(l, r), (_, s)]) = order.windows(2).find(meets) else {
                break;
            };
            let (l, r, s) = (*l, *r, *s);
            let more = labels[l].regions[s].len.0;
            labels[l].regions[r].len.0 += more;
            labels[l].regions.remove(s);
        }
    }
}

#[cfg(test)]
mod tests {
    use goldleaf_types::{BlockSize, PoolId};
    use proptest::prelude::*;

    use super::super::layout::{PlannedDevice, plan_layout};
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pool(data: &[u64], metadata: Option<u64>) -> Vec<Label> {
        let device = |size: &u64| PlannedDevice {
            size: Bytes(size * MIB),
        };
        let data: Vec<_> = data.iter().map(device).collect();
        plan_layout(&data, metadata.as_ref().map(device), BlockSize::DEFAULT)
            .unwrap()
            .labels(PoolId::from_bytes([7; 16]), &"p".parse().unwrap(), [9; 16])
    }

    fn sizes(labels: &[Label]) -> Vec<Bytes> {
        labels.iter().map(|l| l.device_size.bytes()).collect()
    }

    /// What is mapped, in order: device, start, length; joined.
    fn map(labels: &[Label], kind: RegionKind) -> Vec<(usize, u64, u64)> {
        let mut map: Vec<(usize, u64, u64)> = Vec::new();
        for (l, r) in in_order(labels, kind) {
            let region = labels[l].regions[r];
            match map.last_mut() {
                Some((device, start, len)) if *device == l && *start + *len == region.start.0 => {
                    *len += region.len.0;
                }
                Some(_) | None => map.push((l, region.start.0, region.len.0)),
            }
        }
        map
    }

    fn total(labels: &[Label], kind: RegionKind) -> u64 {
        map(labels, kind)
            .iter()
            .map(|(_, _, len)| len * SECTOR)
            .sum()
    }

    #[test]
    fn a_grown_device_and_a_new_one_follow_what_was_there() {
        let before = pool(&[256, 64], None);
        let mut grown = sizes(&before);
        grown[0] = Bytes(512 * MIB);
        let growth = Growth {
            sizes: grown,
            added: vec![(Role::Data, Bytes(100 * MIB))],
            metadata: Bytes(8 * MIB),
            spare: None,
        };
        let after = plan_growth(&before, &growth).unwrap().unwrap();
        let (old, new) = (
            map(&before, RegionKind::Data),
            map(&after, RegionKind::Data),
        );
        assert_eq!(new[..2], old[..]);
        assert_eq!(new.len(), 4);
        assert_eq!(
            total(&after, RegionKind::Metadata) - total(&before, RegionKind::Metadata),
            8 * MIB
        );
        assert!(
            after
                .iter()
                .all(|l| l.layout_generation == 2 && l.data_count == 3)
        );
        assert!(
            plan_growth(
                &after,
                &Growth {
                    sizes: sizes(&after),
                    ..Growth::default()
                }
            )
            .unwrap()
            .is_none()
        );
        let back: Vec<_> = after[..2]
            .iter()
            .map(|l| taken_back(l, &before[0]))
            .collect();
        assert_eq!(map(&back, RegionKind::Data), old);
    }

    #[test]
    fn one_device_grows_again_and_again() {
        let mut labels = pool(&[256], None);
        for round in 2..40 {
            let growth = Growth {
                sizes: vec![Bytes(round * 256 * MIB)],
                ..Growth::default()
            };
            labels = plan_growth(&labels, &growth).unwrap().unwrap();
        }
        assert_eq!(labels[0].layout_generation, 39);
        let rule = metadata_bytes(total(&labels, RegionKind::Data) / BlockSize::DEFAULT.bytes().0);
        assert!(total(&labels, RegionKind::Metadata) >= rule);
    }

    #[test]
    fn a_metadata_device_takes_metadata_alone_and_too_little_room_is_refused() {
        let before = pool(&[256], Some(64));
        let growth = |metadata: u64, added: Vec<(Role, Bytes)>| Growth {
            sizes: sizes(&before),
            added,
            metadata: Bytes(metadata * MIB),
            spare: None,
        };
        let device = (Role::Metadata, Bytes(33 * MIB));
        let after = plan_growth(&before, &growth(0, vec![device]))
            .unwrap()
            .unwrap();
        assert_eq!(
            map(&after, RegionKind::Data),
            map(&before, RegionKind::Data)
        );
        assert_eq!(
            (after[2].role, after[2].index, after[2].metadata_count),
            (Role::Metadata, 1, 2)
        );
        assert_eq!(
            total(&after, RegionKind::Metadata) - total(&before, RegionKind::Metadata),
            32 * MIB
        );
        let refused = plan_growth(&before, &growth(33, vec![device]));
        assert!(
            matches!(refused, Err(LayoutError::NoRoomForMetadata { .. })),
            "{refused:?}"
        );
        let small = (Role::Data, Bytes(MIB));
        let refused = plan_growth(&before, &growth(0, vec![small]));
        assert!(
            matches!(refused, Err(LayoutError::TooSmall { .. })),
            "{refused:?}"
        );
    }

    proptest! {
        /// Whatever is added in whatever order: the old map is how the new one begins, labels can be
        /// written, and what was not acknowledged can be taken back.
        #[test]
        fn growth_only_ever_appends(
            data in proptest::collection::vec(100_u64..2000, 1..4),
            separate in any::<bool>(),
            steps in proptest::collection::vec(
                (0_usize..6, 0_u64..500, any::<bool>(), any::<bool>(), 0_u64..40), 1..6),
        ) {
            let mut labels = pool(&data, separate.then_some(64));
            for (device, more, add, as_metadata, metadata) in steps {
                let mut growth = Growth { sizes: sizes(&labels), ..Growth::default() };
                if let Some(size) = growth.sizes.get_mut(device) {
                    size.0 += more * MIB;
                }
                if add {
                    let role = if as_metadata { Role::Metadata } else { Role::Data };
                    growth.added.push((role, Bytes(more * MIB)));
                }
                growth.metadata = Bytes(metadata * MIB);
                let Ok(Some(after)) = plan_growth(&labels, &growth) else { continue };
                // In the order in which a pool holds its devices.
                for kind in [RegionKind::Data, RegionKind::Metadata] {
                    let (old, new) = (map(&labels, kind), map(&after, kind));
                    let (last, before) = old.split_last().unwrap();
                    prop_assert_eq!(&new[..before.len()], before);
                    let first = new[before.len()];
                    prop_assert!((first.0, first.1) == (last.0, last.1) && first.2 >= last.2);
                    let back: Vec<_> = after[..labels.len()]
                        .iter().map(|l| taken_back(l, &labels[0])).collect();
                    prop_assert_eq!(map(&back, kind), old);
                }
                let block = BlockSize::DEFAULT.bytes().0;
                let rule = metadata_bytes(total(&after, RegionKind::Data) / block);
                prop_assert!(total(&after, RegionKind::Metadata) >= rule);
                for label in &after {
                    prop_assert_eq!(&Label::decode(&label.encode().unwrap()).unwrap(), label);
                }
                labels = after;
            }
        }
    }
}
