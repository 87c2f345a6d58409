//! What guests are told of discards, and that they never meet the image's old data where they
//! believe that they zeroed: through the public API and the field's own tools, on a real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use goldleaf_dm::block;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, over};
use goldleaf_tests::support::{Node, Pattern};
use rustix::fs::FallocateFlags;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 65_536;
const GOLDEN: Pattern = Pattern(1);
const IMAGE: u64 = 48 * MIB;

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 1024 * MIB);
    let content = GOLDEN.bytes(0, usize::try_from(IMAGE).unwrap());
    assert!(
        !content
            .chunks(512)
            .any(|sector| sector.iter().all(|b| *b == 0))
    );
    host.image("golden", &content);
    host
}

fn active(host: &Host, size: u64) -> Node {
    let volume = host.create_thin(over("v", size, "golden")).unwrap();
    let path = volume.activation.unwrap().device_path;
    Node::of(block::number(&File::open(path).unwrap()).unwrap())
}

fn run(program: &str, arguments: &[&str]) -> String {
    output(program, arguments).unwrap_or_else(|e| panic!("{program} {arguments:?}: {e}"))
}

fn path(node: &Node) -> &str {
    node.path().to_str().unwrap()
}

/// What a guest's disk says of itself.
fn queue(node: &Node, name: &str) -> u64 {
    let file = format!("/sys/dev/block/{}/queue/{name}", node.dev());
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    text.trim().parse().unwrap()
}

fn zeroes(len: usize) -> Vec<u8> {
    vec![0; len]
}

#[test]
fn a_volume_says_that_discarded_blocks_do_not_read_zero_and_takes_no_unmapping_zeroes() {
    let host = rig("told");
    let node = active(&host, 64 * MIB);
    assert_eq!(queue(&node, "discard_granularity"), BLOCK);
    assert!(queue(&node, "discard_max_bytes") >= BLOCK);
    assert_eq!(queue(&node, "discard_zeroes_data"), 0);
    assert_eq!(queue(&node, "write_zeroes_max_bytes"), 0);
    host.end();
}

#[test]
fn a_discarded_block_shows_the_image_again_and_less_than_a_block_is_left_alone() {
    let host = rig("discard");
    let node = active(&host, 64 * MIB);
    let written = Pattern(2).bytes(0, 4 * 65_536);
    node.write(MIB, &written);
    // The second of four blocks whole, and of the fourth a part.
    let (at, part) = (MIB + BLOCK, MIB + 3 * BLOCK + 4096);
    for (offset, len) in [(at, BLOCK), (part, BLOCK / 2)] {
        let (offset, len) = (offset.to_string(), len.to_string());
        run("blkdiscard", &["-o", &offset, "-l", &len, path(&node)]);
    }
    assert_eq!(node.read(at, 65_536), GOLDEN.bytes(at, 65_536));
    assert_eq!(node.read(MIB, 65_536), written[..65_536]);
    assert_eq!(node.read(at + BLOCK, 2 * 65_536), written[2 * 65_536..]);
    assert_eq!(host.volume("v").unwrap().owned_bytes, Some(3 * BLOCK));
    host.end();
}

#[test]
fn whoever_asks_for_zeroes_gets_zeroes_whichever_way_he_asks() {
    let host = rig("zeroes");
    let node = active(&host, 64 * MIB);
    // As `blkdiscard -z` and a guest's WRITE ZEROES do: whole blocks, parts, and what nobody wrote.
    let (from, len) = (MIB + 512, 3 * 65_536);
    let (offset, length) = (from.to_string(), len.to_string());
    run(
        "blkdiscard",
        &["-z", "-o", &offset, "-l", &length, path(&node)],
    );
    assert_eq!(node.read(from, len), zeroes(len));
    assert_eq!(node.read(MIB, 512), GOLDEN.bytes(MIB, 512));
    // As QEMU does for a guest's zeroes, first the way that may unmap: zeroes, or refused.
    let file = File::options().write(true).open(node.path()).unwrap();
    let ways = [
        (
            "punch",
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        ),
        (
            "zero",
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ),
    ];
    for (n, (what, flags)) in (4_u64..).zip(ways) {
        let at = n * MIB;
        node.write(at, &Pattern(3).bytes(0, 65_536));
        match rustix::fs::fallocate(&file, flags, at, 2 * BLOCK) {
            Ok(()) => assert_eq!(node.read(at, 2 * 65_536), zeroes(2 * 65_536), "{what}"),
            Err(errno) => {
                assert_eq!(errno, rustix::io::Errno::OPNOTSUPP, "{what}");
                assert_eq!(node.read(at, 65_536), Pattern(3).bytes(0, 65_536), "{what}");
            }
        }
    }
    // Where the volume goes past its image there is nothing to come back.
    node.write(60 * MIB, &Pattern(4).bytes(0, 65_536));
    let (offset, length) = ((60 * MIB).to_string(), BLOCK.to_string());
    run("blkdiscard", &["-o", &offset, "-l", &length, path(&node)]);
    assert_eq!(node.read(60 * MIB, 65_536), zeroes(65_536));
    drop(file);
    host.end();
}

/// A mounted file system; gone with its last use, whatever the test meets.
struct Mounted(PathBuf);

impl Mounted {
    fn new(host: &Host, node: &Node) -> Self {
        let at = host.dir().join("mnt");
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &[path(node), at.to_str().unwrap()]);
        Self(at)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = output("umount", &[self.0.to_str().unwrap()]);
        assert!(
            unmounted.is_ok() || std::thread::panicking(),
            "{unmounted:?}"
        );
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn write(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

/// What is on the disk, and not what the page cache still knows.
fn read(path: &Path) -> Vec<u8> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let mut content = Vec::new();
    File::open(path).unwrap().read_to_end(&mut content).unwrap();
    content
}

/// The life of a file system over the image's old data: made, filled, emptied, trimmed, used again.
fn a_file_system_never_shows_old_data(test: &str, make: &[&str], check: &[&str], size: u64) {
    let host = rig(test);
    let node = active(&host, size);
    let with = |command: &[&str]| {
        let (program, arguments) = command.split_first().unwrap();
        let mut arguments = arguments.to_vec();
        arguments.push(path(&node));
        run(program, &arguments)
    };
    with(make); // discards the whole device first
    with(check);
    let large = Pattern(5).bytes(0, 16 << 20);
    let mounted = Mounted::new(&host, &node);
    write(&mounted.file("large"), &large);
    let kept = Pattern(6).bytes(0, 3 << 20);
    write(&mounted.file("kept"), &kept);
    std::fs::remove_file(mounted.file("large")).unwrap();
    let before = host.volume("v").unwrap().owned_bytes.unwrap();
    run("sync", &[]); // only then does ext4 give a removed file's blocks back
    run("fstrim", &["-v", mounted.0.to_str().unwrap()]);
    let after = host.volume("v").unwrap().owned_bytes.unwrap();
    assert!(
        after + 8 * MIB < before,
        "fstrim freed nothing: {before}, {after}"
    );
    // Where the file system promises zeroes there are zeroes, not the image: holes, room that is
    // only reserved, what was written as zeroes, and the rest of a last block.
    File::create(mounted.file("hole"))
        .unwrap()
        .set_len(4 * MIB)
        .unwrap();
    let reserved = File::create(mounted.file("reserved")).unwrap();
    rustix::fs::fallocate(&reserved, FallocateFlags::empty(), 0, 8 * MIB).unwrap();
    reserved.sync_all().unwrap();
    drop(reserved);
    write(&mounted.file("zeroes"), &zeroes(8 << 20));
    write(&mounted.file("short"), b"short");
    File::options()
        .write(true)
        .open(mounted.file("short"))
        .unwrap()
        .set_len(10_000)
        .unwrap();
    for (name, len) in [
        ("hole", 4 << 20),
        ("reserved", 8 << 20),
        ("zeroes", 8 << 20),
    ] {
        assert_eq!(read(&mounted.file(name)), zeroes(len), "{name}");
    }
    let short = read(&mounted.file("short"));
    assert_eq!(
        (&short[..5], &short[5..]),
        (&b"short"[..], &zeroes(9995)[..])
    );
    drop(mounted);
    with(check);
    // The same after the device was gone, and in a snapshot of it.
    host.snapshot("s", "volume/v").unwrap();
    host.deactivate("v").unwrap();
    let again = host.active_clone("c", "snapshot/s", 0).unwrap();
    let again = again.activation.unwrap().device_path;
    let again = Node::of(block::number(&File::open(again).unwrap()).unwrap());
    let mounted = Mounted::new(&host, &again);
    assert_eq!(read(&mounted.file("kept")), kept);
    assert_eq!(read(&mounted.file("zeroes")), zeroes(8 << 20));
    drop(mounted);
    host.end();
}

#[test]
fn ext4_made_and_trimmed_over_an_image_never_shows_the_images_old_data() {
    let make = ["mkfs.ext4", "-F", "-q"];
    a_file_system_never_shows_old_data("ext4", &make, &["e2fsck", "-fn"], 96 * MIB);
}

#[test]
fn xfs_made_and_trimmed_over_an_image_never_shows_the_images_old_data() {
    let make = ["mkfs.xfs", "-f", "-q"];
    a_file_system_never_shows_old_data("xfs", &make, &["xfs_repair", "-n"], 400 * MIB);
}
