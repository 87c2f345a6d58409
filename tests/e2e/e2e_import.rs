//! A pool goes from host to host: two agents, each with a control plane, on one set of disks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, over};
use tonic::Code;

const MIB: u64 = 1 << 20;

/// Two disks that both hosts reach.
fn disks(test: &str) -> Vec<String> {
    let disk = |index: usize| {
        let path = format!("/dev/shm/gltest-{test}-{}-{index}.disk", std::process::id());
        File::create(&path).unwrap().set_len(128 * MIB).unwrap();
        let disk = output("losetup", &["-f", "--show", &path]).unwrap();
        std::fs::remove_file(&path).unwrap();
        disk.trim().to_owned()
    };
    vec![disk(0), disk(1)]
}

fn import(devices: &[String], force: &str) -> api::ImportPoolRequest {
    api::ImportPoolRequest {
        node: String::new(),
        devices: devices.to_vec(),
        force_from_host: force.into(),
    }
}

fn waits_for_image(host: &Host, volume: &str) -> bool {
    let volume = host.volume(volume).unwrap();
    let mut conditions = volume.conditions.iter();
    conditions.any(|c| c.r#type == "ImagePresent" && !c.status)
}

fn activate(host: &Host, volume: &str) -> Result<String, tonic::Status> {
    let volume = host.activate(volume)?;
    Ok(volume.activation.unwrap().device_path)
}

fn read(path: &str, at: u64) -> [u8; 512] {
    let mut content = [0; 512];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut content, at)
        .unwrap();
    content
}

/// The power of a host is off: its agent is gone, and so is what its kernel had.
fn cut_off(host: &mut Host) {
    host.agent.as_mut().unwrap().kill();
    host.agent = None;
    for _ in 0..4 {
        let listed = output("dmsetup", &["ls"]).unwrap();
        for name in listed.lines().filter_map(|l| l.split_whitespace().next()) {
            if name.starts_with("goldleaf-") {
                let _ = output("dmsetup", &["remove", name]);
            }
        }
    }
}

/// The laws of the fence and of images that are not there, as people meet them.
#[test]
fn law_foreign_host_by_force_and_law_waiting_for_image() {
    let disks = disks("import");
    let mut first = Host::start("import-a");
    first.image("golden", &[0x5a; 1 << 20]);
    let device = |path: &String| api::PoolDevice {
        path: path.clone(),
        create_file_bytes: 0,
    };
    let pool = first
        .create_pool(api::CreatePoolRequest {
            name: "p".into(),
            devices: disks.iter().map(device).collect(),
            ..Default::default()
        })
        .unwrap();
    let made = first.create_thin(over("vm", 4 * MIB, "golden")).unwrap();
    let path = made.activation.clone().unwrap().device_path;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[7; 512], 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let snapshot = first.snapshot("snap", "volume/vm").unwrap();
    first.deactivate("vm").unwrap();
    first
        .close_pool(api::ClosePoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .unwrap();
    first.agent = None;

    // Released: the other host takes it, from one device too few first.
    let mut second = Host::start_another("import-b", "another host of the tests");
    let refused = second.import_pool(import(&disks[..1], "")).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("data device 1"), "{refused:?}");
    for _ in 0..2 {
        let imported = second.import_pool(import(&disks, "")).unwrap();
        assert_eq!((&imported.id, imported.name.as_str()), (&pool.id, "p"));
    }
    let volume = second.volume("vm").unwrap();
    assert_eq!(
        (&volume.id, volume.size_bytes, &volume.image_digest),
        (&made.id, made.size_bytes, &made.image_digest)
    );
    assert_eq!(
        (made.epoch, volume.epoch),
        (1, 2),
        "what was meant for the former host counts"
    );
    // Asked for again it is the same: so its request came along too.
    let again = second.snapshot("snap", "volume/vm").unwrap();
    assert_eq!(again.id, snapshot.id);
    assert!(waits_for_image(&second, "vm"));
    let refused = activate(&second, "vm").unwrap_err();
    assert!(
        refused.message().contains("not on this node"),
        "{refused:?}"
    );
    second.image("golden", &[0x5a; 1 << 20]);
    assert!(!waits_for_image(&second, "vm"), "it heals");
    let path = activate(&second, "vm").unwrap();
    assert_eq!(
        (read(&path, 4096), read(&path, 8192)),
        ([7; 512], [0x5a; 512])
    );

    // Not released: by force alone, and then it is the first host's again.
    let holder = second.node("n1").unwrap().id;
    cut_off(&mut second);
    first.start_agent(&[]);
    first.await_node();
    for force in ["", "node-01010101010101010101010101010101"] {
        let refused = first.import_pool(import(&disks, force)).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(&holder), "{refused:?}");
    }
    first.import_pool(import(&disks, &holder)).unwrap();
    let path = activate(&first, "vm").unwrap();
    assert_eq!(
        (read(&path, 4096), read(&path, 8192)),
        ([7; 512], [0x5a; 512])
    );
    // The second comes back and leaves it alone.
    second.start_agent(&[]);
    second.await_node();
    let seen = second.get_pool("p").unwrap();
    assert_ne!(seen.phase(), api::Phase::Ready, "two hosts have it");
    assert_eq!(read(&path, 4096), [7; 512]);
    drop(second);
    first.end_after(&["did not open", "does not"]);
    for disk in disks {
        output("losetup", &["-d", &disk]).unwrap();
    }
}
