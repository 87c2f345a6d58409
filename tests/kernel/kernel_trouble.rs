//! Pools in trouble, really so: metadata that cannot be written or read, or is full; lost data.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by a panic, also in what it calls"
)]

use goldleaf_dm::{
    Commit, DmName, Flush, LinearSegment, LockFs, PoolFeatures, PoolMessage, PoolMode, PoolStatus,
    Table, Target, ThinStatus, swap_table,
};
use goldleaf_tests::command;
use goldleaf_tests::support::{Node, Pool, PoolPlan, Scratch};
use goldleaf_types::{Bytes, Sectors, ThinId};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

fn id(raw: u32) -> ThinId {
    ThinId::new(raw).unwrap()
}

fn create(raw: u32) -> PoolMessage {
    PoolMessage::CreateThin(id(raw))
}

fn errno(result: std::io::Result<impl std::fmt::Debug>) -> Option<Errno> {
    Errno::from_io_error(&result.unwrap_err())
}

/// A table of a target that only tests use, put under a live device.
fn put_under(scratch: &Scratch, name: &DmName, table: &str) {
    let load = ["load", name.as_str(), "--table", table];
    command::output("dmsetup", &load).unwrap();
    scratch
        .control()
        .suspend(name, Flush::No, LockFs::No)
        .unwrap();
    scratch.control().resume(name).unwrap();
}

/// Lets every write to the device fail and every read through.
fn fail_writes(scratch: &Scratch, name: &DmName) -> Table {
    let targets = scratch.control().table(name).unwrap().parsed().unwrap();
    let [Target::Linear(segment)] = targets.as_slice() else {
        panic!("{targets:?}")
    };
    let (len, dev) = (segment.len.0, segment.dev);
    put_under(
        scratch,
        name,
        &format!("0 {len} flakey {dev} 0 0 3600 1 error_writes"),
    );
    Table {
        targets,
        read_only: false,
    }
}

/// Lets every access to the device fail.
fn fail_all(scratch: &Scratch, name: &DmName) -> Table {
    let targets = scratch.control().table(name).unwrap().parsed().unwrap();
    let before = Table {
        targets,
        read_only: false,
    };
    let error = Table::of(Target::Error(before.len()));
    swap_table(scratch.control(), name, &error, Flush::No).unwrap();
    before
}

fn heal(scratch: &Scratch, name: &DmName, before: &Table) {
    let control = scratch.control();
    control.load(name, before).unwrap();
    control.suspend(name, Flush::No, LockFs::No).unwrap();
    control.resume(name).unwrap();
}

fn thin_check(metadata: &Node, options: &[&str]) {
    let mut arguments = options.to_vec();
    arguments.push(metadata.path().to_str().unwrap());
    command::output("thin_check", &arguments).unwrap();
}

/// The law of rc 0: the kernel answers the message well although its commit failed, and after the
/// repair the thin is not there.
#[test]
fn a_message_answered_well_is_no_promise_when_the_metadata_cannot_be_written() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    let before = fail_writes(&scratch, &pool.metadata_name());

    pool.send(&create(2))
        .expect("the kernel says that it went well");
    let status = pool.working();
    assert_eq!(
        (status.mode, status.needs_check),
        (PoolMode::ReadOnly, true)
    );

    // What is mapped can be read and rewritten; nothing new, and no message.
    thin.write(0, &[3; 512]);
    assert_eq!(thin.read(0, 512), [3; 512]);
    assert_eq!(errno(thin.try_write(MIB, &[1; 512])), Some(Errno::IO));
    for message in [
        create(3),
        PoolMessage::Delete(id(1)),
        PoolMessage::ReserveMetadataSnap,
    ] {
        assert!(
            pool.send(&message).unwrap_err().is_refused_by_mode(),
            "{message}"
        );
    }

    // A healed device alone does not help, and neither does opening it anew.
    heal(&scratch, &pool.metadata_name(), &before);
    reopen(&scratch, &pool, &[1]);
    assert!(pool.working().needs_check);
    scratch.remove("pool");
    thin_check(pool.metadata(), &["--clear-needs-check-flag"]);
    let _node = scratch.device("pool", &pool.table(pool.plan()));
    let status = pool.working();
    assert_eq!(
        (status.mode, status.needs_check),
        (PoolMode::ReadWrite, false)
    );
    pool.send(&create(2))
        .expect("the thin that was promised was not there");
    assert_eq!(
        pool.activate(1, Bytes(16 * MIB), None).read(0, 512),
        [3; 512]
    );
}

fn reopen(scratch: &Scratch, pool: &Pool, live: &[u32]) {
    for raw in live {
        pool.deactivate(*raw);
    }
    scratch.remove("pool");
    let _node = scratch.device("pool", &pool.table(pool.plan()));
}

#[test]
fn a_pool_whose_metadata_cannot_be_read_fails_and_takes_its_thins_along() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    let before = fail_all(&scratch, &pool.metadata_name());

    let _answer = pool.send(&create(2));
    assert_eq!(pool.status(), PoolStatus::Fail);
    assert_eq!(pool.thin_status(1), ThinStatus::Fail);
    assert_eq!(errno(thin.try_read(0, 512)), Some(Errno::IO));
    assert_eq!(errno(thin.try_write(0, &[2; 512])), Some(Errno::IO));
    for message in [create(3), PoolMessage::Delete(id(1))] {
        assert!(
            pool.send(&message).unwrap_err().is_refused_by_mode(),
            "{message}"
        );
    }

    heal(&scratch, &pool.metadata_name(), &before);
    reopen(&scratch, &pool, &[1]);
    assert_eq!(
        pool.activate(1, Bytes(16 * MIB), None).read(0, 512),
        [1; 512]
    );
}

/// The law of the metadata's end. Which end it is depends on what meets it first: the pool goes
/// read-only, or fails and takes reads along. It is never writable again by itself, so a pool must
/// be braked before.
#[test]
fn metadata_that_fills_up_stops_the_pool_and_may_kill_reads_too() {
    let scratch = Scratch::new();
    let data = Bytes(32 << 30);
    let plan = PoolPlan {
        metadata: Bytes(MIB / 2),
        data,
        ..PoolPlan::default()
    };
    let pool = scratch.add_pool("pool", plan);
    // What is written is not kept: this is about the metadata, and memory is short.
    let sectors = data.0 / 512;
    put_under(
        &scratch,
        &scratch.name("pool-tdata"),
        &format!("0 {sectors} zero"),
    );
    let thin = pool.thin_over(1, data, None);
    // Far apart: each mapping comes into a leaf of its own, and the tree grows fast.
    let far_apart = (0..524_288_u64).map(|n| n.wrapping_mul(25_889) % 524_288 * BLOCK);
    let (taken, refused) = thin.write_until_refused(far_apart, &[1; 512]);
    assert!(taken > 1000, "{taken}");
    assert_eq!(
        refused.and_then(|e| Errno::from_io_error(&e)),
        Some(Errno::IO)
    );
    match pool.status() {
        PoolStatus::Fail => assert_eq!(errno(thin.try_read(0, 512)), Some(Errno::IO)),
        PoolStatus::Working(status) => assert_eq!(status.mode, PoolMode::ReadOnly),
    }
    for message in [create(2), PoolMessage::Delete(id(1))] {
        assert!(
            pool.send(&message).unwrap_err().is_refused_by_mode(),
            "{message}"
        );
    }
}

/// The brake: read-only while there is metadata left, grown, and released.
#[test]
fn a_pool_reloaded_read_only_keeps_its_thins_readable_and_is_released_again() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    let features = PoolFeatures {
        read_only: true,
        ..pool.plan().features
    };
    let braked = pool.table(PoolPlan {
        features,
        ..pool.plan()
    });
    swap_table(scratch.control(), &pool.name(), &braked, Flush::No).unwrap();

    let status = pool.working();
    assert_eq!(
        (status.mode, status.needs_check),
        (PoolMode::ReadOnly, false)
    );
    thin.write(0, &[2; 512]);
    assert_eq!(thin.read(0, 512), [2; 512]);
    assert_eq!(errno(thin.try_write(MIB, &[1; 512])), Some(Errno::IO));
    assert!(pool.send(&create(2)).unwrap_err().is_refused_by_mode());

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
    let status = pool.working();
    assert_eq!(
        (status.mode, status.total_metadata_blocks),
        (PoolMode::ReadWrite, 2048)
    );
    thin.write(MIB, &[1; 512]);
    pool.deactivate(1);
    scratch.remove("pool");
    thin_check(pool.metadata(), &["-q"]);
}

#[test]
fn a_data_device_that_fails_gives_errors_and_leaves_the_pool_writable() {
    let scratch = Scratch::new();
    let pool = scratch.add_pool("pool", PoolPlan::default());
    let thin = pool.thin(1);
    thin.write(0, &[1; 512]);
    let name = scratch.name("pool-tdata");
    let before = fail_all(&scratch, &name);
    assert_eq!(errno(thin.try_read(0, 512)), Some(Errno::IO));
    assert_eq!(errno(thin.try_write(0, &[2; 512])), Some(Errno::IO));
    assert_eq!(pool.working().mode, PoolMode::ReadWrite);
    heal(&scratch, &name, &before);
    assert_eq!(thin.read(0, 512), [1; 512]);
    thin.write(MIB, &[2; 512]);
}

#[test]
fn every_status_line_that_a_pool_in_trouble_prints_is_printed_back() {
    let scratch = Scratch::new();
    let plan = PoolPlan {
        data: Bytes(16 * BLOCK),
        ..PoolPlan::default()
    };
    let pool = scratch.add_pool("pool", plan);
    let line = || {
        let status = scratch.control().status(&pool.name(), Commit::No).unwrap();
        status.targets[0].text.trim_end().to_owned()
    };
    let mut seen = Vec::new();
    let mut see = |word: &str| {
        let text = line();
        assert!(text.contains(word), "{word} in {text}");
        let parsed: PoolStatus = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
        seen.push(text);
    };
    let thin = pool.thin(1);
    see(" rw ");
    thin.write(0, &vec![1; 16 * 65536]);
    thin.try_write(MIB, &[1; 512]).unwrap_err();
    see(" out_of_data_space ");
    fail_writes(&scratch, &pool.metadata_name());
    let _answer = pool.send(&create(2));
    see(" ro ");
    see(" needs_check");
    // No repair in between: the metadata can be read no more either.
    pool.deactivate(1);
    scratch.remove("pool");
    let pool = scratch.add_pool("other", PoolPlan::default());
    fail_all(&scratch, &pool.metadata_name());
    let _answer = pool.send(&create(2));
    let status = scratch.control().status(&pool.name(), Commit::No).unwrap();
    assert_eq!(status.targets[0].text.trim_end(), "Fail");
    assert_eq!(seen.len(), 4);
}
