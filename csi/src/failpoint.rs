//! Named places to die at, one between any two steps of the node plugin.
//!
//! Called by `node`. With `GOLDLEAF_FAILPOINT=<name>` in the environment the process aborts when it
//! reaches that place; without, a hit is one comparison. Tests kill the plugin at every one of
//! [`Point::ALL`], ask again, and look at what is left over.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

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

fn wanted(point: Point) -> bool {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("GOLDLEAF_FAILPOINT").ok());
    wanted.as_deref() == Some(point.name())
}

fn die(point: Point) -> ! {
    tracing::warn!(point = point.name(), "dying as asked");
    std::process::abort();
}

/// Dies here if the environment says so.
pub fn hit(point: Point) {
    if wanted(point) {
        die(point);
    }
}

/// Does the work, or, if the environment says so, a part of it, and dies: a program that it runs is
/// killed with it, as it is when a container goes.
pub async fn inside<W: Future>(point: Point, work: W) -> W::Output {
    if wanted(point) {
        let _ = tokio::time::timeout(A_PART, work).await;
        die(point);
    }
    work.await
}
