//! Pools over devices that somebody uses, and over metadata that was put back behind our back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank};
use goldleaf_tests::support::Node;
use tonic::Code;

const MIB: u64 = 1 << 20;

fn create(host: &Host, path: &str) -> Result<api::Pool, tonic::Status> {
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![api::PoolDevice {
            path: path.into(),
            create_file_bytes: 0,
        }],
        ..Default::default()
    })
}

fn node(path: &str) -> Node {
    let file = std::fs::File::open(path).unwrap();
    Node::of(goldleaf_dm::block::number(&file).unwrap())
}

/// A loop device over a part of a pool's file would shift every table by its offset.
#[test]
fn a_file_under_somebodys_loop_device_and_a_disk_under_a_mapping_are_refused() {
    let host = Host::start("used");
    let sparse = |path: &std::path::Path| {
        let file = std::fs::File::create(path).unwrap();
        file.set_len(256 * MIB).unwrap();
        path.display().to_string()
    };
    std::fs::create_dir_all(host.dir().join("agent/pools")).unwrap();
    let file = sparse(&host.dir().join("agent/pools/a.pool"));
    let losetup = |how: &[&str]| {
        let arguments = [&["-f", "--show"], how].concat();
        output("losetup", &arguments).unwrap().trim().to_owned()
    };
    for how in [
        &["-o", "1048576"][..],
        &["--sizelimit", "134217728"],
        &["-r"],
    ] {
        let part = losetup(&[how, &[file.as_str()]].concat());
        let refused = create(&host, &file).expect_err(how[0]);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(&part), "{how:?}: {refused:?}");
        output("losetup", &["-d", &part]).unwrap();
    }
    let disk = losetup(&[&sparse(&host.dir().join("a.disk"))]);
    let table = format!("0 {} linear {disk} 0", 64 * MIB / 512);
    output("dmsetup", &["create", "somebodys", "--table", &table]).unwrap();
    let refused = create(&host, &disk).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("under dm-"), "{refused:?}");
    assert_eq!(node(&disk).read(0, 4096), [0; 4096], "it was labelled");
    output("dmsetup", &["remove", "somebodys"]).unwrap();
    create(&host, &disk).unwrap();
    host.delete_pool("p").unwrap();
    output("losetup", &["-d", &disk]).unwrap();
    create(&host, &file).unwrap();
    host.end();
}

/// As with multipath or md: the disk below shows the same label as the device that the pool is on.
#[test]
fn a_pool_on_a_device_over_a_disk_comes_back_though_the_disk_shows_its_label_too() {
    let mut host = Host::start("on-top");
    let file = host.dir().join("below.disk");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(256 * MIB)
        .unwrap();
    let disk = output("losetup", &["-f", "--show", &file.display().to_string()]).unwrap();
    let disk = disk.trim();
    let table = format!("0 {} linear {disk} 0", 256 * MIB / 512);
    output("dmsetup", &["create", "on-top", "--table", &table]).unwrap();
    let info = ["info", "-c", "--noheadings", "-o", "blkdevname", "on-top"];
    let top = format!("/dev/{}", output("dmsetup", &info).unwrap().trim());
    create(&host, &top).unwrap();
    let volume = host.create_thin(api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank("v", MIB)
    });
    let path = volume.unwrap().activation.unwrap().device_path;
    node(&path).write(0, &[7; 4096]);
    host.agent.as_mut().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    let pool = host.get_pool("p").unwrap();
    assert!(pool.conditions.is_empty(), "{:?}", pool.conditions);
    // Nothing of ours lies over either now.
    host.deactivate("v").unwrap();
    let close = api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    };
    host.close_pool(close).unwrap();
    let open = api::OpenPoolRequest {
        pool: "p".into(),
        ..Default::default()
    };
    host.open_pool(open).unwrap();
    host.activate("v").unwrap();
    assert_eq!(node(&path).read(0, 4096), [7; 4096]);
    host.delete_everything();
    output("dmsetup", &["remove", "--retry", "on-top"]).unwrap();
    output("losetup", &["-d", disk]).unwrap();
    host.end();
}

#[test]
fn a_pool_with_strange_metadata_takes_no_write_and_keeps_its_volumes_readable() {
    let mut host = Host::start("strange");
    let pool = host.pool("p", 256 * MIB).id;
    let volume = host
        .create_thin(api::CreateThinRequest {
            activate: Some(api::ActivateOptions::default()),
            ..blank("v", MIB)
        })
        .unwrap();
    let path = volume.activation.unwrap().device_path;
    node(&path).write(0, &[7; 4096]);
    host.agent = None;
    let device = format!("goldleaf-{pool}-pool");
    let found = output("dmsetup", &["status", &device]).unwrap();
    let found: u64 = found.split_whitespace().nth(3).unwrap().parse().unwrap();
    let set = |old: u64, new: u64| {
        let message = format!("set_transaction_id {old} {new}");
        output("dmsetup", &["message", &device, "0", &message]).unwrap();
    };
    set(found, found + 5);
    for _ in 0..2 {
        host.start_agent(&[]);
        host.await_node();
        let table = output("dmsetup", &["table", &device]).unwrap();
        assert!(table.contains("read_only"), "{table}");
        let refused = host.create_thin(blank("w", MIB)).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert_eq!(node(&path).read(0, 4096), [7; 4096]);
        host.agent = None;
    }
    // It can be closed, as whoever compares the two needs it.
    host.start_agent(&[]);
    host.await_node();
    host.deactivate("v").unwrap();
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
    assert!(output("dmsetup", &["table", &device]).is_err(), "it stays");
}

fn destroy(host: &Host, confirm: &str) -> Result<api::DestroyPoolResponse, tonic::Status> {
    host.destroy_pool(api::DestroyPoolRequest {
        pool: "p".into(),
        confirm: confirm.into(),
        ..Default::default()
    })
}

/// Two disks of a pool, the second for its metadata; and the pool.
fn of_disks(host: &Host) -> [String; 2] {
    let disk = |name: &str| {
        let path = host.dir().join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(256 * MIB).unwrap();
        let arguments = ["-f", "--show", path.to_str().unwrap()];
        output("losetup", &arguments).unwrap().trim().to_owned()
    };
    let disks = [disk("data.disk"), disk("metadata.disk")];
    create_of(host, &disks).unwrap();
    disks
}

fn create_of(host: &Host, disks: &[String; 2]) -> Result<api::Pool, tonic::Status> {
    let device = |path: &String| api::PoolDevice {
        path: path.clone(),
        create_file_bytes: 0,
    };
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![device(&disks[0])],
        metadata_device: Some(device(&disks[1])),
        ..Default::default()
    })
}

#[test]
fn a_pool_goes_with_all_that_is_in_it_only_when_its_name_is_said_and_nothing_is_active() {
    let host = Host::start("destroy");
    let disks = of_disks(&host);
    host.create_thin(blank("v", MIB)).unwrap();
    host.snapshot("s", "volume/v").unwrap();
    host.activate("v").unwrap();
    let said = destroy(&host, "").unwrap();
    assert_eq!(
        (said.volumes, said.snapshots, said.done),
        (vec!["v".to_owned()], vec!["s".to_owned()], false)
    );
    let refused = destroy(&host, "P").unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let refused = destroy(&host, "p").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    host.deactivate("v").unwrap();
    host.update_volume(api::UpdateRequest {
        target: "v".into(),
        deletion_protection: Some(true),
        ..Default::default()
    })
    .unwrap();
    let refused = destroy(&host, "p").unwrap_err();
    assert!(refused.message().contains("volume v"), "{refused:?}");
    host.update_volume(api::UpdateRequest {
        target: "v".into(),
        deletion_protection: Some(false),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(host.volume_names().unwrap(), ["v"]);
    assert!(destroy(&host, "p").unwrap().done);
    assert_eq!(host.volume_names().unwrap(), [] as [&str; 0]);
    for disk in &disks {
        assert_eq!(node(disk).read(0, 8192), [0; 8192], "{disk} has a label");
    }
    // A closed pool goes too, by its labels and records alone.
    create_of(&host, &disks).unwrap();
    host.create_thin(blank("v", MIB)).unwrap();
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        ..Default::default()
    })
    .unwrap();
    assert!(destroy(&host, "p").unwrap().done);
    create_of(&host, &disks).unwrap();
    host.delete_pool("p").unwrap();
    for disk in &disks {
        output("losetup", &["-d", disk]).unwrap();
    }
    host.end();
}

#[test]
fn a_renamed_pool_has_its_name_in_links_records_and_labels_and_keeps_its_volumes() {
    let mut host = Host::start("rename");
    let pool = host.pool("p", 256 * MIB);
    host.pool("other", 256 * MIB);
    let volume = host.create_thin(api::CreateThinRequest {
        pool: "p".into(),
        activate: Some(api::ActivateOptions::default()),
        ..blank("v", MIB)
    });
    let path = volume.unwrap().activation.unwrap().device_path;
    node(&path).write(0, &[7; 4096]);
    let rename = |host: &Host, name: &str| {
        host.rename_pool(api::RenamePoolRequest {
            pool: pool.id.clone(),
            name: name.into(),
            ..Default::default()
        })
    };
    let refused = rename(&host, "q").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(host.get_pool("q").is_err(), "the refused name stays taken");
    host.deactivate("v").unwrap();
    let refused = rename(&host, "other").unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    assert_eq!(rename(&host, "q").unwrap().name, "q");
    assert!(host.get_pool("p").is_err());
    host.agent.take().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    let path = host.activate("v").unwrap().activation.unwrap().device_path;
    assert!(path.ends_with("/q/v"), "{path}");
    assert_eq!(node(&path).read(0, 4096), [7; 4096]);
    host.deactivate("v").unwrap();
    // What is closed has its name from the labels alone.
    host.close_pool(api::ClosePoolRequest {
        pool: "q".into(),
        ..Default::default()
    })
    .unwrap();
    let file = std::fs::read(host.dir().join("agent/pools/p.pool")).unwrap();
    // docs/disk-format.md: the name's length, and the name.
    let label = &file[4096..];
    assert_eq!((label[216], &label[224..226]), (1, &b"q\0"[..]));
    host.open_pool(api::OpenPoolRequest {
        pool: "q".into(),
        ..Default::default()
    })
    .unwrap();
    host.end();
}
