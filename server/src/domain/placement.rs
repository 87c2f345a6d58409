//! Which pool a new volume goes to.

use goldleaf_types::{Bytes, NodeId, PoolId};

use super::{Phase, Pool, PoolMode, PoolUsage, Standing};

/// A pool that a volume might go to, with what its node says of it now.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pool's record.
    pub pool: Pool,
    /// Whether its node answers.
    pub reachable: bool,
    /// How full it is, if its node said.
    pub usage: Option<PoolUsage>,
    /// What may be provisioned in it, if its node said and there is a limit.
    pub limit: Option<Bytes>,
    /// Whether its node holds the image that is wanted; true when none is.
    pub has_image: bool,
    /// Whether its node can be given new volumes.
    pub standing: Standing,
}

/// Why a volume can go nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Nothing matches what was asked.
    #[error("no pool matches the placement asked: create one, or ask for other labels or nodes")]
    NoneMatches,
    /// The only ones that match are on nodes that do not answer.
    #[error("node {0} does not answer: wait for its agent, then ask again")]
    Unreachable(NodeId),
    /// The only ones that match have no room.
    #[error("pool {0} is out of data space: extend it or delete volumes in it")]
    Full(PoolId),
    /// What is left of their metadata is for what is in them.
    #[error(
        "pool {0} has less than a quarter of its metadata free, which is kept for what is in it: \
         extend it (goldleaf pool extend --metadata) or delete something"
    )]
    MetadataLow(PoolId),
    /// Their limits do not let so much be provisioned.
    #[error(
        "pool {pool} has {provisioned} provisioned and {asked} more were asked for, and its limit is \
         {limit}: extend it (goldleaf pool extend), raise the limit (goldleaf pool set \
         --overcommit), or delete something in it"
    )]
    Overcommitted {
        /// The pool.
        pool: PoolId,
        /// The sum of its volumes' sizes.
        provisioned: Bytes,
        /// What that may be.
        limit: Bytes,
        /// How much more was asked for.
        asked: Bytes,
    },
    /// The only ones that match cannot be written.
    #[error("pool {pool} takes no new volume: {why}")]
    NotWritable {
        /// The pool.
        pool: PoolId,
        /// Why, with what to do.
        why: &'static str,
    },
    /// The only ones that match are on nodes that are drained.
    #[error("node {0} is drained: resume it, or ask for a pool of another")]
    Drained(NodeId),
    /// The only ones that match are on nodes that count as lost.
    #[error("node {0} was marked lost: take it back, or ask for a pool of another")]
    Lost(NodeId),
}

/// The pool that a volume of this size goes to, among those that match its request.
///
/// A node that holds the image goes first, then the pool with most free data, then the older one,
/// so that the same facts always give the same answer.
///
/// # Errors
///
/// [`NoPlace`], with the reason nearest to success among the candidates.
pub fn choose(candidates: &[Candidate], size: Bytes) -> Result<&Candidate, NoPlace> {
    let mut nearest = NoPlace::NoneMatches;
    let mut best: Option<(&Candidate, Bytes)> = None;
    for candidate in candidates {
        match room(candidate, size) {
            Ok(free) if best.is_none_or(|best| better((candidate, free), best)) => {
                best = Some((candidate, free));
            }
            Ok(_) => {}
            Err(reason) if distance(&reason) < distance(&nearest) => nearest = reason,
            Err(_) => {}
        }
    }
    best.map(|(candidate, _)| candidate).ok_or(nearest)
}

fn better(a: (&Candidate, Bytes), b: (&Candidate, Bytes)) -> bool {
    let rank = |(c, free): (&Candidate, Bytes)| (c.has_image, free, std::cmp::Reverse(c.pool.id));
    rank(a) > rank(b)
}

/// How far a reason is from success: what passes by itself comes first.
const fn distance(reason: &NoPlace) -> u8 {
    match reason {
        NoPlace::Unreachable(_) => 0,
        NoPlace::Full(_) | NoPlace::MetadataLow(_) | NoPlace::Overcommitted { .. } => 1,
        NoPlace::NotWritable { .. } => 2,
        NoPlace::Drained(_) => 3,
        NoPlace::Lost(_) => 4,
        NoPlace::NoneMatches => 5,
    }
}

/// Free data bytes of a pool that can take a volume now.
fn room(candidate: &Candidate, asked: Bytes) -> Result<Bytes, NoPlace> {
    let pool = candidate.pool.id;
    let closed = |why| Err(NoPlace::NotWritable { pool, why });
    match candidate.standing {
        Standing::Open => {}
        Standing::Drained => return Err(NoPlace::Drained(candidate.pool.node)),
        Standing::Lost => return Err(NoPlace::Lost(candidate.pool.node)),
        Standing::Foreign => {
            return closed(
                "it takes changes from another control plane store; adopt its node first",
            );
        }
    }
    match candidate.pool.phase {
        Phase::Ready => {}
        Phase::Creating => return closed("it is still being created; ask again when it is ready"),
        Phase::Deleting => return closed("it is being deleted; name another"),
        Phase::Failed => return closed("it failed; its conditions say why"),
        Phase::Closed => return closed("it is closed; open it first"),
    }
    if !candidate.reachable {
        return Err(NoPlace::Unreachable(candidate.pool.node));
    }
    let Some(usage) = candidate.usage else {
        return closed("its node does not have it open; see its conditions");
    };
    match usage.mode {
        // The brake of a pool whose metadata is nearly used up makes it read-only.
        PoolMode::ReadWrite | PoolMode::OutOfDataSpace | PoolMode::ReadOnly
            if usage.is_low_on_metadata() && !usage.needs_check =>
        {
            Err(NoPlace::MetadataLow(pool))
        }
        PoolMode::ReadWrite
            if let Some(limit) = candidate.limit
                && usage.provisioned.0.saturating_add(asked.0) > limit.0 =>
        {
            Err(NoPlace::Overcommitted {
                pool,
                provisioned: usage.provisioned,
                limit,
                asked,
            })
        }
        PoolMode::ReadWrite => Ok(Bytes(usage.data_total.0.saturating_sub(usage.data_used.0))),
        PoolMode::OutOfDataSpace => Err(NoPlace::Full(pool)),
        PoolMode::ReadOnly => closed("the kernel made it read-only; check its metadata"),
        PoolMode::Failed => closed("the kernel gave it up; check its metadata"),
        PoolMode::Unknown => closed("its node has not said yet what it can do; ask again"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{PoolAsked, WhenFull};

    const SIZE: Bytes = Bytes(1 << 20);

    fn candidate(
        n: u8,
        phase: Phase,
        reachable: bool,
        mode: Option<PoolMode>,
        free: u64,
        has_image: bool,
    ) -> Candidate {
        let usage = mode.map(|mode| PoolUsage {
            mode,
            data_total: Bytes(1 << 40),
            data_used: Bytes((1 << 40) - free),
            ..PoolUsage::default()
        });
        let pool = Pool {
            id: PoolId::from_bytes([n; 16]),
            name: format!("p{n}").parse().unwrap(),
            labels: goldleaf_types::Labels::default(),
            revision: 1,
            phase,
            conditions: vec![],
            created: jiff::Timestamp::UNIX_EPOCH,
            node: NodeId::from_bytes([n; 16]),
            asked: PoolAsked {
                devices: vec![],
                metadata_device: None,
                block_size: goldleaf_types::BlockSize::DEFAULT,
                when_full: WhenFull::Error,
            },
            mode: PoolMode::Unknown,
            wanted_name: None,
            doomed: false,
            marks: Default::default(),
            adopting: None,
        };
        Candidate {
            pool,
            reachable,
            usage,
            limit: None,
            has_image,
            standing: Standing::Open,
        }
    }

    fn arb_standing() -> impl Strategy<Value = Standing> {
        prop_oneof![4 => Just(Standing::Open), 1 => Just(Standing::Drained), 1 => Just(Standing::Lost)]
    }

    fn arb_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let phase = prop_oneof![
            4 => Just(Phase::Ready), 1 => Just(Phase::Creating), 1 => Just(Phase::Deleting),
            1 => Just(Phase::Failed), 1 => Just(Phase::Closed),
        ];
        let mode = prop_oneof![
            4 => Just(Some(PoolMode::ReadWrite)), 1 => Just(Some(PoolMode::ReadOnly)),
            1 => Just(Some(PoolMode::OutOfDataSpace)), 1 => Just(Some(PoolMode::Failed)),
            1 => Just(Some(PoolMode::Unknown)), 1 => Just(None),
        ];
        let one = (
            phase,
            any::<bool>(),
            mode,
            0..=1_u64 << 40,
            any::<bool>(),
            arb_standing(),
        );
        proptest::collection::vec(one, 0..12).prop_map(|all| {
            all.into_iter()
                .zip(0_u8..)
                .map(|((phase, up, mode, free, image, standing), n)| Candidate {
                    standing,
                    ..candidate(n, phase, up, mode, free, image)
                })
                .collect()
        })
    }

    proptest! {
        /// The choice is a pool that can be written, on a node that answers, and none is better;
        /// there is always one when any candidate could take the volume.
        #[test]
        fn placement_takes_the_best_pool_that_can_take_it(all in arb_candidates()) {
            let fit = |c: &&Candidate| c.pool.phase == Phase::Ready && c.reachable
                && c.standing == Standing::Open
                && c.usage.is_some_and(|u| u.mode == PoolMode::ReadWrite);
            let free = |c: &Candidate| c.usage.map_or(0, |u| u.data_total.0 - u.data_used.0);
            match choose(&all, SIZE) {
                Ok(chosen) => {
                    prop_assert!(fit(&chosen));
                    for other in all.iter().filter(fit) {
                        prop_assert!((chosen.has_image, free(chosen)) >= (other.has_image, free(other)));
                    }
                }
                Err(_) => prop_assert_eq!(all.iter().filter(fit).count(), 0),
            }
        }

        /// The order in which pools are looked at does not matter.
        #[test]
        fn placement_does_not_depend_on_order(all in arb_candidates()) {
            let mut turned = all.clone();
            turned.reverse();
            let id = |r: Result<&Candidate, NoPlace>| r.map(|c| c.pool.id).ok();
            prop_assert_eq!(id(choose(&all, SIZE)), id(choose(&turned, SIZE)));
        }
    }

    #[test]
    fn a_pool_low_on_metadata_is_no_place_even_if_the_brake_is_on() {
        let with = |mode, used: u64| {
            let mut candidate = candidate(1, Phase::Ready, true, Some(mode), 9, true);
            if let Some(usage) = &mut candidate.usage {
                usage.metadata_used = Bytes(used);
                usage.metadata_total = Bytes(100);
            }
            candidate
        };
        assert!(choose(&[with(PoolMode::ReadWrite, 75)], SIZE).is_ok());
        for mode in [PoolMode::ReadWrite, PoolMode::ReadOnly] {
            let low = with(mode, 76);
            assert_eq!(
                choose(std::slice::from_ref(&low), SIZE).unwrap_err(),
                NoPlace::MetadataLow(low.pool.id)
            );
        }
    }

    #[test]
    fn a_full_pool_and_a_dead_one_have_different_reasons() {
        let full = candidate(
            1,
            Phase::Ready,
            true,
            Some(PoolMode::OutOfDataSpace),
            0,
            true,
        );
        let dead = candidate(2, Phase::Ready, true, Some(PoolMode::Failed), 9, true);
        let away = candidate(3, Phase::Ready, false, Some(PoolMode::ReadWrite), 9, true);
        assert_eq!(choose(&[], SIZE).unwrap_err(), NoPlace::NoneMatches);
        for (standing, why) in [
            (Standing::Drained, NoPlace::Drained(full.pool.node)),
            (Standing::Lost, NoPlace::Lost(full.pool.node)),
        ] {
            let kept_off = Candidate {
                standing,
                ..full.clone()
            };
            assert_eq!(choose(&[kept_off], SIZE).unwrap_err(), why);
        }
        assert_eq!(
            choose(&[full.clone(), dead.clone()], SIZE).unwrap_err(),
            NoPlace::Full(full.pool.id)
        );
        assert!(matches!(
            choose(&[dead], SIZE),
            Err(NoPlace::NotWritable { .. })
        ));
        assert_eq!(
            choose(&[full, away.clone()], SIZE).unwrap_err(),
            NoPlace::Unreachable(away.pool.node)
        );
    }

    #[test]
    fn a_limit_is_passed_by_no_volume_and_another_pool_takes_it() {
        let mut tight = candidate(1, Phase::Ready, true, Some(PoolMode::ReadWrite), 9, true);
        tight.limit = Some(Bytes(10 << 20));
        let usage = tight.usage.as_mut().unwrap();
        usage.provisioned = Bytes(9 << 20);
        assert!(choose(std::slice::from_ref(&tight), SIZE).is_ok());
        let asked = Bytes(SIZE.0 + 1);
        let refused = choose(std::slice::from_ref(&tight), asked).unwrap_err();
        assert_eq!(
            refused,
            NoPlace::Overcommitted {
                pool: tight.pool.id,
                provisioned: Bytes(9 << 20),
                limit: Bytes(10 << 20),
                asked,
            }
        );
        let other = candidate(2, Phase::Ready, true, Some(PoolMode::ReadWrite), 1, false);
        let both = [tight, other.clone()];
        assert_eq!(choose(&both, asked).unwrap().pool.id, other.pool.id);
    }
}
