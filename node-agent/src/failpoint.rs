//! Named places to die at, one between any two of wish, effect and fact.
//!
//! Called by `ops`. With `GOLDLEAF_FAILPOINT=<name>` in the environment the process aborts when it
//! reaches that place, as a power cut would end it; without, a hit is one comparison. Tests kill
//! the agent at every one of [`Point::ALL`] and look at what a restart makes of it.

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
    PoolLabelled => "agent/create-pool/after-labels",
    PoolCatalogued => "agent/create-pool/after-catalogue",
    PoolClaimed => "agent/open-pool/after-claim",
    PoolSettledIn => "agent/open-pool/after-epochs",
    PoolLive => "agent/open-pool/after-tables",
    PoolTransactionWished => "agent/open-pool/after-transaction-wish",
    PoolTransactionSet => "agent/open-pool/after-transaction-set",
    PoolBraked => "agent/brake-pool/after-effect",
    PoolReleased => "agent/release-pool/after-effect",
    PoolGrown => "agent/extend-pool/after-files",
    PoolRelabelled => "agent/extend-pool/after-labels",
    PoolRelaid => "agent/extend-pool/after-last-label",
    PoolExtended => "agent/extend-pool/after-tables",
    PolicyRecorded => "agent/set-pool-policy/after-fact",
    PolicyLoaded => "agent/set-pool-policy/after-effect",
    WaitRenewed => "agent/renew-wait/after-effect",
    MetadataHeld => "agent/read-metadata/while-held",
    PoolAdopted => "agent/adopt-pool/after-fact",
    PoolTablesGone => "agent/close-pool/after-tables-gone",
    PoolRenamed => "agent/rename-pool/after-record",
    PoolNamed => "agent/rename-pool/after-first-label",
    PoolDisowned => "agent/delete-pool/after-first-label",
    PoolUnmade => "agent/delete-pool/after-labels",
    PoolPartWiped => "agent/delete-pool/after-first-wipe",
    RepairTablesGone => "agent/repair-pool/after-tables-gone",
    RepairKept => "agent/repair-pool/after-old-is-kept",
    RepairWished => "agent/repair-pool/after-wish",
    RepairBegunPutting => "agent/repair-pool/after-first-part",
    RepairPut => "agent/repair-pool/after-effect",
    RepairRecorded => "agent/repair-pool/after-fact",
    RescueMarked => "agent/rescue-pool/after-mark",
    RescueLive => "agent/rescue-pool/after-tables",
    ThinWished => "agent/create-thin/after-wish",
    ThinMade => "agent/create-thin/after-effect",
    ThinLive => "agent/create-thin/after-activation",
    ThinRecorded => "agent/create-thin/after-fact",
    SnapshotWished => "agent/create-snapshot/after-wish",
    SnapshotMade => "agent/create-snapshot/after-effect",
    SnapshotRecorded => "agent/create-snapshot/after-fact",
    GroupWished => "agent/create-group/after-wish",
    GroupSuspended => "agent/create-group/after-suspension",
    GroupBegun => "agent/create-group/after-first-message",
    GroupMade => "agent/create-group/after-effect",
    GroupRecorded => "agent/create-group/after-fact",
    ActivationWished => "agent/activate/after-wish",
    ActivationLive => "agent/activate/after-effect",
    DeactivationWished => "agent/deactivate/after-wish",
    DeactivationDone => "agent/deactivate/after-effect",
    ThinMarked => "agent/mark-thin/after-fact",
    ResizeWished => "agent/resize/after-wish",
    ResizeLive => "agent/resize/after-effect",
    DecoupleWished => "agent/decouple/after-wish",
    DecoupleStepped => "agent/decouple/after-first-step",
    DecoupleCopied => "agent/decouple/after-effect",
    DecoupleRecorded => "agent/decouple/after-fact",
    DeletionWished => "agent/delete/after-wish",
    DeletionStepped => "agent/delete/after-first-step",
    DeletionDone => "agent/delete/after-effect",
    DeletionRecorded => "agent/delete/after-fact",
    ReadingLive => "agent/read-thin/after-activation",
    ThinTaken => "agent/import-thin/after-copy",
    ReadingDone => "agent/read-thin/after-removal",
    ExportWritten => "agent/export/after-copy",
    ExportNamed => "agent/export/after-name",
    OwnerlessDeleted => "agent/mend/after-deletion",
}

/// Dies here if the environment says so.
pub fn hit(point: Point) {
    if failpoint::is_due(point.name()) {
        failpoint::die(point.name());
    }
    #[cfg(test)]
    test::hit(point);
}

/// Dying inside one test process: the point panics, and the test catches it.
#[cfg(test)]
pub mod test {
    use super::Point;
    use std::cell::Cell;

    thread_local!(static WANTED: Cell<Option<Point>> = const { Cell::new(None) });

    /// What a death panics with.
    pub struct Died;

    /// Dies at the next hit of `point` on this thread.
    pub fn die_at(point: Option<Point>) {
        WANTED.with(|w| w.set(point));
    }

    pub(super) fn hit(point: Point) {
        if WANTED.with(Cell::get) == Some(point) {
            WANTED.with(|w| w.set(None));
            std::panic::panic_any(Died);
        }
    }
}
