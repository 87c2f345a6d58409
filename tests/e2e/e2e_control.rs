//! The control plane's own promises on a real node: protection, updates, and what people see.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use goldleaf_tests::command::command;
use goldleaf_tests::host::{Host, program};
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
    assert_eq!(stale.0, Some(3), "another revision: {}", stale.2);
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
