//! Faults below: a part of a pool's data, its metadata or an image cannot be read or written. The
//! errors are those of the volumes that stand on it, everything else goes on, and once it is healed
//! all is as it was. (Faults below either copy of the catalogue: `e2e_twin`.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_dm::block;
use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, blank, over};
use goldleaf_tests::support::{Disk, Node, Pattern};
use tonic::Code;

const MIB: u64 = 1 << 20;
/// Of each disk.
const SIZE: u64 = 128 * MIB;
/// What a volume is filled with and asked for.
const PIECE: usize = 1 << 20;

/// Where the metadata of a pool of one such disk is, by docs/disk-format.md: behind the labels and
/// the 16 MiB of the catalogue, and before its twin.
const METADATA: std::ops::Range<u64> = 17 * MIB..33 * MIB;

fn create_pool(host: &Host, name: &str, disks: &[&Disk]) -> api::Pool {
    let device = |disk: &&Disk| api::PoolDevice {
        path: disk.path(),
        create_file_bytes: 0,
    };
    host.create_pool(api::CreatePoolRequest {
        name: name.into(),
        devices: disks.iter().map(device).collect(),
        ..Default::default()
    })
    .unwrap()
}

fn node(volume: &api::Volume) -> Node {
    let path = &volume.activation.as_ref().unwrap().device_path;
    let file = std::fs::File::open(path).unwrap();
    Node::of(block::number(&file).unwrap())
}

fn active(host: &Host, request: api::CreateThinRequest) -> Node {
    let request = api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..request
    };
    node(&host.create_thin(request).unwrap())
}

/// Fills the first `len` bytes.
fn fill(node: &Node, pattern: Pattern, len: u64) {
    for at in (0..len).step_by(PIECE) {
        node.write(at, &pattern.bytes(at, PIECE));
    }
}

fn assert_holds(node: &Node, pattern: Pattern, len: u64) {
    for at in (0..len).step_by(PIECE) {
        assert_eq!(node.read(at, PIECE), pattern.bytes(at, PIECE), "at {at}");
    }
}

fn assert_io_error<T: std::fmt::Debug>(answer: std::io::Result<T>) {
    let error = answer.expect_err("it cannot be read or written");
    assert_eq!(error.raw_os_error(), Some(5), "EIO, and not {error}");
}

/// The kernel gives blocks out in order: who wrote first is on the first disk.
#[test]
fn a_data_device_that_fails_gives_errors_to_the_volumes_on_it_alone() {
    let host = Host::start("data");
    let disks = [Disk::new("data", 0, SIZE), Disk::new("data", 1, SIZE)];
    create_pool(&host, "p", &[&disks[0], &disks[1]]);
    let first = active(&host, blank("first", 200 * MIB));
    let second = active(&host, blank("second", 200 * MIB));
    fill(&first, Pattern(1), 32 * MIB);
    // Over the seam between the two disks, so that its end is on the second.
    fill(&second, Pattern(2), 80 * MIB);
    let end = 79 * MIB;

    disks[1].fail(24 * MIB..SIZE);
    assert_io_error(second.try_read(end, 4096));
    assert_io_error(second.try_write(end, &[9; 4096]));
    assert_holds(&first, Pattern(1), 32 * MIB);
    assert_holds(&second, Pattern(2), 4 * MIB);
    first.write(0, &Pattern(3).bytes(0, PIECE));
    // A block that it does not have yet would come from where everything fails.
    assert_io_error(first.try_write(100 * MIB, &[9; 65_536]));
    // Metadata is elsewhere: what changes it goes on.
    host.snapshot("s", "volume/first").unwrap();
    host.create_thin(blank("third", MIB)).unwrap();
    host.delete_volume("third").unwrap();
    let pool = host.get_pool("p").unwrap();
    assert_eq!(pool.phase(), api::Phase::Ready, "{pool:?}");

    disks[1].heal();
    assert_holds(&second, Pattern(2), 80 * MIB);
    assert_eq!(first.read(0, PIECE), Pattern(3).bytes(0, PIECE));
    first.write(100 * MIB, &[9; 65_536]);
    assert_eq!(first.read(100 * MIB, 65_536), [9; 65_536]);
    host.end();
    disks.into_iter().for_each(Disk::remove);
}

#[test]
fn an_image_that_cannot_be_read_gives_errors_where_a_volume_falls_through_to_it_alone() {
    let host = Host::start("image");
    host.pool("p", 512 * MIB);
    let golden = Pattern(7);
    let content = golden.bytes(0, usize::try_from(8 * MIB).unwrap());
    let disk = Disk::new("image", 0, 8 * MIB);
    let path = disk.path();
    std::fs::write(&path, &content).unwrap();
    let in_place = |name: &str| api::CreateImageRequest {
        name: name.into(),
        source: Some(api::create_image_request::Source::Device(path.clone())),
        wait: true,
        ..Default::default()
    };
    host.create_image(in_place("failing")).unwrap();
    let other: Vec<u8> = content.iter().map(|b| !b).collect();
    host.image("other", &other);
    let hurt = active(&host, over("hurt", 16 * MIB, "failing"));
    let well = active(&host, over("well", 16 * MIB, "other"));
    hurt.write(4 * MIB, &Pattern(8).bytes(0, 65_536));

    disk.fail(4 * MIB..8 * MIB);
    // What falls through to the part that fails.
    assert_io_error(hurt.try_read(6 * MIB, 4096));
    // A part of a block that it does not have: the rest of the block cannot be fetched.
    assert_io_error(hurt.try_write(6 * MIB, &[9; 4096]));
    // What is its own, what falls through elsewhere, what is past the image's end.
    assert_eq!(hurt.read(4 * MIB, 65_536), Pattern(8).bytes(0, 65_536));
    assert_eq!(hurt.read(0, PIECE), golden.bytes(0, PIECE));
    assert_eq!(hurt.read(12 * MIB, 4096), [0; 4096]);
    // A whole block needs nothing from below it.
    hurt.write(7 * MIB, &Pattern(9).bytes(0, 65_536));
    well.assert_reads(|at, len| inverted_or_zero(golden, at, len));
    let pool = host.get_pool("p").unwrap();
    assert_eq!(pool.phase(), api::Phase::Ready, "{pool:?}");
    host.snapshot("s", "volume/hurt").unwrap();

    disk.heal();
    assert_eq!(hurt.read(6 * MIB, PIECE), golden.bytes(6 * MIB, PIECE));
    assert_eq!(hurt.read(7 * MIB, 65_536), Pattern(9).bytes(0, 65_536));
    let healed = host.active_clone("again", "snapshot/s", 16 * MIB).unwrap();
    assert_eq!(
        node(&healed).read(6 * MIB, PIECE),
        golden.bytes(6 * MIB, PIECE)
    );
    host.end();
    disk.remove();
}

/// Content of the image that does not fail: every byte of the other's turned over, then zeros.
fn inverted_or_zero(golden: Pattern, at: u64, len: usize) -> Vec<u8> {
    let bytes = golden.bytes(at, len).into_iter().zip(at..);
    bytes
        .map(|(b, at)| if at < 8 * MIB { !b } else { 0 })
        .collect()
}

/// Metadata that can be neither read nor written fails a pool whole; its neighbour does not notice,
/// and the pool is back once it is opened on a device that answers.
#[test]
fn metadata_that_fails_takes_one_pool_and_no_other_and_loses_nothing() {
    let host = Host::start("metadata");
    let disks = [
        Disk::new("metadata", 0, SIZE),
        Disk::new("metadata", 1, SIZE),
    ];
    create_pool(&host, "hurt", &[&disks[0]]);
    create_pool(&host, "well", &[&disks[1]]);
    let in_pool = |name: &str, pool: &str| api::CreateThinRequest {
        pool: pool.into(),
        ..blank(name, 16 * MIB)
    };
    let kept = active(&host, in_pool("kept", "hurt"));
    fill(&kept, Pattern(1), 4 * MIB);
    let neighbour = active(&host, in_pool("neighbour", "well"));
    fill(&neighbour, Pattern(2), 4 * MIB);

    // Its catalogue is whole: what is asked for is refused by what the kernel says alone.
    disks[0].fail(METADATA);
    let refused = host.create_thin(in_pool("new", "hurt")).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let said = host.soon("the pool says so", || {
        let pool = host.get_pool("hurt").ok()?;
        let mut conditions = pool.conditions.into_iter();
        conditions.find(|c| c.r#type == "PoolWritable" && !c.status)
    });
    assert_eq!(said.reason, "PoolFailed", "{said:?}");
    assert!(said.message.contains("thin_check"), "{said:?}");
    assert_holds(&neighbour, Pattern(2), 4 * MIB);
    neighbour.write(8 * MIB, &Pattern(3).bytes(0, PIECE));
    host.snapshot("s", "volume/neighbour").unwrap();
    host.create_thin(in_pool("more", "well")).unwrap();

    disks[0].heal();
    host.deactivate("kept").unwrap();
    host.close_pool(api::ClosePoolRequest {
        pool: "hurt".into(),
        ..Default::default()
    })
    .unwrap();
    host.open_pool(api::OpenPoolRequest {
        pool: "hurt".into(),
        ..Default::default()
    })
    .unwrap();
    let kept = node(&host.activate("kept").unwrap());
    assert_holds(&kept, Pattern(1), 4 * MIB);
    host.create_thin(in_pool("new", "hurt")).unwrap();
    assert_holds(&neighbour, Pattern(2), 4 * MIB);
    host.end_after(&["wish stays", "not finished yet", "not active"]);
    disks.into_iter().for_each(Disk::remove);
}
