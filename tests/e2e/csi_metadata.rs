//! Backups through CSI: groups of snapshots, what they hold and what changed, against the truth byte
//! by byte, while their volumes are written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::{command, output};
use goldleaf_tests::host::{Host, blank, over, program};
use goldleaf_tests::model::{Dice, IMAGE, device, golden_bytes};
use goldleaf_tests::support::{Node, Pattern};
use tonic::Code;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 65_536;
/// No multiple of a pool's block, and more than the image.
const SIZE: u64 = 8 * MIB + 3 * 512;
const GROWN: u64 = 10 * MIB + 512;
/// Fewer than there will be ranges, so that there is more than one message.
const PAGE: i32 = 3;

type Ranges = Vec<(u64, u64)>;

/// A volume, and which blocks of it the pool ought to hold.
struct Written {
    node: Node,
    size: u64,
    dice: Dice,
    mapped: BTreeSet<u64>,
    /// Blocks written or discarded since this was last emptied.
    touched: BTreeSet<u64>,
}

impl Written {
    fn new(host: &Host, name: &str, seed: u64) -> Self {
        Self {
            node: device(host, &format!("volume/{name}")),
            size: SIZE,
            dice: Dice::new(seed),
            mapped: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Writes of up to three blocks anywhere, and discards of whole blocks.
    fn disturb(&mut self) {
        for _ in 0..12 {
            let at = self.dice.below(self.size / 512) * 512;
            let len = (self.dice.below(3 * BLOCK / 512) + 1) * 512;
            let len = len.min(self.size - at);
            let bytes = Pattern(self.dice.number()).bytes(at, usize::try_from(len).unwrap());
            self.node.write(at, &bytes);
            for block in at / BLOCK..=(at + len - 1) / BLOCK {
                self.mapped.insert(block);
                self.touched.insert(block);
            }
        }
        for _ in 0..3 {
            let block = self.dice.below(self.size / BLOCK);
            let (offset, len) = ((block * BLOCK).to_string(), BLOCK.to_string());
            let path = self.node.path().to_str().unwrap();
            output("blkdiscard", &["-o", &offset, "-l", &len, path]).unwrap();
            self.mapped.remove(&block);
            self.touched.insert(block);
        }
    }

    /// Bytes that the pool keeps, and those of the image that show.
    fn held(&self, image: u64) -> BTreeSet<u64> {
        let sectors = (0..self.size / 512).filter(|sector| {
            let at = sector * 512;
            self.mapped.contains(&(at / BLOCK)) || at < image
        });
        sectors.collect()
    }
}

fn sectors(ranges: &[(u64, u64)]) -> BTreeSet<u64> {
    let all = ranges
        .iter()
        .flat_map(|(at, len)| at / 512..(at + len) / 512);
    all.collect()
}

/// Ranges are in order, apart from each other and whole sectors.
fn assert_lawful(ranges: &[(u64, u64)], size: u64) {
    assert!(
        ranges
            .iter()
            .all(|(at, len)| *len > 0 && at % 512 == 0 && len % 512 == 0)
    );
    assert!(
        ranges.iter().all(|(at, len)| at + len <= size),
        "{ranges:?}"
    );
    for two in ranges.windows(2) {
        assert!(two[0].0 + two[0].1 <= two[1].0, "{two:?}");
    }
}

/// A snapshot as an active clone, and every byte of it.
fn truth(host: &Host, snapshot: &str, clone: &str, size: u64) -> (Node, Vec<u8>) {
    host.active_clone(clone, snapshot, 0).unwrap();
    let node = device(host, &format!("volume/{clone}"));
    let bytes = node.read(0, usize::try_from(size).unwrap());
    (node, bytes)
}

fn differing(a: &[u8], b: &[u8]) -> BTreeSet<u64> {
    let zeroes = [0; 512];
    let pieces = b.chunks(512).enumerate();
    let differs = pieces.filter(|(n, piece)| {
        let old = a.get(n * 512..(n + 1) * 512).unwrap_or(&zeroes);
        old != *piece
    });
    differs.map(|(n, _)| u64::try_from(n).unwrap()).collect()
}

/// Copies what is in the ranges.
fn copy(from: &Node, ranges: &[(u64, u64)], to: &mut Vec<u8>, size: u64) {
    to.resize(usize::try_from(size).unwrap(), 0);
    for (at, len) in ranges {
        let (begin, len) = (
            usize::try_from(*at).unwrap(),
            usize::try_from(*len).unwrap(),
        );
        to[begin..begin + len].copy_from_slice(&from.read(*at, len));
    }
}

/// All ranges of a stream that is broken off after each range and gone on with behind it.
fn piecemeal(ask: impl Fn(u64) -> Ranges) -> Ranges {
    let (mut all, mut from) = (vec![], 0);
    while let Some((at, len)) = ask(from).first().copied() {
        // What began before the offset may be told whole or from there on.
        all.push((at, len));
        from = at + len;
    }
    all
}

/// Ends the writers, also when an assertion fails: the scope waits for them.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Backup {
    host: Host,
    ids: [String; 2],
}

impl Backup {
    fn ask<T>(&self, answer: Result<T, tonic::Status>) -> T {
        answer.unwrap_or_else(|e| panic!("{e:?}\n{}{}", self.host.csi_logs(), self.host.logs()))
    }

    /// Freezes both volumes; the snapshot of each, by id.
    fn freeze(&self, name: &str) -> [String; 2] {
        let group = self.ask(self.host.csi_group(name, &self.ids));
        assert!(group.ready_to_use);
        let of = |volume: &String| {
            let mut all = group.snapshots.iter();
            let found = all.find(|s| s.source_volume_id == *volume).unwrap();
            assert_eq!(found.group_snapshot_id, group.group_snapshot_id);
            found.snapshot_id.clone()
        };
        [of(&self.ids[0]), of(&self.ids[1])]
    }

    fn allocated(&self, id: &str, from: u64) -> Ranges {
        self.ask(self.host.csi_allocated(id, from, PAGE))
    }

    fn changed(&self, base: &str, target: &str, from: u64) -> Ranges {
        self.ask(self.host.csi_changed(base, target, from, PAGE))
    }

    /// No metadata snapshot is held.
    fn assert_released(&self, pool: &api::Pool) {
        let name = format!("goldleaf-{}-pool", pool.id);
        let status = output("dmsetup", &["status", &name]).unwrap();
        assert_eq!(status.split_whitespace().nth(6), Some("-"), "{status}");
    }
}

#[test]
fn a_backup_by_changed_ranges_restores_every_byte_while_the_volumes_are_written() {
    let host = Host::start("csi-metadata");
    let pool = host.pool("p", 512 * MIB);
    host.image("golden", &golden_bytes());
    let mut controller = host.start_csi_controller();
    let v = host.create_thin(over("v", SIZE, "golden")).unwrap();
    let w = host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank("w", SIZE)
    });
    let ids = [v.id, w.unwrap().id];
    let backup = Backup { host, ids };
    let host = &backup.host;
    let mut volumes = [Written::new(host, "v", 1), Written::new(host, "w", 2)];
    let images = [IMAGE, 0];
    let mut frozen = vec![];
    let mut expected = vec![];
    for (n, name) in ["g1", "g2", "g3"].iter().enumerate() {
        if n == 2 {
            for (volume, name) in volumes.iter_mut().zip(["v", "w"]) {
                host.resize(name, GROWN).unwrap();
                volume.size = GROWN;
            }
        }
        volumes.iter_mut().for_each(Written::disturb);
        frozen.push(backup.freeze(name));
        let now = |(volume, image): (&mut Written, &u64)| {
            (volume.held(*image), std::mem::take(&mut volume.touched))
        };
        expected.push(volumes.iter_mut().zip(&images).map(now).collect::<Vec<_>>());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let _ending = Ending(stop);
        for volume in &mut volumes {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = volume.dice.below(SIZE / 4096 - 1) * 4096;
                    volume.node.write(at, &Pattern(9).bytes(at, 4096));
                    std::thread::park_timeout(std::time::Duration::from_millis(2));
                }
            });
        }
        for (which, name) in ["v", "w"].iter().enumerate() {
            let of = |n: usize| frozen[n][which].as_str();
            let sizes = [SIZE, SIZE, GROWN];
            let mut kept = vec![];
            let mut before: Option<Vec<u8>> = None;
            for n in 0..3 {
                let size = sizes[n];
                let (node, bytes) = truth(host, of(n), &format!("{name}{n}"), size);
                let (held, touched) = &expected[n][which];
                let found = backup.allocated(of(n), 0);
                assert_lawful(&found, size);
                assert_eq!(sectors(&found), *held, "{name}, {n}: what is held");
                let nonzero = differing(&[], &bytes);
                assert!(
                    nonzero.is_subset(held),
                    "{name}, {n}: data that is not told of"
                );
                assert_eq!(piecemeal(|from| backup.allocated(of(n), from)), found);
                let Some(before) = before.replace(bytes.clone()) else {
                    copy(&node, &found, &mut kept, size);
                    assert!(kept == bytes, "{name}: the full backup");
                    continue;
                };
                let changed = backup.changed(of(n - 1), of(n), 0);
                assert_lawful(&changed, size);
                let told = sectors(&changed);
                let missed: Vec<_> = differing(&before, &bytes)
                    .difference(&told)
                    .copied()
                    .collect();
                assert!(
                    missed.is_empty(),
                    "{name}, {n}: changes not told of: {missed:?}"
                );
                let mut blocks = told.iter().map(|sector| sector * 512 / BLOCK);
                assert!(
                    blocks.all(|b| touched.contains(&b)),
                    "{name}, {n}: too much is told of"
                );
                assert_eq!(
                    piecemeal(|from| backup.changed(of(n - 1), of(n), from)),
                    changed
                );
                copy(&node, &changed, &mut kept, size);
                assert!(kept == bytes, "{name}, {n}: the backup by changes");
            }
            // Over two steps at once, and of one and the same.
            let both: BTreeSet<_> = sectors(&backup.changed(of(0), of(2), 0));
            assert!(!both.is_empty());
            assert_eq!(backup.changed(of(1), of(1), 0), []);
            // The restore.
            let restored = format!("{name}-restored");
            host.create_thin(api::CreateThinRequest {
                activate: Some(api::ActivateOptions::default()),
                ..blank(&restored, GROWN)
            })
            .unwrap();
            let to = device(host, &format!("volume/{restored}"));
            for (at, len) in backup.allocated(of(2), 0) {
                let begin = usize::try_from(at).unwrap();
                to.write(at, &kept[begin..begin + usize::try_from(len).unwrap()]);
            }
            assert!(
                to.read(0, kept.len()) == kept,
                "{name}: the restored volume"
            );
        }
    });
    for [of_v, of_w] in &frozen {
        let cross = host.csi_changed(of_v, of_w, 0, 0).unwrap_err();
        assert_eq!(cross.code(), Code::InvalidArgument, "{cross:?}");
    }
    let by_hand = command(program("goldleaf"))
        .args(["--server", &format!("http://{}", host.address())])
        .args(["snapshot", "blocks", "g2.v", "--base", "g1.v", "-o", "name"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&by_hand.stdout).into_owned();
    let told = backup.changed(&frozen[0][0], &frozen[1][0], 0);
    let lines: String = told
        .iter()
        .map(|(at, len)| format!("{at}+{len}\n"))
        .collect();
    assert_eq!(
        printed,
        lines,
        "{}",
        String::from_utf8_lossy(&by_hand.stderr)
    );
    backup.assert_released(&pool);
    assert!(controller.stop().success());
    backup.host.end();
}
