//! Records by id, name and page: the only room between the rules and the store.
//!
//! Called by every rule. A record is written only over the revision it was read at, and with its
//! name in one transaction, so two writers never both win. A crash leaves both or neither.

use std::sync::Arc;

use goldleaf_types::Labels;

use super::error::ServiceError;
use crate::domain::{
    Channel, GivenUp, GroupSnapshot, Image, Node, Pool, Ref, Snapshot, Untold, Volume,
};
use crate::store::rows::{self, BadRow, Row};
use crate::store::{Expect, Range, Revision, Store, Txn, Write};

/// Rows that a scan reads at a time.
const CHUNK: usize = 500;

/// Bytes of records in one page, as they are stored, after which it ends. Half of what a client
/// takes in one answer unless told otherwise (4 MiB): the rest is for what nodes say of each.
const ROOM: usize = 2 << 20;

impl From<BadRow> for ServiceError {
    fn from(error: BadRow) -> Self {
        let key = match &error {
            BadRow::Newer { key, .. }
            | BadRow::Shape { key, .. }
            | BadRow::Misplaced { key, .. } => key.clone(),
        };
        Self::BadRow {
            key,
            source: Box::new(error),
        }
    }
}

/// A record whose revision the store counts.
pub trait Revised: Row {
    /// The transaction that last wrote it.
    fn revision(&self) -> Revision;
    /// Takes over the transaction that just wrote it.
    fn set_revision(&mut self, revision: Revision);
    /// Its labels, for filters.
    fn labels(&self) -> &Labels;
}

macro_rules! revised {
    ($($noun:ty),*) => {$(
        impl Revised for $noun {
            fn revision(&self) -> Revision {
                self.revision
            }
            fn set_revision(&mut self, revision: Revision) {
                self.revision = revision;
            }
            fn labels(&self) -> &Labels {
                &self.labels
            }
        }
    )*};
}

revised!(
    Volume,
    Snapshot,
    GroupSnapshot,
    Image,
    Channel,
    Pool,
    Node,
    GivenUp,
    Untold
);

/// One part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The records, in order of creation.
    pub items: Vec<T>,
    /// The last one's key, when more may follow.
    pub next: Option<String>,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// The records.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn Store>,
}

/// What another record must still be when this one is written.
#[must_use]
pub fn unchanged<T: Revised>(record: &T) -> Expect {
    Expect::At(rows::key::<T>(record.id()), record.revision())
}

impl Records {
    /// The records of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The store itself, for watches.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The record with this id.
    ///
    /// # Errors
    ///
    /// When the store does not answer or the row cannot be read.
    pub async fn by_id<T: Revised>(&self, id: T::Id) -> Result<Option<T>, ServiceError> {
        let entry = self.store.get(&rows::key::<T>(id)).await?;
        Ok(entry.as_ref().map(T::from_entry).transpose()?)
    }

    /// The record with this name.
    ///
    /// # Errors
    ///
    /// As [`Self::by_id`].
    pub async fn by_name<T: Revised>(&self, name: &T::Name) -> Result<Option<T>, ServiceError> {
        match self.store.get(&rows::name_key::<T>(name)).await? {
            Some(entry) => self.by_id(rows::id_of_name::<T>(&entry)?).await,
            None => Ok(None),
        }
    }

    /// The record that a request points at.
    ///
    /// # Errors
    ///
    /// As [`Self::by_id`].
    pub async fn find<T: Revised>(
        &self,
        what: &Ref<T::Id, T::Name>,
    ) -> Result<Option<T>, ServiceError> {
        match what {
            Ref::Id(id) => self.by_id(*id).await,
            Ref::Name(name) => self.by_name(name).await,
        }
    }

    /// As [`Self::find`], for a request that needs it; `field` is the request's.
    ///
    /// # Errors
    ///
    /// [`ServiceError::NotFound`], or as [`Self::by_id`].
    pub async fn get<T: Revised>(
        &self,
        what: &Ref<T::Id, T::Name>,
        field: &'static str,
    ) -> Result<T, ServiceError> {
        self.find(what)
            .await?
            .ok_or_else(|| ServiceError::NotFound {
                kind: T::KIND,
                what: what.to_string(),
                field,
            })
    }

    /// Writes a new record and its name, if neither is there and `also` holds.
    ///
    /// # Errors
    ///
    /// A conflict ([`ServiceError::is_conflict`]), or the store is away.
    pub async fn insert<T: Revised>(
        &self,
        record: &mut T,
        also: Vec<Expect>,
    ) -> Result<(), ServiceError> {
        self.insert_with(record, also, []).await
    }

    /// As [`Self::insert`], with more writes in the same transaction.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn insert_with<T: Revised>(
        &self,
        record: &mut T,
        also: Vec<Expect>,
        more: impl IntoIterator<Item = Write>,
    ) -> Result<(), ServiceError> {
        let mut expect = also;
        expect.push(Expect::Absent(rows::key::<T>(record.id())));
        expect.push(Expect::Absent(rows::name_key::<T>(record.name())));
        let mut writes = vec![record.put(), record.put_name()];
        writes.extend(more);
        self.write(record, expect, writes).await
    }

    /// As [`Self::update`], with more writes in the same transaction.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update_with<T: Revised>(
        &self,
        record: &mut T,
        more: impl IntoIterator<Item = Write>,
    ) -> Result<(), ServiceError> {
        self.update_with_if(record, more, Vec::new()).await
    }

    /// As [`Self::update_with`], if `also` holds.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update_with_if<T: Revised>(
        &self,
        record: &mut T,
        more: impl IntoIterator<Item = Write>,
        mut also: Vec<Expect>,
    ) -> Result<(), ServiceError> {
        let mut writes = vec![record.put()];
        writes.extend(more);
        also.push(unchanged(record));
        self.write(record, also, writes).await
    }

    /// Writes a record over the revision it was read at.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update<T: Revised>(&self, record: &mut T) -> Result<(), ServiceError> {
        self.update_with(record, []).await
    }

    /// As [`Self::update`], if `also` holds.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update_if<T: Revised>(
        &self,
        record: &mut T,
        also: Vec<Expect>,
    ) -> Result<(), ServiceError> {
        self.update_with_if(record, [], also).await
    }

    /// As [`Self::update`], for a record that got another name.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn rename<T: Revised>(
        &self,
        record: &mut T,
        old: &T::Name,
    ) -> Result<(), ServiceError> {
        let expect = vec![
            unchanged(record),
            Expect::Absent(rows::name_key::<T>(record.name())),
        ];
        let writes = vec![
            record.put(),
            record.put_name(),
            Write::Delete(rows::name_key::<T>(old)),
        ];
        self.write(record, expect, writes).await
    }

    /// As [`Self::update`], taking another name for the record beside its own.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update_taking<T: Revised>(
        &self,
        record: &mut T,
        name: &T::Name,
    ) -> Result<(), ServiceError> {
        let key = rows::name_key::<T>(name);
        let expect = vec![unchanged(record), Expect::Absent(key.clone())];
        let id = record.id().to_string().into_bytes();
        self.write(record, expect, vec![record.put(), Write::Put(key, id)])
            .await
    }

    /// As [`Self::update`], giving up a name that the record does not have, or not any more.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn update_giving_up<T: Revised>(
        &self,
        record: &mut T,
        name: &T::Name,
    ) -> Result<(), ServiceError> {
        let writes = vec![record.put(), Write::Delete(rows::name_key::<T>(name))];
        let expect = vec![unchanged(record)];
        self.write(record, expect, writes).await
    }

    /// Removes a record and its name.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`].
    pub async fn remove<T: Revised>(&self, record: &T) -> Result<(), ServiceError> {
        let txn = Txn {
            expect: vec![unchanged(record)],
            writes: record.remove().into(),
        };
        self.store.txn(txn).await?;
        Ok(())
    }

    async fn write<T: Revised>(
        &self,
        record: &mut T,
        expect: Vec<Expect>,
        writes: Vec<Write>,
    ) -> Result<(), ServiceError> {
        let revision = self.store.txn(Txn { expect, writes }).await?;
        record.set_revision(revision);
        Ok(())
    }

    /// Records after a key that carry the labels, in order of creation: `limit` of them at most, and
    /// as many as an answer has room for.
    ///
    /// # Errors
    ///
    /// As [`Self::by_id`].
    pub async fn page<T: Revised>(
        &self,
        mut after: Option<String>,
        limit: usize,
        labels: &Labels,
    ) -> Result<Page<T>, ServiceError> {
        let mut taken = 0;
        let filtered = labels.iter().next().is_some();
        let mut page = Page {
            items: Vec::new(),
            next: None,
            revision: 0,
        };
        loop {
            let chunk = if filtered { CHUNK } else { limit };
            let range = Range {
                prefix: rows::prefix::<T>(),
                after: after.take(),
                limit: chunk,
            };
            let found = self.store.range(range).await?;
            if page.revision == 0 {
                page.revision = found.revision; // the first: a watch from there misses nothing
            }
            let last = found.entries.len();
            for (at, entry) in (1..).zip(&found.entries) {
                let record = T::from_entry(entry)?;
                if carries(&record, labels) {
                    page.items.push(record);
                    taken += entry.value.len();
                }
                if page.items.len() == limit || taken >= ROOM {
                    page.next = (found.more || at < last).then(|| entry.key.clone());
                    return Ok(page);
                }
            }
            after = found.entries.last().map(|entry| entry.key.clone());
            if !found.more {
                return Ok(page);
            }
        }
    }

    /// Every record of a kind.
    ///
    /// # Errors
    ///
    /// As [`Self::by_id`].
    pub async fn all<T: Revised>(&self) -> Result<Vec<T>, ServiceError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let range = Range {
                prefix: rows::prefix::<T>(),
                after,
                limit: CHUNK,
            };
            let found = self.store.range(range).await?;
            for entry in &found.entries {
                all.push(T::from_entry(entry)?);
            }
            after = found.entries.last().map(|entry| entry.key.clone());
            if !found.more {
                return Ok(all);
            }
        }
    }

    /// The first record of a kind for which something holds. Reads all of them at worst.
    ///
    /// # Errors
    ///
    /// As [`Self::by_id`].
    pub async fn first<T: Revised>(
        &self,
        holds: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, ServiceError> {
        let mut after = None;
        loop {
            let page: Page<T> = self.page(after, CHUNK, &Labels::default()).await?;
            if let Some(found) = page.items.into_iter().find(&holds) {
                return Ok(Some(found));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }
}

/// Whether a record has every one of these labels.
#[must_use]
pub fn carries<T: Revised>(record: &T, labels: &Labels) -> bool {
    labels
        .iter()
        .all(|(key, value)| record.labels().get(key) == Some(value))
}
