//! Named places to die at, one between any two of wish, effect and fact.
//!
//! Called by `service`. With `GOLDLEAF_FAILPOINT=<name>` in the environment the process aborts when
//! it reaches that place, as a power cut would end it; without, a hit is one comparison. Tests kill
//! one task at every one of [`Point::ALL`] and look at what a restart makes of the store.

use std::cell::Cell;
use std::future::Future;

use goldleaf_rpc::failpoint;

macro_rules! points {
    ($($name:ident => $text:literal,)*) => {
        /// A place to die at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Point { $($name,)* }

        impl Point {
            /// Every place there is.
            pub const ALL: &'static [Point] = &[$(Point::$name,)*];

            /// Its name in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Point::$name => $text,)* }
            }
        }
    };
}

points! {
    NodeRecorded => "server/register-node/after-fact",
    NodeDrained => "server/drain-node/after-fact",
    NodeResumed => "server/resume-node/after-fact",
    NodeLost => "server/mark-lost/after-wish",
    ThinGivenUp => "server/mark-lost/after-giving-up",
    NodeTakenBack => "server/take-back-node/after-fact",
    GivenUpDeleted => "server/take-back-node/after-deletion",
    PoolImported => "server/import-pool/after-effect",
    AdoptionWished => "server/adopt-pool/after-wish",
    AdoptionSettled => "server/adopt-pool/after-settling",
    AdoptionDone => "server/adopt-pool/after-effect",
    AdoptionRecorded => "server/adopt-pool/after-fact",
    RecordsTakenBack => "server/adopt-node/after-taking-back",
    PoolWished => "server/create-pool/after-wish",
    PoolMade => "server/create-pool/after-effect",
    PoolRecorded => "server/create-pool/after-fact",
    PoolWithdrawn => "server/create-pool/after-withdrawal",
    PoolExtended => "server/extend-pool/after-effect",
    PoolExtendedRecorded => "server/extend-pool/after-fact",
    PolicySet => "server/set-pool-policy/after-effect",
    PolicySetRecorded => "server/set-pool-policy/after-fact",
    PoolClosed => "server/close-pool/after-effect",
    PoolClosedRecorded => "server/close-pool/after-fact",
    PoolOpened => "server/open-pool/after-effect",
    PoolOpenedRecorded => "server/open-pool/after-fact",
    PoolRenameWished => "server/rename-pool/after-wish",
    PoolRenamed => "server/rename-pool/after-effect",
    PoolRenameRecorded => "server/rename-pool/after-fact",
    PoolContentsForgotten => "server/destroy-pool/after-contents",
    PoolDeletionWished => "server/delete-pool/after-wish",
    PoolDeleted => "server/delete-pool/after-effect",
    PoolForgotten => "server/delete-pool/after-fact",
    ImageWished => "server/create-image/after-wish",
    ImageFetched => "server/create-image/after-effect",
    ImageRecorded => "server/create-image/after-fact",
    ImageDeletionWished => "server/delete-image/after-wish",
    ImageDeleted => "server/delete-image/after-effect",
    ImageForgotten => "server/delete-image/after-fact",
    ImagePlacementWished => "server/place-image/after-wish",
    ImageEvictionWished => "server/evict-image/after-wish",
    ImageEvicted => "server/evict-image/after-effect",
    ImageEvictionRecorded => "server/evict-image/after-fact",
    ChannelRecorded => "server/set-channel/after-fact",
    ChannelForgotten => "server/delete-channel/after-fact",
    ThinWished => "server/create-thin/after-wish",
    ThinMade => "server/create-thin/after-effect",
    ThinRecorded => "server/create-thin/after-fact",
    ThinWithdrawn => "server/create-thin/after-withdrawal",
    CloneWished => "server/clone/after-wish",
    CloneMade => "server/clone/after-effect",
    CloneRecorded => "server/clone/after-fact",
    SnapshotWished => "server/create-snapshot/after-wish",
    SnapshotMade => "server/create-snapshot/after-effect",
    SnapshotRecorded => "server/create-snapshot/after-fact",
    SnapshotWithdrawn => "server/create-snapshot/after-withdrawal",
    GroupWished => "server/create-group/after-wish",
    GroupMade => "server/create-group/after-effect",
    GroupRecorded => "server/create-group/after-fact",
    GroupWithdrawn => "server/create-group/after-withdrawal",
    GroupDeletionWished => "server/delete-group/after-wish",
    GroupDeletionDone => "server/delete-group/after-effect",
    GroupDeletionRecorded => "server/delete-group/after-fact",
    DecoupleWished => "server/decouple/after-wish",
    DecoupleAsked => "server/decouple/after-effect",
    DecoupleRecorded => "server/decouple/after-fact",
    MarksWished => "server/update/after-wish",
    MarksTold => "server/update/after-effect",
    MarksRecorded => "server/update/after-fact",
    ResizeWished => "server/resize/after-wish",
    ResizeDone => "server/resize/after-effect",
    ResizeRecorded => "server/resize/after-fact",
    Activated => "server/activate/after-effect",
    Deactivated => "server/deactivate/after-effect",
    DeletionWished => "server/delete/after-wish",
    DeletionDone => "server/delete/after-effect",
    DeletionRecorded => "server/delete/after-fact",
    SnapshotDeletionWished => "server/delete-snapshot/after-wish",
    SnapshotDeletionDone => "server/delete-snapshot/after-effect",
    SnapshotDeletionRecorded => "server/delete-snapshot/after-fact",
}

tokio::task_local!(static DIE_AT: Cell<Option<Point>>);

/// What a task dies with in tests.
#[derive(Debug)]
pub struct Died;

/// Dies here if the environment, or the task's test, says so.
pub fn hit(point: Point) {
    if failpoint::is_due(point.name()) {
        failpoint::die(point.name());
    }
    let dies = DIE_AT.try_with(|at| at.get() == Some(point) && at.take().is_some());
    if dies.unwrap_or(false) {
        std::panic::panic_any(Died);
    }
}

/// Runs a test's task that dies, by a panic with [`Died`], where it first reaches `point`.
pub async fn dying_at<T>(point: Option<Point>, task: impl Future<Output = T>) -> T {
    DIE_AT.scope(Cell::new(point), task).await
}
