//! The port to the kernel: the few verbs that the agent asks of device-mapper.
//!
//! Called by `ops` alone. [`dm::DmKernel`] is the real one; `fake::FakeKernel` serves the crash
//! tests. Every `ensure_*` verb leaves the same state however often it is asked, so a crash
//! anywhere is repaired by asking again. All of them block: ioctls do, so callers choose the thread.

mod blocks;
pub mod dm;
#[cfg(test)]
pub mod fake;
mod group;
mod held_root;
mod metadata;
mod metadata_files;
mod origin;
mod pool;
mod pool_tables;
mod private;
mod stopped;
mod superblock;
mod thin;
mod turns;
mod unwritable;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use goldleaf_dm::{DevNumber, DmError, LoopDevice, Owned, PoolMessage, PoolStatus};
use goldleaf_types::{BlockSize, Bytes, Digest, PoolId, Sectors, ThinId, ThinOwner};

pub use blocks::{BlockQuery, BlockRun, BlockRuns};
pub use metadata_files::{Given, MetadataFiles, Told};
pub use superblock::Superblock;
pub use unwritable::{CHECK_IT, Unwritable};

fn holds(mapped: Option<Bytes>) -> String {
    mapped.map_or_else(String::new, |mapped| format!(", and maps {mapped}"))
}

/// What an `ensure_*` verb found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was not so and now it is.
    Done,
    /// It was so before.
    AlreadySo,
}

/// One stretch of a device that a pool uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The block device.
    pub dev: DevNumber,
    /// Where it begins there.
    pub start: Sectors,
    /// How long it is.
    pub len: Sectors,
}

/// Everything from which a pool's tables are made, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Whose.
    pub id: PoolId,
    /// Where its metadata is.
    pub metadata: Vec<Stretch>,
    /// Where its data is, in order.
    pub data: Vec<Stretch>,
    /// What it allocates at a time.
    pub block: BlockSize,
    /// Whether a full pool lets writers wait instead of failing.
    pub queue_when_full: bool,
    /// Take nothing new and change nothing: what a doubtful pool is opened with, and one whose
    /// metadata must not be used up.
    pub read_only: bool,
    /// Free data blocks at which the kernel tells us to look. A live pool's own may differ.
    pub low_water_blocks: u64,
    /// Whether it was not closed when it was last used: then its metadata is checked first.
    pub unclean: bool,
}

/// What a live pool's table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedPool {
    /// It was loaded to change nothing.
    pub read_only: bool,
    /// Free data blocks at which the kernel tells us to look.
    pub low_water_blocks: u64,
    /// A full pool lets writers wait, until the kernel has waited long enough.
    pub queue_when_full: bool,
}

/// Everything from which a thin's table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinSpec {
    /// Whose.
    pub owner: ThinOwner,
    /// The pool that has it.
    pub pool: PoolId,
    /// Its number there.
    pub thin: ThinId,
    /// Length of the device.
    pub len: Sectors,
    /// The image device under it; every descendant of an image-backed volume has the same.
    pub origin: Option<DevNumber>,
    /// Refuse writes.
    pub read_only: bool,
}

/// An image whose content was just compared with its record.
#[derive(Debug)]
pub struct ImageSpec<'a> {
    /// Its name.
    pub digest: Digest,
    /// Its exact length.
    pub size: Bytes,
    /// Its content: a file, or a block device used in place.
    pub content: &'a File,
}

/// A thin's device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveThin {
    /// Its number, from which `/dev/dm-N` follows.
    pub dev: DevNumber,
    /// How many hold it open.
    pub open_count: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether its I/O is stopped.
    pub suspended: bool,
    /// Length of the live table; 0 without one.
    pub len: Sectors,
    /// The thin of the live table.
    pub thin: Option<ThinId>,
    /// The origin of the live table.
    pub origin: Option<DevNumber>,
    /// What the pool keeps for it, shared blocks included; `None` when the kernel gave it up.
    pub mapped: Option<Bytes>,
}

/// What a thin takes in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinUse {
    /// Its number.
    pub thin: ThinId,
    /// Blocks it maps.
    pub mapped_blocks: u64,
    /// Blocks that no other thin maps.
    pub exclusive_blocks: u64,
}

/// Everything from which a private device over a thin is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateSpec {
    /// The pool that has it.
    pub pool: PoolId,
    /// Its number there.
    pub thin: ThinId,
    /// Length of the device.
    pub len: Sectors,
    /// The image device under it.
    pub origin: Option<DevNumber>,
}

/// What a thin maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// How much.
    pub mapped: Bytes,
    /// Nothing at or after this is mapped.
    pub end: Bytes,
}

/// A private device over a thin that has no device of its own. It goes with its value.
pub trait PrivateThin {
    /// What the thin maps.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    fn mapping(&self) -> Result<Mapping, KernelError>;

    /// Gives up the whole blocks of a stretch.
    ///
    /// # Errors
    ///
    /// When the kernel does not.
    fn discard(&self, start: Bytes, len: Bytes) -> Result<(), KernelError>;

    /// The device, open.
    fn file(&self) -> &File;
}

/// Devices that were suspended, and whether each runs.
pub type Ran = Vec<(Owned, Result<(), KernelError>)>;

/// One of several snapshots that are to be of one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its number.
    pub thin: ThinId,
    /// The thin it is to be a snapshot of.
    pub source: ThinId,
    /// Whose device that is, when it is live.
    pub live: Option<ThinOwner>,
}

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel said no.
    #[error("device-mapper refused to {what}")]
    Dm {
        /// What was being done.
        what: &'static str,
        /// The ioctl, the device and the errno.
        #[source]
        source: DmError,
    },
    /// The pool takes no change now.
    #[error("pool {pool} takes no change: {why}")]
    NotWritable {
        /// Which.
        pool: PoolId,
        /// In the kernel's words.
        why: String,
    },
    /// The pool is not open.
    #[error("pool {0} is not open here")]
    NoPool(PoolId),
    /// The id holds somebody's data.
    #[error("thin {thin} of pool {pool} exists and has an unknown owner{}", holds(*.mapped))]
    ForeignThin {
        /// In which pool.
        pool: PoolId,
        /// Which.
        thin: ThinId,
        /// How much it holds, if somebody looked.
        mapped: Option<Bytes>,
    },
    /// A snapshot's source is not in the metadata.
    #[error("thin {thin} is missing from the metadata of pool {pool}")]
    ThinMissing {
        /// In which pool.
        pool: PoolId,
        /// Which.
        thin: ThinId,
    },
    /// A device of ours has another table than its record says.
    #[error("device of {what} is live with another table: {found}")]
    OtherTable {
        /// Whose device.
        what: String,
        /// What its table says.
        found: String,
    },
    /// An image's device is live over another file than the one that was compared.
    #[error(
        "the device of image {digest} lies over another file than the one that is recorded: the \
         file was replaced while volumes are active over the old one; deactivate those volumes \
         first, then activate them again"
    )]
    OtherContent {
        /// Which image.
        digest: Digest,
    },
    /// Somebody holds the device open.
    #[error("{what} is held open by {openers} other user(s)")]
    Busy {
        /// Whose device.
        what: String,
        /// How many.
        openers: u32,
    },
    /// A device has another size than its record says.
    #[error("{what} is {found} long and its record says {recorded}")]
    WrongSize {
        /// Which device.
        what: String,
        /// What it is.
        found: Bytes,
        /// What it should be.
        recorded: Bytes,
    },
    /// Something beside device-mapper failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Volumes would have been suspended for too long.
    #[error(
        "the volumes could not be frozen together within {limit:?}, and run again: ask when they \
         write less, or with a longer deadline"
    )]
    TooSlow {
        /// How long was allowed.
        limit: Duration,
    },
    /// A group was not made, and not all of it could be taken back.
    #[error("thins {thins:?} of a group that was not made are left in pool {pool}")]
    PartsLeft {
        /// In which pool.
        pool: PoolId,
        /// Which may be there.
        thins: Vec<ThinId>,
        /// Why the group was not made.
        #[source]
        source: Box<KernelError>,
    },
    /// A tool that reads the metadata failed.
    #[error("cannot read the metadata of pool {pool}: {why}")]
    Metadata {
        /// Which pool.
        pool: PoolId,
        /// In the tool's words.
        why: String,
    },
    /// Nobody waits any more for what was being looked at; nothing was changed.
    #[error("a look at pool {0} was broken off: its caller does not wait for it any more")]
    Abandoned(PoolId),
    /// The tool that repairs metadata made nothing of it.
    #[error(
        "thin_repair can make nothing of the metadata of pool {pool}: {why}; a newer version of \
         thin-provisioning-tools may"
    )]
    NotRepaired {
        /// Which pool.
        pool: PoolId,
        /// In the tool's words.
        why: String,
    },
}

impl KernelError {
    pub(crate) fn dm(what: &'static str) -> impl FnOnce(DmError) -> Self {
        move |source| Self::Dm { what, source }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A file as a block device.
#[derive(Debug)]
pub struct Attached {
    /// Its number.
    pub dev: DevNumber,
    /// Keeps the device until a table holds it.
    pub keep: Option<LoopDevice>,
}

/// What the agent asks of the kernel.
pub trait Kernel: MetadataFiles + Send + Sync + 'static {
    /// Makes a block device of a pool's file, or finds the one that there is and makes it as large
    /// as the file is now.
    ///
    /// # Errors
    ///
    /// [`KernelError::Busy`] when somebody has a loop device over a part of it, or a read-only one;
    /// and when there is no free loop device.
    fn attach(&self, file: &File) -> Result<Attached, KernelError>;

    /// Sees that nobody uses a device: no file system on it, no other device over it. Writes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`KernelError::Busy`] when somebody does.
    fn check_unused(&self, dev: DevNumber) -> Result<(), KernelError>;

    /// Leaves the pool's three devices live with the tables of `spec`; shorter live ones grow. A
    /// writable one is made read-only; a live read-only one stays so, until it is closed or
    /// [`Kernel::reload_pool`] says otherwise.
    ///
    /// # Errors
    ///
    /// [`KernelError::OtherTable`] when one is live with another table.
    fn ensure_pool(&self, spec: &PoolSpec) -> Result<Outcome, KernelError>;

    /// Leaves a live pool with exactly the tables of `spec`, read-only or not. Devices only ever
    /// grow. I/O waits meanwhile and goes on; nothing is flushed, so a full pool does not hang it.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPool`] when it is not live; [`KernelError::OtherTable`] when a live table is
    /// no beginning of the wanted one.
    fn reload_pool(&self, spec: &PoolSpec) -> Result<Outcome, KernelError>;

    /// What the live pool's table asks for.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPool`] when it is not live.
    fn loaded_pool(&self, pool: PoolId) -> Result<LoadedPool, KernelError>;

    /// Has the kernel count anew how long writers of a full pool wait: suspends and resumes it.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPool`] when it is not live.
    fn renew_wait(&self, pool: PoolId) -> Result<(), KernelError>;

    /// How long the kernel lets writers of any full pool of this host wait; `None`: for ever.
    fn wait_limit(&self) -> Option<Duration>;

    /// Leaves none of the pool's devices. [`KernelError::Busy`] while a thin of it is live.
    ///
    /// # Errors
    ///
    /// Also when a removal fails.
    fn ensure_no_pool(&self, pool: PoolId) -> Result<Outcome, KernelError>;

    /// The pool's status, without making it commit.
    ///
    /// # Errors
    ///
    /// [`KernelError::NoPool`] when it is not open.
    fn pool_status(&self, pool: PoolId) -> Result<PoolStatus, KernelError>;

    /// Sends a message and believes it only when the pool still takes changes afterwards: the
    /// kernel answers 0 even when the commit failed.
    ///
    /// # Errors
    ///
    /// [`KernelError::NotWritable`] when the pool took no change.
    fn pool_message(&self, pool: PoolId, message: &PoolMessage) -> Result<(), KernelError>;

    /// Every thin in the pool's metadata, in order.
    ///
    /// # Errors
    ///
    /// [`KernelError::Metadata`] when it cannot be read.
    fn known_thins(&self, pool: PoolId) -> Result<Vec<ThinId>, KernelError>;

    /// What every thin of the pool takes, in order. Walks all mappings of the pool.
    ///
    /// # Errors
    ///
    /// As [`Self::known_thins`].
    fn thin_usage(&self, pool: PoolId) -> Result<Vec<ThinUse>, KernelError>;

    /// Blocks of a thin, the first that are asked for. Of a thin that is written meanwhile they are
    /// those of one instant.
    ///
    /// # Errors
    ///
    /// As [`Self::known_thins`]; also when the pool has no such thin.
    fn blocks(&self, pool: PoolId, query: &BlockQuery) -> Result<BlockRuns, KernelError>;

    /// Leaves `thin` present and empty.
    ///
    /// # Errors
    ///
    /// [`KernelError::ForeignThin`] when it maps blocks: it is somebody's data.
    fn ensure_thin(
        &self,
        pool: PoolId,
        thin: ThinId,
        owner: ThinOwner,
    ) -> Result<Outcome, KernelError>;

    /// Leaves `thin` present as a snapshot of `source`, whose device, when live, is `live`.
    /// Present beforehand counts: its id was ours alone to give.
    ///
    /// # Errors
    ///
    /// [`KernelError::ThinMissing`] when the source is not in the metadata.
    fn ensure_snapshot(
        &self,
        pool: PoolId,
        thin: ThinId,
        source: ThinId,
        live: Option<ThinOwner>,
    ) -> Result<Outcome, KernelError>;

    /// Leaves each member's thin present, all as their sources were at one instant, or none of
    /// them. No device stays suspended longer than `limit`.
    ///
    /// # Errors
    ///
    /// [`KernelError::TooSlow`] when that passed; [`KernelError::ForeignThin`] for a thin that was
    /// there already; [`KernelError::PartsLeft`] when a part may be there still.
    fn create_group(
        &self,
        pool: PoolId,
        members: &[GroupMember],
        limit: Duration,
    ) -> Result<(), KernelError>;

    /// Leaves `thin` absent.
    ///
    /// # Errors
    ///
    /// When the pool takes no change, or a device of it is live.
    fn ensure_no_thin(&self, pool: PoolId, thin: ThinId) -> Result<Outcome, KernelError>;

    /// Makes a private device over a thin. The caller has seen that nothing else is over it.
    ///
    /// # Errors
    ///
    /// [`KernelError::ThinMissing`] when it is not in the metadata.
    fn open_private<'k>(
        &'k self,
        spec: &PrivateSpec,
    ) -> Result<Box<dyn PrivateThin + 'k>, KernelError>;

    /// Leaves the device live with the table of `spec`, running. A shorter live table grows.
    ///
    /// # Errors
    ///
    /// [`KernelError::OtherTable`] when another thin or origin is under the live device.
    fn ensure_active(&self, spec: &ThinSpec) -> Result<DevNumber, KernelError>;

    /// Leaves no device of `owner`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Busy`] while somebody holds it open.
    fn ensure_inactive(&self, owner: ThinOwner) -> Result<Outcome, KernelError>;

    /// The owner's device, if there is one.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    fn find_live(&self, owner: ThinOwner) -> Result<Option<LiveThin>, KernelError>;

    /// Every owner that has a device.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    fn live_owners(&self) -> Result<Vec<ThinOwner>, KernelError>;

    /// Leaves the image's device live, read-only, of exactly its length, over its content.
    ///
    /// # Errors
    ///
    /// [`KernelError::OtherTable`] when it is live over something else.
    fn ensure_image(&self, image: &ImageSpec<'_>) -> Result<DevNumber, KernelError>;

    /// Leaves no device of the image unless a thin uses it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Busy`] while a thin uses it.
    fn ensure_no_image(&self, digest: Digest) -> Result<Outcome, KernelError>;

    /// Every image that has a device.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    fn live_images(&self) -> Result<Vec<Digest>, KernelError>;

    /// Lets every device of ours run that a crash left suspended, and drops tables that it left
    /// loaded: each that was suspended, and whether it runs. Asks no record and waits for no pool.
    ///
    /// # Errors
    ///
    /// When the kernel does not list them.
    fn let_all_run(&self) -> Result<Ran, KernelError>;

    /// Every device of ours, with its number.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    fn devices(&self) -> Result<Vec<(Owned, DevNumber)>, KernelError>;

    /// Leaves no look into a thin of the pool: a crash may have cut one short.
    ///
    /// # Errors
    ///
    /// When a removal fails.
    fn ensure_no_probe(&self, pool: PoolId) -> Result<(), KernelError>;

    /// Path of a live device's node.
    ///
    /// # Errors
    ///
    /// When there is no node of that number.
    fn node(&self, dev: DevNumber) -> Result<PathBuf, KernelError>;
}
