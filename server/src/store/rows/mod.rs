//! What the store's values mean: one versioned row for each noun, and the one place that makes keys.
//!
//! Called by `service` and `reconcile`. A noun lies under `<kind>/<id>`, and its name points to it
//! from `<kind>-name/<name>`: both are written in one transaction, so that a name is unique. A row
//! does not hold its revision: that is the store's, filled in when it is read. A row that cannot
//! be read whole is refused by name; nothing of it is guessed.

mod channels;
mod given_up;
mod groups;
mod kept_marks;
mod kept_records;
mod parameters;
mod parts;
mod shapes;
#[cfg(test)]
mod tests;
mod untold;

use std::fmt::Display;
use std::str::FromStr;

use super::{Change, Entry, Revision, Write};

/// Why a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadRow {
    /// A newer version wrote it.
    #[error("{key} is of format {found:?}, newer than this version reads: upgrade the server")]
    Newer {
        /// Where it lies.
        key: String,
        /// Its format.
        found: String,
    },
    /// It does not have the shape it says.
    #[error("{key} does not have the shape of its row")]
    Shape {
        /// Where it lies.
        key: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The key and what lies there are not about the same thing.
    #[error("{key} holds {found}, which does not belong there")]
    Misplaced {
        /// Where it lies.
        key: String,
        /// What is there.
        found: String,
    },
}

/// A noun that the store keeps.
pub trait Row: Clone + Send + Sync + Sized + 'static {
    /// Its id.
    type Id: Copy + Display + FromStr + Eq + Send + Sync + 'static;
    /// What its user calls it.
    type Name: Clone + Display + Send + Sync + 'static;
    /// How its keys begin.
    const KIND: &'static str;

    /// Its id.
    fn id(&self) -> Self::Id;

    /// Its name, unique among its kind.
    fn name(&self) -> &Self::Name;

    /// Its row, as bytes.
    fn encode(&self) -> Vec<u8>;

    /// The noun of a row that lies at `key` and was last written by `modified`.
    ///
    /// # Errors
    ///
    /// [`BadRow`], which names the key.
    fn decode(key: &str, value: &[u8], modified: Revision) -> Result<Self, BadRow>;

    /// The noun of an entry.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    fn from_entry(entry: &Entry) -> Result<Self, BadRow> {
        Self::decode(&entry.key, &entry.value, entry.modified)
    }

    /// The noun after a change; `None` when it is gone.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    fn from_change(change: &Change) -> Result<Option<Self>, BadRow> {
        change
            .value
            .as_ref()
            .map(|value| Self::decode(&change.key, value, change.revision))
            .transpose()
    }

    /// The write of its row.
    fn put(&self) -> Write {
        Write::Put(key::<Self>(self.id()), self.encode())
    }

    /// The write of the index entry that lets its name be found.
    fn put_name(&self) -> Write {
        Write::Put(
            name_key::<Self>(self.name()),
            self.id().to_string().into_bytes(),
        )
    }

    /// The writes that remove its row and its name.
    fn remove(&self) -> [Write; 2] {
        [
            Write::Delete(key::<Self>(self.id())),
            Write::Delete(name_key::<Self>(self.name())),
        ]
    }
}

/// How the keys of all rows of a kind begin; a range over it answers them in order of creation.
#[must_use]
pub fn prefix<T: Row>() -> String {
    format!("{}/", T::KIND)
}

/// The key of a row.
#[must_use]
pub fn key<T: Row>(id: T::Id) -> String {
    format!("{}/{id}", T::KIND)
}

/// The key under which a name points to a row.
#[must_use]
pub fn name_key<T: Row>(name: &T::Name) -> String {
    format!("{}-name/{name}", T::KIND)
}

/// The id that a row's key names, for a row that is gone.
///
/// # Errors
///
/// [`BadRow::Misplaced`] when it is no key of that kind.
pub fn id_of_key<T: Row>(key: &str) -> Result<T::Id, BadRow> {
    key.strip_prefix(T::KIND)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| BadRow::Misplaced {
            key: key.into(),
            found: format!("no {}", T::KIND),
        })
}

/// The id that an entry of the name index holds.
///
/// # Errors
///
/// [`BadRow::Misplaced`] when it holds none.
pub fn id_of_name<T: Row>(entry: &Entry) -> Result<T::Id, BadRow> {
    let text = String::from_utf8_lossy(&entry.value);
    text.parse().map_err(|_| BadRow::Misplaced {
        key: entry.key.clone(),
        found: text.chars().take(80).collect(),
    })
}

/// A row belongs under the key of its own id.
fn placed<T: Row>(key_found: &str, row: T) -> Result<T, BadRow> {
    if key_found == key::<T>(row.id()) {
        Ok(row)
    } else {
        Err(BadRow::Misplaced {
            key: key_found.into(),
            found: row.id().to_string(),
        })
    }
}
