//! Who this process is among all ranks, and which slots of a global batch are its work.
//!
//! Pure arithmetic: the same answer on every rank, without a message. What a slot contains is the
//! business of `bert-data`.

use std::ops::Range;

/// Position of this process (or thread) among all ranks of the run.
///
/// Invariant: `rank < num_ranks`, kept by [`World::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    rank: usize,
    num_ranks: usize,
}

impl World {
    /// The world of a run with one rank.
    pub const SOLO: World = World { rank: 0, num_ranks: 1 };

    /// Creates the world as rank `rank` of `num_ranks` sees it.
    ///
    /// # Errors
    ///
    /// [`PlanError::RankOutOfRange`] if `rank >= num_ranks`.
    pub fn new(rank: usize, num_ranks: usize) -> Result<World, PlanError> {
        if rank >= num_ranks {
            return Err(PlanError::RankOutOfRange { rank, num_ranks });
        }
        Ok(World { rank, num_ranks })
    }

    /// Index of this rank, from 0.
    pub fn rank(self) -> usize {
        self.rank
    }

    /// Number of ranks of the run, at least 1.
    pub fn num_ranks(self) -> usize {
        self.num_ranks
    }

    /// Whether this is rank 0, which writes what only one rank may write.
    pub fn is_first(self) -> bool {
        self.rank == 0
    }
}

/// Returns the slots `[r·V/p, (r+1)·V/p)` that a rank works on in every step.
///
/// A slot is one micro-batch of the global batch; slot `s` is the same work whoever does it.
///
/// # Errors
///
/// [`PlanError::SlotsNotDivisible`] if the ranks would not get equally many slots, or none.
pub fn slots_of_rank(num_slots: usize, world: World) -> Result<Range<usize>, PlanError> {
    let World { rank, num_ranks } = world;
    if num_slots == 0 || !num_slots.is_multiple_of(num_ranks) {
        return Err(PlanError::SlotsNotDivisible { num_slots, num_ranks });
    }
    let per_rank = num_slots / num_ranks;
    Ok(rank * per_rank..(rank + 1) * per_rank)
}

/// Whether a run with `num_ranks` ranks sums gradients to the same bits as a run with one rank.
///
/// True for one rank, and whenever every rank owns a power of two of the slots: its own partial
/// sum is then one whole subtree of the tree over all slots (see [`SlotTree`](crate::SlotTree)).
pub fn sums_like_one_rank(num_slots: usize, num_ranks: usize) -> bool {
    match num_ranks {
        0 => false,
        1 => true,
        _ => num_slots.is_multiple_of(num_ranks) && (num_slots / num_ranks).is_power_of_two(),
    }
}

/// Reasons why work cannot be divided over the ranks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A rank index outside the world.
    #[error("rank {rank} does not exist in a run of {num_ranks} ranks: expected a rank below {num_ranks}")]
    RankOutOfRange {
        /// The impossible rank.
        rank: usize,
        /// Ranks of the run.
        num_ranks: usize,
    },
    /// The slots of a global batch cannot be shared equally.
    #[error(
        "{num_slots} slots (global batch / micro-batch) cannot be shared equally by {num_ranks} ranks: \
         choose a number of ranks that divides {num_slots}, or another batch or micro-batch size"
    )]
    SlotsNotDivisible {
        /// Slots of one global batch.
        num_slots: usize,
        /// Ranks of the run.
        num_ranks: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rank_outside_the_world_is_refused() {
        assert_eq!(World::new(3, 3), Err(PlanError::RankOutOfRange { rank: 3, num_ranks: 3 }));
        assert_eq!(World::new(0, 0), Err(PlanError::RankOutOfRange { rank: 0, num_ranks: 0 }));
        assert_eq!(World::new(0, 1), Ok(World::SOLO));
    }

    #[test]
    fn slots_that_cannot_be_shared_are_refused() {
        for (num_slots, num_ranks) in [(8, 3), (0, 1), (2, 4)] {
            let world = World::new(0, num_ranks).unwrap();
            assert_eq!(
                slots_of_rank(num_slots, world),
                Err(PlanError::SlotsNotDivisible { num_slots, num_ranks })
            );
        }
    }

    #[test]
    fn same_bits_need_a_power_of_two_of_slots_per_rank() {
        assert!(sums_like_one_rank(12, 1) && sums_like_one_rank(12, 3) && sums_like_one_rank(8, 8));
        assert!(!sums_like_one_rank(12, 4) && !sums_like_one_rank(12, 2) && !sums_like_one_rank(8, 3));
    }

    proptest! {
        #[test]
        fn ranks_tile_the_slots(num_ranks in 1usize..17, per_rank in 1usize..9) {
            let num_slots = num_ranks * per_rank;
            let mut next = 0;
            for rank in 0..num_ranks {
                let slots = slots_of_rank(num_slots, World::new(rank, num_ranks).unwrap()).unwrap();
                prop_assert_eq!(slots.start, next);
                prop_assert_eq!(slots.len(), per_rank);
                next = slots.end;
            }
            prop_assert_eq!(next, num_slots);
        }
    }
}
