//! Watches: every record as it is, then every change, with tokens to go on from.
//!
//! Called by `grpc`. One task a watcher, which ends with it. A token counts the changes of its
//! transaction that were told, so going on neither skips nor repeats one; a watcher that was away
//! for longer than the store remembers is told so. What changes in memory only (progress, whether
//! a node answers, how full a pool is, what is active) comes as the record again, with the token of before;
//! who is too slow for each of those is told of every record once more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use goldleaf_types::Labels;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tracing::Instrument;

use super::records::carries;
use super::tokens::{self, ALL, Resume};
use super::{ImageView, NodeView, Page, PoolView, Revised, Service, ServiceError, VolumeView};
use crate::domain::{Image, Node, Pool, Snapshot, Volume};
use crate::store::{Change, Revision, rows};

/// Records read at a time for the first listing.
const CHUNK: usize = 500;

/// What is to be watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The token of the last event that was seen; empty begins with everything.
    pub token: String,
    /// Labels that every item carries.
    pub labels: Labels,
}

/// One event.
#[derive(Clone, Debug)]
pub enum Event<V> {
    /// It is there, so.
    Present {
        /// What.
        item: V,
        /// Goes on after this event.
        token: String,
    },
    /// It is gone, or carries the labels no more.
    Gone {
        /// Its id.
        id: String,
        /// Goes on after this event.
        token: String,
    },
}

/// Events in order; an error is the last.
pub type Events<V> = ReceiverStream<Result<Event<V>, ServiceError>>;

type Out<V> = mpsc::Sender<Result<Event<V>, ServiceError>>;
/// Ids of what changed in memory only; none when some of them were missed.
pub(super) type Bumps<Id> = BoxStream<'static, Option<Id>>;

/// The watcher went away.
struct Left;

impl Service {
    /// Volumes as they change: their records, and what their nodes say of them, so also what a local
    /// caller activated.
    #[must_use]
    pub fn watch_volumes(self: &Arc<Self>, watch: Watch) -> Events<VolumeView> {
        self.watch(
            watch,
            bumps(self.live_thins.volume_changes()),
            |service, volume: Volume| service.glance_at_volume(volume),
        )
    }

    /// Snapshots as they change, what their nodes say of them included.
    #[must_use]
    pub fn watch_snapshots(self: &Arc<Self>, watch: Watch) -> Events<Snapshot> {
        self.watch(
            watch,
            bumps(self.live_thins.snapshot_changes()),
            |service, snapshot: Snapshot| service.glance_at_snapshot(snapshot),
        )
    }

    /// Images as they change, progress included.
    #[must_use]
    pub fn watch_images(self: &Arc<Self>, watch: Watch) -> Events<ImageView> {
        self.watch(watch, bumps(self.board.bumps()), |service, image: Image| {
            service.view_image(image)
        })
    }

    /// Pools as they change, their usage included.
    #[must_use]
    pub fn watch_pools(self: &Arc<Self>, watch: Watch) -> Events<PoolView> {
        self.watch(
            watch,
            bumps(self.live.pool_changes()),
            |service, pool: Pool| service.glance_at_pool(pool),
        )
    }

    /// Nodes as they change, coming and going included.
    #[must_use]
    pub fn watch_nodes(self: &Arc<Self>, watch: Watch) -> Events<NodeView> {
        self.watch(
            watch,
            bumps(self.live.node_changes()),
            |service, node: Node| service.view_node(node),
        )
    }

    pub(super) fn watch<T: Revised, V: Send + 'static>(
        self: &Arc<Self>,
        watch: Watch,
        bumps: Bumps<T::Id>,
        view: fn(&Service, T) -> V,
    ) -> Events<V> {
        let (out, events) = mpsc::channel(16);
        let feed = Feed {
            service: Arc::clone(self),
            shown: (watch.token.is_empty() && watch.labels != Labels::default())
                .then(Mutex::default),
            labels: watch.labels,
            out,
            view,
        };
        let work = async move {
            let out = feed.out.clone();
            if let Err(error) = feed.run(&watch.token, bumps).await {
                let _ = out.send(Err(error)).await; // the watcher may have left
            }
        };
        tokio::spawn(work.in_current_span());
        ReceiverStream::new(events)
    }
}

fn bumps<Id: Clone + Send + 'static>(bumps: broadcast::Receiver<Id>) -> Bumps<Id> {
    BroadcastStream::new(bumps).map(Result::ok).boxed()
}

fn locked(shown: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Feed<T, V> {
    service: Arc<Service>,
    labels: Labels,
    /// Ids of what was told of; none where that is everything, or nobody knows any more.
    shown: Option<Mutex<BTreeSet<String>>>,
    out: Out<V>,
    view: fn(&Service, T) -> V,
}

impl<T: Revised, V: Send + 'static> Feed<T, V> {
    async fn run(self, token: &str, bumps: Bumps<T::Id>) -> Result<(), ServiceError> {
        let incarnation = self.service.records.store().incarnation();
        let start = tokens::read_resume(incarnation, token, &rows::prefix::<T>())?;
        let (from, told) = match start {
            None => (self.list(None, None).await?, ALL),
            Some(Resume::Listing { revision, after }) => {
                (self.list(Some(revision), after).await?, ALL)
            }
            Some(Resume::Changes { revision, told }) => (Some(revision), told),
        };
        match from {
            Some(from) => self.follow(from, told, bumps).await,
            None => Ok(()),
        }
    }

    /// Everything as it is; answers the revision that changes go on from, none when nobody listens.
    async fn list(
        &self,
        mut revision: Option<Revision>,
        mut after: Option<String>,
    ) -> Result<Option<Revision>, ServiceError> {
        loop {
            let records = &self.service.records;
            let page: Page<T> = records.page(after.take(), CHUNK, &self.labels).await?;
            let revision = *revision.get_or_insert(page.revision);
            let count = page.items.len();
            for (at, item) in (1..).zip(page.items) {
                let resume = if page.next.is_none() && at == count {
                    Resume::Changes {
                        revision,
                        told: ALL,
                    }
                } else {
                    Resume::Listing {
                        revision,
                        after: Some(rows::key::<T>(item.id())),
                    }
                };
                if self.present(item, self.token(&resume)).await.is_err() {
                    return Ok(None);
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Some(revision)),
            }
        }
    }

    /// Changes after a revision, of which some were told already.
    async fn follow(
        &self,
        revision: Revision,
        told: usize,
        mut bumps: Bumps<T::Id>,
    ) -> Result<(), ServiceError> {
        let after = if told == ALL {
            revision
        } else {
            revision.saturating_sub(1)
        };
        let store = self.service.records.store();
        let mut changes = store.watch(&rows::prefix::<T>(), after).await?;
        let mut at = Resume::Changes { revision, told };
        let (mut current, mut count) = (after, 0);
        loop {
            tokio::select! {
                () = self.out.closed() => return Ok(()),
                change = changes.next() => {
                    let Some(change) = change else { return Ok(()) };
                    let change = change?;
                    count = if change.revision == current { count + 1 } else { 1 };
                    current = change.revision;
                    if told != ALL && current == revision && count <= told {
                        continue;
                    }
                    at = Resume::Changes { revision: current, told: count };
                    if self.changed(&change, self.token(&at)).await?.is_err() {
                        return Ok(());
                    }
                }
                Some(bump) = bumps.next() => {
                    let told = match bump {
                        Some(id) => self.tell(id, &at).await?,
                        None => {
                            // Those that wait are told of as well.
                            while let Some(Some(_)) = bumps.next().now_or_never() {}
                            self.tell_all(&at).await?
                        }
                    };
                    if told.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One thing as it is now.
    async fn tell(&self, id: T::Id, at: &Resume) -> Result<Result<(), Left>, ServiceError> {
        match self.service.records.by_id::<T>(id).await? {
            Some(item) if carries(&item, &self.labels) => {
                Ok(self.present(item, self.token(at)).await)
            }
            Some(_) | None => Ok(Ok(())),
        }
    }

    /// Everything as it is now, for a watcher that missed what changed.
    async fn tell_all(&self, at: &Resume) -> Result<Result<(), Left>, ServiceError> {
        let mut after = None;
        loop {
            let records = &self.service.records;
            let page: Page<T> = records.page(after, CHUNK, &self.labels).await?;
            for item in page.items {
                if self.present(item, self.token(at)).await.is_err() {
                    return Ok(Err(Left));
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Ok(())),
            }
        }
    }

    async fn changed(
        &self,
        change: &Change,
        token: String,
    ) -> Result<Result<(), Left>, ServiceError> {
        let item = T::from_change(change)?;
        let there = item.is_some();
        if let Some(item) = item.filter(|item| carries(item, &self.labels)) {
            return Ok(self.present(item, token).await);
        }
        let id = rows::id_of_key::<T>(&change.key)?.to_string();
        // What it was before is not known here, so who went on from a token may be told too often.
        let known = self
            .shown
            .as_ref()
            .is_none_or(|all| locked(all).remove(&id));
        if there && !known {
            return Ok(Ok(()));
        }
        let gone = self.out.send(Ok(Event::Gone { id, token })).await;
        Ok(gone.map_err(|_| Left))
    }

    async fn present(&self, item: T, token: String) -> Result<(), Left> {
        if let Some(shown) = &self.shown {
            locked(shown).insert(item.id().to_string());
        }
        let item = (self.view)(&self.service, item);
        self.out
            .send(Ok(Event::Present { item, token }))
            .await
            .map_err(|_| Left)
    }

    fn token(&self, at: &Resume) -> String {
        tokens::resume(self.service.records.store().incarnation(), at)
    }
}
