//! What a user can change of a thing at any time: its labels, and whether it is protected.
//!
//! A repeated creation is compared with what was asked for first, whatever was changed since: else
//! a change would make every retry of the first call a conflict.

use std::collections::BTreeMap;

use goldleaf_types::Labels;

/// What a creation said of labels and protection, kept once either was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// The labels.
    pub labels: Labels,
    /// Whether it was to be protected.
    pub deletion_protection: bool,
}

/// What a user marked a thing with, besides its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Nothing deletes it until this is taken off.
    pub deletion_protection: bool,
    /// What its creation said; none while nothing was changed since.
    pub first: Option<First>,
}

impl Marks {
    /// Those of a new thing.
    #[must_use]
    pub const fn new(deletion_protection: bool) -> Self {
        Self {
            deletion_protection,
            first: None,
        }
    }

    /// The labels that its creation said; `now` while they are as then. An agent compares a repeated
    /// order with these.
    #[must_use]
    pub fn first_labels<'a>(&'a self, now: &'a Labels) -> &'a Labels {
        self.first.as_ref().map_or(now, |first| &first.labels)
    }

    /// Whether a creation with these labels and this protection asks for the very thing that has
    /// these marks and the labels `now`.
    ///
    /// # Errors
    ///
    /// The name of the first field that differs.
    pub fn same_or_conflict(&self, now: &Labels, asked: &First) -> Result<(), &'static str> {
        let labels = self.first_labels(now);
        let protection = self
            .first
            .as_ref()
            .map_or(self.deletion_protection, |first| first.deletion_protection);
        if *labels != asked.labels {
            Err("labels")
        } else if protection != asked.deletion_protection {
            Err("deletion_protection")
        } else {
            Ok(())
        }
    }
}

/// Labels and marks as a node keeps them, for when the store is lost: a thin's in its pool's catalogue,
/// a pool's with the node's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptMarks {
    /// The labels.
    pub labels: Labels,
    /// The marks.
    pub marks: Marks,
}

/// A change of labels and protection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remark {
    /// Labels to set.
    pub set: Labels,
    /// Keys of labels to take off; one that is not there is as good.
    pub remove: Vec<String>,
    /// Protect it, or no longer.
    pub deletion_protection: Option<bool>,
}

impl Remark {
    /// Makes the change. False when nothing is other than before.
    ///
    /// # Errors
    ///
    /// That there are too many labels, as a sentence; nothing was changed then.
    pub fn apply(&self, labels: &mut Labels, marks: &mut Marks) -> Result<bool, String> {
        let mut map = BTreeMap::from(labels.clone());
        map.retain(|key, _| !self.remove.contains(key));
        map.extend(BTreeMap::from(self.set.clone()));
        let new = Labels::try_from(map).map_err(|error| error.0)?;
        let protection = self
            .deletion_protection
            .unwrap_or(marks.deletion_protection);
        if new == *labels && protection == marks.deletion_protection {
            return Ok(false);
        }
        if marks.first.is_none() {
            marks.first = Some(First {
                labels: labels.clone(),
                deletion_protection: marks.deletion_protection,
            });
        }
        *labels = new;
        marks.deletion_protection = protection;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<const N: usize>(all: [(&str, &str); N]) -> Labels {
        let map = all.map(|(k, v)| (k.to_owned(), v.to_owned()));
        Labels::try_from(BTreeMap::from(map)).unwrap()
    }

    fn first(labels: Labels, deletion_protection: bool) -> First {
        First {
            labels,
            deletion_protection,
        }
    }

    #[test]
    fn a_change_sets_takes_off_and_says_whether_anything_is_other() {
        let (mut now, mut marks) = (labels([("a", "1"), ("b", "1")]), Marks::new(false));
        let change = Remark {
            set: labels([("a", "2"), ("c", "3")]),
            remove: vec!["b".into(), "absent".into()],
            deletion_protection: Some(true),
        };
        assert_eq!(change.apply(&mut now, &mut marks), Ok(true));
        assert_eq!(now, labels([("a", "2"), ("c", "3")]));
        assert!(marks.deletion_protection);
        assert_eq!(
            change.apply(&mut now, &mut marks),
            Ok(false),
            "twice is once"
        );
        assert_eq!(Remark::default().apply(&mut now, &mut marks), Ok(false));
    }

    #[test]
    fn a_creation_is_compared_with_what_was_asked_for_first() {
        let asked = labels([("a", "1")]);
        let (mut now, mut marks) = (asked.clone(), Marks::new(false));
        let same = |now: &Labels, marks: &Marks, protect| {
            marks.same_or_conflict(now, &first(asked.clone(), protect))
        };
        assert_eq!(same(&now, &marks, false), Ok(()));
        assert_eq!(same(&now, &marks, true), Err("deletion_protection"));
        let change = |protect| Remark {
            set: labels([("a", "2")]),
            remove: Vec::new(),
            deletion_protection: Some(protect),
        };
        for protect in [true, false] {
            change(protect).apply(&mut now, &mut marks).unwrap();
            assert_eq!(same(&now, &marks, false), Ok(()), "what came first counts");
        }
        let other = marks.same_or_conflict(&now, &first(now.clone(), false));
        assert_eq!(other, Err("labels"));
    }

    #[test]
    fn too_many_labels_change_nothing() {
        let (mut now, mut marks) = (labels([("a", "1")]), Marks::default());
        let many = (0..64).map(|n| (format!("k{n}"), String::new()));
        let change = Remark {
            set: Labels::try_from(many.collect::<BTreeMap<_, _>>()).unwrap(),
            ..Remark::default()
        };
        let problem = change.apply(&mut now, &mut marks).unwrap_err();
        assert!(problem.contains("65 labels"), "{problem}");
        assert_eq!((now, marks), (labels([("a", "1")]), Marks::default()));
    }
}
