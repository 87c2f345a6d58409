//! Bad input and bad moments: each gets its code, names the field and the remedy, changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, Process, blank, over};
use goldleaf_tests::support::{Node, Pattern};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const MIB: u64 = 1 << 20;

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 256 * MIB);
    host.image("golden", &Pattern(1).bytes(0, 1 << 20));
    host
}

/// The field that a refusal names in its details.
fn field(status: &Status) -> String {
    let details = status.get_error_details();
    let bad = details
        .bad_request()
        .map(|b| b.field_violations.clone())
        .unwrap_or_default();
    bad.first().map(|v| v.field.clone()).unwrap_or_default()
}

fn counts(host: &Host) -> (usize, usize, usize) {
    let list = api::ListRequest::default;
    (
        host.list_pools(list()).unwrap().pools.len(),
        host.list_images(list()).unwrap().images.len(),
        host.volume_names().unwrap().len(),
    )
}

#[test]
fn a_volume_of_wrong_shape_is_refused_by_its_field() {
    let host = rig("shapes");
    let before = counts(&host);
    let base = || over("v", MIB, "golden");
    type Spoil = fn(&mut api::CreateThinRequest);
    let cases: [(&str, Code, &str, Spoil); 11] = [
        ("no name", Code::InvalidArgument, "name", |r| r.name.clear()),
        ("a path", Code::InvalidArgument, "name", |r| {
            r.name = "../etc".into()
        }),
        ("a long name", Code::InvalidArgument, "name", |r| {
            r.name = "x".repeat(129)
        }),
        ("a name like an id", Code::InvalidArgument, "name", |r| {
            r.name = format!("vol-{}", "0".repeat(32));
        }),
        ("size 0", Code::InvalidArgument, "size_bytes", |r| {
            r.size_bytes = 0
        }),
        ("odd size", Code::InvalidArgument, "size_bytes", |r| {
            r.size_bytes = 513
        }),
        ("huge size", Code::InvalidArgument, "size_bytes", |r| {
            r.size_bytes = u64::MAX - 511
        }),
        ("bad label", Code::InvalidArgument, "labels", |r| {
            r.labels.insert("a=b".into(), String::new());
        }),
        (
            "bad holder",
            Code::InvalidArgument,
            "activate.holder",
            |r| {
                r.activate = Some(api::ActivateOptions {
                    holder: 99,
                    read_only: false,
                });
            },
        ),
        ("unknown pool", Code::NotFound, "", |r| {
            r.pool = "nowhere".into()
        }),
        ("unknown image", Code::NotFound, "", |r| {
            r.image = "nothing".into()
        }),
    ];
    for (what, code, wanted, spoil) in cases {
        let mut request = base();
        spoil(&mut request);
        let named = format!("{}{}", request.pool, request.image);
        let refused = host.create_thin(request).expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        if code == Code::InvalidArgument {
            assert_eq!(field(&refused), wanted, "{what}: {refused:?}");
        } else {
            let names_it = ["nowhere", "nothing"]
                .iter()
                .any(|n| refused.message().contains(n));
            assert!(names_it, "{what} ({named}): {refused:?}");
        }
    }
    assert_eq!(counts(&host), before);
    host.end();
}

#[test]
fn the_same_name_with_another_parameter_is_a_conflict_that_names_it() {
    let host = rig("conflicts");
    let first = host.create_thin(over("v", MIB, "golden")).unwrap();
    type Change = fn(&mut api::CreateThinRequest);
    let cases: [(&str, Change); 3] = [
        ("size_bytes", |r| r.size_bytes += 512),
        ("image", |r| r.image.clear()),
        ("labels", |r| {
            r.labels.insert("a".into(), "b".into());
        }),
    ];
    for (wanted, change) in cases {
        let mut request = over("v", MIB, "golden");
        change(&mut request);
        let refused = host.create_thin(request).expect_err(wanted);
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
        assert!(refused.message().contains(wanted), "{wanted}: {refused:?}");
    }
    assert_eq!(
        host.create_thin(over("v", MIB, "golden")).unwrap().id,
        first.id
    );
    let smaller = host.resize("v", 512).unwrap_err();
    assert_eq!(smaller.code(), Code::OutOfRange, "{smaller:?}");
    let active = host.delete_volume("v").unwrap_err();
    assert_eq!(active.code(), Code::FailedPrecondition, "{active:?}");
    assert!(active.message().contains("deactivate"), "{active:?}");
    let used = host.delete_image("golden").unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition, "{used:?}");
    let full = host.delete_pool("p").unwrap_err();
    assert_eq!(full.code(), Code::FailedPrecondition, "{full:?}");
    assert_eq!(host.volume("v").unwrap().id, first.id);
    for name in ["never-was", "vol-00000000000000000000000000000000"] {
        host.delete_volume(name).unwrap();
    }
    host.end();
}

/// A pool that writers have filled takes no new volume, and says so; reads go on.
#[test]
fn a_full_pool_refuses_new_volumes_and_recovers_when_something_is_deleted() {
    let host = Host::start("full");
    host.pool("p", 256 * MIB);
    let volume = host
        .create_thin(api::CreateThinRequest {
            activate: Some(api::ActivateOptions::default()),
            ..blank("v", 512 * MIB)
        })
        .unwrap();
    let path = volume.activation.unwrap().device_path;
    let node = node(&path);
    let piece = vec![0x77; 1 << 20];
    let mut written = 0;
    while node.try_write(written, &piece).is_ok() {
        written += MIB;
        assert!(written < 512 * MIB, "it never fills");
    }
    let refused = host.create_thin(blank("w", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("delete"), "{refused:?}");
    assert_eq!(host.volume_names().unwrap(), ["v"]);
    assert_eq!(node.read(0, 4096), &piece[..4096]);
    host.deactivate("v").unwrap();
    host.delete_volume("v").unwrap();
    host.create_thin(blank("w", MIB)).unwrap();
    host.end();
}

fn node(path: &str) -> Node {
    let file = std::fs::File::open(path).unwrap();
    Node::of(goldleaf_dm::block::number(&file).unwrap())
}

#[test]
fn a_pool_is_only_made_on_blank_devices_that_exist() {
    let host = rig("devices");
    let disk = |name: &str| {
        let path = host.dir().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .set_len(256 * MIB)
            .unwrap();
        let path = path.to_str().unwrap();
        output("losetup", &["-f", "--show", path])
            .unwrap()
            .trim()
            .to_owned()
    };
    let (formatted, partitioned, ours) = (disk("a.disk"), disk("b.disk"), disk("c.disk"));
    output("mkfs.ext4", &["-q", &formatted]).unwrap();
    node(&partitioned).write(0, &{
        let mut mbr = vec![0; 512];
        mbr[446..460].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 9, 0, 0, 8, 0, 0, 0, 8]);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr
    });
    let pool = |name: &str, path: &str| {
        let devices = vec![api::PoolDevice {
            path: path.into(),
            create_file_bytes: 0,
        }];
        host.create_pool(api::CreatePoolRequest {
            name: name.into(),
            devices,
            ..Default::default()
        })
    };
    pool("other", &ours).unwrap();
    let cases = [
        (formatted.as_str(), Code::FailedPrecondition, "ext4"),
        (
            partitioned.as_str(),
            Code::FailedPrecondition,
            "partition table",
        ),
        (ours.as_str(), Code::FailedPrecondition, "use"),
        ("/dev/nothing", Code::InvalidArgument, "/dev/nothing"),
        ("/etc/passwd", Code::InvalidArgument, "pool folder"),
        ("/dev/null", Code::InvalidArgument, "block device"),
    ];
    for (path, code, word) in cases {
        let refused = pool("new", path).expect_err(path);
        assert_eq!(refused.code(), code, "{path}: {refused:?}");
        assert!(refused.message().contains(word), "{path}: {refused:?}");
    }
    // Closed, so that only its label speaks for it.
    host.close_pool(api::ClosePoolRequest {
        pool: "other".into(),
        ..Default::default()
    })
    .unwrap();
    let refused = pool("new", &ours).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("label of pool"), "{refused:?}");
    host.open_pool(api::OpenPoolRequest {
        pool: "other".into(),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(counts(&host).0, 2, "a refused pool was left");
    output("fsck.ext4", &["-fn", &formatted]).unwrap();
    host.delete_pool("other").unwrap();
    for disk in [formatted, partitioned, ours] {
        output("losetup", &["-d", &disk]).unwrap();
    }
    host.end();
}

#[test]
fn a_pool_with_a_missing_or_swapped_device_does_not_open_and_says_which() {
    let mut host = Host::start("swapped");
    let dir = host.dir().join("agent/pools");
    let file = |name: &str| dir.join(name).display().to_string();
    let device = |name: &str| api::PoolDevice {
        path: file(name),
        create_file_bytes: 256 * MIB,
    };
    let request = |name: &str, devices: Vec<api::PoolDevice>| api::CreatePoolRequest {
        name: name.into(),
        devices,
        ..Default::default()
    };
    host.create_pool(request("two", vec![device("a.pool"), device("b.pool")]))
        .unwrap();
    host.create_pool(request("one", vec![device("c.pool")]))
        .unwrap();
    host.create_thin(api::CreateThinRequest {
        pool: "two".into(),
        ..blank("v", MIB)
    })
    .unwrap();
    let open = |host: &Host| {
        host.open_pool(api::OpenPoolRequest {
            pool: "two".into(),
            ..Default::default()
        })
    };
    host.close_pool(api::ClosePoolRequest {
        pool: "two".into(),
        ..Default::default()
    })
    .unwrap();
    let away = host.dir().join("away");
    std::fs::rename(file("b.pool"), &away).unwrap();
    let missing = open(&host).unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition, "{missing:?}");
    assert!(missing.message().contains("data device 1"), "{missing:?}");
    // Another pool's device in its place is not taken for it.
    host.close_pool(api::ClosePoolRequest {
        pool: "one".into(),
        ..Default::default()
    })
    .unwrap();
    std::fs::copy(file("c.pool"), file("b.pool")).unwrap();
    let swapped = open(&host).unwrap_err();
    assert_eq!(swapped.code(), Code::FailedPrecondition, "{swapped:?}");
    std::fs::rename(&away, file("b.pool")).unwrap();
    open(&host).unwrap();
    host.open_pool(api::OpenPoolRequest {
        pool: "one".into(),
        ..Default::default()
    })
    .unwrap();
    assert!(host.activate("v").unwrap().activation.unwrap().active);
    host.agent.as_mut().unwrap();
    host.end();
}

#[test]
fn an_image_that_is_not_what_it_says_is_refused_and_leaves_nothing() {
    let host = rig("images");
    let raw = host
        .import("good.raw", &Pattern(2).bytes(0, 1 << 20))
        .display()
        .to_string();
    let qcow2 = host.dir().join("import/good.qcow2").display().to_string();
    output("qemu-img", &["convert", "-c", "-O", "qcow2", &raw, &qcow2]).unwrap();
    let good = std::fs::read(&qcow2).unwrap();
    let truncated = host
        .import("truncated.qcow2", &good[..good.len() / 2])
        .display()
        .to_string();
    let mut lie = good.clone();
    // The virtual size, at byte 24, says 1 EiB.
    lie[24..32].copy_from_slice(&(1_u64 << 60).to_be_bytes());
    let lying = host.import("lying.qcow2", &lie).display().to_string();
    let backed = host.dir().join("import/backed.qcow2").display().to_string();
    output(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &raw, &backed,
        ],
    )
    .unwrap();
    let odd = host.import("odd.raw", &[1; 1000]).display().to_string();
    let ask = |path: &str, source_sha256: &str, digest: &str| {
        host.create_image(api::CreateImageRequest {
            name: "new".into(),
            source: Some(api::create_image_request::Source::File(path.into())),
            source_sha256: source_sha256.into(),
            digest: digest.into(),
            wait: true,
            ..Default::default()
        })
    };
    let zeroes = "0".repeat(64);
    let cases = [
        (truncated.as_str(), "", "", "file"),
        (lying.as_str(), "", "", "file"),
        (backed.as_str(), "", "", "backing"),
        (odd.as_str(), "", "", "512"),
        (raw.as_str(), zeroes.as_str(), "", "source_sha256"),
        (raw.as_str(), "", zeroes.as_str(), "digest"),
        ("/etc/passwd", "", "", "file"),
    ];
    let stored = || {
        std::fs::read_dir(host.dir().join("agent/images"))
            .unwrap()
            .count()
    };
    let before = (counts(&host), stored());
    for (path, sha, digest, word) in cases {
        let refused = ask(path, sha, digest).expect_err(path);
        assert!(
            matches!(
                refused.code(),
                Code::InvalidArgument | Code::ResourceExhausted
            ),
            "{path}: {refused:?}"
        );
        assert!(refused.message().contains(word), "{path}: {refused:?}");
        host.delete_image("new").unwrap();
        assert_eq!((counts(&host), stored()), before, "{path} left something");
    }
    let image = ask(&qcow2, "", "").unwrap();
    assert_eq!(image.size_bytes, MIB);
    let volume = host.create_thin(over("v", MIB, "new")).unwrap();
    node(&volume.activation.unwrap().device_path).assert_reads(|at, len| Pattern(2).bytes(at, len));
    host.end();
}

#[test]
fn while_the_agent_is_away_calls_are_unavailable_and_finish_when_it_is_back() {
    let mut host = rig("away");
    host.create_thin(blank("v", MIB)).unwrap();
    host.agent = None;
    let refused = host.create_thin(blank("w", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(
        refused.message().contains("n1"),
        "it does not name the node: {refused:?}"
    );
    let refused = host.activate("v").unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(
        host.volume("v").unwrap().name,
        "v",
        "the record is there all the same"
    );
    host.start_agent(&[]);
    host.await_node();
    let made = host.soon("the volume is made", || {
        host.create_thin(blank("w", MIB)).ok()
    });
    assert_eq!(made.phase(), api::Phase::Ready);
    host.end();
}

#[test]
fn a_second_agent_and_a_second_server_do_not_start() {
    let host = rig("twice");
    let refused = |name: &str, arguments: Vec<String>| {
        Process::serve(name, host.dir(), &arguments, &[]).expect_err(name)
    };
    let elsewhere = |arguments: Vec<String>| -> Vec<String> {
        arguments
            .into_iter()
            .filter(|a| !a.starts_with("--listen"))
            .chain(["--listen=127.0.0.1:0".into()])
            .collect()
    };
    let words = refused("goldleaf-node-agent", elsewhere(host.agent_arguments()));
    assert!(words.contains("another agent"), "{words}");
    let words = refused("goldleaf-server", elsewhere(host.server_arguments()));
    assert!(words.contains("another"), "{words}");
    // The first two never noticed.
    host.create_thin(over("v", MIB, "golden")).unwrap();
    host.end();
}

/// An agent of its own folder, as of another container, finds the devices held.
#[test]
fn a_second_agent_with_another_folder_leaves_the_first_ones_pool_alone() {
    let mut host = Host::start("other-folder");
    let path = host.dir().join("disk");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(256 * MIB)
        .unwrap();
    let disk = output("losetup", &["-f", "--show", path.to_str().unwrap()]).unwrap();
    let disk = disk.trim().to_owned();
    let devices = vec![api::PoolDevice {
        path: disk.clone(),
        create_file_bytes: 0,
    }];
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices,
        ..Default::default()
    })
    .unwrap();
    let volume = host
        .create_thin(api::CreateThinRequest {
            activate: Some(api::ActivateOptions::default()),
            ..blank("v", MIB)
        })
        .unwrap();
    let other = host.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    let arguments: Vec<String> = vec![
        "--listen=127.0.0.1:0".into(),
        format!("--socket={}", other.join("agent.sock").display()),
        format!("--state-dir={}", other.join("state").display()),
        format!("--device-dir={}", other.join("dev").display()),
        "--host-id=a host of the tests".into(),
        "--node-name=n2".into(),
    ];
    let mut second = Process::serve("goldleaf-node-agent", &other, &arguments, &[]).unwrap();
    assert!(second.words().contains("in use"), "{}", second.words());
    assert!(second.stop().success());
    node(&volume.activation.unwrap().device_path).write(0, &[7; 4096]);
    assert_eq!(host.volume("v").unwrap().owned_bytes, Some(65_536));
    host.deactivate("v").unwrap();
    host.delete_volume("v").unwrap();
    host.delete_pool("p").unwrap();
    output("losetup", &["-d", &disk]).unwrap();
    host.agent.as_mut().unwrap();
    host.end();
}
