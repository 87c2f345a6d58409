//! The control plane's store is put back from a backup, and then lost: what the node has comes back,
//! and nothing that was wished for in another life is done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, blank, over, program};
use tonic::Code;

const MIB: u64 = 1 << 20;

fn run(program_name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    output(&program(program_name).display().to_string(), arguments)
}

fn cli(host: &Host, arguments: &[&str]) -> anyhow::Result<String> {
    let server = format!("--server=http://{}", host.address());
    run("goldleaf", &[&[server.as_str()], arguments].concat())
}

/// The volume that everything is about, as it is asked for every time.
fn wanted() -> api::CreateThinRequest {
    api::CreateThinRequest {
        labels: HashMap::from([("team".to_owned(), "db".to_owned())]),
        ..over("vm", 4 * MIB, "golden")
    }
}

fn content(path: &str) -> [u8; 512] {
    let mut read = [0; 512];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut read, 4096)
        .unwrap();
    read
}

/// Stops the control plane, and starts one over whatever `change` leaves in its folder.
fn another_life(host: &mut Host, change: impl FnOnce(&Path)) {
    assert!(host.server.as_mut().unwrap().stop().success());
    host.server = None;
    let folder = host.dir().join("server");
    std::fs::remove_dir_all(&folder).unwrap();
    change(&folder);
    host.start_server(&[]);
    // The agent says again by itself where it serves; this saves the wait.
    assert!(host.agent.as_mut().unwrap().stop().success());
    host.agent = None;
    host.start_agent(&[]);
    host.await_node();
}

fn refuses(host: &Host, volume: &str) {
    let refused = host.delete_volume(volume).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(
        refused.message().contains("another control plane store"),
        "{refused:?}"
    );
}

fn names(host: &Host) -> Vec<String> {
    let mut names = host.volume_names().unwrap();
    names.sort_unstable();
    names
}

/// The law of incarnations, as people meet it: a restored store, then a lost one.
#[test]
fn law_a_store_of_another_life_is_refused_until_it_is_adopted() {
    let mut host = Host::start("adoption");
    host.image("golden", &[0x5a; 1 << 20]);
    host.pool("p", 256 * MIB);
    let made = host.create_thin(wanted()).unwrap();
    let path = made.activation.clone().unwrap().device_path;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[7; 512], 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let snapshot = host.snapshot("before", "volume/vm").unwrap();
    host.create_thin(blank("early", MIB)).unwrap();
    let backup = host.dir().join("a.backup").display().to_string();
    cli(&host, &["store", "backup", &backup]).unwrap();
    let twice = cli(&host, &["store", "backup", &backup]).unwrap_err();
    assert!(twice.to_string().contains("a.backup"), "{twice}");
    let said = run("goldleaf-server", &["check-backup", &backup]).unwrap();
    assert!(said.contains("is whole"), "{said}");
    // Since the backup one went, one came and one grew.
    host.delete_volume("early").unwrap();
    let late = host.create_thin(blank("late", MIB)).unwrap();
    host.resize("vm", 8 * MIB).unwrap();

    another_life(&mut host, |folder| {
        let folder = format!("--state-dir={}", folder.display());
        let said = run("goldleaf-server", &[&folder, "restore", &backup]).unwrap();
        assert!(said.contains("node adopt"), "{said}");
        let over = run("goldleaf-server", &[&folder, "restore", &backup]).unwrap_err();
        assert!(
            over.to_string().contains("nothing is restored over it"),
            "{over}"
        );
    });
    refuses(&host, "vm");
    let thins = host.thins().unwrap().len();
    let looked = host.adopt_node(false).unwrap();
    let of = |name: &str| {
        let mut changes = looked.changes.iter().filter(|c| c.name == name);
        changes
            .next()
            .map(|c| c.becomes.clone())
            .unwrap_or_default()
    };
    assert!(of("late").contains("taken back"), "{looked:?}");
    assert!(of("early").contains("lost"), "{looked:?}");
    assert_eq!(names(&host), ["early", "vm"], "looking changed something");
    cli(&host, &["node", "adopt", "n1", "--apply"]).unwrap();
    assert_eq!(names(&host), ["early", "late", "vm"]);
    assert_eq!(host.volume("late").unwrap().id, late.id);
    assert_eq!(host.volume("vm").unwrap().size_bytes, 8 * MIB);
    let lost = host.volume("early").unwrap();
    let said = |c: &api::Condition| c.r#type == "DataPresent" && !c.status;
    assert!(lost.conditions.iter().any(said), "{lost:?}");
    assert_eq!(
        host.thins().unwrap().len(),
        thins,
        "something was made or deleted"
    );
    assert_eq!(content(&path), [7; 512]);
    host.delete_volume("early").unwrap();
    let group = host.group("both", &["vm", "late"]).unwrap();

    host.point("debian/stable", "golden").unwrap();
    let label = api::UpdateRequest {
        target: "p".into(),
        set_labels: HashMap::from([("tier".to_owned(), "gold".to_owned())]),
        ..Default::default()
    };
    host.update_pool(label).unwrap();
    host.soon("the node keeps what only the store knows", || {
        let kept = host.dir().join("agent/kept-records.json");
        let kept = std::fs::read_to_string(kept).unwrap_or_default();
        let words = ["debian/stable", "gold\\\""];
        words.iter().all(|word| kept.contains(word)).then_some(())
    });

    // And now there is no store at all, nor a backup.
    another_life(&mut host, |_| {});
    assert!(host.volume_names().unwrap().is_empty());
    let adopted = host.adopt_node(true).unwrap();
    let kinds = adopted.changes.iter().map(|c| c.kind.as_str());
    let kinds: Vec<&str> = kinds.take(3).collect();
    assert_eq!(kinds, ["image", "channel", "pool"], "{adopted:?}");
    assert_eq!(host.get_pool("p").unwrap().labels["tier"], "gold");
    let named = host.create_thin(over("named", 4 * MIB, "golden")).unwrap();
    let through = host.create_thin(over("through", 4 * MIB, "debian/stable"));
    assert_eq!(through.unwrap().image_digest, named.image_digest);
    for volume in ["named", "through"] {
        host.deactivate(volume).unwrap();
        host.delete_volume(volume).unwrap();
    }
    assert_eq!(names(&host), ["late", "vm"]);
    let again = host.create_thin(wanted());
    let again = again.unwrap_or_else(|e| panic!("{e:?}\n{}", host.logs()));
    assert_eq!((&again.id, &again.labels), (&made.id, &made.labels));
    assert_eq!(again.size_bytes, 8 * MIB);
    assert_eq!(
        host.snapshot("before", "volume/vm").unwrap().id,
        snapshot.id
    );
    let again = host.group("both", &["vm", "late"]).unwrap();
    assert_eq!((&again.id, &again.members), (&group.id, &group.members));
    assert_eq!(again.created, group.created);
    host.delete_group("both").unwrap();
    assert_eq!(
        host.thins().unwrap().len(),
        thins,
        "a part of a group stays"
    );
    assert_eq!(content(&path), [7; 512]);
    let channel = api::DeleteRequest {
        target: "debian/stable".into(),
        ..Default::default()
    };
    host.delete_channel(channel).unwrap();
    host.end_after(&["belongs to another control plane store"]);
}
