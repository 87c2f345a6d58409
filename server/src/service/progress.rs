//! How far imports have come. Memory only: a restart begins them again.
//!
//! Written by the import (`image_fetching.rs`), read by answers, watches and by those who wait.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use goldleaf_types::{ImageId, NodeId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::domain::Progress;

/// Watchers hear of one copy's progress at most so often.
const EVERY: Duration = Duration::from_millis(250);

/// The board that imports write on.
#[derive(Debug)]
pub struct Board {
    copies: Mutex<HashMap<(ImageId, NodeId), (Progress, Instant)>>,
    tries: Mutex<HashMap<(ImageId, NodeId), u32>>,
    bumps: broadcast::Sender<ImageId>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            copies: Mutex::default(),
            tries: Mutex::default(),
            bumps: broadcast::channel(256).0,
        }
    }
}

impl Board {
    /// So far.
    pub fn set(&self, image: ImageId, node: NodeId, progress: Progress) {
        let now = Instant::now();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let told = match copies.get(&(image, node)) {
            Some((_, told)) if now.duration_since(*told) < EVERY => *told,
            Some(_) | None => {
                let _ = self.bumps.send(image); // nobody may be watching
                now
            }
        };
        copies.insert((image, node), (progress, told));
    }

    /// A copy's import ended; its record says how.
    pub fn settled(&self, image: ImageId, node: NodeId) {
        self.copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(image, node));
        self.tries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(image, node));
        let _ = self.bumps.send(image);
    }

    /// Counts a try that its source did not answer; the number of them so far.
    #[must_use]
    pub fn tries(&self, image: ImageId, node: NodeId) -> u32 {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let count = tries.entry((image, node)).or_default();
        *count += 1;
        *count
    }

    /// How far a copy has come, if it is being made.
    #[must_use]
    pub fn of(&self, image: ImageId, node: NodeId) -> Option<Progress> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.get(&(image, node)).map(|(progress, _)| *progress)
    }

    /// A copy is wished for or no longer wished for: who is at work on the image looks again.
    pub fn wished(&self, image: ImageId) {
        let _ = self.bumps.send(image); // nobody may be at work
    }

    /// Images that came further or settled, from now on.
    #[must_use]
    pub fn bumps(&self) -> broadcast::Receiver<ImageId> {
        self.bumps.subscribe()
    }
}

/// Waits until something was said of an image. False when nothing ever will be: the server stops.
pub async fn bumped(bumps: &mut broadcast::Receiver<ImageId>, id: ImageId) -> bool {
    loop {
        match bumps.recv().await {
            Ok(other) if other != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}
