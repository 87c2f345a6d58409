//! Why an operation did not happen: one variant per thing a caller can do about it.

use std::path::PathBuf;

use goldleaf_types::{Bytes, Digest, Incarnation, Name, NodeId, PoolId, ThinOwner};

use crate::catalogue::{CatalogueError, LabelError, LayoutError};
use crate::images::ImageError;
use crate::kernel::KernelError;

/// The caller's store is not the one that owns the pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool {pool} belongs to another control plane store ({owner}); this is {caller}: if that one is \
     no more, adopt what the node has (`goldleaf node adopt`)"
)]
pub struct OtherIncarnation {
    /// Which pool.
    pub pool: PoolId,
    /// Whose it is.
    pub owner: Incarnation,
    /// Who called.
    pub caller: String,
}

/// Why an operation on a thin did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ThinError {
    /// Nobody knows it here.
    #[error("{0} is not on this node")]
    NotFound(ThinOwner),
    /// The pool is not open here.
    #[error("pool {0} is not open on this node: open it, or see why its devices are missing")]
    NoPool(PoolId),
    /// The same id was asked for with something else.
    #[error("{owner} exists with another {field}")]
    Conflict {
        /// Whose.
        owner: ThinOwner,
        /// Which parameter differs.
        field: &'static str,
    },
    /// A volume of the pool has the name: two would have one link.
    #[error("pool {pool} has a volume {name} already, {other}: choose another name")]
    NameTaken {
        /// Which pool.
        pool: PoolId,
        /// Which name.
        name: Name,
        /// Whose it is.
        other: ThinOwner,
    },
    /// A parameter is out of range.
    #[error("{field} {problem}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Two snapshots that cannot be compared.
    #[error("{snapshot} and {base} cannot be compared: {why}; take all of it instead")]
    Unrelated {
        /// The later one.
        snapshot: ThinOwner,
        /// The earlier one.
        base: ThinOwner,
        /// Why not.
        why: &'static str,
    },
    /// It is on its way out.
    #[error("{0} is being deleted")]
    Deleting(ThinOwner),
    /// What reads through to its image is being copied.
    #[error("{0} is being made independent of its image: ask again when that is done")]
    Decoupling(ThinOwner),
    /// It is not finished.
    #[error("{0} is still being made: repeat the call that makes it")]
    Unfinished(ThinOwner),
    /// Something that begins as it is not finished.
    #[error(
        "{child} is being made from {owner}: repeat the call that makes it, or delete it first"
    )]
    Needed {
        /// Whose.
        owner: ThinOwner,
        /// What begins as it.
        child: ThinOwner,
    },
    /// It has a device.
    #[error("{0} is active: deactivate it first")]
    Active(ThinOwner),
    /// Somebody uses the device.
    #[error("{owner} is held open by {openers} user(s): stop what uses its device first")]
    InUse {
        /// Whose device.
        owner: ThinOwner,
        /// How many.
        openers: u32,
    },
    /// Somebody reads all of it.
    #[error("{0} is being read whole, for an image or an export: ask again when that is done")]
    BeingRead(ThinOwner),
    /// It was deleted; a creation that comes later is a late one.
    #[error("{0} was deleted and is not made again: ask for a new one")]
    Deleted(ThinOwner),
    /// A newer owner of the volume exists.
    #[error("{owner} is at epoch {now} and the call comes from epoch {asked}")]
    StaleEpoch {
        /// Whose.
        owner: ThinOwner,
        /// The row's.
        now: u64,
        /// The call's.
        asked: u64,
    },
    /// Its row was sealed for a move.
    #[error("{0} is sealed here, because it moves to another node")]
    Sealed(ThinOwner),
    /// The caller went away while the call waited for another one.
    #[error("the call for {0} came too late: its caller does not wait for it any more")]
    Abandoned(ThinOwner),
    /// Its data is gone.
    #[error("the data of {0} is missing from its pool: nothing was made in its place")]
    DataMissing(ThinOwner),
    /// The caller's store is not the one that owns the pool.
    #[error(transparent)]
    OtherIncarnation(#[from] OtherIncarnation),
    /// The pool can take no change.
    #[error("pool {pool} takes no change: {why}")]
    PoolReadOnly {
        /// Which.
        pool: PoolId,
        /// Why, and what would help.
        why: String,
    },
    /// The pool has no data block left.
    #[error(
        "pool {0} has no data space left: extend it (goldleaf pool extend), or delete something"
    )]
    PoolFull(PoolId),
    /// The pool's limit does not let so much be provisioned.
    #[error(
        "pool {pool} has {provisioned} provisioned and {asked} more were asked for, and its limit is \
         {limit} ({percent} % of its data): extend it (goldleaf pool extend), raise the limit \
         (goldleaf pool set --overcommit), or delete something"
    )]
    Overcommitted {
        /// Which.
        pool: PoolId,
        /// The sum of its volumes' sizes.
        provisioned: Bytes,
        /// What that may be.
        limit: Bytes,
        /// The same in hundredths of its data.
        percent: u32,
        /// How much more was asked for.
        asked: Bytes,
    },
    /// What is left of the pool's metadata is for what is there already.
    #[error(
        "pool {0} has less than a quarter of its metadata free, which is kept for the volumes that \
         are there: extend its metadata (goldleaf pool extend --metadata), or delete something"
    )]
    MetadataLow(PoolId),
    /// A copy would not fit.
    #[error(
        "pool {pool} has {free} free besides the twentieth that is for writers, and the copy may take {needed}: \
         extend the pool, or delete something in it"
    )]
    NoRoom {
        /// Which.
        pool: PoolId,
        /// What it may take.
        needed: Bytes,
        /// What there is, besides what is kept for writers.
        free: Bytes,
    },
    /// The pool hands out no more thin ids.
    #[error("pool {0} has no thin id left")]
    NoThinIds(PoolId),
    /// The image is not what was asked for, or not here.
    #[error("the image under the volume cannot be used")]
    Image(#[source] ImageError),
    /// A volume's image is not on this node.
    #[error("image {0} is not on this node: bring it here first")]
    ImageMissing(Digest),
    /// The kernel said no.
    #[error(transparent)]
    Kernel(KernelError),
    /// The record could not be written.
    #[error("the pool's catalogue did not take the change")]
    Catalogue(#[source] CatalogueError),
    /// The device's link could not be written.
    #[error("the link to the device of {owner} could not be written")]
    Link {
        /// Whose.
        owner: ThinOwner,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a thin was not read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The thin cannot be read now.
    #[error(transparent)]
    Thin(#[from] ThinError),
    /// What was read cannot be kept.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Why an operation on a pool did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Nobody knows it here.
    #[error("pool {0} is not on this node")]
    NotFound(PoolId),
    /// It is not open here.
    #[error("pool {0} is not open on this node: open it first")]
    NotOpen(PoolId),
    /// The same id was asked for with something else.
    #[error("pool {pool} exists with another {field}")]
    Conflict {
        /// Which.
        pool: PoolId,
        /// Which parameter differs.
        field: &'static str,
    },
    /// Another open pool has the name: two would have one folder of links.
    #[error(
        "pool {pool} is called {name}, and so is pool {other}, which is open on this node: close \
         that one first"
    )]
    NameTaken {
        /// Which pool.
        pool: PoolId,
        /// Which name.
        name: String,
        /// Whose it is.
        other: PoolId,
    },
    /// A device cannot serve.
    #[error("{field}: {path}: {problem}")]
    BadDevice {
        /// Which parameter named it.
        field: String,
        /// Its path.
        path: PathBuf,
        /// What is wrong and what would help.
        problem: String,
    },
    /// A device holds something.
    #[error("{field}: {path} holds {holds}: wipe it first (wipefs --all), if nobody needs that")]
    NotBlank {
        /// Which parameter named it.
        field: String,
        /// Its path.
        path: PathBuf,
        /// What is on it.
        holds: String,
    },
    /// Somebody else has the device.
    #[error("{path} is in use: {by}")]
    DeviceInUse {
        /// Its path.
        path: PathBuf,
        /// By what, and what would help.
        by: String,
    },
    /// Devices of the pool are not there.
    #[error("pool {pool} misses {missing}: plug in the devices, then open it")]
    MissingDevice {
        /// Which pool.
        pool: PoolId,
        /// Which devices, in words.
        missing: String,
    },
    /// The labels contradict each other.
    #[error("the devices of pool {pool} do not fit together: {problem}")]
    Mismatch {
        /// Which pool.
        pool: PoolId,
        /// How.
        problem: String,
    },
    /// Another host has the pool and did not release it.
    #[error(
        "pool {pool} belongs to host {host}, which took it at {since} and did not release it: close \
         it there first; if that host is gone for good, import it with force_from_host {host}"
    )]
    ForeignHost {
        /// Which pool.
        pool: PoolId,
        /// Which host, by its node's id.
        host: NodeId,
        /// Since when, in words.
        since: String,
    },
    /// The layout does not fit.
    #[error(transparent)]
    Layout(LayoutError),
    /// The labels could not be read or written.
    #[error("the label of {path} cannot be used")]
    Label {
        /// Which device.
        path: PathBuf,
        /// Why.
        #[source]
        source: LabelError,
    },
    /// The catalogue could not be read or written.
    #[error("the catalogue of pool {pool} cannot be used")]
    Catalogue {
        /// Which.
        pool: PoolId,
        /// Why.
        #[source]
        source: CatalogueError,
    },
    /// Volumes of it are active.
    #[error("{count} volume(s) of pool {pool} are active: deactivate them first")]
    Active {
        /// Which.
        pool: PoolId,
        /// How many.
        count: usize,
    },
    /// What would be repaired is in use.
    #[error("volumes of pool {pool} are active: deactivate {names} first; nothing was changed")]
    InUse {
        /// Which pool.
        pool: PoolId,
        /// Names of the volumes and snapshots.
        names: String,
    },
    /// A repair would lose something, and nobody said that this is accepted.
    #[error(
        "a repair of pool {pool} would not bring everything back: {what}; nothing was changed. If \
         there is no better copy, and no newer thin_repair makes more of it, ask for it with \
         accept_loss (--accept-loss)"
    )]
    WouldLose {
        /// Which pool.
        pool: PoolId,
        /// What, in words.
        what: String,
    },
    /// A repair has it.
    #[error(
        "pool {0} is being repaired, or its metadata is copied to see what a repair would do: ask \
         again when that is done (goldleaf pool get)"
    )]
    BeingRepaired(PoolId),
    /// The caller of a look went away while that waited for its turn.
    #[error("a look at pool {0} came too late: its caller does not wait for it any more")]
    Abandoned(PoolId),
    /// It cannot be repaired now.
    #[error("the metadata of pool {pool} is not repaired now: {why}")]
    NotRepairable {
        /// Which pool.
        pool: PoolId,
        /// Why, and what would help.
        why: String,
    },
    /// There is no room for the files of a repair.
    #[error(
        "a repair of pool {pool} takes {needed} in {}, where {free} are free: make room there, for \
         the old metadata is kept whole; nothing was changed",
        folder.display()
    )]
    NoRoomForFiles {
        /// Which pool.
        pool: PoolId,
        /// Where.
        folder: PathBuf,
        /// How much it takes.
        needed: Bytes,
        /// What there is.
        free: Bytes,
    },
    /// A repair was cut short, and what it made is not to be had.
    #[error(
        "a repair of pool {pool} was cut short, and what it made is to be in {} on host {host}, which \
         cannot be used ({why}): bring that file back and open the pool, or see what another \
         `goldleaf pool repair` makes of what is there",
        path.display()
    )]
    RepairFile {
        /// Which pool.
        pool: PoolId,
        /// Where the file should be.
        path: PathBuf,
        /// On which host, by its node's id.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// It holds volumes or snapshots.
    #[error("pool {pool} holds {count} volume(s) or snapshot(s): delete them first")]
    NotEmpty {
        /// Which.
        pool: PoolId,
        /// How many.
        count: usize,
    },
    /// The caller's store is not the one that owns the pool.
    #[error(transparent)]
    OtherIncarnation(#[from] OtherIncarnation),
    /// The kernel said no.
    #[error(transparent)]
    Kernel(KernelError),
    /// The host said no.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl PoolError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why an image could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum ImageOpError {
    /// A thin of this node needs it.
    #[error("image {digest} is under {count} volume(s) or snapshot(s) of this node")]
    Needed {
        /// Which.
        digest: Digest,
        /// How many.
        count: usize,
    },
    /// A pool of this host is not open, so nobody knows what its volumes need.
    #[error(
        "pool {pool} of this node is not open, and its volumes may need image {digest}: open it \
         first, or delete it"
    )]
    PoolNotOpen {
        /// Which image.
        digest: Digest,
        /// Which pool.
        pool: PoolId,
    },
    /// The folder said no.
    #[error(transparent)]
    Image(ImageError),
    /// The kernel said no.
    #[error(transparent)]
    Kernel(KernelError),
    /// The caller's store is not the one that owns this node's pools.
    #[error(transparent)]
    NotAdmitted(#[from] OtherIncarnation),
}
