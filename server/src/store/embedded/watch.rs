//! Watches: each follows the log of changes at its own pace.
//!
//! A watch reads the log from where it is, then waits to be told of the next commit and reads on.
//! History and news come the same way, so that there is no seam to lose or double a change at. It
//! holds up nobody: one that is so slow that the log forgets what it has not read ends with
//! [`StoreError::Compacted`]. A watch does not keep the store open.

use std::ops::Bound;
use std::sync::{Arc, Weak};

use futures::{StreamExt, TryStreamExt, stream};
use redb::ReadTransaction;
use tokio::sync::watch as signal;

use super::format::{
    CHANGES, FORGOTTEN, REVISION, change_key, change_revision, decode_change, number,
};
use super::{Shared, fault};
use crate::store::{Change, Changes, Revision, StoreError};

/// Entries of the log that are read at a time; the last transaction is read whole.
const PAGE: usize = 512;

/// Where a watch is.
struct Follower {
    shared: Weak<Shared>,
    news: signal::Receiver<Revision>,
    prefix: Arc<str>,
    /// Every transaction up to this one was told.
    told: Revision,
}

/// A part of the log.
struct Page {
    changes: Vec<Change>,
    /// The last transaction that was read.
    upto: Revision,
    /// Whether the log goes on.
    more: bool,
}

/// Begins a watch of what comes after `after`.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    prefix: String,
    after: Revision,
) -> Result<Changes, StoreError> {
    let mut follower = Follower {
        shared: Arc::downgrade(shared),
        news: shared.committed.subscribe(),
        prefix: prefix.into(),
        told: after,
    };
    // Read at once, so that a watch from too long ago is refused and not begun.
    let first = follower
        .read()
        .await?
        .map_or_else(Vec::new, |page| page.changes);
    let rest = stream::try_unfold((follower, first), |(mut follower, mut ready)| async move {
        while ready.is_empty() {
            match follower.next().await? {
                Some(changes) => ready = changes,
                None => return Ok(None),
            }
        }
        Ok::<_, StoreError>(Some((
            stream::iter(ready.into_iter().map(Ok)),
            (follower, Vec::new()),
        )))
    });
    Ok(rest.try_flatten().boxed())
}

impl Follower {
    /// The next changes; waits for a commit when there are none. `None` when the store is shut.
    async fn next(&mut self) -> Result<Option<Vec<Change>>, StoreError> {
        loop {
            match self.read().await? {
                None => return Ok(None),
                Some(page) if page.more || !page.changes.is_empty() => {
                    return Ok(Some(page.changes));
                }
                Some(_) => {}
            }
            if self.news.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Reads on in the log. `None` when the store is shut.
    async fn read(&mut self) -> Result<Option<Page>, StoreError> {
        let Some(shared) = self.shared.upgrade() else {
            return Ok(None);
        };
        // Before the read: a commit after it wakes us again.
        self.news.mark_unchanged();
        let (prefix, told) = (Arc::clone(&self.prefix), self.told);
        let read = move || page(&shared.read()?, &prefix, told);
        let page = tokio::task::spawn_blocking(read)
            .await
            .map_err(|panic| StoreError::Unavailable(Arc::new(panic)))??;
        self.told = self.told.max(page.upto);
        Ok(Some(page))
    }
}

/// Changes of transactions after `told`, of keys that begin with `prefix`.
fn page(txn: &ReadTransaction, prefix: &str, told: Revision) -> Result<Page, StoreError> {
    let forgotten = number(txn, FORGOTTEN)?;
    if told < forgotten {
        return Err(StoreError::Compacted { oldest: forgotten });
    }
    let log = txn.open_table(CHANGES).map_err(fault("a read"))?;
    let from = change_key(told, u32::MAX);
    let found = log
        .range::<&[u8]>((Bound::Excluded(from.as_slice()), Bound::Unbounded))
        .map_err(fault("a read"))?;
    let mut page = Page {
        changes: Vec::new(),
        upto: number(txn, REVISION)?,
        more: false,
    };
    let mut last = told;
    for (read, item) in found.enumerate() {
        let (key, bytes) = item.map_err(fault("a read"))?;
        let revision = change_revision(key.value())?;
        if read >= PAGE && revision != last {
            page.upto = last;
            page.more = true;
            break;
        }
        last = revision;
        page.changes
            .extend(decode_change(revision, bytes.value(), prefix)?);
    }
    Ok(page)
}
