//! The fake's metadata in files: one line of text, then zeroes.
//!
//! Strict as the real one: metadata of a pool that takes changes is never copied, none is put under
//! a live pool, and what was put in part is no metadata.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;

use goldleaf_types::{Bytes, PoolId, ThinId};

use super::{FakeKernel, FakePool, ambush};
use crate::failpoint::{Point, hit};
use crate::kernel::{Given, KernelError, MetadataFiles, PoolSpec, Superblock, Told};
use crate::sys::caller::Caller;

/// What is wrong with a pool's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Why it cannot be used, if so.
    pub broken: bool,
    /// Whether its superblock is.
    pub superblock: bool,
    /// Whether no repair makes anything of it.
    pub hopeless: bool,
    /// How many blocks of a thin a repair brings back; of those that are not named, all.
    pub found: Vec<(ThinId, Option<u64>)>,
    /// Whether it takes no change before it was checked.
    pub needs_check: bool,
    /// Whether it was put in part.
    pub half: bool,
}

impl Damage {
    pub(super) fn opens(&self) -> bool {
        !(self.broken || self.superblock || self.half)
    }
}

fn text(pool: &FakePool) -> String {
    let thins = pool
        .thins
        .iter()
        .map(|(thin, blocks)| format!("{thin}:{blocks}"));
    let found = pool.damage.found.iter();
    let found = found.map(|(thin, blocks)| match blocks {
        Some(blocks) => format!("{thin}:{blocks}"),
        None => format!("{thin}:-"),
    });
    let damage = &pool.damage;
    let flags = [
        damage.broken,
        damage.superblock,
        damage.hopeless,
        damage.needs_check,
        damage.half,
    ];
    format!(
        "{}|{}|{}|{flags:?}\n",
        pool.transaction,
        thins.collect::<Vec<_>>().join(","),
        found.collect::<Vec<_>>().join(","),
    )
}

fn parse(file: &File) -> FakePool {
    let mut file = file.try_clone().unwrap();
    file.rewind().unwrap();
    let mut all = String::new();
    file.read_to_string(&mut all).unwrap();
    let line = all.lines().next().unwrap_or_default();
    let mut parts = line.split('|');
    let mut next = || parts.next().unwrap_or_default();
    let (transaction, thins, found, flags) = (next(), next(), next(), next());
    let pair = |text: &str| {
        let (thin, blocks) = text.split_once(':').unwrap();
        let thin = ThinId::new(thin.parse().unwrap()).unwrap();
        (thin, blocks.parse::<u64>().ok())
    };
    let pairs = |text: &'_ str| -> Vec<(ThinId, Option<u64>)> {
        text.split(',')
            .filter(|t| !t.is_empty())
            .map(pair)
            .collect()
    };
    let mut flags = flags
        .split(|c: char| !c.is_alphabetic())
        .filter(|w| !w.is_empty());
    let mut flag = || flags.next() == Some("true");
    FakePool {
        transaction: transaction.parse().unwrap_or_default(),
        thins: pairs(thins)
            .into_iter()
            .map(|(t, b)| (t, b.unwrap_or(0)))
            .collect(),
        damage: Damage {
            broken: flag(),
            superblock: flag(),
            hopeless: flag(),
            needs_check: flag(),
            half: flag(),
            found: pairs(found),
        },
        ..FakePool::default()
    }
}

fn put(file: &File, pool: &FakePool, len: u64) -> Result<(), KernelError> {
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all_at(text(pool).as_bytes(), 0))
        .and_then(|()| file.set_len(len));
    written.map_err(KernelError::io("write a pool's metadata"))
}

/// Whether anybody waits for it, as between the steps of the real one.
fn waits(pool: PoolId, caller: Option<&Caller>) -> Result<(), KernelError> {
    match caller.is_some_and(Caller::is_gone) {
        false => Ok(()),
        true => Err(KernelError::Abandoned(pool)),
    }
}

fn length(spec: &PoolSpec) -> u64 {
    spec.metadata.iter().map(|s| s.len.bytes().0).sum()
}

impl MetadataFiles for FakeKernel {
    fn copy_metadata(
        &self,
        spec: &PoolSpec,
        to: &File,
        caller: Option<&Caller>,
        told: Told<'_>,
    ) -> Result<(), KernelError> {
        let pool = self
            .world()
            .pools
            .get(&spec.id)
            .cloned()
            .unwrap_or_default();
        assert!(
            !pool.live || pool.damage.needs_check || pool.given_up || pool.read_only,
            "metadata was copied that changes meanwhile"
        );
        told(Bytes(length(spec) / 2));
        waits(spec.id, caller)?;
        put(to, &pool, length(spec))?;
        told(Bytes(length(spec)));
        Ok(())
    }

    fn is_metadata(&self, spec: &PoolSpec, file: &File) -> Result<bool, KernelError> {
        let world = self.world();
        Ok(world.pools.get(&spec.id).map(text) == Some(text(&parse(file))))
    }

    fn check_metadata(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Option<String>, KernelError> {
        waits(pool, caller)?;
        let opens = parse(file).damage.opens();
        Ok((!opens).then(|| "bad checksum in btree node".into()))
    }

    fn superblock(&self, file: &File) -> Result<Option<Superblock>, KernelError> {
        let pool = parse(file);
        Ok((!pool.damage.superblock).then_some(Superblock {
            transaction_id: pool.transaction,
            needs_check: pool.damage.needs_check,
            held_root: false,
            block_sectors: 128,
            data_blocks: 0,
        }))
    }

    fn thins_in(
        &self,
        pool: PoolId,
        file: &File,
        caller: Option<&Caller>,
    ) -> Result<Vec<(ThinId, u64)>, KernelError> {
        waits(pool, caller)?;
        let found = parse(file);
        match found.damage.superblock {
            false => Ok(found.thins.into_iter().collect()),
            true => Err(KernelError::Metadata {
                pool,
                why: "bad checksum in superblock".into(),
            }),
        }
    }

    fn repair_metadata(
        &self,
        pool: PoolId,
        files: (&File, &File),
        given: Option<Given>,
        caller: Option<&Caller>,
    ) -> Result<(), KernelError> {
        let ambush = ambush(&self.while_repairing).0.take();
        ambush.into_iter().for_each(|what| what());
        waits(pool, caller)?;
        let (from, to) = files;
        let mut found = parse(from);
        assert_eq!(
            given.is_some(),
            found.damage.superblock,
            "told what it knows, or too little"
        );
        if found.damage.hopeless {
            put(to, &found, 4096)?; // what it leaves is not to be used
            let why = "no compatible roots".into();
            return Err(KernelError::NotRepaired { pool, why });
        }
        for (thin, blocks) in std::mem::take(&mut found.damage.found) {
            match blocks {
                Some(blocks) => found.thins.insert(thin, blocks),
                None => found.thins.remove(&thin),
            };
        }
        found.transaction = given.map_or(found.transaction, |given| given.transaction_id);
        found.damage = Damage::default();
        let len = from
            .metadata()
            .map_err(KernelError::io("look at a file"))?
            .len();
        put(to, &found, len)
    }

    fn put_metadata(
        &self,
        spec: &PoolSpec,
        from: &File,
        told: Told<'_>,
    ) -> Result<(), KernelError> {
        let new = parse(from);
        {
            let mut world = self.world();
            let pool = world
                .pools
                .get_mut(&spec.id)
                .expect("a pool that was there");
            assert!(!pool.live, "metadata was put under a live pool");
            if world.no_put {
                return Err(KernelError::io("write a pool's metadata")(
                    std::io::ErrorKind::Other.into(),
                ));
            }
            let pool = world.pools.get_mut(&spec.id).expect("still there");
            // What was there is overwritten: it is in files, or nowhere.
            pool.damage.half = true;
            pool.thins.clear();
        }
        hit(Point::RepairBegunPutting);
        let mut world = self.world();
        let pool = world
            .pools
            .get_mut(&spec.id)
            .expect("a pool that was there");
        (pool.transaction, pool.thins, pool.damage) = (new.transaction, new.thins, new.damage);
        pool.given_up = false;
        told(Bytes(length(spec)));
        Ok(())
    }
}
