//! File systems on volumes, on the real kernel: half made, damaged, and begun as an image.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use goldleaf_tests::command::output;
use goldleaf_tests::host::csi::{Use, block, file_system};
use goldleaf_tests::host::csi_rig::{GIB, code, rig, total};
use tonic::Code;

/// An xfs says that it is being made, but is found as one all the same.
#[test]
fn a_file_system_that_was_never_finished_is_made_again_whatever_it_looks_like() {
    let mut rig = rig("csi-half");
    let u = rig.volume("v", "", GIB, file_system("xfs"));
    rig.node = None;
    let dying: &[(&str, &str)] = &[("GOLDLEAF_FAILPOINT", "csi/stage/after-mkfs")];
    rig.node = Some(rig.host.start_csi_node(dying));
    rig.host.stage(&u).unwrap_err();
    assert!(rig.node.as_mut().unwrap().died());
    // As a death a moment earlier leaves it: the superblock says so until all else is written.
    let device = rig.device("v");
    let half = ["-x", "-c", "sb 0", "-c", "write inprogress 1", &device];
    output("xfs_db", &half).unwrap();
    let seen = output("blkid", &["-p", "-o", "value", "-s", "TYPE", &device]).unwrap();
    assert_eq!(seen.trim(), "xfs");
    rig.node = Some(rig.host.start_csi_node(&[]));
    // A clone is as half made as it, and a larger device is no other one.
    let clone = rig.larger_clone(&u);
    rig.fine("expand", rig.host.csi_expand(&u.volume, 16 * GIB));
    for u in [&clone, &u] {
        rig.up(u);
        assert!(total(&rig, u) > GIB, "it does not fill its size");
        std::fs::write(u.target.join("file"), "x").unwrap();
        rig.down(u);
        rig.up(u);
        assert_eq!(std::fs::read(u.target.join("file")).unwrap(), b"x");
        rig.down(u);
        rig.delete(u);
    }
    rig.end();
}

/// Marks say that a device may be made anew: not while it is mounted, whoever wrote them.
#[test]
fn nothing_is_made_on_a_device_that_is_mounted() {
    let rig = rig("csi-mounted");
    let u = rig.volume("v", "", GIB, file_system("ext4"));
    rig.up(&u);
    std::fs::write(u.target.join("file"), "kept").unwrap();
    let device = rig.device("v");
    let mut mark = [0; 512];
    let text = b"goldleaf: a file system is being made on this device\n";
    mark[..text.len()].copy_from_slice(text);
    let place = 840_u64 << 20; // the last one of a device of this size
    let file = File::options().write(true).open(&device).unwrap();
    file.write_all_at(&mark, place).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let elsewhere = Use {
        staging: u.staging.with_file_name("elsewhere"),
        ..u.clone()
    };
    let refused = rig.host.stage(&elsewhere).unwrap_err();
    assert!(refused.message().contains("have alone"), "{refused:?}");
    assert_eq!(std::fs::read(u.target.join("file")).unwrap(), b"kept");
    output(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={device}"),
            "bs=4096",
            "count=1",
            "conv=notrunc,fsync",
            &format!("seek={}", place / 4096),
        ],
    )
    .unwrap();
    rig.down(&u);
    rig.up(&u);
    assert_eq!(std::fs::read(u.target.join("file")).unwrap(), b"kept");
    rig.down(&u);
    rig.delete(&u);
    rig.end();
}

/// Who asks for no kind of file system gets the one that is there.
#[test]
fn an_image_and_a_clone_with_an_xfs_are_mounted_by_who_does_not_say_a_kind() {
    let rig = rig("csi-xfs");
    let image = rig.host.import("xfs.raw", b"");
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(320 << 20)
        .unwrap();
    output("mkfs.xfs", &["-q", &image.display().to_string()]).unwrap();
    rig.host.image_of("xfs", &image);
    let other = rig.volume("o", "xfs", GIB, file_system("ext4"));
    let refused = rig.host.stage(&other).unwrap_err();
    assert!(refused.message().contains("holds xfs"), "{refused:?}");
    rig.fine("unstage", rig.host.unstage(&other));
    rig.delete(&other);
    let u = rig.volume("v", "xfs", GIB, file_system(""));
    rig.up(&u);
    let clone = rig.larger_clone(&u);
    rig.up(&clone);
    for u in [&clone, &u] {
        assert_eq!(rig.kind(u), "xfs");
        assert!(total(&rig, u) > GIB / 2, "it does not fill its size");
        std::fs::write(u.target.join("file"), "x").unwrap();
        rig.down(u);
        rig.delete(u);
    }
    rig.end();
}

/// What the kernel noted when it met an error is seen to before the next mount.
#[test]
fn errors_in_an_ext4_are_repaired_before_it_is_mounted_or_it_is_refused() {
    let rig = rig("csi-check");
    let u = rig.volume("v", "", GIB, file_system("ext4"));
    rig.up(&u);
    std::fs::write(u.target.join("file"), "kept").unwrap();
    rig.down(&u);
    let raw = Use {
        capability: block(),
        ..u.clone()
    };
    let state = |device: &str| output("dumpe2fs", &["-h", device]).unwrap();
    let damage = |commands: &[&str]| {
        rig.fine("stage", rig.host.stage(&raw));
        let device = rig.device("v");
        for command in commands {
            output("debugfs", &["-w", "-R", command, &device]).unwrap();
        }
        assert!(state(&device).contains("with errors"), "nothing was shown");
        rig.fine("unstage", rig.host.unstage(&raw));
    };
    damage(&["set_super_value state 3"]);
    rig.up(&u);
    let device = rig.device("v");
    assert!(!state(&device).contains("with errors"), "not checked");
    // Mounted twice it is left alone: a check would be of what is being written.
    rig.up(&u);
    assert_eq!(std::fs::read(u.target.join("file")).unwrap(), b"kept");
    rig.down(&u);

    damage(&["clri <2>", "set_super_value state 3"]);
    let refused = rig.host.stage(&u).unwrap_err();
    assert!(refused.message().contains("e2fsck -f"), "{refused:?}");
    assert_eq!(code::<()>(Err(refused)), Code::FailedPrecondition);
    let repair = format!("e2fsck -fy {}; [ $? -lt 4 ]", rig.device("v"));
    output("sh", &["-c", &repair]).unwrap();
    rig.up(&u);
    std::fs::write(u.target.join("file"), "new").unwrap();
    rig.down(&u);
    rig.delete(&u);
    rig.end();
}
