//! Page and resume tokens: opaque to callers, and checked when they come back.
//!
//! Each carries the first bytes of the store's incarnation: revisions of another life of the store
//! mean nothing in this one.

use goldleaf_types::Incarnation;

use super::ServiceError;
use crate::store::Revision;

/// Where a watch goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// In the first listing, after this key; then the changes since that revision.
    Listing {
        /// The listing's revision.
        revision: Revision,
        /// The last key that was told.
        after: Option<String>,
    },
    /// In the changes: so many of this transaction were told.
    Changes {
        /// The transaction.
        revision: Revision,
        /// How many of its changes were told; a listing's end tells all of them.
        told: usize,
    },
}

/// Told of all there is up to a revision.
pub const ALL: usize = usize::MAX;

fn stamp(incarnation: Incarnation) -> String {
    let id = incarnation.to_string();
    id[id.len() - 8..].to_owned()
}

/// A page's token.
#[must_use]
pub fn page(incarnation: Incarnation, key: &str) -> String {
    format!("p{}.{key}", stamp(incarnation))
}

/// The key after which a page goes on.
///
/// # Errors
///
/// [`ServiceError::BadPageToken`] for a text that is none of this kind.
pub fn read_page(
    incarnation: Incarnation,
    token: &str,
    prefix: &str,
) -> Result<Option<String>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .strip_prefix('p')
        .and_then(|rest| rest.strip_prefix(stamp(incarnation).as_str()))
        .and_then(|rest| rest.strip_prefix('.'))
        .filter(|key| key.starts_with(prefix))
        .map(|key| Some(key.to_owned()))
        .ok_or(ServiceError::BadPageToken)
}

/// A watch's token.
#[must_use]
pub fn resume(incarnation: Incarnation, at: &Resume) -> String {
    let stamp = stamp(incarnation);
    match at {
        Resume::Listing { revision, after } => {
            format!(
                "l{stamp}.{revision}.{}",
                after.as_deref().unwrap_or_default()
            )
        }
        Resume::Changes {
            revision,
            told: ALL,
        } => format!("c{stamp}.{revision}.all"),
        Resume::Changes { revision, told } => format!("c{stamp}.{revision}.{told}"),
    }
}

/// Where a watch with this token goes on; none begins anew.
///
/// # Errors
///
/// [`ServiceError::BadField`] for a text that is no token of this kind, and
/// [`ServiceError::TokenTooOld`] for one of another life of the store.
pub fn read_resume(
    incarnation: Incarnation,
    token: &str,
    prefix: &str,
) -> Result<Option<Resume>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || ServiceError::BadField {
        field: "resume_token",
        problem: "is none that a watch of this kind answered: watch again without one".into(),
    };
    let mut parts = token.splitn(3, '.');
    let (Some(head), Some(revision), Some(rest)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let revision = revision.parse().map_err(|_| bad())?;
    let (listing, of) = match (head.strip_prefix('l'), head.strip_prefix('c')) {
        (Some(of), _) => (true, of),
        (None, Some(of)) => (false, of),
        (None, None) => return Err(bad()),
    };
    let at = match (listing, rest) {
        (true, "") => Resume::Listing {
            revision,
            after: None,
        },
        (true, key) if key.starts_with(prefix) => Resume::Listing {
            revision,
            after: Some(key.to_owned()),
        },
        (true, _) => return Err(bad()),
        (false, "all") => Resume::Changes {
            revision,
            told: ALL,
        },
        (false, told) => Resume::Changes {
            revision,
            told: told.parse().map_err(|_| bad())?,
        },
    };
    if of == stamp(incarnation) {
        Ok(Some(at))
    } else {
        Err(ServiceError::TokenTooOld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Incarnation = Incarnation::from_bytes([1; 16]);
    const OTHER: Incarnation = Incarnation::from_bytes([2; 16]);

    #[test]
    fn a_token_round_trips_in_its_own_store_and_kind_only() {
        let all = [
            Resume::Listing {
                revision: 7,
                after: None,
            },
            Resume::Listing {
                revision: 7,
                after: Some("volume/vol-1".into()),
            },
            Resume::Changes {
                revision: 9,
                told: 2,
            },
            Resume::Changes {
                revision: 9,
                told: ALL,
            },
        ];
        for at in all {
            let token = resume(OURS, &at);
            assert_eq!(read_resume(OURS, &token, "volume/").unwrap(), Some(at));
            let other = read_resume(OTHER, &token, "volume/");
            assert!(matches!(other, Err(ServiceError::TokenTooOld)));
        }
        let token = page(OURS, "volume/vol-1");
        assert_eq!(
            read_page(OURS, &token, "volume/").unwrap().unwrap(),
            "volume/vol-1"
        );
        assert!(read_page(OURS, &token, "pool/").is_err());
        assert!(read_page(OTHER, &token, "volume/").is_err());
    }

    #[test]
    fn no_other_text_passes() {
        for bad in [
            "x",
            "p",
            "p.",
            "c.1.1",
            "l1",
            "c01010101.x.1",
            "c01010101.1.-1",
            "..",
            "c..",
        ] {
            assert!(read_resume(OURS, bad, "volume/").is_err(), "{bad:?} passed");
            assert!(read_page(OURS, bad, "volume/").is_err(), "{bad:?} passed");
        }
    }
}
