//! What runs inside the test kernel of the power cuts: look at what survived, then work until the
//! next cut.
//!
//! Called by `goldleaf-powercut`, once for each start of the kernel. Three workers change volumes of
//! their own at the same time, so that operations meet in the pool, its catalogue and the store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use goldleaf_proto::v1 as api;

use super::Power;
use super::ledger::{Ledger, Page};
use crate::command::output;
use crate::host::Host;
use crate::model::{
    Dice, Op, POOL, World, ask, assert_same, golden_bytes, has_device, is_volume, tear_or,
};
use crate::support::{check_metadata, held_root};

const WORKERS: usize = 3;

/// Longer than any load needs to its cut; then it comes by itself.
const LONGEST: Duration = Duration::from_secs(20);

/// Warnings and errors of a start after a cut, and of one that finds the other not there yet.
const EXPECTED: &[&str] = &[
    "not registered",
    "no stream from its agent",
    "does not answer",
    "a power cut left a metadata snapshot half made",
    "a power cut left a metadata snapshot half released",
    "a metadata snapshot was left held; released",
    // The cut met the second copy before it had what the first has already.
    "an older copy of the catalogue; made anew",
];

/// One start of the kernel.
#[derive(Clone, Debug)]
pub struct Start {
    /// The outer host's folder: ledger and notice.
    pub window: PathBuf,
    /// What chance follows from.
    pub seed: u64,
    /// The first start makes what the later ones find.
    pub first: bool,
    /// No cut this time: everything is taken away in the end.
    pub last: bool,
    /// The disks: the pool's, and the host's own file system's.
    pub disks: [PathBuf; 2],
}

/// Runs it. Returns only on the last start.
///
/// # Errors
///
/// When something is not as it was acknowledged.
///
/// # Panics
///
/// The same.
pub fn run(start: &Start) -> Result<()> {
    one_panic_ends_all();
    let mut dice = Dice::new(start.seed);
    let power = Power::new(dice.number(), start.window.join("cut"));
    let sockets = Path::new("/tmp");
    let pool = power.connect(&start.disks[0], 0, &sockets.join("pool.sock"))?;
    let own = power.connect(&start.disks[1], 1, &sockets.join("own.sock"))?;
    let mounted = Path::new("/tmp/own");
    std::fs::create_dir_all(mounted)?;
    if start.first {
        // Its superblock has two sectors and one sum: torn between them, ext4 itself does not mount.
        let plain = ["-q", "-O", "^metadata_csum", &own.display().to_string()];
        output("mkfs.ext4", &plain)?;
    }
    // One cut in five meets the recovery from the one before.
    if !start.first && !start.last && dice.below(5) == 0 {
        power.cut_after(dice.below(300));
    }
    sound_metadata(&pool)?;
    output(
        "mount",
        &[&own.display().to_string(), &mounted.display().to_string()],
    )?;
    let mut host = Host::on(&mounted.join("host"));
    host.start_server(&[]);
    host.start_agent(&[]);
    host.await_node();
    let (ledger, mut pages) = Ledger::open(&start.window.join("ledger"), WORKERS)?;
    revived(&host, &pages);
    furnish(&host, &pool);
    for (worker, page) in pages.iter_mut().enumerate() {
        settle(&host, &ledger, worker, page)?;
    }
    // The look makes devices and clones that no ledger knows.
    power.spare();
    let answered: u64 = pages.iter().map(|page| page.answered).sum();
    assert_same(&host, &together(&pages));
    let things: usize = pages.iter().map(|page| page.world.things.len()).sum();
    println!("looked at {things} volumes and snapshots after {answered} operations: all right");
    if start.last {
        return finish(host, mounted, &pool);
    }
    power.cut_after(dice.below(1500));
    work(&host, &power, &ledger, &mut pages, &mut dice)
}

/// A worker that finds something wrong would end its own thread alone, and the cut, which parks for
/// ever, would hide it.
fn one_panic_ends_all() {
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        std::process::exit(101);
    }));
}

/// Before anything opens the pool thin_check finds nothing in its metadata. What the kernel leaves
/// of a metadata snapshot that it was taking or releasing is for the agent to undo (docs/failure-modes.md).
fn sound_metadata(pool: &Path) -> Result<()> {
    let found = check_metadata(pool)?;
    if let (Some(words), root) = (&found, held_root(pool)?)
        && (root != 0 || counts_too_much(words))
    {
        println!("the cut met a metadata snapshot, at block {root}: {words}");
        return Ok(());
    }
    ensure!(found.is_none(), "thin_check: {}", found.unwrap_or_default());
    Ok(())
}

/// Whether all that thin_check finds is blocks that are counted more often than they are named, as a
/// metadata snapshot leaves them that was being released.
fn counts_too_much(words: &str) -> bool {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let mut found = words
        .lines()
        .filter(|line| line.contains("counts differ"))
        .peekable();
    found.peek().is_some()
        && found.all(|line| {
            let counts = line.split_once("expected ").map(|(_, counts)| counts);
            let both = counts.and_then(|c| c.split_once(", but got "));
            both.is_some_and(|(named, counted)| number(named) < number(counted))
        })
}

/// Every volume that had a device has one again, and no other, before anybody asks for anything.
fn revived(host: &Host, pages: &[Page]) {
    for page in pages {
        let open = page.open.as_ref().map(Op::name);
        let certain = |name: &str| is_volume(name) && open != Some(name);
        for (name, thing) in page.world.things.iter().filter(|(name, _)| certain(name)) {
            assert_eq!(
                has_device(host, name),
                thing.active,
                "{name} at the start\n{}",
                host.logs()
            );
        }
    }
}

/// Image and pool, unless they are there: every call may be repeated.
fn furnish(host: &Host, device: &Path) {
    host.image("golden", &golden_bytes());
    let device = api::PoolDevice {
        path: device.display().to_string(),
        create_file_bytes: 0,
    };
    let pool = host.create_pool(api::CreatePoolRequest {
        name: POOL.into(),
        devices: vec![device],
        ..Default::default()
    });
    let pool = pool.unwrap_or_else(|e| panic!("{e:?}\n{}", host.logs()));
    let wrong: Vec<_> = pool.conditions.iter().filter(|c| !c.status).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", host.logs());
}

/// Repeats what was cut short; a write is looked at first.
fn settle(host: &Host, ledger: &Ledger, worker: usize, page: &mut Page) -> Result<()> {
    let Some(op) = page.open.take() else {
        return Ok(());
    };
    if let Some(old) = page.world.things.get(op.name()) {
        tear_or(host, old, &op);
    }
    ask(host, &op);
    ledger.answered(worker)?;
    page.world.apply(&op);
    Ok(())
}

fn together(pages: &[Page]) -> World {
    let mut all = World::of("");
    for page in pages {
        all.things.extend(page.world.things.clone());
    }
    all
}

/// Works until the cut.
fn work(
    host: &Host,
    power: &Power,
    ledger: &Ledger,
    pages: &mut [Page],
    dice: &mut Dice,
) -> Result<()> {
    std::thread::scope(|scope| {
        for (worker, page) in pages.iter_mut().enumerate() {
            let mut dice = Dice::new(dice.number());
            scope.spawn(move || {
                loop {
                    let op = page.world.pick(&mut dice);
                    ledger.asks(worker, &op).expect("the ledger");
                    ask(host, &op);
                    ledger.answered(worker).expect("the ledger");
                    page.world.apply(&op);
                }
            });
        }
        let moment = rustix::thread::Timespec {
            tv_sec: i64::try_from(LONGEST.as_secs()).expect("seconds"),
            tv_nsec: 0,
        };
        let _ = rustix::thread::nanosleep(&moment);
        power.cut()
    })
}

/// Takes everything away, and sees that nothing is left.
fn finish(host: Host, mounted: &Path, pool: &Path) -> Result<()> {
    for volume in host.volume_names()? {
        host.deactivate(&volume)?;
    }
    host.close_pool(api::ClosePoolRequest {
        pool: POOL.into(),
        wait: true,
    })?;
    let found = check_metadata(pool)?;
    ensure!(found.is_none(), "thin_check: {}", found.unwrap_or_default());
    host.open_pool(api::OpenPoolRequest {
        pool: POOL.into(),
        wait: true,
        ..Default::default()
    })?;
    host.end_after(EXPECTED);
    output("umount", &[&mounted.display().to_string()]).map(drop)
}
