//! Metadata that thin_check finds errors in, and metadata that needs a check: the pool says so, a dry
//! run changes nothing, a repair brings back what can be had and keeps the old metadata, and kill -9
//! at any point of it leaves what goes on by itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::path::{Path, PathBuf};

use goldleaf_proto::v1 as api;
use goldleaf_tests::command::{command, output};
use goldleaf_tests::host::{Host, blank, confirmed_repair, dry_repair, over, program};
use goldleaf_tests::model::{self, GOLDEN, IMAGE, golden_bytes};
use goldleaf_tests::support::{Disk, Metadata, Node, Pattern, check_metadata};
use tonic::Code;

const MIB: u64 = 1 << 20;
/// Of the large volume: its mappings take more than one block of metadata.
const LARGE: u64 = 40 * MIB;
const PIECE: usize = 1 << 20;

/// What the agent says of a damaged pool, and of repairs.
const LOGGED: &[&str] = &[
    "did not open",
    "repaired metadata",
    "is being repaired",
    "open for reading and rescue only",
    "its data is gone",
    "mending",
    "dying as asked",
    "not finished yet",
];

/// A host with a pool "p" on a device: "v" over an image, its snapshot "s", which differs from it
/// since, and the large volume "w". None is active.
fn furnish(host: &Host, device: Option<&Disk>) -> PathBuf {
    host.image("golden", &golden_bytes());
    let path = match device {
        None => {
            host.pool("p", 256 * MIB);
            host.dir().join("agent/pools/p.pool")
        }
        Some(disk) => {
            let device = api::PoolDevice {
                path: disk.path(),
                create_file_bytes: 0,
            };
            host.create_pool(api::CreatePoolRequest {
                name: "p".into(),
                devices: vec![device],
                ..Default::default()
            })
            .unwrap();
            disk.path().into()
        }
    };
    host.create_thin(over("v", 2 * MIB, "golden")).unwrap();
    let v = active(host, "v");
    v.write(0, &Pattern(1).bytes(0, 65_536));
    v.write(MIB, &Pattern(1).bytes(MIB, 65_536));
    host.snapshot("s", "volume/v").unwrap();
    v.write(MIB, &Pattern(2).bytes(MIB, 65_536));
    drop(v);
    host.deactivate("v").unwrap();
    host.create_thin(blank("w", LARGE)).unwrap();
    let w = active(host, "w");
    for at in (0..LARGE).step_by(PIECE) {
        w.write(at, &Pattern(3).bytes(at, PIECE));
    }
    drop(w);
    host.deactivate("w").unwrap();
    path
}

fn active(host: &Host, volume: &str) -> Node {
    host.activate(volume).unwrap();
    model::device(host, &format!("volume/{volume}"))
}

fn assert_v(host: &Host) {
    let v = active(host, "v");
    let image = usize::try_from(IMAGE).unwrap() - 65_536;
    assert_eq!(v.read(0, 65_536), Pattern(1).bytes(0, 65_536));
    assert_eq!(
        v.read(65_536, image - 65_536),
        GOLDEN.bytes(65_536, image - 65_536)
    );
    assert_eq!(v.read(MIB, 65_536), Pattern(2).bytes(MIB, 65_536));
    drop(v);
    host.deactivate("v").unwrap();
}

fn assert_s(host: &Host) {
    host.active_clone("of-s", "snapshot/s", 2 * MIB).unwrap();
    let s = model::device(host, "volume/of-s");
    assert_eq!(s.read(0, 65_536), Pattern(1).bytes(0, 65_536));
    assert_eq!(s.read(MIB, 65_536), Pattern(1).bytes(MIB, 65_536));
    drop(s);
    host.deactivate("of-s").unwrap();
    host.delete_volume("of-s").unwrap();
}

/// How much of the large volume reads as it was written; the rest reads as zeroes.
fn whole_blocks_of_w(host: &Host) -> u64 {
    let w = active(host, "w");
    let mut whole = 0;
    for at in (0..LARGE).step_by(65_536) {
        let read = w.read(at, 65_536);
        if read == Pattern(3).bytes(at, 65_536) {
            whole += 1;
        } else {
            assert!(
                read.iter().all(|b| *b == 0),
                "neither its own nor zeroes at {at}"
            );
        }
    }
    drop(w);
    host.deactivate("w").unwrap();
    whole
}

fn damaged(host: &mut Host, device: &Path, damage: impl FnOnce(&Metadata)) -> Metadata {
    host.damage_metadata(device, damage, &[])
}

fn fates(repair: &api::PoolRepair) -> Vec<(&str, api::ThinFate)> {
    let mut fates: Vec<_> = repair
        .thins
        .iter()
        .map(|t| (t.name.as_str(), t.fate()))
        .collect();
    fates.sort_unstable_by_key(|(name, _)| *name);
    fates
}

fn all_whole(repair: &api::PoolRepair) {
    let whole = ["s", "v", "w"].map(|name| (name, api::ThinFate::Whole));
    assert_eq!(fates(repair), whole, "{repair:?}");
}

fn no_files_at_work(host: &Host) {
    let left = [host.repair_files("copy"), host.repair_files("repaired")].concat();
    assert!(left.is_empty(), "{left:?}");
}

fn close(host: &Host) {
    host.close_pool(api::ClosePoolRequest {
        pool: "p".into(),
        wait: true,
    })
    .unwrap();
}

/// The whole way, on a block device: nothing is lost but the space map, which a repair makes anew.
#[test]
fn a_damaged_pool_says_so_a_dry_run_changes_nothing_and_a_repair_brings_all_back() {
    let mut host = Host::start("repair");
    let disk = Disk::new("repair", 0, 160 * MIB);
    let device = furnish(&host, Some(&disk));
    let metadata = damaged(&mut host, &device, Metadata::spoil_space_map);
    disk.forget_cache();
    let why = host.complaint("PoolOpen").unwrap();
    assert!(why.message.contains("thin_check finds errors"), "{why:?}");
    assert!(why.message.contains("goldleaf pool repair"), "{why:?}");

    let before = metadata.with_all_before();
    let (steps, would) = host.repair(dry_repair()).unwrap();
    assert_eq!(would.outcome(), api::RepairOutcome::WouldDo, "{would:?}");
    assert!(
        !would.damage.is_empty() && would.kept.is_empty(),
        "{would:?}"
    );
    all_whole(&would);
    let mapped = |name: &str| {
        let thin = would.thins.iter().find(|t| t.name == name).unwrap();
        (thin.mapped_before_bytes, thin.mapped_after_bytes)
    };
    assert_eq!(mapped("w"), (Some(LARGE), Some(LARGE)));
    assert_eq!(steps.first(), Some(&api::RepairStep::Copying));
    disk.forget_cache();
    assert!(metadata.with_all_before() == before, "a dry run wrote");
    assert!(host.repair_files("before").is_empty());
    no_files_at_work(&host);
    assert_eq!(host.complaint("PoolOpen").unwrap().message, why.message);
    // Not its name: nothing is done.
    let other = api::RepairPoolRequest {
        confirm: "q".into(),
        ..dry_repair()
    };
    assert_eq!(
        host.repair(other).unwrap_err().code(),
        Code::InvalidArgument
    );

    let old = metadata.bytes();
    let (steps, done) = host.repair(confirmed_repair(false)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done, "{done:?}");
    assert_eq!(steps.last(), Some(&api::RepairStep::Putting));
    all_whole(&done);
    assert_eq!(host.repair_files("before"), [PathBuf::from(&done.kept)]);
    assert!(
        std::fs::read(&done.kept).unwrap() == old,
        "the old metadata is not kept whole"
    );
    no_files_at_work(&host);
    let pool = host.get_pool("p").unwrap();
    assert_eq!(pool.phase(), api::Phase::Ready, "{pool:?}");
    assert!(pool.conditions.iter().all(|c| c.status), "{pool:?}");
    assert_v(&host);
    assert_s(&host);
    assert_eq!(whole_blocks_of_w(&host), LARGE / 65_536);
    host.create_thin(blank("more", MIB)).unwrap();
    host.delete_volume("more").unwrap();
    // Asked again, as by somebody who got no answer.
    let (_, again) = host.repair(confirmed_repair(false)).unwrap();
    assert_eq!(again.outcome(), api::RepairOutcome::NothingToDo);
    close(&host);
    disk.forget_cache();
    assert_eq!(check_metadata(&device).unwrap(), None);
    host.open_pool(api::OpenPoolRequest {
        pool: "p".into(),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    host.end_after(LOGGED);
    disk.remove();
}

/// A part of a volume's mappings is gone: it is said, lost only when that is accepted, and said from
/// then on. The others have everything.
#[test]
fn what_cannot_be_had_back_is_said_before_and_after() {
    let mut host = Host::start("repair-part");
    let device = furnish(&host, None);
    let thin = host
        .thins()
        .unwrap()
        .into_iter()
        .find(|t| t.name == "w")
        .unwrap();
    let spoil = |m: &Metadata| m.spoil_leaf_of(thin.thin_id);
    let metadata = damaged(&mut host, &device, spoil);
    let (_, would) = host.repair(dry_repair()).unwrap();
    let wanted = [
        ("s", api::ThinFate::Whole),
        ("v", api::ThinFate::Whole),
        ("w", api::ThinFate::Shortened),
    ];
    assert_eq!(fates(&would), wanted, "{would:?}");
    let before = metadata.with_all_before();
    let refused = host.repair(confirmed_repair(false)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("a part of w"), "{refused:?}");
    assert!(
        metadata.with_all_before() == before,
        "a refused repair wrote"
    );
    assert!(host.repair_files("before").is_empty());
    no_files_at_work(&host);

    let (_, done) = host.repair(confirmed_repair(true)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done);
    let w = done.thins.iter().find(|t| t.name == "w").unwrap();
    let left = w.mapped_after_bytes.unwrap() / 65_536;
    assert!(left > 0 && left < LARGE / 65_536, "{w:?}");
    assert_eq!(whole_blocks_of_w(&host), left);
    assert_v(&host);
    assert_s(&host);
    let volume = host.volume("w").unwrap();
    let said = volume.conditions.iter().find(|c| c.r#type == "DataWhole");
    let said = said.unwrap_or_else(|| panic!("{volume:?}"));
    assert!(!said.status && said.reason == "LostInRepair", "{said:?}");
    // It stays said over an opening, until somebody says that it was seen to.
    host.agent.take().unwrap().kill();
    host.start_agent(&[]);
    host.await_node();
    let finding = |host: &Host| {
        let found = host.findings().unwrap();
        found
            .into_iter()
            .find(|f| f.code == "ShortenedThin")
            .map(|f| f.id)
    };
    let id = finding(&host).unwrap();
    host.mend(&id, true).unwrap();
    assert_eq!(finding(&host), None);
    host.end_after(LOGGED);
}

/// With the list of thins gone, or the superblock, what the tool makes of it depends on its version:
/// whatever that is, it is said, and nothing is taken for whole that is not.
#[test]
fn damage_at_the_roots_is_never_repaired_in_silence() {
    let mut host = Host::start("repair-roots");
    let device = furnish(&host, None);
    for spoil in [Metadata::spoil_details, Metadata::spoil_superblock] {
        let mut old = Vec::new();
        let metadata = damaged(&mut host, &device, |m| {
            old = m.bytes();
            spoil(m);
        });
        assert!(host.complaint("PoolOpen").is_some());
        let before = metadata.with_all_before();
        if let Ok((_, would)) = host.repair(dry_repair()) {
            assert_eq!(would.outcome(), api::RepairOutcome::WouldDo);
            assert_eq!(would.thins.len(), 3, "{would:?}");
            let whole = |t: &api::RepairedThin| t.fate() == api::ThinFate::Whole;
            assert!(!would.thins.iter().all(whole), "{would:?}");
        }
        let refused = host.repair(confirmed_repair(false)).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(
            metadata.with_all_before() == before,
            "a refused repair wrote"
        );
        // By hand, as a person with a better copy would.
        let _ = damaged(&mut host, &device, |m| m.put_all(&old));
        assert!(host.complaint("PoolOpen").is_none());
    }
    assert_v(&host);
    assert_s(&host);
    assert_eq!(whole_blocks_of_w(&host), LARGE / 65_536);
    host.end_after(LOGGED);
}

#[test]
fn a_pool_that_needs_a_check_is_repaired_once_nothing_of_it_is_in_use() {
    let mut host = Host::start("repair-flag");
    let device = furnish(&host, None);
    let metadata = damaged(&mut host, &device, Metadata::set_needs_check);
    let said = host.complaint("PoolWritable").unwrap();
    assert!(said.message.contains("goldleaf pool repair"), "{said:?}");
    let refused = host.create_thin(blank("new", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let volume = host
        .activate_read_only("v")
        .unwrap_or_else(|e| panic!("{e:?}\n{}", host.logs()));
    let (_, would) = host.repair(dry_repair()).unwrap();
    assert!(would.needs_check && would.damage.is_empty(), "{would:?}");
    all_whole(&would);
    let refused = host.repair(confirmed_repair(false)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(
        refused.message().contains("deactivate v first"),
        "{refused:?}"
    );
    let v = model::device(&host, "volume/v");
    assert_eq!(v.read(0, 65_536), Pattern(1).bytes(0, 65_536), "{volume:?}");
    drop(v);
    host.deactivate("v").unwrap();
    let old = metadata.bytes();
    let (_, done) = host.repair(confirmed_repair(false)).unwrap();
    assert_eq!(done.outcome(), api::RepairOutcome::Done);
    assert!(std::fs::read(&done.kept).unwrap() == old);
    assert!(host.complaint("PoolWritable").is_none());
    host.create_thin(blank("new", MIB)).unwrap();
    assert_v(&host);
    assert_s(&host);
    assert_eq!(whole_blocks_of_w(&host), LARGE / 65_536);
    host.end_after(LOGGED);
}

/// kill -9 at each point: the agent that comes back goes on with it, or the repair can be asked for
/// again; never is anything lost, and the old metadata is there.
#[test]
fn the_agent_can_die_anywhere_in_a_repair() {
    let mut host = Host::start("repair-crash");
    let device = furnish(&host, None);
    let agent = program("goldleaf-node-agent").display().to_string();
    let points = output(&agent, &["failpoints"]).unwrap();
    let points: Vec<&str> = points
        .lines()
        .filter(|p| p.contains("/repair-pool/"))
        .collect();
    assert!(points.len() >= 6, "{points:?}");
    for point in points {
        let environment = [("GOLDLEAF_FAILPOINT", point)];
        let mut old = Vec::new();
        let spoil = |m: &Metadata| {
            m.spoil_space_map();
            old = m.bytes();
        };
        let _ = host.damage_metadata(&device, spoil, &environment);
        let kept = host.repair_files("before");
        let lost = host.repair(confirmed_repair(false)).unwrap_err();
        assert_eq!(lost.code(), Code::Unavailable, "{point}: {lost:?}");
        assert!(
            host.agent.as_mut().unwrap().died(),
            "{point} was not reached"
        );
        host.agent = None;
        host.start_agent(&[]);
        host.await_node();
        // Who asks again learns that it is done, or has it done.
        let done = host.soon("it is repaired", || {
            host.repair(confirmed_repair(false)).ok()
        });
        let well = [api::RepairOutcome::Done, api::RepairOutcome::NothingToDo];
        assert!(well.contains(&done.1.outcome()), "{point}: {done:?}");
        let pool = host.soon("the pool is ready", || {
            host.get_pool("p")
                .ok()
                .filter(|p| p.phase() == api::Phase::Ready)
        });
        assert!(
            pool.conditions.iter().all(|c| c.status),
            "{point}: {pool:?}"
        );
        let new = host
            .repair_files("before")
            .into_iter()
            .filter(|f| !kept.contains(f));
        let new: Vec<_> = new.collect();
        assert!(!new.is_empty(), "{point}: the old metadata is gone");
        assert!(
            new.iter().any(|f| std::fs::read(f).unwrap() == old),
            "{point}: the old metadata is not kept whole"
        );
        no_files_at_work(&host);
        assert_v(&host);
        assert_s(&host);
        assert_eq!(whole_blocks_of_w(&host), LARGE / 65_536, "{point}");
    }
    host.end_after(LOGGED);
}

fn goldleaf(host: &Host, arguments: &[&str]) -> (Option<i32>, String, String) {
    let said = command(program("goldleaf"))
        .arg("--server")
        .arg(format!("http://{}", host.address()))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (said.status.code(), text(said.stdout), text(said.stderr))
}

#[test]
fn the_command_line_says_what_would_be_and_does_it_by_name() {
    let mut host = Host::start("repair-cli");
    let device = furnish(&host, None);
    let _ = damaged(&mut host, &device, Metadata::spoil_space_map);
    let (code, out, err) = goldleaf(&host, &["pool", "repair", "p"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("thin_check:") && out.contains("whole"),
        "{out}"
    );
    assert!(
        err.contains("--confirm") && !err.contains("--accept-loss"),
        "{err}"
    );
    let (code, out, _) = goldleaf(&host, &["pool", "repair", "p", "-o", "json"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("REPAIR_OUTCOME_WOULD_DO") && out.contains("\"thins\""),
        "{out}"
    );
    let (code, _, err) = goldleaf(&host, &["pool", "repair", "p", "--confirm", "q"]);
    assert_eq!(code, Some(1), "{err}");
    let (code, _, err) = goldleaf(&host, &["pool", "repair", "p", "--accept-loss"]);
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = goldleaf(&host, &["pool", "repair", "p", "--confirm", "p"]);
    assert_eq!(code, Some(0), "{err}");
    let [kept] = host.repair_files("before").try_into().unwrap();
    assert!(err.contains(&kept.display().to_string()), "{err}");
    let (code, _, err) = goldleaf(&host, &["pool", "repair", "p"]);
    assert_eq!(code, Some(0));
    assert!(err.contains("nothing to repair"), "{err}");
    assert_v(&host);
    host.end_after(LOGGED);
}
