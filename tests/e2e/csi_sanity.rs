//! The field's own suite for CSI drivers, against the real driver over a real control plane, agent
//! and kernel: block devices and file systems, blank and begun as an image.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::path::Path;

use goldleaf_tests::command::{command, output};
use goldleaf_tests::host::Host;
use goldleaf_tests::support::say;

/// What of the suite is skipped; `docs/csi.md` says why. Nothing else may be.
const SKIPPED: &[&str] = &[
    "ControllerPublishVolume",
    "ControllerUnpublishVolume",
    "volume lifecycle",
    "should fail when publishing more volumes than the node max attach limit",
    WRONG,
];

/// This one compares two Go messages with what the protobuf library caches in one of them, so that
/// no driver which answers a topology can pass; `csi/tests/controller.rs` asserts the same rightly.
const WRONG: &str = "should succeed when creating a snapshot with accessibility requirements";

fn sanity(host: &Host, access: &str, image: &str) -> String {
    let dir = host.dir().join("sanity");
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let image = if image.is_empty() {
        "{}\n".to_owned()
    } else {
        format!("image: {image}\n")
    };
    let parameters = file("parameters.yaml", &image);
    let mutable = file("mutable.yaml", "label.tier: \"gold\"\n");
    let grpcurl = std::env::var_os("GRPCURL").expect("run by `tests/run`");
    let suite = Path::new(&grpcurl).with_file_name("csi-sanity");
    let run = command(suite)
        .arg(format!("--csi.endpoint={}", host.csi_endpoint("node")))
        .arg(format!(
            "--csi.controllerendpoint={}",
            host.csi_endpoint("controller")
        ))
        .arg(format!("--csi.mountdir={}", dir.join("mount").display()))
        .arg(format!(
            "--csi.stagingdir={}",
            dir.join("staging").display()
        ))
        .arg(format!("--csi.testvolumeaccesstype={access}"))
        .arg(format!("--csi.testvolumeparameters={parameters}"))
        .arg(format!("--csi.testvolumemutableparameters={mutable}"))
        .arg(format!("--csi.testvolumesize={}", 1_u64 << 30))
        .arg(format!("--csi.testvolumeexpandsize={}", 2_u64 << 30))
        .arg(format!("--ginkgo.skip={WRONG}"))
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .output()
        .expect("csi-sanity, which tests/tools/build builds");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success(),
        "{access} {image}: {said}\n{}",
        host.csi_logs()
    );
    said
}

#[test]
fn the_suite_passes_for_block_devices_and_file_systems_blank_and_over_an_image() {
    let host = Host::start("csi-sanity");
    host.pool("p", 700 << 20);
    let path = host.import("fs.raw", &[]);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    output("mkfs.ext4", &["-q", "-F", &path.display().to_string()]).unwrap();
    host.image_of("golden", &path);
    let mut controller = host.start_csi_controller();
    let mut node = host.start_csi_node(&[]);
    for access in ["mount", "block"] {
        for image in ["", "golden"] {
            let said = sanity(&host, access, image);
            let ran = said.lines().find(|l| l.starts_with("Ran ")).unwrap();
            let counts = said.lines().find(|l| l.contains(" Failed | ")).unwrap();
            say(&format!("csi-sanity {access} {image:6}: {ran} {counts}"));
            assert!(counts.contains("| 0 Failed |"), "{counts}");
            // The name of a spec is in the line after the one that says it was skipped.
            let lines: Vec<&str> = said.lines().collect();
            let skipped = lines
                .windows(2)
                .filter(|two| two[0].starts_with("S [SKIPPED]"));
            let strange = skipped
                .map(|two| two[1])
                .filter(|name| !SKIPPED.iter().any(|known| name.contains(known)));
            let strange: Vec<_> = strange.collect();
            assert!(strange.is_empty(), "skipped without a reason: {strange:#?}");
        }
    }
    for process in [&mut node, &mut controller] {
        assert!(process.stop().success(), "{}", host.csi_logs());
    }
    host.end();
}
