//! The doctor on a real kernel: nothing on a clean host, and one of each planted fault by its name.
//!
//! Faults are planted with dmsetup, losetup and files, behind Goldleaf's back; everything else goes
//! through the public API and the command line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::{command, output};
use goldleaf_tests::host::{Host, NODE, over, plant_ownerless_thin, program};

const MIB: u64 = 1 << 20;

/// A pool, an image, an active volume over it, and one that is not active.
fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", 256 * MIB);
    host.image("golden", &[0x5a; 1 << 20]);
    host.create_thin(over("v", 4 * MIB, "golden")).unwrap();
    host.create_thin(api::CreateThinRequest {
        activate: None,
        ..over("idle", 4 * MIB, "golden")
    })
    .unwrap();
    host
}

fn ids(host: &Host) -> BTreeSet<String> {
    let found = host.findings().unwrap();
    found.into_iter().map(|finding| finding.id).collect()
}

/// Mends a finding and sees that it is gone.
fn mend(host: &Host, id: &str) {
    let dry = host.mend(id, false).unwrap();
    assert_eq!(dry.outcome(), api::MendOutcome::WouldDo, "{dry:?}");
    assert!(ids(host).contains(id), "a dry run changed something");
    let done = host.mend(id, true).unwrap();
    assert_eq!(done.outcome(), api::MendOutcome::Done, "{done:?}");
    assert!(!ids(host).contains(id), "{id} is still there");
}

/// `goldleaf` with arguments: how it ended, and what it printed.
fn cli(host: &Host, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(program("goldleaf"))
        .args(["--server", &format!("http://{}", host.address())])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[test]
fn one_of_each_planted_fault_is_found_and_nothing_on_a_clean_host() {
    let host = rig("doctor");
    assert_eq!(ids(&host), BTreeSet::new());
    let (code, _) = cli(&host, &["doctor"]);
    assert_eq!(code, Some(0), "all is well");

    let pool = host.get_pool("p").unwrap().id;
    let volume = host.volume("v").unwrap();
    let idle = host.volume("idle").unwrap().id;
    let device = format!("goldleaf-{}", volume.id);
    let stray = "goldleaf-vol-00000000000070008000000000000001";
    let (link, loop_device) = plant(&host, &pool, &volume, stray);

    let expected: BTreeSet<String> = [
        format!("UnknownThin/{pool}/4711"),
        format!("StrayDevice/{stray}"),
        format!("SuspendedDevice/{}", volume.id),
        format!("StrayLink/{}", link.display()),
        format!("StrayLoop/{loop_device}"),
    ]
    .map(|key| format!("{NODE}/{key}"))
    .into();
    assert_eq!(ids(&host), expected);
    let (code, text) = cli(&host, &["doctor", "-o", "name"]);
    assert_eq!(code, Some(1));
    let printed: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(printed, expected);

    for id in &expected {
        // Where all is slow the agent's own sweep comes first, and resumes the device.
        if id.contains("SuspendedDevice") && !ids(&host).contains(id) {
            assert!(host.logs().contains("was found suspended; resumed"));
            continue;
        }
        mend(&host, id);
    }
    mend(&host, &format!("{NODE}/QuarantinedThin/{pool}/4711"));
    assert_eq!(ids(&host), BTreeSet::new());
    let text = output(
        "dmsetup",
        &["info", "-c", "--noheadings", "-o", "suspended", &device],
    );
    assert_eq!(text.unwrap().trim(), "Active");
    assert!(host.volume(&idle).is_ok());
    host.end_after(&["mending", "found suspended", "nobody owns"]);
}

/// Plants one of each; the stray link, and the stray loop device.
fn plant(host: &Host, pool: &str, volume: &api::Volume, stray: &str) -> (PathBuf, String) {
    plant_ownerless_thin(pool, 4711);
    let uuid = stray.replacen("goldleaf", "GOLDLEAF", 1);
    output(
        "dmsetup",
        &["create", stray, "--uuid", &uuid, "--table", "0 8 zero"],
    )
    .unwrap();
    output("dmsetup", &["suspend", &format!("goldleaf-{}", volume.id)]).unwrap();
    let path = PathBuf::from(&volume.activation.as_ref().unwrap().device_path);
    let link = path.with_file_name("nobody");
    symlink("/dev/null", &link).unwrap();
    let image = stored_image(host);
    let loop_device = output("losetup", &["-r", "-f", "--show", image.to_str().unwrap()]).unwrap();
    (link, loop_device.trim().to_owned())
}

fn stored_image(host: &Host) -> PathBuf {
    let digest = host.get_image("golden").unwrap().digest;
    let hex = digest.trim_start_matches("sha256:");
    host.dir().join(format!("agent/images/{hex}.raw"))
}

#[test]
fn a_device_without_its_origin_and_a_spoilt_image_are_said_and_left_to_a_person() {
    let host = rig("doctor-person");
    let volume = host.volume("v").unwrap();
    let device = format!("goldleaf-{}", volume.id);
    let table = output("dmsetup", &["table", &device]).unwrap();
    let without: Vec<&str> = table.split_whitespace().take(5).collect();
    let swap = |table: &str| {
        output("dmsetup", &["reload", &device, "--table", table]).unwrap();
        output("dmsetup", &["suspend", &device]).unwrap();
        output("dmsetup", &["resume", &device]).unwrap();
    };
    swap(&without.join(" "));
    let image = stored_image(&host);
    let kept = std::fs::read(&image).unwrap();
    std::fs::set_permissions(&image, PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"not what it was", 4096).unwrap();

    let digest = host.get_image("golden").unwrap().digest;
    let wrong = format!("{NODE}/WrongDevice/{}", volume.id);
    let changed = format!("{NODE}/ImageChanged/{digest}");
    assert_eq!(ids(&host), BTreeSet::from([wrong.clone(), changed.clone()]));
    for id in [&wrong, &changed] {
        let mended = host.mend(id, true).unwrap();
        assert_eq!(mended.outcome(), api::MendOutcome::NeedsPerson);
    }

    // What the findings advise.
    file.write_all_at(&kept, 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    swap(table.trim());
    host.import("golden.raw", &kept);
    let source = host.dir().join("import/golden.raw").display().to_string();
    host.create_image(api::CreateImageRequest {
        name: "golden".into(),
        source: Some(api::create_image_request::Source::File(source)),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    assert_eq!(ids(&host), BTreeSet::new());
    host.end_after(&["an image's content changed"]);
}

#[test]
fn a_bundle_has_the_records_and_neither_data_nor_a_node_less() {
    let host = rig("doctor-bundle");
    let file = host.dir().join("b.tar.gz");
    let (code, _) = cli(&host, &["doctor", "bundle", file.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    let listed = output("tar", &["-tzf", file.to_str().unwrap()]).unwrap();
    for wanted in [
        "volumes",
        "pools",
        "images",
        "snapshots",
        "nodes",
        "findings",
    ] {
        let name = format!("goldleaf/{wanted}.json");
        assert!(listed.lines().any(|line| line == name), "{listed}");
    }
    let volumes = output(
        "tar",
        &["-xzOf", file.to_str().unwrap(), "goldleaf/volumes.json"],
    );
    let volumes = volumes.unwrap();
    assert!(volumes.contains("\"idle\""), "{volumes}");
    assert!(
        output("tar", &["-xzOf", file.to_str().unwrap()])
            .unwrap()
            .len()
            < 65_536
    );
    host.end();
}
