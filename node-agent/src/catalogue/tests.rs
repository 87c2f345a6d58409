use std::collections::BTreeSet;
use std::convert::Infallible;

use goldleaf_types::{BlockSize, Bytes, Digest, Labels, PoolId, ThinId, VolumeId, VolumeSize};

use super::*;

pub(super) const REGION: u64 = 16 << 20;

pub(super) fn pool() -> PoolRecord {
    PoolRecord {
        id: PoolId::from_bytes([7; 16]),
        name: "fast".parse().unwrap(),
        block_size: BlockSize::DEFAULT,
        incarnation: None,
        transaction_id: 4,
        next_thin: 1,
        no_space: NoSpace::Error,
        wait_seconds: 0,
        overcommit_percent: 0,
        created: jiff::Timestamp::UNIX_EPOCH,
        quarantined: vec![],
        home: None,
        repair: None,
    }
}

pub(super) fn row(owner: ThinOwner, thin: ThinId) -> ThinRecord {
    ThinRecord {
        owner,
        name: "vm1".parse().unwrap(),
        labels: Labels::default(),
        size: VolumeSize::new(1 << 30).unwrap(),
        thin,
        image: Some(ImageRef {
            digest: Digest::from_bytes([5; 32]),
            size: Bytes(1 << 29),
        }),
        parent: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        request: "{}".into(),
        holder: Some(Holder::Host),
        phase: Phase::Creating,
        epoch: 1,
        sealed: false,
        read_only: false,
        group: None,
        decouple: None,
        lost_blocks: 0,
        marks: String::new(),
    }
}

struct Disk(tempfile::NamedTempFile);

impl Disk {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(REGION).unwrap();
        Self(file)
    }

    fn storage(&self) -> RegionStorage {
        RegionStorage::new(self.0.reopen().unwrap(), Bytes(0), Bytes(REGION))
    }

    fn made(&self) -> Catalogue {
        Catalogue::create(vec![self.storage()], &pool()).unwrap()
    }

    fn open(&self) -> Catalogue {
        Catalogue::open(vec![self.storage()], pool().id).unwrap()
    }
}

fn owner() -> ThinOwner {
    VolumeId::mint().into()
}

fn add(catalogue: &Catalogue, owner: ThinOwner) -> ThinId {
    catalogue
        .write(move |rows| {
            let thin = rows.reserve_thin()?;
            rows.insert(row(owner, thin));
            Ok::<_, NoThinIds>(thin)
        })
        .unwrap()
}

#[test]
fn rows_outlive_the_process_closed_or_not() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let (kept, gone) = (owner(), owner());
    let thin = add(&catalogue, kept);
    add(&catalogue, gone);
    catalogue.close().unwrap();
    assert!(matches!(
        catalogue.write(|_| Ok::<_, Infallible>(())),
        Err(WriteError::Catalogue(CatalogueError::Closed))
    ));
    let catalogue = disk.open();
    catalogue
        .write(move |rows| {
            rows.remove(gone);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    // Not closed: what a killed process leaves.
    std::mem::forget(catalogue);
    let catalogue = disk.open();
    assert_eq!(catalogue.all(), [row(kept, thin)]);
    assert_eq!(catalogue.pool().transaction_id, 4);
}

#[test]
fn a_region_is_made_once_and_never_taken_for_a_catalogue_when_blank() {
    let disk = Disk::new();
    assert!(matches!(
        Catalogue::open(vec![disk.storage()], pool().id),
        Err(CatalogueError::Blank)
    ));
    drop(disk.made());
    assert!(matches!(
        Catalogue::create(vec![disk.storage()], &pool()),
        Err(CatalogueError::NotBlank)
    ));
}

#[test]
fn a_refused_change_and_a_panic_leave_no_trace() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let refused = catalogue.write(|rows| {
        let thin = rows.reserve_thin().unwrap();
        rows.insert(row(owner(), thin));
        Err::<(), _>("no")
    });
    assert!(matches!(refused, Err(WriteError::Refused("no"))));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        catalogue.write(|rows| -> Result<(), Infallible> {
            let thin = rows.reserve_thin().unwrap();
            rows.insert(row(owner(), thin));
            panic!("as the test wants");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((catalogue.all().len(), catalogue.pool().next_thin), (0, 1));
    add(&catalogue, owner());
    assert_eq!(catalogue.all().len(), 1);
}

#[test]
fn the_rules_of_rows_hold_whatever_a_change_does() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let (first, second) = (owner(), owner());
    let thin = add(&catalogue, first);
    let broken = [
        catalogue.write(move |rows| {
            rows.insert(row(second, thin));
            Ok::<_, Infallible>(())
        }),
        catalogue.write(move |rows| {
            let fresh = rows.reserve_thin().unwrap();
            rows.insert(row(first, fresh));
            Ok(())
        }),
        catalogue.write(move |rows| {
            let fresh = rows.reserve_thin().unwrap();
            rows.replace(row(second, fresh));
            Ok(())
        }),
    ];
    for result in broken {
        assert!(
            matches!(
                result,
                Err(WriteError::Catalogue(CatalogueError::Rule { .. }))
            ),
            "{result:?}"
        );
    }
    assert_eq!(catalogue.all(), [row(first, thin)]);
}

/// Law: ids go round, so a late message never meets a new owner; quarantined ones are never given.
#[test]
fn thin_ids_go_round_and_skip_what_is_taken_or_quarantined() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let first = owner();
    let thin = add(&catalogue, first);
    catalogue
        .write(move |rows| {
            rows.remove(first);
            let record = PoolRecord {
                quarantined: vec![2, ThinId::MAX],
                ..rows.pool()
            };
            rows.set_pool(record);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    assert_eq!(
        add(&catalogue, owner()).get(),
        3,
        "{thin} is free again and 2 is quarantined"
    );
    catalogue
        .write(|rows| {
            let record = PoolRecord {
                next_thin: ThinId::MAX,
                ..rows.pool()
            };
            rows.set_pool(record);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    let round: Vec<u32> = (0..3).map(|_| add(&catalogue, owner()).get()).collect();
    assert_eq!(round, [0, 1, 4], "it goes round over the top");
}

/// 16 callers at once: every answer is durable, and each got an id of its own.
#[test]
fn callers_at_once_share_commits_and_never_an_id() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let ids: Vec<ThinId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    (0..20)
                        .map(|_| add(&catalogue, owner()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 320);
    std::mem::forget(catalogue);
    let stored: BTreeSet<ThinId> = disk.open().all().iter().map(|r| r.thin).collect();
    assert_eq!(stored, ids.into_iter().collect());
}

#[test]
fn a_full_catalogue_refuses_more_and_still_deletes() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let mut owners = Vec::new();
    let full = loop {
        let next = owner();
        let added = catalogue.write(move |rows| {
            let thin = rows.reserve_thin().unwrap();
            rows.insert(ThinRecord {
                request: "x".repeat(ThinRecord::REQUEST_MAX),
                ..row(next, thin)
            });
            Ok::<_, Infallible>(())
        });
        match added {
            Ok(()) => owners.push(next),
            Err(error) => break error,
        }
        assert!(owners.len() < 1000, "it never fills");
    };
    assert!(
        matches!(full, WriteError::Catalogue(CatalogueError::Full { .. })),
        "{full}"
    );
    let last = owners.pop().unwrap();
    catalogue
        .write(move |rows| {
            rows.remove(last);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    assert_eq!(catalogue.all().len(), owners.len());
    add(&catalogue, owner());
}

/// A commit that finds no room would end all changes until the agent starts again.
#[test]
fn marks_that_do_not_fit_are_refused_and_everything_else_goes_on() {
    let disk = Disk::new();
    let catalogue = disk.made();
    let owners: Vec<_> = (0..200).map(|_| owner()).collect();
    for owner in &owners {
        add(&catalogue, *owner);
    }
    let mark = |owner: ThinOwner, len: usize| {
        catalogue.write(move |rows| {
            let row = rows.find(owner).unwrap();
            rows.replace(ThinRecord {
                marks: "x".repeat(len),
                ..row
            });
            Ok::<_, Infallible>(())
        })
    };
    let most = ThinRecord::MARKS_MAX;
    let refused = owners.iter().position(|owner| mark(*owner, most).is_err());
    let refused = refused.expect("they all fit");
    let full = mark(owners[refused], most).unwrap_err();
    assert!(
        matches!(full, WriteError::Catalogue(CatalogueError::Full { .. })),
        "{full}"
    );
    // What takes less, or none.
    mark(owners[0], most - 1).unwrap();
    let held = owners[refused];
    let activated = catalogue.write(move |rows| {
        let row = rows.find(held).unwrap();
        rows.replace(ThinRecord {
            holder: Some(Holder::Host),
            ..row
        });
        Ok::<_, Infallible>(())
    });
    activated.unwrap();
    mark(owners[1], 0).unwrap();
    mark(held, most / 2).unwrap();
    let rows = catalogue.all();
    std::mem::forget(catalogue);
    assert_eq!(disk.open().all(), rows);
}

#[test]
fn a_damaged_catalogue_is_an_error_and_shows_nothing() {
    let disk = Disk::new();
    let catalogue = disk.made();
    for _ in 0..50 {
        add(&catalogue, owner());
    }
    catalogue.close().unwrap();
    // Everything after the region's headers.
    Medium::write_all_at(disk.0.as_file(), &vec![0xa5; 1 << 20], 8192).unwrap();
    let error = Catalogue::open(vec![disk.storage()], pool().id).unwrap_err();
    assert!(
        matches!(
            error,
            CatalogueError::Damaged(_) | CatalogueError::Unusable(_)
        ),
        "{error:?}"
    );
}
