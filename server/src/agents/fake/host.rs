//! One fake host: what it holds, and every rule that a real agent keeps.
//!
//! Plain state behind the node's lock. Each operation looks at all that could refuse it before it
//! changes anything, and says whether it changed anything.

use std::collections::{BTreeMap, BTreeSet};

use goldleaf_types::{Bytes, Digest, Incarnation, Name, NodeId, PoolId, ThinOwner, VolumeSize};
use jiff::Timestamp;

use super::adoption::admitted;
use super::refuse::{
    bad_field, exhausted, not_found, other_parameters, out_of_range, precondition, unavailable,
};
use super::{Cut, Verb};
use crate::agents::AgentError;
use crate::domain::{
    ActivateOptions, Activation, Begin, Condition, Finding, First, ImageAsked, ImageReport,
    ImageSource, KeptText, Phase, Pool, PoolMode, PoolPolicy, PoolReport, PoolUsage, Progress,
    Severity, ThinOrder, ThinReport,
};

/// A pool of the host.
#[derive(Clone, Debug)]
pub(super) struct FakePool {
    pub(super) made: Pool,
    pub(super) open: bool,
    /// The host that has it and did not release it, if that is another.
    pub(super) held_by: Option<NodeId>,
    /// The store whose changes it takes.
    pub(super) incarnation: Option<Incarnation>,
    pub(super) mode: PoolMode,
    pub(super) used: Bytes,
    pub(super) total: Bytes,
    /// Paths of the devices that it was extended by.
    pub(super) added: BTreeSet<String>,
    pub(super) spares: BTreeSet<String>,
    pub(super) policy: PoolPolicy,
}

/// A thin of the host.
#[derive(Clone, Debug)]
pub(super) struct FakeThin {
    pub(super) order: ThinOrder,
    pub(super) size: VolumeSize,
    pub(super) image: Option<Digest>,
    pub(super) live: Option<ActivateOptions>,
    pub(super) openers: u32,
    pub(super) missing: bool,
    /// Wished for and not made yet, as an agent's crash leaves it.
    pub(super) creating: bool,
    pub(super) created: Timestamp,
    /// Blocks that were written, each with the number of the write.
    pub(super) written: BTreeMap<u64, u64>,
    pub(super) decoupling: bool,
    pub(super) marks: String,
}

/// What the host holds.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) away: bool,
    /// The store whose call is served now.
    pub(super) caller: Option<Incarnation>,
    pub(super) cuts: Vec<(Verb, Cut)>,
    pub(super) fuse: Option<u32>,
    pub(super) cut_off: bool,
    /// Whether labels of devices cannot be written.
    pub(super) labels_fail: bool,
    pub(super) effects: BTreeMap<Verb, u64>,
    pub(super) pools: BTreeMap<PoolId, FakePool>,
    pub(super) images: BTreeMap<Digest, Bytes>,
    pub(super) spoilt: BTreeSet<Digest>,
    pub(super) files: BTreeSet<String>,
    pub(super) offers: BTreeMap<String, (Digest, Bytes)>,
    pub(super) thins: BTreeMap<ThinOwner, FakeThin>,
    /// Pools with damaged metadata, and what a repair loses.
    pub(super) damaged: BTreeMap<PoolId, Vec<ThinOwner>>,
    /// How many blocks were written so far.
    pub(super) writes: u64,
    pub(super) kept_records: Option<KeptText>,
}

/// What an operation answers, and whether it changed anything.
pub(super) type Done<T> = Result<(T, bool), AgentError>;

impl Host {
    pub(super) fn open_pool_of(&self, id: PoolId) -> Result<&FakePool, AgentError> {
        self.pools.get(&id).filter(|pool| pool.open).ok_or_else(|| {
            precondition(
                "POOL_NOT_OPEN",
                format!("pool {id} is not open on this node"),
            )
        })
    }

    pub(super) fn writable(&self, id: PoolId) -> Result<(), AgentError> {
        match self.open_pool_of(id)?.mode {
            PoolMode::ReadWrite | PoolMode::OutOfDataSpace | PoolMode::Unknown => Ok(()),
            PoolMode::ReadOnly | PoolMode::Failed => Err(precondition(
                "POOL_READ_ONLY",
                format!("pool {id} takes no change"),
            )),
        }
    }

    fn room(&self, id: PoolId) -> Result<(), AgentError> {
        self.writable(id)?;
        if self.open_pool_of(id)?.mode == PoolMode::OutOfDataSpace {
            return Err(exhausted(
                "POOL_FULL",
                format!("pool {id} has no data space left"),
            ));
        }
        Ok(())
    }

    pub(super) fn here(&self, digest: Digest) -> Result<Bytes, AgentError> {
        let size = self.images.get(&digest).copied().ok_or_else(|| {
            unavailable(
                "IMAGE_NOT_HERE",
                format!("image {digest} is not on this node"),
            )
        })?;
        if self.spoilt.contains(&digest) {
            let message = format!("image {digest} has other content than its name says");
            return Err(precondition("IMAGE_CHANGED", message));
        }
        Ok(size)
    }

    /// A thin of an open pool.
    pub(super) fn find(&self, owner: ThinOwner) -> Result<&FakeThin, AgentError> {
        self.thins
            .get(&owner)
            .filter(|thin| self.open_pool_of(thin.order.pool).is_ok())
            .ok_or_else(|| not_found("THIN_NOT_FOUND", owner))
    }

    pub(super) fn usable(&self, owner: ThinOwner, epoch: u64) -> Result<&FakeThin, AgentError> {
        let thin = self.find(owner)?;
        if thin.missing {
            return Err(precondition(
                "DATA_MISSING",
                format!("the data of {owner} is missing"),
            ));
        }
        check_epoch(thin, epoch)?;
        Ok(thin)
    }

    pub(super) fn create_pool(&mut self, pool: &Pool) -> Done<PoolReport> {
        if let Some(found) = self.pools.get(&pool.id) {
            let was = &found.made;
            if was.name != pool.name {
                return Err(other_parameters(pool.id, "name"));
            }
            was.same_or_conflict(
                &pool.asked,
                &First {
                    labels: was.labels.clone(),
                    deletion_protection: was.marks.deletion_protection,
                },
            )
            .map_err(|field| other_parameters(pool.id, field))?;
            self.admit(pool.id)?;
            return self.open_pool(pool.id);
        }
        if pool.asked.devices.is_empty() {
            return Err(bad_field("devices", "is empty: name at least one device"));
        }
        let taken = |path: &str| {
            self.pools.values().any(|other| {
                let asked = &other.made.asked;
                asked
                    .devices
                    .iter()
                    .chain(&asked.metadata_device)
                    .any(|d| d.path == path)
            })
        };
        for device in pool.asked.devices.iter().chain(&pool.asked.metadata_device) {
            if taken(&device.path) {
                let message = format!("devices: {} holds another pool's label", device.path);
                return Err(precondition("NOT_BLANK", message));
            }
        }
        self.pools.insert(
            pool.id,
            FakePool {
                made: pool.clone(),
                open: true,
                held_by: None,
                incarnation: self.caller,
                mode: PoolMode::ReadWrite,
                used: Bytes(0),
                total: Bytes::GIB,
                added: BTreeSet::new(),
                spares: BTreeSet::new(),
                policy: PoolPolicy {
                    when_full: pool.asked.when_full,
                    ..PoolPolicy::default()
                },
            },
        );
        Ok((self.pool(pool.id)?, true))
    }

    pub(super) fn open_pool(&mut self, id: PoolId) -> Done<PoolReport> {
        self.opens(id)?;
        let pool = self
            .pools
            .get_mut(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))?;
        let changed = !pool.open;
        pool.open = true;
        Ok((self.pool(id)?, changed))
    }

    pub(super) fn close_pool(&mut self, id: PoolId) -> Done<PoolReport> {
        let pool = self
            .pools
            .get_mut(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))?;
        admitted(id, pool, self.caller)?;
        let active = |thin: &&FakeThin| thin.order.pool == id && thin.live.is_some();
        let count = self.thins.values().filter(active).count();
        if count > 0 {
            let message = format!("{count} volume(s) of pool {id} are active");
            return Err(precondition("ACTIVE", message));
        }
        let changed = pool.open;
        pool.open = false;
        Ok((self.pool(id)?, changed))
    }

    pub(super) fn open_pool_of_mut(&mut self, id: PoolId) -> Result<&mut FakePool, AgentError> {
        self.open_pool_of(id)?;
        self.pools
            .get_mut(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))
    }

    pub(super) fn delete_pool(&mut self, id: PoolId, force: bool) -> Done<()> {
        let Some(pool) = self.pools.get(&id) else {
            return Ok(((), false));
        };
        if force {
            let active = |thin: &&FakeThin| thin.order.pool == id && thin.live.is_some();
            let count = self.thins.values().filter(active).count();
            if count > 0 {
                let message = format!("{count} volume(s) of pool {id} are active");
                return Err(precondition("ACTIVE", message));
            }
            self.thins.retain(|_, thin| thin.order.pool != id);
            self.pools.remove(&id);
            return Ok(((), true));
        }
        if !pool.open {
            let message = format!("pool {id} is closed: open it first, so that one can see it");
            return Err(precondition("DEVICES_DO_NOT_FIT", message));
        }
        self.admit(id)?;
        let count = self
            .thins
            .values()
            .filter(|thin| thin.order.pool == id)
            .count();
        if count > 0 {
            let message = format!("pool {id} holds {count} volume(s) or snapshot(s)");
            return Err(precondition("NOT_EMPTY", message));
        }
        self.pools.remove(&id);
        Ok(((), true))
    }

    pub(super) fn pool(&self, id: PoolId) -> Result<PoolReport, AgentError> {
        let pool = self
            .pools
            .get(&id)
            .ok_or_else(|| not_found("POOL_NOT_FOUND", id))?;
        let thins: Vec<_> = self
            .thins
            .values()
            .filter(|thin| thin.order.pool == id)
            .collect();
        let usage = pool.open.then(|| PoolUsage {
            data_used: pool.used,
            data_total: pool.total,
            metadata_used: Bytes(4096),
            metadata_total: Bytes(2 << 20),
            mode: pool.mode,
            needs_check: false,
            provisioned: Bytes(thins.iter().map(|thin| thin.size.bytes().0).sum()),
            thin_count: u64::try_from(thins.len()).unwrap_or(u64::MAX),
        });
        let phase = if pool.open {
            Phase::Ready
        } else {
            Phase::Closed
        };
        let asked = &pool.made.asked;
        let devices = asked.devices.iter().chain(&asked.metadata_device);
        let devices = devices.map(|device| &device.path).chain(&pool.added);
        Ok(PoolReport {
            id,
            as_of: 0,
            devices: devices.cloned().collect(),
            spares: pool.spares.iter().cloned().collect(),
            phase,
            conditions: Vec::new(),
            usage,
            policy: pool.open.then_some(pool.policy),
            incarnation: pool.incarnation.filter(|_| pool.open),
        })
    }

    /// Lost data, which is all that can be wrong with this host.
    pub(super) fn examine(&self, node: &Name) -> Vec<Finding> {
        let lost = self.thins.iter().filter(|(_, thin)| thin.missing);
        lost.map(|(owner, _)| Finding {
            node: node.clone(),
            severity: Severity::Error,
            code: "LostThin".into(),
            subject: owner.to_string(),
            reason: "its thin is gone".into(),
            remedy: "restore it from a backup".into(),
            mend: String::new(),
        })
        .collect()
    }

    pub(super) fn pools(&self) -> Result<Vec<PoolReport>, AgentError> {
        self.pools.keys().map(|id| self.pool(*id)).collect()
    }

    /// The content that an import would bring.
    pub(super) fn source(
        &self,
        asked: &ImageAsked,
        thin: Option<ThinOwner>,
    ) -> Result<ImageReport, AgentError> {
        let place = match (&asked.source, thin) {
            (ImageSource::Volume(_), Some(owner)) => return self.content_of(owner),
            (
                ImageSource::File(place)
                | ImageSource::Device(place)
                | ImageSource::Url(place)
                | ImageSource::Volume(place),
                _,
            ) => place,
        };
        let (digest, size) = *self.offers.get(place).ok_or_else(|| {
            unavailable(
                "SOURCE_NOT_READABLE",
                format!("cannot read {}", asked.source.shown()),
            )
        })?;
        if asked.digest.is_some_and(|wanted| wanted != digest) {
            let message = format!("the content is {digest}, which is not what was asked for");
            return Err(precondition("DIGEST_DIFFERS", message));
        }
        Ok(ImageReport { digest, size })
    }

    /// What a thin reads: one content for each image under it, in this host.
    pub(super) fn content_of(&self, owner: ThinOwner) -> Result<ImageReport, AgentError> {
        let thin = self.usable(owner, 0)?;
        if thin.live.is_some() {
            return Err(precondition("ACTIVE", format!("{owner} is active")));
        }
        let digest = thin.image.unwrap_or(Digest::from_bytes([0x11; 32]));
        Ok(ImageReport {
            digest: Digest::from_bytes(digest.as_bytes().map(|byte| byte ^ 0x80)),
            size: thin.size.bytes(),
        })
    }

    pub(super) fn import(
        &mut self,
        asked: &ImageAsked,
        thin: Option<ThinOwner>,
    ) -> Done<ImageReport> {
        let report = self.source(asked, thin)?;
        let mended = self.spoilt.remove(&report.digest);
        let changed = self.images.insert(report.digest, report.size).is_none() || mended;
        Ok((report, changed))
    }

    pub(super) fn verify(&self, digest: Digest) -> Result<ImageReport, AgentError> {
        let size = self.here(digest)?;
        Ok(ImageReport { digest, size })
    }

    pub(super) fn delete_image(&mut self, digest: Digest) -> Done<()> {
        for id in self.pools.keys() {
            self.admit(*id)?;
        }
        let count = self
            .thins
            .values()
            .filter(|thin| thin.image == Some(digest))
            .count();
        if count > 0 {
            let message = format!("image {digest} is under {count} volume(s) or snapshot(s)");
            return Err(precondition("IMAGE_NEEDED", message));
        }
        let changed = self.images.remove(&digest).is_some();
        Ok(((), changed))
    }

    pub(super) fn create_thin(
        &mut self,
        order: &ThinOrder,
        activate: Option<ActivateOptions>,
    ) -> Done<ThinReport> {
        if order.owner.volume().is_none() && activate.is_some() {
            return Err(bad_field("activate", "a snapshot has no device"));
        }
        let image = match order.begin {
            Begin::Blank => None,
            Begin::Image(digest) => Some(digest),
            Begin::Thin(source) => self.check_source(order, source)?,
        };
        self.open_pool_of(order.pool)?;
        self.admit(order.pool)?;
        let known = self.thins.contains_key(&order.owner);
        if !known {
            self.room(order.pool)?;
            self.admit_size(order.pool, (order.owner, order.size))?;
        }
        // One that is made needs its image for its device alone.
        let made = self.thins.get(&order.owner).is_some_and(|t| !t.creating);
        if let Begin::Image(digest) = order.begin
            && !made
        {
            self.here(digest)?;
        }
        match self.thins.get_mut(&order.owner) {
            Some(thin) => {
                same_or_conflict(thin, order)?;
                thin.creating = false;
            }
            None => {
                let source = match order.begin {
                    Begin::Thin(source) => self.thins.get(&source),
                    Begin::Blank | Begin::Image(_) => None,
                };
                let written = source.map(|s| s.written.clone()).unwrap_or_default();
                self.thins.insert(
                    order.owner,
                    FakeThin {
                        written,
                        order: order.clone(),
                        size: order.size,
                        image,
                        live: None,
                        openers: 0,
                        missing: false,
                        creating: false,
                        created: Timestamp::now(),
                        decoupling: false,
                        marks: String::new(),
                    },
                );
            }
        }
        let activated = match activate {
            Some(options) => self.activate_thin(order.owner, options)?,
            None => false,
        };
        Ok((self.thin(order.owner)?, !known || activated))
    }

    /// The image of a thin that begins as `source`, if it may.
    pub(super) fn check_source(
        &self,
        order: &ThinOrder,
        source: ThinOwner,
    ) -> Result<Option<Digest>, AgentError> {
        let from = self.usable(source, 0)?;
        if from.order.pool != order.pool {
            return Err(not_found("THIN_NOT_FOUND", source));
        }
        if order.owner.volume().is_none() && order.size != from.size {
            return Err(out_of_range(
                "size_bytes a snapshot has its source's size".into(),
            ));
        }
        if order.size < from.size {
            return Err(out_of_range(format!(
                "size_bytes {} is less than the source's {}",
                order.size.bytes(),
                from.size.bytes()
            )));
        }
        Ok(from.image)
    }

    pub(super) fn delete_thin(&mut self, pool: PoolId, owner: ThinOwner, epoch: u64) -> Done<()> {
        self.open_pool_of(pool)?;
        self.admit(pool)?;
        let Ok(thin) = self.find(owner) else {
            return Ok(((), false));
        };
        check_epoch(thin, epoch)?;
        if thin.live.is_some() {
            let message = format!("{owner} is active: deactivate it first");
            return Err(precondition("ACTIVE", message));
        }
        self.writable(thin.order.pool)?;
        self.thins.remove(&owner);
        Ok(((), true))
    }

    pub(super) fn thin(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        let thin = self.find(owner)?;
        let pool = self.open_pool_of(thin.order.pool)?;
        let conditions = thin.missing.then(|| Condition {
            kind: "DataPresent".into(),
            status: false,
            reason: "ThinMissing".into(),
            message: format!("the pool's metadata has no thin of {owner}: its data is lost"),
            since: Timestamp::now(),
        });
        Ok(ThinReport {
            owner,
            pool: thin.order.pool,
            phase: if thin.creating {
                Phase::Creating
            } else {
                Phase::Ready
            },
            size: thin.size.bytes(),
            image: thin.image,
            created: thin.created,
            activation: thin.live.map(|live| Activation {
                device_path: format!("/dev/goldleaf/{}/{}", pool.made.name, thin.order.name),
                holder: live.holder,
                read_only: live.read_only,
            }),
            owned: thin.live.map(|_| Bytes(0)),
            usage: None,
            progress: thin.decoupling.then_some(Progress {
                done: Bytes(0),
                total: thin.size.bytes(),
            }),
            conditions: conditions.into_iter().collect(),
        })
    }

    pub(super) fn thins(&self) -> Result<Vec<ThinReport>, AgentError> {
        let open = |thin: &&FakeThin| self.open_pool_of(thin.order.pool).is_ok();
        self.thins
            .values()
            .filter(open)
            .map(|thin| self.thin(thin.order.owner))
            .collect()
    }
}

/// Refuses a call from before the volume moved. 0 is a caller that does not know.
pub(super) fn check_epoch(thin: &FakeThin, asked: u64) -> Result<(), AgentError> {
    let (owner, now) = (thin.order.owner, thin.order.epoch);
    if asked != 0 && asked < now {
        let message = format!("{owner} is at epoch {now} and the call comes from epoch {asked}");
        return Err(precondition("STALE_EPOCH", message));
    }
    Ok(())
}

fn same_or_conflict(thin: &FakeThin, order: &ThinOrder) -> Result<(), AgentError> {
    check_epoch(thin, order.epoch)?;
    let was = &thin.order;
    let field = if was.pool != order.pool {
        "pool"
    } else if was.name != order.name {
        "name"
    } else if thin.size != order.size {
        "size_bytes"
    } else if was.begin != order.begin {
        match order.begin {
            Begin::Thin(_) => "source",
            Begin::Blank | Begin::Image(_) => "image_digest",
        }
    } else {
        return Ok(());
    };
    Err(other_parameters(order.owner, field))
}
