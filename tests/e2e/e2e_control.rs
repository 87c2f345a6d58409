//! The control plane's own promises on a real node: protection, updates, and what people see.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_tests::command::command;
use goldleaf_tests::host::{Host, Lines, program};
use serde_json::Value;

const GIB: u64 = 1 << 30;

/// Exit code, standard output and standard error of the command line.
fn goldleaf(host: &Host, line: &str) -> (Option<i32>, String, String) {
    let output = command(program("goldleaf"))
        .arg("--server")
        .arg(format!("http://{}", host.address()))
        .args(line.split_whitespace())
        .output()
        .expect("the command line");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// What the command line prints, which must succeed.
fn fine(host: &Host, line: &str) -> String {
    let (code, out, err) = goldleaf(host, line);
    assert_eq!(code, Some(0), "{line}: {out}{err}");
    out
}

#[test]
fn what_is_protected_stays_until_its_user_lets_it_go() {
    let host = Host::start("protected");
    host.pool("p", GIB);
    host.image("golden", &[0x5a; 1 << 20]);
    fine(
        &host,
        "volume create vm1 --size 1G --image golden --protect",
    );
    fine(&host, "snapshot create s1 --source volume/vm1 --protect");
    let said = fine(&host, "volume update vm1 --label team=db -o json");
    let volume: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(volume["labels"]["team"], "db");
    assert_eq!(volume["deletion_protection"], true);
    assert_eq!(fine(&host, "volume list -l team=db -o name"), "vm1\n");
    // The call that made it still answers it.
    fine(
        &host,
        "volume create vm1 --size 1G --image golden --protect",
    );
    for (noun, name) in [("volume", "vm1"), ("snapshot", "s1")] {
        let (code, _, err) = goldleaf(&host, &format!("{noun} delete {name}"));
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("deletion_protection"), "{err}");
    }
    // Still there, on the node too.
    assert!(fine(&host, "volume activate vm1").contains("/p/vm1"));
    fine(&host, "volume deactivate vm1");
    let stale = goldleaf(&host, "volume update vm1 --unprotect --if-revision 1");
    // Nothing that asking again would bring about, which is what 3 says.
    assert_eq!(stale.0, Some(1), "another revision: {}", stale.2);
    fine(&host, "volume update vm1 --unprotect");
    fine(&host, "snapshots update s1 --unprotect");
    fine(&host, "volume delete vm1");
    fine(&host, "snapshot delete s1");
    host.end();
}

#[test]
fn a_command_that_is_to_wait_waits_for_the_node_and_others_fail_at_once() {
    let mut host = Host::start("wait");
    host.pool("p", GIB);
    assert!(host.agent.take().unwrap().stop().success());
    let (code, _, err) = goldleaf(&host, "volume create vm1 --size 1G --pool p");
    assert_eq!(code, Some(3), "{err}");
    let line = "volume create vm1 --size 1G --pool p --activate --wait -o json";
    let waiting = {
        let server = format!("http://{}", host.address());
        std::thread::spawn(move || {
            let mut told = command(program("goldleaf"));
            told.arg("--server").arg(server);
            told.args(line.split_whitespace()).output().unwrap()
        })
    };
    host.soon("the call waits", || {
        host.logs().contains("waits, as asked").then_some(())
    });
    assert!(!waiting.is_finished());
    host.start_agent(&[]);
    let said = waiting.join().unwrap();
    assert!(said.status.success(), "{said:?}");
    let volume: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(volume["activation"]["active"], true, "{volume}");
    fine(&host, "volume deactivate vm1 --wait");
    fine(&host, "volume delete vm1 --wait");
    host.end_after(&["not finished yet"]);
}

/// The lines of a log that carry both ids.
fn lines_with<'a>(log: &'a str, request: &str, trace: &str) -> Vec<&'a str> {
    let both = |line: &&str| line.contains(request) && line.contains(trace);
    log.lines().filter(both).collect()
}

#[test]
fn one_id_leads_from_the_callers_request_to_the_ioctl() {
    let mut host = Host::idle("ids");
    let levels = ("RUST_LOG", "info,goldleaf_rpc=debug,goldleaf_dm=debug");
    host.start_server(&[levels]);
    host.start_agent(&[levels]);
    host.await_node();
    host.pool("p", GIB);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let call = |method: &str, request: &str, body: &str| {
        let path = std::env::var_os("GRPCURL").expect("run by `tests/run`");
        let told = command(path)
            .args(["-plaintext", "-v", "-d", body])
            .args(["-H", &format!("x-request-id: {request}")])
            .args([
                "-H",
                &format!("traceparent: 00-{trace}-00f067aa0ba902b7-01"),
            ])
            .args([&host.address(), method])
            .output();
        let told = told.unwrap();
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.status.success(), "{said}{told:?}");
        assert!(said.contains(&format!("x-request-id: {request}")), "{said}");
    };
    let create = r#"{"name":"vm1","size_bytes":1073741824,"pool":"p","activate":{}}"#;
    call("goldleaf.v1.VolumeService/CreateThin", "r-unary-1", create);
    let file = host.import("img.raw", &[0x5a; 1 << 20]);
    let image = format!(r#"{{"name":"i","file":"{}","wait":true}}"#, file.display());
    call("goldleaf.v1.ImageService/Create", "r-stream-1", &image);
    let logs = host.logs();
    let (server, agent) = logs.split_once("--- goldleaf-node-agent").unwrap();
    for request in ["r-unary-1", "r-stream-1"] {
        assert!(
            !lines_with(server, request, trace).is_empty(),
            "{request}: {server}"
        );
        assert!(
            !lines_with(agent, request, trace).is_empty(),
            "{request}: {agent}"
        );
    }
    let ioctls = lines_with(agent, "r-unary-1", trace);
    let made = ioctls.iter().any(|line| line.contains("DM_DEV_CREATE"));
    assert!(made, "no ioctl under the request's id: {ioctls:#?}");
    let admin = lines_with(server, "r-unary-1", "role=admin");
    let of_call = admin
        .iter()
        .any(|line| line.contains("VolumeService/CreateThin"));
    assert!(of_call, "the caller's role is in the span: {server}");
    fine(&host, "volume deactivate vm1");
    host.end();
}

#[test]
fn a_watch_shows_activations_by_the_server_and_by_a_local_caller() {
    let host = Host::start("watch");
    host.pool("p", GIB);
    let said = fine(&host, "volume create vm1 --size 1G --pool p -o json");
    let volume: Value = serde_json::from_str(&said).unwrap();
    let id = volume["id"].as_str().unwrap().to_owned();
    let mut watch = command(program("goldleaf"));
    watch
        .arg("--server")
        .arg(format!("http://{}", host.address()));
    watch.args(["volume", "watch", "-o", "json"]);
    let mut events = Lines::of(watch);
    let active = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        let activation = event["item"]["activation"].as_object()?.clone();
        Some(
            activation
                .get("active")
                .is_some_and(|active| active == true),
        )
    };
    events.until("there, not active", |line| active(line) == Some(false));
    fine(&host, "volume activate vm1");
    events.until("active", |line| active(line) == Some(true));
    fine(&host, "volume deactivate vm1");
    events.until("not active", |line| active(line) == Some(false));

    // As the node's CSI plugin does, past the control plane.
    let socket = host.dir().join("agent.sock").display().to_string();
    let local = |method: &str, body: String| {
        let path = std::env::var_os("GRPCURL").expect("run by `tests/run`");
        let told = command(path)
            .args(["-plaintext", "-unix", "-d", &body, &socket])
            .arg(format!("goldleaf.agent.v1.NodeAgent/{method}"))
            .output();
        let told = told.unwrap();
        assert!(told.status.success(), "{told:?}");
    };
    local("Activate", format!(r#"{{"volume":"{id}"}}"#));
    events.until("active by a local call", |line| active(line) == Some(true));
    local("Deactivate", format!(r#"{{"owner":"{id}"}}"#));
    events.until("not active by a local call", |line| {
        active(line) == Some(false)
    });
    drop(events);
    host.end();
}
