//! The control node against the real kernel: devices, tables, suspending, events.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use goldleaf_dm::{
    Access, Commit, DmName, DmUuid, Events, Flush, LinearSegment, LockFs, Removal, Suspended,
    Table, Target, Version, swap_table,
};
use goldleaf_tests::command;
use goldleaf_tests::support::{Node, Pattern, Scratch, kernel_under_test};
use goldleaf_types::{Bytes, Sectors};
use rustix::io::Errno;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(10);

fn part_of(node: &Node, len: u64, offset: u64) -> LinearSegment {
    LinearSegment {
        len: Sectors(len),
        dev: node.dev(),
        offset: Sectors(offset),
    }
}

#[test]
fn the_kernel_has_every_target_that_goldleaf_makes() {
    let control = kernel_under_test();
    assert!(control.version().unwrap() >= Version([4, 27, 0]));
    let targets = control.target_versions().unwrap();
    for name in ["linear", "thin-pool", "thin", "verity", "error"] {
        let found = targets.iter().find(|t| t.name == name);
        assert!(
            found.is_some_and(|t| t.version[0] >= 1),
            "{name} in {targets:?}"
        );
    }
}

#[test]
fn a_device_is_made_found_listed_and_removed() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let (name, uuid) = (scratch.name("a"), scratch.uuid("a"));
    let made = control.create(&name, &uuid).unwrap();
    scratch.adopt(&name);
    assert!(!made.has_active_table && !made.has_inactive_table && !made.deferred_remove);

    let found = control.find(&name).unwrap().unwrap();
    assert_eq!(
        (found.name.as_str(), found.uuid.as_str()),
        (name.as_str(), uuid.as_str())
    );
    assert_eq!(found.dev, made.dev);
    let listed = control.list().unwrap();
    let line = listed.iter().find(|l| l.name == name.as_str()).unwrap();
    assert_eq!(
        (line.dev, line.uuid.as_deref()),
        (made.dev, Some(uuid.as_str()))
    );

    assert!(
        control
            .create(&name, &scratch.uuid("b"))
            .unwrap_err()
            .is_busy()
    );
    assert!(
        control
            .create(&scratch.name("b"), &uuid)
            .unwrap_err()
            .is_busy()
    );

    control.remove(&name, Removal::Now).unwrap();
    assert_eq!(control.find(&name).unwrap(), None);
    assert!(
        control
            .remove(&name, Removal::Now)
            .unwrap_err()
            .is_not_found()
    );
}

#[test]
fn a_list_longer_than_the_first_buffer_is_whole() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let names: Vec<DmName> = (0..160).map(|n| scratch.name(&format!("{n:03}"))).collect();
    for (n, name) in names.iter().enumerate() {
        control
            .create(name, &scratch.uuid(&format!("{n:03}")))
            .unwrap();
        scratch.adopt(name);
    }
    let listed = control.list().unwrap();
    for name in &names {
        assert!(listed.iter().any(|l| l.name == name.as_str()), "{name}");
    }
}

#[test]
fn the_longest_name_and_uuid_are_taken_whole() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let part = "n".repeat(127 - scratch.name("").as_str().len());
    let (name, uuid) = (scratch.name(&part), DmUuid::new(&"u".repeat(128)).unwrap());
    control.create(&name, &uuid).unwrap();
    scratch.adopt(&name);
    let found = control.find(&name).unwrap().unwrap();
    assert_eq!((found.name.len(), found.uuid.len()), (127, 128));
}

#[test]
fn a_loaded_table_waits_for_the_resume_and_can_be_cleared() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let table = Table::linear([part_of(&disk, 2048, 0)]);
    let name = scratch.name("a");
    control.create(&name, &scratch.uuid("a")).unwrap();
    scratch.adopt(&name);

    control.load(&name, &table).unwrap();
    assert!(control.find(&name).unwrap().unwrap().has_inactive_table);
    assert_eq!(
        control.inactive_table(&name).unwrap().parsed().unwrap(),
        table.targets
    );
    assert!(control.table(&name).unwrap().targets.is_empty());

    control.clear(&name).unwrap();
    assert!(!control.find(&name).unwrap().unwrap().has_inactive_table);

    control.load(&name, &table).unwrap();
    let live = control.resume(&name).unwrap();
    assert!(live.has_active_table && !live.has_inactive_table && !live.suspended);
    assert_eq!(
        control.table(&name).unwrap().parsed().unwrap(),
        table.targets
    );
    let status = control.status(&name, Commit::No).unwrap();
    assert_eq!(
        (status.targets[0].kind.as_str(), status.targets[0].len),
        ("linear", Sectors(2048))
    );
}

#[test]
fn a_linear_table_shows_its_stretches_one_after_the_other_and_depends_on_them() {
    let scratch = Scratch::new();
    let a = scratch.image("a", Bytes(MIB), Pattern(1));
    let b = scratch.image("b", Bytes(MIB), Pattern(2));
    let table = Table::linear([part_of(&b, 7, 100), part_of(&a, 2000, 48)]).read_only();
    let joined = scratch.device("joined", &table);
    let mut expected = Pattern(2).bytes(100 * 512, 7 * 512);
    expected.extend(Pattern(1).bytes(48 * 512, 2000 * 512));
    joined.assert_reads(|at, len| expected[usize::try_from(at).unwrap()..][..len].to_vec());

    let mut deps = scratch.control().deps(&scratch.name("joined")).unwrap();
    let mut both = [a.dev(), b.dev()];
    deps.sort();
    both.sort();
    assert_eq!(deps, both);
}

#[test]
fn a_read_only_table_refuses_writes_over_a_writable_disk() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", Bytes(MIB));
    let table = Table::linear([part_of(&disk, 2048, 0)]);
    let open = scratch.device("open", &table);
    open.write(0, &[1; 512]);
    let closed = scratch.device("closed", &table.read_only());
    assert!(
        scratch
            .control()
            .find(&scratch.name("closed"))
            .unwrap()
            .unwrap()
            .read_only
    );
    let refused = closed.try_write(0, &[2; 512]).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM));
    assert_eq!(closed.read(0, 512), [1; 512]);
}

#[test]
fn an_error_table_fails_every_access() {
    let scratch = Scratch::new();
    let node = scratch.device("error", &Table::of(Target::Error(Sectors(64))));
    for error in [
        node.try_read(0, 512).unwrap_err(),
        node.try_write(512, &[1; 512]).unwrap_err(),
    ] {
        assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    }
    let table = scratch.control().table(&scratch.name("error")).unwrap();
    assert_eq!(table.parsed().unwrap(), [Target::Error(Sectors(64))]);
}

#[test]
fn a_table_longer_than_its_disk_is_refused_and_the_old_one_stays() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.image("disk", Bytes(MIB), Pattern(3));
    let good = Table::linear([part_of(&disk, 1024, 0)]).read_only();
    let node = scratch.device("a", &good);
    let name = scratch.name("a");
    let long = Table::linear([part_of(&disk, 4096, 0)]).read_only();
    assert_eq!(
        swap_table(control, &name, &long, Flush::Yes)
            .unwrap_err()
            .errno,
        Errno::INVAL
    );
    let device = control.find(&name).unwrap().unwrap();
    assert!(!device.suspended && !device.has_inactive_table);
    assert_eq!(
        control.table(&name).unwrap().parsed().unwrap(),
        good.targets
    );
    assert_eq!(node.read(0, 512), Pattern(3).bytes(0, 512));
}

#[test]
fn a_device_is_suspended_and_resumed_in_every_way() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    for flush in [Flush::Yes, Flush::No] {
        for lockfs in [LockFs::Yes, LockFs::No] {
            control.suspend(&name, flush, lockfs).unwrap();
            assert!(
                control.find(&name).unwrap().unwrap().suspended,
                "{flush:?} {lockfs:?}"
            );
            assert!(
                !control.resume(&name).unwrap().suspended,
                "{flush:?} {lockfs:?}"
            );
            node.write(0, &[1; 512]);
        }
    }
}

#[test]
fn a_write_held_back_without_a_flush_goes_on_through_the_new_table() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let (old, new) = (
        scratch.disk("old", Bytes(MIB)),
        scratch.disk("new", Bytes(MIB)),
    );
    let node = scratch.device("a", &Table::linear([part_of(&old, 2048, 0)]));
    let name = scratch.name("a");
    control.suspend(&name, Flush::No, LockFs::No).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| node.try_write(4096, &[9; 512]));
        control
            .load(&name, &Table::linear([part_of(&new, 2048, 0)]))
            .unwrap();
        control.resume(&name).unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(
        (old.read(4096, 512), new.read(4096, 512)),
        (vec![0; 512], vec![9; 512])
    );
}

#[test]
fn a_suspended_device_holds_a_write_until_the_resume() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let guard = Suspended::new(control, &name, Flush::Yes, LockFs::No).unwrap();
        scope.spawn(|| tell.send(node.try_write(0, &[5; 512])));
        assert!(
            told.recv_timeout(Duration::from_millis(300)).is_err(),
            "it went through"
        );
        assert_eq!(disk.read(0, 512), [0; 512]);
        drop(guard);
        told.recv_timeout(LONG).expect("the write ends").unwrap();
    });
    assert_eq!(disk.read(0, 512), [5; 512]);
}

#[test]
fn the_guard_resumes_on_every_way_out() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    let way_out = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Suspended::new(control, &name, Flush::Yes, LockFs::Yes).unwrap();
        assert!(control.find(&name).unwrap().unwrap().suspended);
        std::panic::resume_unwind(Box::new("a panic in between"));
    }));
    assert!(way_out.is_err());
    assert!(!control.find(&name).unwrap().unwrap().suspended);
    node.write(0, &[1; 512]);
}

#[test]
fn a_resume_that_fails_is_told_and_one_that_does_not_leaves_nothing_to_resume() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    let guard = Suspended::new(control, &name, Flush::Yes, LockFs::No).unwrap();
    guard.resume().unwrap();
    assert!(!control.find(&name).unwrap().unwrap().suspended);
    node.write(0, &[1; 512]);
    drop(node);
    let guard = Suspended::new(control, &name, Flush::Yes, LockFs::No).unwrap();
    control.remove(&name, Removal::Now).unwrap();
    assert!(guard.resume().unwrap_err().is_not_found());
}

/// Whether ext4's superblock says that its journal is to be replayed.
fn needs_recovery(disk: &Node) -> bool {
    const INCOMPATIBLE_FEATURES: usize = 0x60;
    const RECOVER: u8 = 4;
    disk.read(1024, 1024)[INCOMPATIBLE_FEATURES] & RECOVER != 0
}

#[test]
fn a_suspend_with_fs_lock_leaves_a_clean_file_system_below_and_one_without_does_not() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(16 * MIB));
    let node = scratch.device("fs", &Table::linear([part_of(&disk, 32 << 10, 0)]));
    let name = scratch.name("fs");
    let path = node.path().to_str().unwrap();
    command::output("mkfs.ext4", &["-q", "-F", path]).unwrap();
    let at = scratch.folder().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let _mounted = scratch.mount(&node, &at, "ext4");
    std::fs::write(at.join("file"), [1; 100_000]).unwrap();
    for (lockfs, dirty) in [(LockFs::Yes, false), (LockFs::No, true)] {
        let _guard = Suspended::new(control, &name, Flush::Yes, lockfs).unwrap();
        assert_eq!(needs_recovery(&disk), dirty, "{lockfs:?}");
    }
}

#[test]
fn a_device_in_use_goes_when_its_last_user_does() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    let user = File::open(node.path()).unwrap();
    assert!(control.remove(&name, Removal::Now).unwrap_err().is_busy());
    control.remove(&name, Removal::Deferred).unwrap();
    let device = control.find(&name).unwrap().unwrap();
    assert!(device.deferred_remove && device.open_count == 1);
    let events = Events::open().unwrap();
    events.arm().unwrap();
    drop(user);
    // The last close only queues the removal.
    while control.find(&name).unwrap().is_some() {
        assert!(events.wait(LONG).unwrap(), "the device does not go");
        events.arm().unwrap();
    }
}

#[test]
fn events_wake_for_a_device_that_comes_and_wait_for_none_in_vain() {
    let scratch = Scratch::new();
    let events = Events::open().unwrap();
    events.arm().unwrap();
    assert!(!events.wait(Duration::from_millis(50)).unwrap());
    let name = scratch.name("a");
    scratch.control().create(&name, &scratch.uuid("a")).unwrap();
    scratch.adopt(&name);
    assert!(events.wait(LONG).unwrap());
    assert!(
        events.wait(LONG).unwrap(),
        "it stays awake until armed again"
    );
    events.arm().unwrap();
    assert!(!events.wait(Duration::from_millis(50)).unwrap());
}

#[test]
fn a_message_brings_its_answer_and_an_unknown_one_is_refused() {
    let scratch = Scratch::new();
    let control = scratch.control();
    let disk = scratch.disk("disk", Bytes(MIB));
    let _node = scratch.device("a", &Table::linear([part_of(&disk, 2048, 0)]));
    let name = scratch.name("a");
    assert_eq!(
        control.message(&name, "@stats_create - /1").unwrap().text,
        "0"
    );
    let list = control.message(&name, "@stats_list").unwrap().text;
    assert!(list.starts_with("0: 0+2048 2048 "), "{list}");
    assert_eq!(control.message(&name, "@stats_delete 0").unwrap().text, "");
    assert_eq!(
        control.message(&name, "gibberish").unwrap_err().errno,
        Errno::INVAL
    );
}

#[test]
fn a_loop_device_says_what_it_is_over_and_is_found_by_it() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let path = scratch.file("file", Bytes(MIB));
    let node = scratch.loop_over(&path, Access::ReadOnly);
    let file = std::fs::metadata(&path).unwrap();
    let status = goldleaf_dm::loopdev::status(node.path()).unwrap().unwrap();
    assert_eq!(
        (status.backing_dev, status.backing_inode),
        (file.dev(), file.ino())
    );
    assert!(status.read_only && !status.autoclear);
    let found = goldleaf_dm::loopdev::find_by_backing(file.dev(), file.ino()).unwrap();
    assert_eq!(
        found
            .iter()
            .map(|(l, s)| (l.dev(), s.clone()))
            .collect::<Vec<_>>(),
        [(node.dev(), status.clone())]
    );
    assert!(!status.is_whole_and_writable());
    let refused = node.try_write(0, &[1; 512]).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::PERM));
}
