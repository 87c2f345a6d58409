//! A pool's space against the real kernel: full, grown, discarded, warned of, never leaked.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by a panic, also in what it calls"
)]

use std::time::{Duration, Instant};

use goldleaf_dm::{
    Commit, Events, Flush, LinearSegment, METADATA_BLOCKS_MAX, NoSpacePolicy, PoolFeatures,
    PoolMessage, PoolMode, Table, Target, swap_table,
};
use goldleaf_tests::command;
use goldleaf_tests::support::{Pool, PoolPlan, Scratch};
use goldleaf_types::{Bytes, Sectors, ThinId};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

fn id(raw: u32) -> ThinId {
    ThinId::new(raw).unwrap()
}

/// A pool of `blocks` blocks of 64 KiB.
fn small(scratch: &Scratch, blocks: u64, features: PoolFeatures) -> Pool {
    let plan = PoolPlan {
        data: Bytes(blocks * BLOCK),
        features,
        ..PoolPlan::default()
    };
    scratch.add_pool("pool", plan)
}

fn erring() -> PoolFeatures {
    PoolFeatures {
        error_if_no_space: true,
        ..PoolFeatures::default()
    }
}

/// Makes the data device longer by another disk, and the pool with it.
fn grow_data(pool: &Pool, blocks: u64) -> PoolPlan {
    let scratch = pool.scratch();
    let more = scratch.disk("more", Bytes(blocks * BLOCK));
    let mut targets = scratch
        .control()
        .table(&scratch.name("pool-tdata"))
        .unwrap()
        .parsed()
        .unwrap();
    let len = more.size().exact_sectors().unwrap();
    targets.push(Target::Linear(LinearSegment {
        len,
        dev: more.dev(),
        offset: Sectors(0),
    }));
    let longer = Table {
        targets,
        read_only: false,
    };
    swap_table(
        scratch.control(),
        &scratch.name("pool-tdata"),
        &longer,
        Flush::No,
    )
    .unwrap();
    let plan = PoolPlan {
        data: Bytes(pool.plan().data.0 + blocks * BLOCK),
        ..pool.plan()
    };
    swap_table(
        scratch.control(),
        &pool.name(),
        &pool.table(plan),
        Flush::No,
    )
    .unwrap();
    plan
}

#[test]
fn a_full_pool_fails_new_blocks_only_and_recovers_by_a_discard() {
    let scratch = Scratch::new();
    let pool = small(&scratch, 16, erring());
    let thin = pool.thin(1);
    thin.write(0, &vec![1; 16 * 65536]);
    let refused = thin.try_write(MIB, &[2; 512]).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
    let status = pool.working();
    assert_eq!(
        (status.mode, status.used_data_blocks),
        (PoolMode::OutOfDataSpace, 16)
    );
    assert_eq!(
        (status.no_space, status.needs_check),
        (NoSpacePolicy::Error, false)
    );

    thin.write(0, &[3; 512]);
    assert_eq!(thin.read(0, 1024), [[3; 512], [1; 512]].concat());
    pool.send(&PoolMessage::CreateThin(id(2))).unwrap();

    let path = thin.path().to_str().unwrap();
    let at = (15 * BLOCK).to_string();
    command::output("blkdiscard", &["-o", &at, "-l", "65536", path]).unwrap();
    // The next commit sees that there is room, and this status makes one.
    let status = scratch.control().status(&pool.name(), Commit::Yes).unwrap();
    assert!(status.targets[0].text.contains(" rw "), "{status:?}");
    assert_eq!(pool.working().mode, PoolMode::ReadWrite);
    thin.write(MIB, &[2; 512]);
}

#[test]
fn a_full_pool_that_queues_lets_the_write_wait_until_it_grows() {
    let scratch = Scratch::new();
    let pool = small(&scratch, 16, PoolFeatures::default());
    let thin = pool.thin(1);
    thin.write(0, &vec![1; 16 * 65536]);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| tell.send(thin.try_write(MIB, &[2; 512])));
        assert!(
            told.recv_timeout(Duration::from_millis(500)).is_err(),
            "it did not wait"
        );
        assert_eq!(pool.working().mode, PoolMode::OutOfDataSpace);
        grow_data(&pool, 16);
        told.recv_timeout(Duration::from_secs(30))
            .expect("the write ends")
            .unwrap();
    });
    let status = pool.working();
    assert_eq!(
        (status.mode, status.total_data_blocks),
        (PoolMode::ReadWrite, 32)
    );
    assert_eq!(thin.read(MIB, 512), [2; 512]);
}

#[test]
fn the_low_water_mark_is_an_event_that_the_poll_brings() {
    let scratch = Scratch::new();
    let plan = PoolPlan {
        data: Bytes(16 * BLOCK),
        low_water_blocks: 8,
        ..PoolPlan::default()
    };
    let pool = scratch.add_pool("pool", plan);
    let thin = pool.thin(1);
    let number = || {
        scratch
            .control()
            .find(&pool.name())
            .unwrap()
            .unwrap()
            .event_nr
    };
    let before = number();
    thin.write(0, &vec![1; 8 * 65536]);
    assert_eq!(
        number(),
        before,
        "eight of sixteen are free: not below the mark yet"
    );
    let events = Events::open().unwrap();
    events.arm().unwrap();
    thin.write(8 * BLOCK, &[1; 512]);
    let began = Instant::now();
    while number() == before {
        assert!(events.wait(Duration::from_secs(10)).unwrap(), "no event");
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "none of the pool"
        );
        events.arm().unwrap();
    }
    let listed = scratch.control().list().unwrap();
    let line = listed
        .iter()
        .find(|l| l.name == pool.name().as_str())
        .unwrap();
    assert_eq!(line.event_nr, number());
}

#[test]
fn metadata_grows_while_the_pool_works() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin(1);
    let more = scratch.disk("more", Bytes(4 * MIB));
    let name = pool.metadata_name();
    let mut targets = scratch.control().table(&name).unwrap().parsed().unwrap();
    let segment = LinearSegment {
        len: Sectors(8192),
        dev: more.dev(),
        offset: Sectors(0),
    };
    targets.push(Target::Linear(segment));
    let longer = Table {
        targets,
        read_only: false,
    };
    swap_table(scratch.control(), &name, &longer, Flush::No).unwrap();
    swap_table(
        scratch.control(),
        &pool.name(),
        &pool.table(pool.plan()),
        Flush::No,
    )
    .unwrap();
    assert_eq!(pool.working().total_metadata_blocks, 2048);
    thin.write(0, &[1; 512]);
}

#[test]
fn of_a_metadata_device_that_is_longer_than_it_can_use_the_kernel_uses_what_it_can() {
    let scratch = Scratch::new();
    let plan = PoolPlan {
        metadata: Bytes(16 << 30),
        ..PoolPlan::default()
    };
    let pool = scratch.add_pool("pool", plan);
    assert_eq!(pool.working().total_metadata_blocks, METADATA_BLOCKS_MAX);
}

/// Blocks of the file under a device, in units of 512 bytes.
fn file_blocks(scratch: &Scratch, part: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(scratch.folder().join(part))
        .unwrap()
        .blocks()
}

#[test]
fn a_discard_reaches_the_data_device_only_where_it_is_passed_down() {
    for (no_discard_passdown, kept) in [(false, 0), (true, 16 * 128)] {
        let scratch = Scratch::new();
        let pool = small(
            &scratch,
            32,
            PoolFeatures {
                no_discard_passdown,
                ..erring()
            },
        );
        let thin = pool.thin(1);
        thin.write(0, &vec![1; 16 * 65536]);
        assert_eq!(pool.working().used_data_blocks, 16);
        command::output("blkdiscard", &[thin.path().to_str().unwrap()]).unwrap();
        assert_eq!(pool.working().used_data_blocks, 0);
        assert_eq!(
            file_blocks(&scratch, "pool-tdata.disk"),
            kept,
            "{no_discard_passdown}"
        );
    }
}

/// Why skip_block_zeroing is never asked for: the rest of a partly written new block is zeroes,
/// whatever was in it before.
#[test]
fn a_new_block_shows_nothing_of_its_last_owner() {
    let scratch = Scratch::new();
    let pool = small(
        &scratch,
        16,
        PoolFeatures {
            no_discard_passdown: true,
            ..erring()
        },
    );
    let first = pool.thin(1);
    first.write(0, &b"secret__".repeat(16 * 65536 / 8));
    command::output("blkdiscard", &[first.path().to_str().unwrap()]).unwrap();
    let second = pool.thin_over(2, Bytes(16 * BLOCK), None);
    for block in 0..16 {
        second.write(block * BLOCK + 4096, &[1; 512]);
    }
    second.assert_reads(|offset, len| {
        let range = offset..offset + u64::try_from(len).unwrap();
        range
            .map(|at| u8::from((4096..4608).contains(&(at % BLOCK))))
            .collect()
    });
}
