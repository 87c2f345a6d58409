//! Named places to die at, one between any two steps of the node plugin.
//!
//! Called by `node`. With `GOLDLEAF_FAILPOINT=<name>` in the environment the process aborts when it
//! reaches that place; without, a hit is one comparison. Tests kill the plugin at every one of
//! [`Point::ALL`], ask again, and look at what is left over.

use std::future::Future;
use std::time::Duration;

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
    StageActivated => "csi/stage/after-activation",
    StageMarked => "csi/stage/after-marks",
    StageMaking => "csi/stage/inside-mkfs",
    StageMade => "csi/stage/after-mkfs",
    StageUnmarked => "csi/stage/after-marks-gone",
    StageMounted => "csi/stage/after-mount",
    StageGrown => "csi/stage/after-growth",
    PublishPlaced => "csi/publish/after-target",
    PublishBound => "csi/publish/after-bind",
    PublishDone => "csi/publish/after-read-only",
    UnpublishUnbound => "csi/unpublish/after-unmount",
    UnpublishDone => "csi/unpublish/after-target-gone",
    UnstageUnmounted => "csi/unstage/after-unmount",
    UnstageDone => "csi/unstage/after-deactivation",
}

/// How long a piece of work goes on that is cut short in the middle.
const A_PART: Duration = Duration::from_millis(20);

/// Dies here if the environment says so.
pub fn hit(point: Point) {
    if failpoint::is_due(point.name()) {
        failpoint::die(point.name());
    }
}

/// Does the work, or, if the environment says so, a part of it, and dies: a program that it runs is
/// killed with it, as it is when a container goes.
pub async fn inside<W: Future>(point: Point, work: W) -> W::Output {
    if failpoint::is_due(point.name()) {
        let _ = tokio::time::timeout(A_PART, work).await;
        failpoint::die(point.name());
    }
    work.await
}
