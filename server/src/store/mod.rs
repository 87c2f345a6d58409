//! The control plane's memory: one trait shaped like etcd, so that one server can keep it in a file
//! and three can keep it in etcd without a line above this room changing.
//!
//! Called by `service` and `reconcile`. Values are bytes to it; what they mean is in `rows`.
//! Invariant: what [`Store::txn`] has answered is durable, every transaction has one revision, and
//! revisions only grow. A crash leaves all of a transaction or nothing of it.

#[cfg(test)]
mod contract;
pub mod embedded;
pub mod rows;

use async_trait::async_trait;
use futures::stream::BoxStream;
use goldleaf_types::Incarnation;

/// Grows by one with each transaction that writes; 0 before the first.
pub type Revision = u64;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The transaction that made the key.
    pub created: Revision,
    /// The transaction that last wrote it.
    pub modified: Revision,
}

/// Which keys are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Keys that begin so.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// Keys in order, and the store's revision at which they were all so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The entries, in order of key.
    pub entries: Vec<Entry>,
    /// Whether more keys follow.
    pub more: bool,
    /// The revision they were read at: a watch from just after it misses nothing.
    pub revision: Revision,
}

/// What must hold for a transaction to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such key.
    Absent(String),
    /// The key was last written by this transaction.
    At(String, Revision),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(String, Vec<u8>),
    /// Removes a key, if it is there.
    Delete(String),
}

/// Writes that happen together, if everything expected holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub expect: Vec<Expect>,
    /// What is written then. Each key at most once.
    pub writes: Vec<Write>,
}

/// What a transaction did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value since; `None` when it was removed.
    pub value: Option<Vec<u8>>,
    /// The transaction that made the key; 0 when it was removed.
    pub created: Revision,
    /// The transaction.
    pub revision: Revision,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Something expected did not hold: read again and decide again.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// The first key that was otherwise.
        key: String,
    },
    /// A watch from so long ago that its changes are forgotten: list, then watch from there.
    #[error("changes before revision {oldest} are forgotten")]
    Compacted {
        /// The oldest revision that a watch can begin after.
        oldest: Revision,
    },
    /// The storage failed; whether the transaction counts shows when it is read again.
    #[error("the store is not available")]
    Unavailable(#[source] std::sync::Arc<dyn std::error::Error + Send + Sync>),
}

/// Changes in order; ends with an error when the watcher must start anew.
pub type Changes = BoxStream<'static, Result<Change, StoreError>>;

/// The bytes of a backup, in order; an error is the last.
pub type Backup = BoxStream<'static, Result<Vec<u8>, StoreError>>;

/// A store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// This life of the store; minted when it is made, and anew when it is restored.
    fn incarnation(&self) -> Incarnation;

    /// One key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Keys in order, all at one revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn range(&self, range: Range) -> Result<Entries, StoreError>;

    /// All writes or none; durable when it answers. Transactions of callers that wait together may
    /// share one flush.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] when something expected does not hold: nothing is written then.
    async fn txn(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// Every change of keys that begin with `prefix`, of transactions after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] when some of those are forgotten.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Changes, StoreError>;

    /// Everything at one revision as the bytes of a backup. The store serves meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn backup(&self) -> Result<Backup, StoreError>;
}
