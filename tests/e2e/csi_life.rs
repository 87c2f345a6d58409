//! The life of volumes through the CSI driver, on the real kernel: file systems and block devices,
//! cut short at every named place, and with the control plane away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use csi_proto::v1 as csi;
use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::csi::{Use, block, file_system};
use goldleaf_tests::host::csi_rig::{GIB, Rig, code, rig, total};
use goldleaf_tests::host::program;
use goldleaf_tests::support::Pattern;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const GOLDEN: Pattern = Pattern(1);

#[test]
fn file_systems_are_made_kept_grown_and_shown_for_reading() {
    let rig = rig("csi-fs");
    for fs in ["", "ext4", "xfs"] {
        let u = rig.volume("v", "", GIB, file_system(fs));
        assert_eq!(
            code(rig.host.publish(&u, false)),
            Code::FailedPrecondition,
            "not staged"
        );
        rig.up(&u);
        rig.up(&u); // again: nothing changes
        let made = rig.kind(&u);
        assert_eq!(made, if fs.is_empty() { "ext4" } else { fs });
        std::fs::write(u.target.join("file"), fs).unwrap();
        let before = total(&rig, &u);
        assert!(before > GIB / 2 && before <= GIB, "{before}");
        let grown = rig.fine("expand", rig.host.csi_expand(&u.volume, 2 * GIB));
        assert!(grown.node_expansion_required);
        assert_eq!(rig.fine("node expand", rig.host.node_expand(&u)), 2 * GIB);
        let after = total(&rig, &u);
        assert!(after > before + GIB / 2, "{before} {after}");
        assert_eq!(
            code(rig.host.csi_delete(&u.volume)),
            Code::FailedPrecondition,
            "in use"
        );
        rig.down(&u);
        rig.down(&u); // again: nothing is there, and that is as good
        rig.fine("stage", rig.host.stage(&u));
        rig.fine("publish for reading", rig.host.publish(&u, true));
        assert_eq!(std::fs::read_to_string(u.target.join("file")).unwrap(), fs);
        let refused = std::fs::write(u.target.join("other"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(code(rig.host.publish(&u, false)), Code::AlreadyExists);
        rig.down(&u);
        rig.delete(&u);
        rig.delete(&u);
    }
    rig.end();
}

#[test]
fn a_block_device_shows_the_image_takes_writes_and_grows_at_once() {
    let rig = rig("csi-block");
    rig.host.image("golden", &GOLDEN.bytes(0, 1 << 20));
    let u = rig.volume("v", "golden", 64 << 20, block());
    rig.up(&u);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&u.target)
        .unwrap();
    let mut bytes = vec![0; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(
        bytes == GOLDEN.bytes(0, 1 << 20),
        "the image is not what is read"
    );
    file.write_all_at(b"mine", 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let grown = rig.fine("expand", rig.host.csi_expand(&u.volume, 128 << 20));
    assert_eq!(grown.capacity_bytes, 128 << 20);
    assert_eq!(total(&rig, &u), 128 << 20);
    rig.down(&u);
    rig.up(&u);
    let file = File::open(&u.target).unwrap();
    let mut mine = [0; 4];
    file.read_exact_at(&mut mine, 4096).unwrap();
    assert_eq!(&mine, b"mine");
    drop(file);
    rig.down(&u);
    rig.delete(&u);
    rig.end();
}

#[test]
fn a_clone_of_a_file_system_mounts_beside_what_it_began_as_and_fills_its_larger_size() {
    let rig = rig("csi-clones");
    for fs in ["ext4", "xfs"] {
        let u = rig.volume("v", "", GIB, file_system(fs));
        rig.up(&u);
        let file = File::create(u.target.join("file")).unwrap();
        file.write_all_at(b"shared", 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let c = rig.larger_clone(&u);
        rig.up(&c);
        assert_eq!(std::fs::read(c.target.join("file")).unwrap(), b"shared");
        assert!(
            total(&rig, &c) > total(&rig, &u) + GIB / 2,
            "it does not fill its size"
        );
        for u in [&c, &u] {
            rig.down(u);
            rig.delete(u);
        }
    }
    rig.end();
}

/// A file system is made only where nothing can be lost, and a host's own volume is left to it.
#[test]
fn no_file_system_is_made_over_what_somebody_may_need() {
    let rig = rig("csi-refusals");
    rig.host.image("disk", &GOLDEN.bytes(0, 1 << 20));
    let u = rig.volume("image", "disk", GIB, file_system("ext4"));
    assert_eq!(
        code(rig.host.stage(&u)),
        Code::FailedPrecondition,
        "over an image"
    );
    rig.fine("unstage", rig.host.unstage(&u));
    rig.delete(&u);

    let raw = rig.volume("raw", "", GIB, block());
    rig.up(&raw);
    let file = File::options().write(true).open(&raw.target).unwrap();
    file.write_all_at(b"somebody's", 512 << 10).unwrap();
    file.sync_all().unwrap();
    drop(file);
    rig.down(&raw);
    let mounted = rig.host.csi_use(&raw.volume, file_system("ext4"));
    let refused = rig.host.stage(&mounted).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("none is made over it"),
        "{refused:?}"
    );
    rig.fine("unstage", rig.host.unstage(&mounted));
    rig.up(&raw);
    let mut kept = [0; 10];
    File::open(&raw.target)
        .unwrap()
        .read_exact_at(&mut kept, 512 << 10)
        .unwrap();
    assert_eq!(&kept, b"somebody's");
    rig.down(&raw);
    rig.delete(&raw);

    let hosts = rig.host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..goldleaf_tests::host::blank("hosts", 64 * MIB)
    });
    let hosts = rig.host.csi_use(&hosts.unwrap().id, block());
    assert_eq!(
        code(rig.host.stage(&hosts)),
        Code::FailedPrecondition,
        "the host's"
    );
    rig.fine("unstage", rig.host.unstage(&hosts));
    let still = rig.host.volume("hosts").unwrap().activation.unwrap();
    assert!(
        still.active && still.holder() == api::Holder::Host,
        "{still:?}"
    );
    rig.end();
}

#[test]
fn a_volume_is_staged_and_published_while_the_control_plane_is_away() {
    let mut rig = rig("csi-away");
    let u = rig.volume("v", "", GIB, file_system("ext4"));
    assert!(rig.host.server.take().unwrap().stop().success());
    rig.up(&u);
    std::fs::write(u.target.join("file"), "written alone").unwrap();
    rig.down(&u);
    rig.up(&u);
    assert_eq!(
        std::fs::read_to_string(u.target.join("file")).unwrap(),
        "written alone"
    );
    rig.down(&u);
    rig.host.start_server(&[]);
    rig.host.await_node();
    rig.delete(&u);
    rig.end();
}

/// What the life of one volume is to each run, however often it is cut short.
fn life(rig: &Rig, u: &Use, read_only: bool) -> Result<(), Status> {
    let host = &rig.host;
    host.stage(u)?;
    host.publish(u, read_only)?;
    host.unpublish(u)?;
    host.unstage(u)
}

/// Asks again after each death until the life is whole.
fn lived(rig: &mut Rig, u: &Use, point: &str, read_only: bool) -> bool {
    let mut died = false;
    let dying: &[(&str, &str)] = &[("GOLDLEAF_FAILPOINT", point)];
    rig.node = None;
    rig.node = Some(rig.host.start_csi_node(dying));
    if let Err(error) = life(rig, u, read_only) {
        assert!(
            rig.node.as_mut().unwrap().died(),
            "{point}: {error:?}\n{}",
            rig.host.csi_logs()
        );
        died = true;
    }
    rig.node = None;
    rig.node = Some(rig.host.start_csi_node(&[]));
    died
}

fn nothing_is_left(u: &Use, when: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&u.volume), "{when}: {mounts}");
    let devices = output("dmsetup", &["ls"]).unwrap();
    assert!(!devices.contains(&u.volume), "{when}: {devices}");
    assert!(!u.target.exists(), "{when}: its target is left");
}

fn points(program_name: &str) -> Vec<String> {
    let program = program(program_name).display().to_string();
    let said = output(&program, &["failpoints"]).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// Asks until the life is whole: begun and taken back as it is, begun and finished.
fn cut_short(rig: &mut Rig, u: &Use, point: &str, read_only: bool) -> bool {
    let died = lived(rig, u, point, read_only);
    rig.down(u);
    nothing_is_left(u, point);
    lived(rig, u, point, read_only);
    rig.fine("stage", rig.host.stage(u));
    rig.fine("publish", rig.host.publish(u, read_only));
    died
}

/// Kills the plugin at every named place; then what was begun is finished, or taken back alone.
#[test]
fn the_plugin_can_die_anywhere_and_nothing_is_left_over() {
    let mut rig = rig("csi-crash");
    let points = points("goldleaf-csi");
    assert!(points.len() >= 14, "{points:?}");
    for point in points.iter().filter(|p| !p.contains("growth")) {
        for (how, read_only) in [(file_system("ext4"), true), (block(), false)] {
            let is_block = how == block();
            let u = rig.volume("v", "", GIB, how);
            let died = cut_short(&mut rig, &u, point, read_only);
            let for_mounts = ["marks", "mkfs", "after-mount"]
                .iter()
                .any(|w| point.contains(w));
            assert!(
                died || (is_block && for_mounts),
                "{point} was never reached"
            );
            assert!(is_block || u.target.join("lost+found").is_dir(), "{point}");
            rig.down(&u);
            nothing_is_left(&u, point);
            rig.delete(&u);
        }
    }
    rig.end();
}

/// A clone whose plugin dies before it fills its size fills it when it is asked for again.
#[test]
fn a_larger_clone_fills_its_size_wherever_the_plugin_died() {
    let mut rig = rig("csi-grow");
    for fs in ["ext4", "xfs"] {
        let source = rig.volume("v", "", GIB, file_system(fs));
        rig.up(&source);
        let small = total(&rig, &source);
        rig.down(&source);
        for point in ["csi/stage/after-mount", "csi/stage/after-growth"] {
            let c = rig.larger_clone(&source);
            assert!(cut_short(&mut rig, &c, point, false), "{point} not reached");
            let large = total(&rig, &c);
            assert!(large > small + GIB / 2, "{fs}, {point}: {small} {large}");
            rig.down(&c);
            nothing_is_left(&c, point);
            rig.delete(&c);
        }
        rig.delete(&source);
    }
    rig.end();
}

/// A folder with a `mkfs` that waits to be told to go on, and is then the real one.
fn slow_mkfs(rig: &Rig, program: &str) -> PathBuf {
    let folder = rig.host.dir().join(format!("slow-{program}"));
    std::fs::create_dir(&folder).unwrap();
    let at = folder.display();
    let script = format!(
        "#!/bin/sh\necho $$ >{at}/new\nmv {at}/new {at}/began\n\
         until [ -e {at}/go ]; do sleep 0.05; done\nPATH=/usr/sbin:/sbin exec {program} \"$@\"\n"
    );
    let file = folder.join(program);
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A plugin that is killed alone leaves its `mkfs` at work.
#[test]
fn a_mkfs_that_outlives_its_plugin_has_no_second_one_beside_it() {
    let mut rig = rig("csi-orphan");
    for fs in ["ext4", "xfs"] {
        let u = rig.volume("v", "", GIB, file_system(fs));
        let slow = slow_mkfs(&rig, &format!("mkfs.{fs}"));
        let path = format!("{}:{}", slow.display(), std::env::var("PATH").unwrap());
        rig.node = None;
        let mut node = rig.host.start_csi_node(&[("PATH", &path)]);
        std::thread::scope(|scope| {
            let staged = scope.spawn(|| rig.host.stage(&u));
            let began = || slow.join("began").exists().then_some(());
            rig.host.soon("mkfs", began);
            node.kill();
            staged.join().unwrap().unwrap_err();
        });
        let pid = std::fs::read_to_string(slow.join("began")).unwrap();
        let orphan = Path::new("/proc").join(pid.trim());
        rig.node = Some(rig.host.start_csi_node(&[]));
        let refused = rig.host.stage(&u).expect_err("a second mkfs ran");
        assert!(refused.message().contains("is locked"), "{refused:?}");
        assert_eq!(refused.code(), Code::Aborted);
        assert!(orphan.exists(), "the first had ended: nothing was shown");
        std::fs::write(slow.join("go"), "").unwrap();
        rig.host
            .soon("the end of mkfs", || (!orphan.exists()).then_some(()));
        rig.up(&u);
        std::fs::write(u.target.join("file"), fs).unwrap();
        rig.down(&u);
        rig.up(&u);
        assert_eq!(std::fs::read_to_string(u.target.join("file")).unwrap(), fs);
        rig.down(&u);
        rig.delete(&u);
    }
    rig.end();
}

/// Kills the agent between any two steps of what the plugin asks of it.
#[test]
fn the_agent_can_die_under_the_plugin_and_nothing_is_left_over() {
    let mut rig = rig("csi-agent");
    let all = points("goldleaf-node-agent");
    let ours = all
        .iter()
        .filter(|p| p.contains("/activate/") || p.contains("/deactivate/"));
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 4, "{ours:?}");
    for point in ours {
        let u = rig.volume("v", "", GIB, file_system("xfs"));
        rig.host.agent.as_mut().unwrap().kill();
        rig.host.start_agent(&[("GOLDLEAF_FAILPOINT", point)]);
        rig.host.await_node();
        let error = life(&rig, &u, false).unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{point}: {error:?}");
        assert!(rig.host.agent.as_mut().unwrap().died(), "{point}");
        rig.host.start_agent(&[]);
        rig.host.await_node();
        rig.up(&u);
        std::fs::write(u.target.join("file"), "x").unwrap();
        rig.down(&u);
        nothing_is_left(&u, point);
        rig.delete(&u);
    }
    rig.end_after(&["dying as asked"]);
}

#[test]
fn a_workload_alone_has_its_volume_and_what_is_not_the_volume_is_never_unmounted() {
    let rig = rig("csi-alone");
    let mut how = file_system("ext4");
    how.access_mode.as_mut().unwrap().mode =
        csi::volume_capability::access_mode::Mode::SingleNodeSingleWriter.into();
    let u = rig.volume("v", "", GIB, how);
    rig.up(&u);
    let second = Use {
        target: u.target.with_file_name("second"),
        ..u.clone()
    };
    assert_eq!(
        code(rig.host.publish(&second, false)),
        Code::FailedPrecondition
    );
    let other = rig.volume("w", "", GIB, file_system("ext4"));
    rig.up(&other);
    let wrong = Use {
        volume: other.volume.clone(),
        ..u.clone()
    };
    assert_eq!(code(rig.host.unpublish(&wrong)), Code::FailedPrecondition);
    assert_eq!(code(rig.host.unstage(&wrong)), Code::FailedPrecondition);
    assert_eq!(code(rig.host.stats(&wrong)), Code::NotFound);
    assert!(Path::new(&u.target).is_dir());
    for u in [&u, &other] {
        rig.down(u);
        rig.delete(u);
    }
    rig.end();
}
