//! The bytes of one device-mapper ioctl: written here, and read with every bound checked.
//!
//! Layouts from linux/dm-ioctl.h: `struct dm_ioctl`, `dm_target_spec`, `dm_name_list`,
//! `dm_target_deps`, `dm_target_versions`. Nothing the kernel wrote is trusted to lie inside.

use crate::ioctl::DM_HEADER;

const NAME: usize = 128;
const UUID: usize = 129;

pub(crate) const READONLY: u32 = 1;
pub(crate) const SUSPEND: u32 = 1 << 1;
pub(crate) const STATUS_TABLE: u32 = 1 << 4;
pub(crate) const ACTIVE_PRESENT: u32 = 1 << 5;
pub(crate) const INACTIVE_PRESENT: u32 = 1 << 6;
pub(crate) const BUFFER_FULL: u32 = 1 << 8;
pub(crate) const SKIP_LOCKFS: u32 = 1 << 10;
pub(crate) const NOFLUSH: u32 = 1 << 11;
pub(crate) const QUERY_INACTIVE_TABLE: u32 = 1 << 12;
/// Asks the list of devices for UUIDs; without it the kernel leaves them out.
pub(crate) const UUID_FLAG: u32 = 1 << 14;
pub(crate) const DEFERRED_REMOVE: u32 = 1 << 17;

/// What a command is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Head<'a> {
    pub name: &'a str,
    pub uuid: &'a str,
    pub flags: u32,
    pub event_nr: u32,
    pub target_count: u32,
}

/// What came back in the header.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub version: [u32; 3],
    pub flags: u32,
    pub open_count: u32,
    pub event_nr: u32,
    pub target_count: u32,
    pub dev: u64,
    pub name: String,
    pub uuid: String,
}

/// A buffer that begins with a filled header.
pub(crate) struct Buffer(Vec<u64>);

impl Buffer {
    /// A buffer of at least `room` bytes with this header and payload.
    pub(crate) fn new(head: Head<'_>, payload: &[u8], room: usize) -> Self {
        let length = room.max(DM_HEADER + payload.len()).next_multiple_of(8);
        let mut bytes = vec![0u8; length];
        let mut put =
            |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(0, 4); // Interface version 4.0.0: every kernel with thin targets takes it.
        put(12, u32::try_from(length).unwrap_or(u32::MAX));
        put(16, 312);
        put(20, head.target_count);
        put(28, head.flags);
        put(32, head.event_nr);
        bytes[48..48 + head.name.len().min(NAME - 1)]
            .copy_from_slice(&head.name.as_bytes()[..head.name.len().min(NAME - 1)]);
        bytes[176..176 + head.uuid.len().min(UUID - 1)]
            .copy_from_slice(&head.uuid.as_bytes()[..head.uuid.len().min(UUID - 1)]);
        bytes[DM_HEADER..DM_HEADER + payload.len()].copy_from_slice(payload);
        let words = bytes.chunks_exact(8).map(|c| {
            let mut word = [0; 8];
            word.copy_from_slice(c);
            u64::from_ne_bytes(word)
        });
        Self(words.collect())
    }

    pub(crate) fn words(&mut self) -> &mut [u64] {
        &mut self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len() * 8
    }

    /// The header, and the bytes behind it that the kernel says it wrote.
    pub(crate) fn reply(&self) -> (Reply, Vec<u8>) {
        let bytes: Vec<u8> = self.0.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let word = |at: usize| u32_at(&bytes, at).unwrap_or(0);
        let reply = Reply {
            version: [word(0), word(4), word(8)],
            target_count: word(20),
            open_count: word(24),
            flags: word(28),
            event_nr: word(32),
            dev: u64_at(&bytes, 40).unwrap_or(0),
            name: text(&bytes[48..48 + NAME]),
            uuid: text(&bytes[176..176 + UUID]),
        };
        let start = usize::try_from(word(16))
            .unwrap_or(0)
            .clamp(DM_HEADER, bytes.len());
        let end = usize::try_from(word(12))
            .unwrap_or(0)
            .clamp(start, bytes.len());
        (reply, bytes[start..end].to_vec())
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

/// The text up to its NUL or its end.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A target as the kernel sends it.
pub(crate) type RawTarget = (u64, u64, String, String);

/// One `dm_target_spec` each: start, length, type, parameters.
pub(crate) fn targets(bytes: &[u8], count: u32) -> Vec<RawTarget> {
    let mut found = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let Some((start, length)) = u64_at(bytes, at).zip(u64_at(bytes, at + 8)) else {
            break;
        };
        let (Some(next), Some(kind)) = (u32_at(bytes, at + 20), bytes.get(at + 24..at + 40)) else {
            break;
        };
        let next = usize::try_from(next).unwrap_or(usize::MAX).min(bytes.len());
        let end = if next > at + 40 { next } else { bytes.len() };
        let parameters = bytes.get(at + 40..end).map(text).unwrap_or_default();
        found.push((start, length, text(kind), parameters));
        if next <= at {
            break;
        }
        at = next;
    }
    found
}

/// The payload of a table load.
pub(crate) fn target_specs(targets: &[RawTarget]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (start, length, kind, parameters) in targets {
        let room = (parameters.len() + 1).next_multiple_of(8);
        bytes.extend(start.to_ne_bytes());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(u32::try_from(40 + room).unwrap_or(u32::MAX).to_ne_bytes());
        let mut name = [0u8; 16];
        let long = kind.len().min(15);
        name[..long].copy_from_slice(&kind.as_bytes()[..long]);
        bytes.extend(name);
        let end = bytes.len() + room;
        bytes.extend(parameters.as_bytes());
        bytes.resize(end, 0);
    }
    bytes
}

/// One entry of a device list: number, name, event number, UUID where the kernel sends it.
pub(crate) type RawListed = (u64, String, u32, Option<String>);

/// The `dm_name_list` entries. Since interface 4.45 flags and a UUID follow the event number.
pub(crate) fn names(bytes: &[u8], minor_version: u32) -> Vec<RawListed> {
    const HAS_UUID: u32 = 1;
    let mut found = Vec::new();
    let mut at = 0usize;
    while let (Some(dev), Some(next)) = (u64_at(bytes, at), u32_at(bytes, at + 8)) {
        if dev == 0 {
            break;
        }
        let Some(rest) = bytes.get(at + 12..) else {
            break;
        };
        let name = text(rest);
        let after = (at + 12 + name.len() + 1).next_multiple_of(8);
        let event_nr = u32_at(bytes, after).unwrap_or(0);
        let flags = if minor_version >= 45 {
            u32_at(bytes, after + 4).unwrap_or(0)
        } else {
            0
        };
        let uuid = (flags & HAS_UUID != 0)
            .then(|| bytes.get(after + 8..).map(text))
            .flatten();
        found.push((dev, name, event_nr, uuid));
        match usize::try_from(next) {
            Ok(0) | Err(_) => break,
            Ok(step) => at = at.saturating_add(step),
        }
    }
    found
}

/// The `dm_target_deps` numbers.
pub(crate) fn deps(bytes: &[u8]) -> Vec<u64> {
    let count = u32_at(bytes, 0).unwrap_or(0);
    (0..usize::try_from(count).unwrap_or(0))
        .map_while(|i| u64_at(bytes, 8 + i * 8))
        .collect()
}

/// The `dm_target_versions`: name and version.
pub(crate) fn versions(bytes: &[u8]) -> Vec<(String, [u32; 3])> {
    let mut found = Vec::new();
    let mut at = 0usize;
    while let (Some(next), Some(rest)) = (u32_at(bytes, at), bytes.get(at + 16..)) {
        let word = |offset| u32_at(bytes, at + offset).unwrap_or(0);
        let name = text(rest);
        if name.is_empty() {
            break;
        }
        found.push((name, [word(4), word(8), word(12)]));
        match usize::try_from(next) {
            Ok(0) | Err(_) => break,
            Ok(step) => at = at.saturating_add(step),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), n in 0..9u32) {
            let _ = (targets(&bytes, n), names(&bytes, 48), names(&bytes, 40), deps(&bytes), versions(&bytes));
        }

        /// The kernel's lengths are believed only as far as the buffer goes.
        #[test]
        fn no_header_makes_the_reader_leave_the_buffer(
            words in prop::collection::vec(any::<u64>(), 39..80),
        ) {
            let room = words.len() * 8 - DM_HEADER;
            let (_, data) = Buffer(words).reply();
            prop_assert!(data.len() <= room);
        }

        #[test]
        fn a_header_says_back_what_it_was_given(
            name in "[a-z]{0,127}", uuid in "[A-Z]{0,128}", flags in any::<u32>(),
            event_nr in any::<u32>(), payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let head = Head { name: &name, uuid: &uuid, flags, event_nr, target_count: 3 };
            let (reply, data) = Buffer::new(head, &payload, 0).reply();
            prop_assert_eq!((reply.name, reply.uuid), (name, uuid));
            prop_assert_eq!((reply.flags, reply.event_nr, reply.target_count), (flags, event_nr, 3));
            prop_assert_eq!(&data[..payload.len()], &payload[..]);
        }

        #[test]
        fn targets_are_read_as_they_were_written(
            rows in prop::collection::vec((any::<u64>(), any::<u64>(), "[a-z-]{1,15}", "[ -~]{0,60}"), 0..6)
        ) {
            let bytes = target_specs(&rows);
            // The kernel counts `next` from the beginning; a load counts it from each spec.
            let mut absolute = bytes.clone();
            let mut at = 0;
            for _ in 0..rows.len() {
                let step = u32_at(&bytes, at + 20).unwrap();
                let next = u32::try_from(at).unwrap() + step;
                absolute[at + 20..at + 24].copy_from_slice(&next.to_ne_bytes());
                at += usize::try_from(step).unwrap();
            }
            prop_assert_eq!(targets(&absolute, u32::try_from(rows.len()).unwrap()), rows);
        }
    }
}
