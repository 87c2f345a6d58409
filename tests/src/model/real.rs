//! The model's operations on a real host, and whether the two are the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use goldleaf_dm::block;
use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::{BLOCK, IMAGE, Op, Thing, World, is_volume, short};
use crate::host::{Host, blank};
use crate::support::{Node, Pattern};

/// The golden image's content.
pub const GOLDEN: Pattern = Pattern(1);

/// The pool of everything.
pub const POOL: &str = "p";

const SECTOR: usize = 512;

/// The golden image, whole.
#[must_use]
pub fn golden_bytes() -> Vec<u8> {
    GOLDEN.bytes(0, usize::try_from(IMAGE).expect("a small image"))
}

/// Does it through the public API; a write through the device.
///
/// # Errors
///
/// The API's own.
///
/// # Panics
///
/// When a device does not take what is written.
pub fn perform(host: &Host, op: &Op) -> Result<(), Status> {
    let options = |active: bool| active.then(api::ActivateOptions::default);
    match op {
        Op::Create {
            name,
            size,
            image,
            active,
        } => host
            .create_thin(api::CreateThinRequest {
                image: if *image { "golden" } else { "" }.into(),
                activate: options(*active),
                ..blank(short(name), *size)
            })
            .map(drop),
        Op::Snapshot { name, source } => host.snapshot(short(name), source).map(drop),
        Op::Clone {
            name,
            source,
            size,
            active,
        } => host
            .clone_volume(api::CloneRequest {
                name: short(name).into(),
                source: source.clone(),
                size_bytes: *size,
                activate: options(*active),
                ..Default::default()
            })
            .map(drop),
        Op::Resize { name, size } => host.resize(short(name), *size).map(drop),
        Op::Activate { name } => host.activate(short(name)).map(drop),
        Op::Deactivate { name } => host.deactivate(short(name)).map(drop),
        Op::Delete { name } if is_volume(name) => host.delete_volume(short(name)),
        Op::Delete { name } => host.delete_snapshot(short(name)),
        Op::Write {
            name,
            block,
            count,
            pattern,
        } => {
            let len = usize::try_from(count * BLOCK).expect("a short stretch");
            let bytes = Pattern(*pattern).bytes(block * BLOCK, len);
            device(host, name).write(block * BLOCK, &bytes);
            Ok(())
        }
    }
}

/// Asks until the answer is no passing refusal, as a caller is told to.
///
/// # Panics
///
/// When it is refused, or not answered within a minute.
pub fn ask(host: &Host, op: &Op) {
    host.soon(&format!("{op:?}"), || match perform(host, op) {
        Ok(()) => Some(()),
        Err(e) if passes(&e) => None,
        Err(e) => panic!("{op:?}: {e:?}\n{}", host.logs()),
    });
}

fn passes(error: &Status) -> bool {
    let passing = [Code::Unavailable, Code::Aborted, Code::Cancelled];
    passing.contains(&error.code())
}

fn link(host: &Host, volume: &str) -> PathBuf {
    host.dir().join("dev").join(POOL).join(short(volume))
}

/// Whether a volume has a device now.
#[must_use]
pub fn has_device(host: &Host, volume: &str) -> bool {
    File::open(link(host, volume)).is_ok()
}

/// An active volume's device.
///
/// # Panics
///
/// When it has none.
#[must_use]
pub fn device(host: &Host, volume: &str) -> Node {
    let file = File::open(link(host, volume));
    let file = file.unwrap_or_else(|e| panic!("{volume} has no device: {e}\n{}", host.logs()));
    Node::of(block::number(&file).expect("its number"))
}

/// Whether every sector of a stretch that a crash may have torn is the old one or the new one.
///
/// # Panics
///
/// At the first sector that is neither.
pub fn tear_or(host: &Host, old: &Thing, op: &Op) {
    let Op::Write {
        name,
        block,
        count,
        pattern,
    } = op
    else {
        return;
    };
    let offset = block * BLOCK;
    let len = usize::try_from(count * BLOCK).expect("a short stretch");
    let found = device(host, name).read(offset, len);
    let (old, new) = (old.bytes(offset, len), Pattern(*pattern).bytes(offset, len));
    for at in (0..len).step_by(SECTOR) {
        let sector = at..at + SECTOR;
        assert!(
            found[sector.clone()] == old[sector.clone()] || found[sector.clone()] == new[sector],
            "{name}: {at} bytes into {op:?} stands what was neither there nor written"
        );
    }
}

/// Compares everything: the lists of both kinds, sizes, who has a device, and every byte of every
/// volume and snapshot. What has no device gets one for the look, a snapshot by way of a clone.
///
/// # Panics
///
/// At the first difference.
pub fn assert_same(host: &Host, world: &World) {
    let found = listed(host);
    let expected: BTreeMap<_, _> = world
        .things
        .iter()
        .map(|(name, thing)| (name.clone(), (thing.size, thing.active)))
        .collect();
    assert_eq!(found, expected, "listed, and expected\n{}", host.logs());
    for (name, thing) in &world.things {
        holds(host, name, thing);
    }
}

/// Names, sizes and whether there is a device, of all that the control plane lists.
fn listed(host: &Host) -> BTreeMap<String, (u64, bool)> {
    let all = api::ListRequest {
        page: Some(api::PageRequest {
            size: 1000,
            token: String::new(),
        }),
        filter: None,
    };
    let volumes = host.list_volumes(all.clone()).expect("a list of volumes");
    let snapshots = host.list_snapshots(all).expect("a list of snapshots");
    let volumes = volumes.volumes.into_iter().map(|v| {
        let active = v.activation.is_some_and(|a| a.active);
        (format!("volume/{}", v.name), (v.size_bytes, active))
    });
    let snapshots = snapshots
        .snapshots
        .into_iter()
        .map(|s| (format!("snapshot/{}", s.name), (s.size_bytes, false)));
    volumes.chain(snapshots).collect()
}

/// Compares the bytes of one.
///
/// # Panics
///
/// At the first that differs.
pub fn holds(host: &Host, name: &str, thing: &Thing) {
    let look = |volume: &str| {
        let node = device(host, volume);
        assert_eq!(node.size().0, thing.size, "{name}");
        node.assert_reads(|offset, len| thing.bytes(offset, len));
    };
    let named = |name: &str| name.to_owned();
    if thing.active {
        look(name);
    } else if is_volume(name) {
        ask(host, &Op::Activate { name: named(name) });
        look(name);
        ask(host, &Op::Deactivate { name: named(name) });
    } else {
        let copy = format!("volume/look-{}", short(name));
        let (source, size) = (named(name), thing.size);
        ask(
            host,
            &Op::Clone {
                name: copy.clone(),
                source,
                size,
                active: true,
            },
        );
        look(&copy);
        ask(host, &Op::Deactivate { name: copy.clone() });
        ask(host, &Op::Delete { name: copy });
    }
}
