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
