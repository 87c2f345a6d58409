//! What becomes of a record when its pool's catalogue is believed, and when it is only added to.

use goldleaf_types::PoolId;

use super::Phase;

/// Which of the two counts where a record and its pool's catalogue differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The record: its wishes are of this life of the store and are carried out.
    Record,
    /// The catalogue: the record is of another life, and its wishes are old.
    Catalogue,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is in its life.
    pub phase: Phase,
    /// The pool that it is in.
    pub pool: PoolId,
    /// Grows when it moves.
    pub epoch: u64,
}

/// What a catalogue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it is in its life there.
    pub phase: Phase,
    /// The pool whose catalogue it is.
    pub pool: PoolId,
    /// Grows when it moves.
    pub epoch: u64,
}

/// What becomes of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is, wherever its pool is.
    Stays,
    /// It is not there and is made from the catalogue.
    TakenBack,
    /// It becomes what the catalogue says; what was wished for is given up.
    Follows,
    /// It is kept and shown as lost: the catalogue does not have it.
    Lost,
    /// Its creation is given up for good: nobody knows whether it ever was.
    Failed,
    /// It goes: it was to be deleted and is not there.
    Gone,
    /// The catalogue's copy is of before a move and does not count.
    Elsewhere,
    /// Nobody wants it: it is left to its node.
    Nothing,
}

impl Fate {
    /// For people.
    #[must_use]
    pub const fn becomes(self) -> &'static str {
        match self {
            Self::Stays => "stays as it is",
            Self::TakenBack => "taken back from the pool's catalogue",
            Self::Follows => "becomes what the pool's catalogue says",
            Self::Lost => "lost: the pool does not have it; it is not made again",
            Self::Failed => "its creation is given up: the pool does not have it",
            Self::Gone => "deleted already: its record goes",
            Self::Elsewhere => "moved away since: what the pool has of it does not count",
            Self::Nothing => "left alone",
        }
    }
}

/// What becomes of a record of one pool. `given_up`: its user gave it up while its node was lost.
#[must_use]
pub fn fate(record: Option<Known>, row: Option<Row>, trust: Trust, given_up: bool) -> Fate {
    // What its node is deleting is as good as gone.
    let row = row.filter(|row| row.phase != Phase::Deleting);
    match (record, row, trust) {
        (None, None, _) => Fate::Nothing,
        (None, Some(_), Trust::Record) if given_up => Fate::Nothing,
        (None, Some(_), _) => Fate::TakenBack,
        (Some(known), Some(row), _) if known.pool != row.pool && known.epoch >= row.epoch => {
            Fate::Elsewhere
        }
        // Where it is comes from the catalogue all the same.
        (Some(_), Some(_), Trust::Record) => Fate::Stays,
        (Some(_), Some(_), Trust::Catalogue) => Fate::Follows,
        (Some(_), None, Trust::Record) => Fate::Stays,
        (Some(known), None, Trust::Catalogue) => match known.phase {
            Phase::Creating => Fate::Failed,
            Phase::Deleting => Fate::Gone,
            Phase::Ready | Phase::Failed | Phase::Closed => Fate::Lost,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: PoolId = PoolId::from_bytes([1; 16]);
    const THERE: PoolId = PoolId::from_bytes([2; 16]);

    fn known(phase: Phase) -> Option<Known> {
        Some(Known {
            phase,
            pool: HERE,
            epoch: 3,
        })
    }

    fn row(phase: Phase) -> Option<Row> {
        Some(Row {
            phase,
            pool: HERE,
            epoch: 3,
        })
    }

    /// No wish of another life deletes, makes or grows anything.
    #[test]
    fn an_old_record_follows_the_catalogue_and_is_lost_without_a_row() {
        use Phase::{Closed, Creating, Deleting, Failed, Ready};
        for phase in [Creating, Ready, Deleting, Failed, Closed] {
            for there in [Creating, Ready] {
                let found = fate(known(phase), row(there), Trust::Catalogue, false);
                assert_eq!(found, Fate::Follows, "{phase:?} {there:?}");
            }
            let expected = match phase {
                Creating => Fate::Failed,
                Deleting => Fate::Gone,
                Ready | Failed | Closed => Fate::Lost,
            };
            for gone in [None, row(Deleting)] {
                assert_eq!(fate(known(phase), gone, Trust::Catalogue, false), expected);
                assert_eq!(fate(known(phase), gone, Trust::Record, false), Fate::Stays);
            }
            assert_eq!(
                fate(known(phase), row(Ready), Trust::Record, false),
                Fate::Stays
            );
        }
    }

    #[test]
    fn what_the_store_lacks_is_taken_back_unless_its_user_gave_it_up_in_this_life() {
        for there in [Phase::Creating, Phase::Ready] {
            for (trust, given_up, expected) in [
                (Trust::Catalogue, false, Fate::TakenBack),
                (Trust::Catalogue, true, Fate::TakenBack),
                (Trust::Record, false, Fate::TakenBack),
                (Trust::Record, true, Fate::Nothing),
            ] {
                assert_eq!(fate(None, row(there), trust, given_up), expected);
            }
        }
        assert_eq!(
            fate(None, row(Phase::Deleting), Trust::Catalogue, false),
            Fate::Nothing
        );
    }

    #[test]
    fn the_larger_epoch_says_where_something_is() {
        let there = |epoch| {
            Some(Row {
                phase: Phase::Ready,
                pool: THERE,
                epoch,
            })
        };
        for (trust, newer) in [
            (Trust::Record, Fate::Stays),
            (Trust::Catalogue, Fate::Follows),
        ] {
            let at = |epoch| fate(known(Phase::Ready), there(epoch), trust, false);
            assert_eq!((at(2), at(3)), (Fate::Elsewhere, Fate::Elsewhere));
            assert_eq!(at(4), newer);
        }
    }
}
