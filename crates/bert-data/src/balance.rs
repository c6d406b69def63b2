//! Which rows of a global batch are in which slot: an even share of its tokens for each.
//!
//! A step takes as long as the slot with the most tokens, since no work is done on padding; rows as they come differ by
//! tens of percent where texts are short. A slot keeps its number of rows, and what is in the global batch stays the same.
//! Longest rows first, each to the slot with the fewest tokens, as in Graham, *Bounds on Multiprocessing Timing
//! Anomalies* (1969).

use std::cmp::Reverse;
use std::ops::Range;

/// Rows that are shared out together, at most. A step of more rows is cut into groups of slots, so that no rank has to look
/// at the lengths of more rows than this for a slot of its own; means over so many rows hardly differ.
const MAX_ROWS_TOGETHER: usize = 1024;

/// Slots of a step that are filled together, and where their samples lie.
pub(crate) struct SlotGroup {
    pub(crate) slots: Range<usize>,
    /// Positions in the endless sequence of samples: a step has `global_batch_size` of them.
    pub(crate) positions: Range<u64>,
}

impl SlotGroup {
    /// The group of a slot of a step.
    ///
    /// # Panics
    ///
    /// If a slot has no row.
    pub(crate) fn of_slot(step: u64, slot: usize, global_batch_size: usize, micro_batch_size: usize) -> Self {
        let slots = group_of_slot(slot, global_batch_size / micro_batch_size, micro_batch_size);
        let first = step * global_batch_size as u64;
        let position = |slot: usize| first + (slot * micro_batch_size) as u64;
        Self { positions: position(slots.start)..position(slots.end), slots }
    }
}

/// The slots that share their rows with `slot`.
fn group_of_slot(slot: usize, num_slots: usize, rows_per_slot: usize) -> Range<usize> {
    let num_together = (MAX_ROWS_TOGETHER / rows_per_slot).max(1);
    let start = slot / num_together * num_together;
    start..(start + num_together).min(num_slots)
}

/// Gives each of `num_slots` slots the same number of rows and as even a number of tokens as longest-first finds. Returns
/// the rows of each slot, ascending.
///
/// # Panics
///
/// If there is no slot, or the rows cannot be shared out evenly.
pub(crate) fn share_rows(lengths: &[u32], num_slots: usize) -> Vec<Vec<usize>> {
    assert!(lengths.len().is_multiple_of(num_slots), "{} rows for {num_slots} slots", lengths.len());
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|&row| (Reverse(lengths[row]), row));
    let mut slots = vec![(0u64, Vec::with_capacity(lengths.len() / num_slots)); num_slots];
    let mut emptiest_first: Vec<usize> = (0..num_slots).collect();
    // One row for each slot at a time keeps their numbers equal.
    for rows in longest_first.chunks(num_slots) {
        emptiest_first.sort_by_key(|&slot| (slots[slot].0, slot));
        for (&row, &slot) in rows.iter().zip(&emptiest_first) {
            let (num_tokens, rows) = &mut slots[slot];
            *num_tokens += u64::from(lengths[row]);
            rows.push(row);
        }
    }
    let in_order = |(_, mut rows): (u64, Vec<usize>)| {
        rows.sort_unstable();
        rows
    };
    slots.into_iter().map(in_order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert_random::{Key, Purpose};
    use proptest::prelude::*;

    fn num_tokens(slots: &[Vec<usize>], lengths: &[u32]) -> Vec<u32> {
        slots.iter().map(|rows| rows.iter().map(|&row| lengths[row]).sum()).collect()
    }

    #[test]
    fn long_rows_meet_short_ones() {
        let lengths = [128, 128, 5, 6, 60, 70, 9, 128];
        let slots = share_rows(&lengths, 2);
        assert_eq!(slots, [[0, 2, 6, 7], [1, 3, 4, 5]].map(Vec::from));
        assert_eq!(num_tokens(&slots, &lengths), [270, 264]);
        assert_eq!(share_rows(&lengths, 1), [Vec::from_iter(0..8)]);
        assert_eq!(share_rows(&[7; 6], 3), [[0, 3], [1, 4], [2, 5]].map(Vec::from));
    }

    proptest! {
        #[test]
        fn every_row_has_one_slot_and_no_slot_exceeds_another_by_more_than_a_row(
            num_slots in 1usize..20, rows_per_slot in 1usize..20, max_len in 1u64..512, seed in any::<u64>(),
        ) {
            let mut stream = Key::new(seed, Purpose::Debug).stream();
            let lengths: Vec<u32> =
                (0..num_slots * rows_per_slot).map(|_| 1 + stream.below(max_len) as u32).collect();
            let slots = share_rows(&lengths, num_slots);
            prop_assert!(slots.iter().all(|rows| rows.len() == rows_per_slot && rows.is_sorted()));
            let mut rows = slots.concat();
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..lengths.len()));
            let tokens = num_tokens(&slots, &lengths);
            // The slot that is behind gets the longer row, so no gap outgrows the spread of the lengths.
            let spread = lengths.iter().max().unwrap() - lengths.iter().min().unwrap();
            prop_assert!(tokens.iter().max().unwrap() - tokens.iter().min().unwrap() <= spread);
        }

        #[test]
        fn groups_cover_the_slots_once(num_slots in 1usize..3000, rows_per_slot in 1usize..3000) {
            let mut slot = 0;
            while slot < num_slots {
                let group = group_of_slot(slot, num_slots, rows_per_slot);
                prop_assert!(group.start == slot && group.end <= num_slots && !group.is_empty());
                prop_assert!(group.len() == 1 || group.len() * rows_per_slot <= MAX_ROWS_TOGETHER);
                prop_assert_eq!(&group_of_slot(group.end - 1, num_slots, rows_per_slot), &group);
                slot = group.end;
            }
        }
    }

    /// The reason for it: what a step waits for, over steps of 2 slots of 8 rows and of 64 such slots.
    #[test]
    fn the_fullest_slot_has_a_percent_more_than_the_mean() {
        let fullest = |num_slots: usize, share: &dyn Fn(&[u32]) -> Vec<Vec<usize>>| {
            let mut stream = Key::new(7, Purpose::Debug).stream();
            let excess = (0..50).map(|_| {
                let lengths: Vec<u32> = (0..num_slots * 8).map(|_| 5 + stream.below(124) as u32).collect();
                let tokens = num_tokens(&share(&lengths), &lengths);
                let mean = f64::from(tokens.iter().sum::<u32>()) / num_slots as f64;
                f64::from(*tokens.iter().max().unwrap()) / mean - 1.0
            });
            excess.sum::<f64>() / 50.0
        };
        for num_slots in [2, 64] {
            let balanced = fullest(num_slots, &|lengths| share_rows(lengths, num_slots));
            let in_turn = fullest(num_slots, &|lengths| {
                (0..lengths.len()).collect::<Vec<_>>().chunks(8).map(Vec::from).collect()
            });
            assert!(balanced < 0.012 && in_turn > 0.09, "{num_slots} slots: {balanced:.3} {in_turn:.3}");
        }
    }
}
