//! The tools that people use: the real grpcurl, and the command line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_tests::command::command;
use goldleaf_tests::host::{Host, program};
use serde_json::Value;

const GIB: u64 = 1 << 30;

fn rig(test: &str) -> Host {
    let host = Host::start(test);
    host.pool("p", GIB);
    host.image("debian-12", &[0x5a; 1 << 20]);
    host
}

/// What grpcurl answers: exit code, standard output, standard error.
fn grpcurl(host: &Host, arguments: &[&str]) -> (Option<i32>, String, String) {
    let path = std::env::var_os("GRPCURL").expect("run by `tests/run`");
    let output = command(path).arg("-plaintext").args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("grpcurl did not start: {e}\n{}", host.logs()));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn create_thin(host: &Host, size: u64) -> (Option<i32>, String, String) {
    let body = format!(r#"{{"name":"vm1","size_bytes":{size},"image":"debian-12"}}"#);
    let address = host.address();
    grpcurl(
        host,
        &[
            "-d",
            &body,
            &address,
            "goldleaf.v1.VolumeService/CreateThin",
        ],
    )
}

#[test]
fn grpcurl_creates_a_thin_and_the_same_again_and_is_refused_another_size() {
    let host = rig("grpcurl");
    let (code, first, stderr) = create_thin(&host, 20 * GIB);
    assert_eq!(code, Some(0), "{stderr}");
    let volume: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(volume["name"], "vm1");
    assert_eq!(volume["sizeBytes"], (20 * GIB).to_string());
    assert_eq!(volume["phase"], "PHASE_READY");
    assert!(volume["id"].as_str().unwrap().starts_with("vol-"));
    assert!(
        volume["imageDigest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
    let (code, again, stderr) = create_thin(&host, 20 * GIB);
    assert_eq!((code, again), (Some(0), first), "{stderr}");
    let (code, _, stderr) = create_thin(&host, 10 * GIB);
    // grpcurl exits with 64 and the code's number.
    assert_eq!(code, Some(64 + 6), "{stderr}");
    assert!(
        stderr.contains("AlreadyExists") && stderr.contains("size_bytes"),
        "{stderr}"
    );
    // Its details are read by reflection too: the field is not in a string of base64.
    let (code, _, stderr) = create_thin(&host, 513);
    assert_eq!(code, Some(64 + 3), "{stderr}");
    assert!(
        stderr.contains("google.rpc.BadRequest") && stderr.contains("\"field\": \"size_bytes\""),
        "{stderr}"
    );
    host.end();
}

#[test]
fn grpcurl_lists_and_describes_every_service_by_reflection() {
    let host = rig("reflection");
    let address = host.address();
    let (code, services, stderr) = grpcurl(&host, &[&address, "list"]);
    assert_eq!(code, Some(0), "{stderr}");
    for service in [
        "VolumeService",
        "PoolService",
        "ImageService",
        "NodeService",
    ] {
        assert!(
            services.contains(&format!("goldleaf.v1.{service}")),
            "{services}"
        );
        let name = format!("goldleaf.v1.{service}");
        let (code, described, stderr) = grpcurl(&host, &[&address, "describe", &name]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(described.contains("rpc "), "{described}");
    }
    let health = ["-d", "{}", &address, "grpc.health.v1.Health/Check"];
    let (code, health, stderr) = grpcurl(&host, &health);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(health.contains("SERVING"), "{health}");
    host.end();
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn goldleaf(host: &Host, arguments: &[&str]) -> Said {
    let output = command(program("goldleaf"))
        .arg("--server")
        .arg(format!("http://{}", host.address()))
        .args(arguments)
        .output()
        .expect("the command line");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn the_command_line_leads_through_a_volumes_life() {
    let host = rig("cli");
    let fine = |arguments: &[&str]| {
        let said = goldleaf(&host, arguments);
        assert_eq!(
            said.code,
            Some(0),
            "{arguments:?}: {}{}",
            said.out,
            said.err
        );
        said.out
    };
    let create = [
        "volume",
        "create",
        "vm1",
        "--size",
        "20G",
        "--image",
        "debian-12",
        "--activate",
    ];
    let made: Value =
        serde_json::from_str(&fine(&[&create[..], &["-o", "json"]].concat())).unwrap();
    let path = made["activation"]["device_path"]
        .as_str()
        .expect("a device path");
    assert!(std::path::Path::new(path).exists(), "{path}");
    fine(&create);
    let table = fine(&["volume", "list"]);
    assert!(
        table.contains("vm1") && table.contains("20.0 GiB"),
        "{table}"
    );
    assert_eq!(fine(&["volume", "list", "-o", "name"]).trim(), "vm1");
    fine(&["snapshot", "create", "s1", "--source", "volume/vm1"]);
    assert!(fine(&["snapshot", "list"]).contains("s1"));
    assert!(fine(&["pool", "list"]).contains('p'));
    assert!(fine(&["image", "list"]).contains("debian-12"));
    assert!(fine(&["node", "list"]).contains("n1"));
    let yaml = fine(&["volume", "get", "vm1", "-o", "yaml"]);
    assert!(yaml.contains("name: vm1"), "{yaml}");
    let active = goldleaf(&host, &["volume", "delete", "vm1"]);
    assert!(
        active.code != Some(0) && active.err.contains("deactivate"),
        "{}",
        active.err
    );
    fine(&["volume", "deactivate", "vm1"]);
    fine(&["volume", "delete", "vm1"]);
    let unknown = goldleaf(&host, &["volume", "get", "vm1"]);
    assert!(
        unknown.code != Some(0) && unknown.err.contains("vm1"),
        "{}",
        unknown.err
    );
    host.end();
}

#[test]
fn an_absent_control_plane_is_said_with_what_to_do() {
    let host = Host::idle("absent");
    let said = goldleaf(&host, &["volume", "list"]);
    assert_eq!(said.code, Some(3), "repeating may help: {}", said.err);
    assert!(
        said.err.contains("127.0.0.1") && said.err.contains("--server"),
        "{}",
        said.err
    );
    host.end_idle();
}
