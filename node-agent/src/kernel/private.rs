//! Private devices over thins: for work on one that has no device of its own.
//!
//! Used by `dm`. Such a device has a name of its own, has no link, and goes with its value. One that
//! a crash leaves is never taken for its owner's: it goes when the pool is opened, or when the work
//! begins anew.

use std::fs::{File, OpenOptions};
use std::thread;
use std::time::Duration;

use goldleaf_dm::{Commit, Control, Owned, Table, Target, Thin, ThinStatus, block, nodes};
use goldleaf_types::{Bytes, PoolId, Sectors, ThinId};

use super::dm::{ensure_none, ensure_table, pool_dev};
use super::{KernelError, Mapping, PrivateSpec, PrivateThin};

/// How often a removal is tried that meets somebody who looks at every new device, as udev does.
const TRIES: usize = 100;

/// A private device.
struct Private<'c> {
    control: &'c Control,
    pool: PoolId,
    thin: ThinId,
    file: Option<File>,
}

/// Makes a private device.
pub(super) fn open<'c>(
    control: &'c Control,
    spec: &PrivateSpec,
) -> Result<Box<dyn PrivateThin + 'c>, KernelError> {
    let owned = Owned::Probe(spec.pool, spec.thin);
    let target = Target::Thin(Thin {
        len: spec.len,
        pool: pool_dev(control, spec.pool)?,
        id: spec.thin,
        origin: spec.origin,
    });
    // What a crash left may lie over a pool's device of before.
    let _ = ensure_none(control, owned)?;
    let what = "open a thin for work on it";
    let made = ensure_table(control, owned, what, &Table::of(target));
    let (dev, _) = made.map_err(|error| {
        if let KernelError::Dm { source, .. } = &error
            && source.is_no_data()
        {
            return KernelError::ThinMissing {
                pool: spec.pool,
                thin: spec.thin,
            };
        }
        error
    })?;
    let mut private = Private {
        control,
        pool: spec.pool,
        thin: spec.thin,
        file: None,
    };
    let node = nodes::ensure(dev).map_err(KernelError::io("make a device's node"))?;
    let file = OpenOptions::new().read(true).write(true).open(node);
    private.file = Some(file.map_err(KernelError::io(what))?);
    Ok(Box::new(private))
}

impl Private<'_> {
    const fn owned(&self) -> Owned {
        Owned::Probe(self.pool, self.thin)
    }
}

impl PrivateThin for Private<'_> {
    fn mapping(&self) -> Result<Mapping, KernelError> {
        let status = self
            .control
            .status(&self.owned().name(), Commit::No)
            .map_err(KernelError::dm("read a thin's status"))?;
        let line = status.targets.first();
        match line.and_then(|line| line.text.parse().ok()) {
            Some(ThinStatus::Mapped { sectors, highest }) => Ok(Mapping {
                mapped: Sectors(sectors).bytes(),
                end: highest.map_or(Bytes(0), |sector| Sectors(sector + 1).bytes()),
            }),
            Some(ThinStatus::Fail) | None => Err(KernelError::NotWritable {
                pool: self.pool,
                why: format!("the kernel does not say what thin {} holds", self.thin),
            }),
        }
    }

    fn discard(&self, start: Bytes, len: Bytes) -> Result<(), KernelError> {
        block::discard(self.file(), start, len).map_err(KernelError::io("discard a part of a thin"))
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is dropped")
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        self.file = None;
        for _ in 0..TRIES {
            match ensure_none(self.control, self.owned()) {
                Err(KernelError::Busy { .. }) => thread::park_timeout(Duration::from_millis(20)),
                Ok(_) => return,
                Err(error) => {
                    let error = crate::telemetry::Chain(&error).to_string();
                    tracing::warn!(thin = %self.thin, error, "a private device stays for now");
                    return;
                }
            }
        }
        tracing::warn!(thin = %self.thin, "a private device is held open and stays for now");
    }
}
