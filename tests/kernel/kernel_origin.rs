//! External origins against the real kernel: what a thin shows of the image below it.
//!
//! Source of the kernel's own cases: Linux `thin-provisioning.rst`, "External snapshots".
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by a panic, also in what it calls"
)]

use goldleaf_dm::{
    DmError, Flush, LinearSegment, Removal, Table, Target, Verity, block, swap_table,
};
use goldleaf_tests::command;
use goldleaf_tests::support::{HashTree, Node, Pattern, Pool, PoolPlan, Scratch};
use goldleaf_types::{Bytes, SECTOR, Sectors};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
const IMAGE: Pattern = Pattern(0x601d);
const OWN: Pattern = Pattern(0x0417);

/// The origin as Goldleaf has it: a read-only linear device over a read-only loop.
fn image(scratch: &Scratch, part: &str, size: u64) -> Node {
    let disk = scratch.image(&format!("{part}.raw"), Bytes(size), IMAGE);
    let len = Sectors(size / SECTOR);
    let segment = LinearSegment {
        len,
        dev: disk.dev(),
        offset: Sectors(0),
    };
    scratch.device(part, &Table::linear([segment]).read_only())
}

fn pool_with(size: u64) -> (Pool, Node) {
    let scratch = Scratch::new();
    let origin = image(&scratch, "image", size);
    (scratch.add_pool("pool", PoolPlan::default()), origin)
}

/// The image's bytes up to its end, zeroes after it.
fn beneath(size: u64) -> impl Fn(u64, usize) -> Vec<u8> {
    move |offset, len| {
        let inside = usize::try_from(size.saturating_sub(offset))
            .unwrap()
            .min(len);
        let mut bytes = IMAGE.bytes(offset, inside);
        bytes.resize(len, 0);
        bytes
    }
}

/// `below`, with the test's own bytes at these places.
fn written<'w>(
    below: impl Fn(u64, usize) -> Vec<u8> + 'w,
    places: &'w [(u64, u64)],
) -> impl Fn(u64, usize) -> Vec<u8> + 'w {
    move |offset, len| {
        let mut bytes = below(offset, len);
        let end = offset + u64::try_from(len).unwrap();
        for (at, length) in places {
            let (from, to) = ((*at).max(offset), (at + length).min(end));
            if from < to {
                let own = OWN.bytes(from, usize::try_from(to - from).unwrap());
                let start = usize::try_from(from - offset).unwrap();
                bytes[start..start + own.len()].copy_from_slice(&own);
            }
        }
        bytes
    }
}

fn write_own(node: &Node, places: &[(u64, u64)]) {
    for (at, length) in places {
        node.write(*at, &OWN.bytes(*at, usize::try_from(*length).unwrap()));
    }
}

#[test]
fn an_unwritten_thin_is_the_image_to_the_last_byte() {
    for size in [8 * MIB, 8 * MIB - 512, 3 * BLOCK + 7 * 512, 512] {
        let (pool, origin) = pool_with(size);
        let thin = pool.thin_over(1, Bytes(size), Some(&origin));
        assert_eq!(thin.size(), Bytes(size));
        thin.assert_reads(beneath(size));
        assert_eq!(pool.working().used_data_blocks, 0, "reading costs no block");
    }
}

#[test]
fn writes_show_in_the_thin_and_leave_the_image_untouched() {
    let (pool, origin) = pool_with(8 * MIB);
    let thin = pool.thin_over(1, Bytes(8 * MIB), Some(&origin));
    // A sector, a whole block, a stretch over a border, the last sector.
    let places = [
        (4096, 512),
        (2 * BLOCK, BLOCK),
        (5 * BLOCK - 1024, 2048),
        (8 * MIB - 512, 512),
    ];
    write_own(&thin, &places);
    thin.assert_reads(written(beneath(8 * MIB), &places));
    origin.assert_reads(beneath(8 * MIB));
    assert_eq!(pool.working().used_data_blocks, 5);
}

#[test]
fn a_thin_larger_than_its_image_is_zeroes_past_the_image_s_end() {
    for size in [MIB, MIB + 512, MIB + BLOCK / 2, 512] {
        let (pool, origin) = pool_with(size);
        let thin = pool.thin_over(1, Bytes(4 * MIB), Some(&origin));
        thin.assert_reads(beneath(size));
        // Into the block that the image ends in, right behind its end, and far behind.
        let places = [(size - 512, 512), (size + 1024, 512), (3 * MIB, 512)];
        write_own(&thin, &places);
        thin.assert_reads(written(beneath(size), &places));
        origin.assert_reads(beneath(size));
    }
}

#[test]
fn a_thin_whose_size_is_no_multiple_of_the_block_is_right_to_its_last_byte() {
    for tail in [512, BLOCK / 2, BLOCK - 512] {
        let size = 4 * BLOCK + tail;
        let (pool, origin) = pool_with(size);
        let thin = pool.thin_over(1, Bytes(size), Some(&origin));
        let places = [(size - 512, 512), (4 * BLOCK, 512)];
        write_own(&thin, &places);
        thin.assert_reads(written(beneath(size), &places));
        assert!(
            thin.try_read(size, 512).is_err(),
            "there is nothing past the end"
        );
    }
}

#[test]
fn a_thin_smaller_than_its_image_shows_more_of_it_as_it_grows_and_zeroes_beyond() {
    let (pool, origin) = pool_with(4 * MIB);
    let thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    let places = [(4096, 512)];
    write_own(&thin, &places);
    thin.assert_reads(written(beneath(MIB), &places));
    for size in [2 * MIB + 512, 4 * MIB, 8 * MIB] {
        let table = pool.thin_table(1, Bytes(size), Some(&origin));
        swap_table(
            pool.scratch().control(),
            &pool.thin_name(1),
            &table,
            Flush::Yes,
        )
        .unwrap();
        assert_eq!(thin.size(), Bytes(size));
        thin.assert_reads(written(beneath(4 * MIB), &places));
    }
}

#[test]
fn a_snapshot_of_a_snapshot_still_reads_through_to_the_image() {
    let (pool, origin) = pool_with(4 * MIB);
    let thin = pool.thin_over(1, Bytes(4 * MIB), Some(&origin));
    let first = [(0, 512)];
    write_own(&thin, &first);
    pool.snap(1, 2);
    let snap = pool.activate(2, Bytes(4 * MIB), Some(&origin));
    let later = [(0, 512), (MIB, 4096)];
    write_own(&snap, &later[1..]);
    pool.snap(2, 3);
    let second = pool.activate(3, Bytes(4 * MIB), Some(&origin));
    write_own(&snap, &[(2 * MIB, 512)]);
    thin.assert_reads(written(beneath(4 * MIB), &first));
    second.assert_reads(written(beneath(4 * MIB), &later));
}

/// Why the origin goes into every table of a volume and of all its descendants: without it the
/// kernel reports no error, and what was never written reads as zeroes.
#[test]
fn a_thin_brought_to_life_without_its_origin_reads_zeroes_and_the_kernel_says_nothing() {
    let (pool, origin) = pool_with(MIB);
    let thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    write_own(&thin, &[(0, 512)]);
    pool.deactivate(1);
    let bare = pool.activate(1, Bytes(MIB), None);
    // The written block is whole, its rest was copied; all else is lost to view.
    bare.assert_reads(written(beneath(BLOCK), &[(0, 512)]));
    pool.deactivate(1);
    let again = pool.activate(1, Bytes(MIB), Some(&origin));
    again.assert_reads(written(beneath(MIB), &[(0, 512)]));
}

#[test]
fn nobody_writes_to_an_origin() {
    let (pool, origin) = pool_with(MIB);
    let _thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    let permission = |node: &Node| {
        Errno::from_io_error(&node.try_write(0, &[1; 512]).unwrap_err()) == Some(Errno::PERM)
    };
    assert!(permission(&origin));
    let deps = pool
        .scratch()
        .control()
        .deps(&pool.scratch().name("image"))
        .unwrap();
    let disk = Node::of(deps[0]);
    assert!(permission(&disk));
    // Not even after both were told to take writes again.
    for node in [&origin, &disk] {
        let file = std::fs::File::open(node.path()).unwrap();
        let _answer = block::set_read_only(&file, false);
    }
    assert!(origin.try_write(0, &[1; 512]).is_err());
    origin.assert_reads(beneath(MIB));
}

#[test]
fn a_discard_means_the_image_again_not_zeroes() {
    let (pool, origin) = pool_with(MIB);
    let thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    write_own(&thin, &[(0, 2 * BLOCK)]);
    let path = thin.path().to_str().unwrap();
    command::output("blkdiscard", &["-o", "0", "-l", "65536", path]).unwrap();
    thin.assert_reads(written(beneath(MIB), &[(BLOCK, BLOCK)]));
    assert_eq!(pool.working().used_data_blocks, 1);
    // Less than a block is ignored; zeroes that were written are zeroes.
    command::output("blkdiscard", &["-o", "65536", "-l", "4096", path]).unwrap();
    assert_eq!(thin.read(BLOCK, 4096), OWN.bytes(BLOCK, 4096));
    command::output("blkdiscard", &["-z", "-o", "0", "-l", "65536", path]).unwrap();
    assert_eq!(thin.read(0, 65536), vec![0; 65536]);
}

#[test]
fn two_hundred_thins_share_one_image() {
    let (pool, origin) = pool_with(MIB);
    let thins: Vec<Node> = (0..200)
        .map(|raw| pool.thin_over(raw, Bytes(MIB), Some(&origin)))
        .collect();
    for (place, thin) in (0..).zip(&thins) {
        write_own(thin, &[(place * 512, 512)]);
    }
    for (place, thin) in (0..).zip(&thins) {
        thin.assert_reads(written(beneath(MIB), &[(place * 512, 512)]));
    }
    origin.assert_reads(beneath(MIB));
    let control = pool.scratch().control();
    let open = control
        .find(&pool.scratch().name("image"))
        .unwrap()
        .unwrap()
        .open_count;
    assert_eq!((open, pool.working().used_data_blocks), (200, 200));
}

#[test]
fn an_origin_in_use_is_not_removed_and_goes_with_its_last_thin() {
    let (pool, origin) = pool_with(MIB);
    let control = pool.scratch().control();
    let name = pool.scratch().name("image");
    let thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    assert!(control.remove(&name, Removal::Now).unwrap_err().is_busy());
    control.remove(&name, Removal::Deferred).unwrap();
    thin.assert_reads(beneath(MIB));
    let events = goldleaf_dm::Events::open().unwrap();
    events.arm().unwrap();
    pool.deactivate(1);
    while control.find(&name).unwrap().is_some() {
        assert!(
            events.wait(std::time::Duration::from_secs(10)).unwrap(),
            "it stays"
        );
        events.arm().unwrap();
    }
}

#[test]
fn a_thin_of_another_pool_or_of_the_same_serves_as_an_origin() {
    let (pool, origin) = pool_with(MIB);
    let other = pool.scratch().add_pool("other", PoolPlan::default());
    let base = pool.thin_over(1, Bytes(MIB), Some(&origin));
    let own = [(4096, 512)];
    write_own(&base, &own);
    for over in [
        pool.thin_over(2, Bytes(MIB), Some(&base)),
        other.thin_over(1, Bytes(MIB), Some(&base)),
    ] {
        over.assert_reads(written(beneath(MIB), &own));
        let more = [(4096, 512), (3 * BLOCK, 1024)];
        write_own(&over, &more[1..]);
        over.assert_reads(written(beneath(MIB), &more));
    }
    base.assert_reads(written(beneath(MIB), &own));
}

/// Why an origin's size is compared before each resume: the kernel takes it as it is then.
#[test]
fn an_origin_that_shrank_reads_as_zeroes_after_the_next_resume() {
    let scratch = Scratch::new();
    let disk = scratch.image("image.raw", Bytes(2 * MIB), IMAGE);
    let of = |sectors| {
        let segment = LinearSegment {
            len: Sectors(sectors),
            dev: disk.dev(),
            offset: Sectors(0),
        };
        Table::linear([segment]).read_only()
    };
    let origin = scratch.device("image", &of(4096));
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin_over(1, Bytes(2 * MIB), Some(&origin));
    thin.assert_reads(beneath(2 * MIB));
    swap_table(
        scratch.control(),
        &scratch.name("image"),
        &of(2048),
        Flush::Yes,
    )
    .unwrap();
    let table = pool.thin_table(1, Bytes(2 * MIB), Some(&origin));
    swap_table(scratch.control(), &pool.thin_name(1), &table, Flush::Yes).unwrap();
    thin.assert_reads(beneath(MIB));
}

/// Why there are zeroes after an image: a pool that is read-only passes reads on without a look at
/// where the origin ends.
#[test]
fn in_a_read_only_pool_an_origin_answers_past_its_end_only_with_zeroes_after_it() {
    let (pool, bare) = pool_with(MIB + 512);
    let padded = Table {
        targets: vec![
            Target::Linear(LinearSegment {
                len: bare.size().exact_sectors().unwrap(),
                dev: bare.dev(),
                offset: Sectors(0),
            }),
            Target::Zero(Sectors(1 << 47)),
        ],
        read_only: true,
    };
    let padded = pool.scratch().device("padded", &padded);
    let size = Bytes(4 * MIB);
    let thins = [(1, &bare), (2, &padded)];
    let [first, second] = thins.map(|(id, origin)| pool.thin_over(id, size, Some(origin)));
    // As much before the end, over it and after it, in a pool that writes: no difference.
    let places = [
        (4096, 512),
        (MIB + 1024, 512),
        (2 * MIB, BLOCK),
        (3 * MIB, 512),
    ];
    for thin in [&first, &second] {
        thin.assert_reads(beneath(MIB + 512));
        write_own(thin, &places);
        thin.assert_reads(written(beneath(MIB + 512), &places));
    }
    let mut plan = pool.plan();
    plan.features.read_only = true;
    let (control, table) = (pool.scratch().control(), pool.table(plan));
    swap_table(control, &pool.name(), &table, Flush::Yes).unwrap();
    let refused = first.try_read(MIB + BLOCK, 4096).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::IO), "{refused}");
    second.assert_reads(written(beneath(MIB + 512), &places));
}

/// A verity device over an image and its hash tree.
fn verity(scratch: &Scratch, data: &Node, bytes: &[u8]) -> Result<Node, DmError> {
    let tree = HashTree::over(bytes);
    let hashes = scratch.disk("hashes", Bytes(MIB));
    hashes.write(0, &tree.blocks);
    let block = u32::try_from(HashTree::BLOCK.0).unwrap();
    let target = Target::Verity(Verity {
        len: data.size().exact_sectors().unwrap(),
        data: data.dev(),
        hash: hashes.dev(),
        data_block: block,
        hash_block: block,
        data_blocks: data.size().0 / HashTree::BLOCK.0,
        hash_start: 0,
        root: tree.root,
        salt: String::new(),
    });
    scratch.try_device("verity", &Table::of(target).read_only())
}

#[test]
fn a_verified_image_serves_and_a_changed_block_of_it_is_an_error_and_never_wrong_data() {
    let scratch = Scratch::new();
    let disk = scratch.disk("image.raw", Bytes(MIB));
    let bytes = IMAGE.bytes(0, 1 << 20);
    disk.write(0, &bytes);
    let origin = verity(&scratch, &disk, &bytes).unwrap();
    let status = || {
        let status = scratch
            .control()
            .status(&scratch.name("verity"), goldleaf_dm::Commit::No);
        status.unwrap().targets[0].text.trim_end().to_owned()
    };
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin_over(1, Bytes(MIB), Some(&origin));
    thin.assert_reads(beneath(MIB));
    assert_eq!(status(), "V");

    disk.write(5 * BLOCK + 8192, &[0; 512]);
    let io = |result: std::io::Result<()>| Errno::from_io_error(&result.unwrap_err());
    assert_eq!(
        io(thin.try_read(5 * BLOCK + 8192, 4096).map(drop)),
        Some(Errno::IO)
    );
    // A write that would copy the bad block fails too; the blocks beside it are fine.
    assert_eq!(io(thin.try_write(5 * BLOCK, &[1; 512])), Some(Errno::IO));
    assert_eq!(thin.read(6 * BLOCK, 4096), IMAGE.bytes(6 * BLOCK, 4096));
    assert_eq!(status(), "C");
}
