//! The one binary tree in which gradients are summed, whoever owns the slots.
//!
//! [`SlotTree`] adds the slots of one rank, [`rank_tree_sum`] continues with the partial sums of
//! all ranks. Both have the shape of a binary counter: neighbours of equal height are merged, what
//! is left over is merged from the right. A run of slots that is aligned and a power of two long
//! is therefore one subtree, and the bits do not depend on where the rank borders lie.
//! Nothing here scales, averages or sends.

/// Elements summed per pass by [`rank_tree_sum`]: all ranks' parts stay in the cache.
pub(crate) const PASS_LEN: usize = 4096;

/// A finished subtree: the sum over `2^height` neighbouring slots.
struct Subtree {
    height: u32,
    values: Vec<f32>,
}

/// Sums equally long vectors, pushed in slot order, in a fixed binary tree.
///
/// Holds at most `log2(slots) + 1` vectors. Vectors that are no longer needed are kept for
/// [`SlotTree::take_buffer`], so a training step allocates nothing after the first.
#[derive(Default)]
pub struct SlotTree {
    subtrees: Vec<Subtree>,
    spare: Vec<Vec<f32>>,
    len: Option<usize>,
}

impl SlotTree {
    /// Creates an empty tree; its first vector decides the length.
    pub fn new() -> SlotTree {
        SlotTree::default()
    }

    /// Adds the vector of the next slot.
    ///
    /// # Panics
    ///
    /// If `values` is not as long as the vectors before it.
    #[track_caller]
    pub fn push(&mut self, values: Vec<f32>) {
        self.check_len(values.len());
        self.subtrees.push(Subtree { height: 0, values });
        self.merge_equal_heights();
    }

    /// Returns the sum over all pushed slots and leaves the tree empty, ready for the next step.
    ///
    /// # Panics
    ///
    /// If nothing was pushed.
    #[track_caller]
    pub fn finish(&mut self) -> Vec<f32> {
        self.len = None;
        let mut sum = self.subtrees.pop().expect("at least one slot was pushed before finish").values;
        while let Some(mut left) = self.subtrees.pop() {
            add_assign(&mut left.values, &sum);
            self.spare.push(std::mem::replace(&mut sum, left.values));
        }
        sum
    }

    /// Returns a vector of earlier use, of any length and content, or an empty one.
    pub fn take_buffer(&mut self) -> Vec<f32> {
        self.spare.pop().unwrap_or_default()
    }

    /// Number of values that the vector [`SlotTree::take_buffer`] returns can hold without more memory.
    pub fn spare_capacity(&self) -> usize {
        self.spare.last().map_or(0, Vec::capacity)
    }

    /// Gives a vector back for later use by this tree.
    pub fn give_back(&mut self, buffer: Vec<f32>) {
        self.spare.push(buffer);
    }

    #[track_caller]
    fn check_len(&mut self, got: usize) {
        let expected = *self.len.get_or_insert(got);
        assert_eq!(got, expected, "all slots of a tree have equally long vectors");
    }

    fn merge_equal_heights(&mut self) {
        while let [.., left, right] = self.subtrees.as_mut_slice()
            && left.height == right.height
        {
            add_assign(&mut left.values, &right.values);
            left.height += 1;
            let merged = self.subtrees.pop().expect("the right subtree was just matched");
            self.spare.push(merged.values);
        }
    }
}

/// Adds the partial sums of all ranks, in the upper levels of the tree over slots.
///
/// `parts` holds `num_ranks` parts of `out.len()` elements each, in rank order; it is used as
/// working space. Runs for every number of ranks, in an order that depends on it alone.
///
/// # Panics
///
/// If `num_ranks` is 0 or `parts.len() != num_ranks * out.len()`.
pub fn rank_tree_sum(parts: &mut [f32], num_ranks: usize, out: &mut [f32]) {
    let part_len = out.len();
    assert!(num_ranks > 0, "a sum over no ranks");
    assert_eq!(parts.len(), num_ranks * part_len, "one part of {part_len} elements per rank");
    for (pass_idx, out) in out.chunks_mut(PASS_LEN).enumerate() {
        let start = pass_idx * PASS_LEN;
        let mut stride = 1;
        while 2 * stride < num_ranks {
            for left in (0..num_ranks - stride).step_by(2 * stride) {
                let (head, tail) = parts.split_at_mut((left + stride) * part_len);
                let left = &mut head[left * part_len + start..][..out.len()];
                add_assign(left, &tail[start..][..out.len()]);
            }
            stride *= 2;
        }
        let first = &parts[start..][..out.len()];
        if num_ranks == 1 {
            out.copy_from_slice(first);
            continue;
        }
        // The root goes straight to its place: the parts are not written once more.
        let last = &parts[stride * part_len + start..][..out.len()];
        for (out, (first, last)) in out.iter_mut().zip(first.iter().zip(last)) {
            *out = first + last;
        }
    }
}

/// [`rank_tree_sum`] where the own part stands apart and becomes the sum; the own one of `parts` means nothing.
///
/// # Panics
///
/// As [`rank_tree_sum`], and if `rank` is not below `num_ranks`.
pub(crate) fn rank_tree_sum_into_own(parts: &mut [f32], rank: usize, num_ranks: usize, own: &mut [f32]) {
    let part_len = own.len();
    assert!(rank < num_ranks, "a sum of rank {rank} over {num_ranks} ranks");
    assert_eq!(parts.len(), num_ranks * part_len, "one part of {part_len} elements per rank");
    if num_ranks == 1 || part_len == 0 {
        return;
    }
    let mut parts: Vec<&mut [f32]> = parts.chunks_exact_mut(part_len).collect();
    parts[rank] = own;
    for start in (0..part_len).step_by(PASS_LEN) {
        let pass = start..part_len.min(start + PASS_LEN);
        let mut stride = 1;
        while 2 * stride < num_ranks {
            for left in (0..num_ranks - stride).step_by(2 * stride) {
                let (head, tail) = parts.split_at_mut(left + stride);
                add_assign(&mut head[left][pass.clone()], &tail[0][pass.clone()]);
            }
            stride *= 2;
        }
        // The root, in the own place: it is one of the two operands, or was used up on the way.
        let (head, tail) = parts.split_at_mut(stride);
        if rank == 0 {
            add_assign(&mut head[0][pass.clone()], &tail[0][pass]);
        } else if rank == stride {
            // Of two numbers the order does not matter.
            add_assign(&mut tail[0][pass.clone()], &head[0][pass]);
        } else {
            let [first, last, own] =
                parts.get_disjoint_mut([0, stride, rank]).expect("three places below num_ranks");
            let operands = first[pass.clone()].iter().zip(&last[pass.clone()]);
            own[pass].iter_mut().zip(operands).for_each(|(own, (first, last))| *own = first + last);
        }
    }
}

fn add_assign(left: &mut [f32], right: &[f32]) {
    for (left, right) in left.iter_mut().zip(right) {
        *left += right;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::world::{World, slots_of_rank, sums_like_one_rank};

    /// The tree written as a recursion: the largest power of two below `slots.len()` goes left.
    fn reference(slots: &[f32]) -> f32 {
        if slots.len() == 1 {
            return slots[0];
        }
        let left = slots.len().next_power_of_two() / 2;
        reference(&slots[..left]) + reference(&slots[left..])
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    /// Sums the slots as `num_ranks` ranks do: one tree per rank, then the rank tree.
    fn sum_over_ranks(slots: &[Vec<f32>], num_ranks: usize) -> Vec<f32> {
        let len = slots[0].len();
        let mut parts = Vec::new();
        for rank in 0..num_ranks {
            let own = slots_of_rank(slots.len(), World::new(rank, num_ranks).unwrap()).unwrap();
            let mut tree = SlotTree::new();
            for slot in own {
                tree.push(slots[slot].clone());
            }
            parts.extend(tree.finish());
        }
        let mut out = vec![f32::NAN; len];
        rank_tree_sum(&mut parts, num_ranks, &mut out);
        out
    }

    /// Values of very different size: sums in another order have other bits.
    fn slots(num_slots: usize, len: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        let value = (-1.0f32..1.0, -12i32..12).prop_map(|(m, e)| m * 2f32.powi(e));
        prop::collection::vec(prop::collection::vec(value, len), num_slots)
    }

    proptest! {
        #[test]
        fn bits_do_not_depend_on_the_rank_count(
            slots in (0u32..7, 1usize..9).prop_flat_map(|(log2, len)| slots(1 << log2, len))
        ) {
            let one = sum_over_ranks(&slots, 1);
            for num_ranks in [2, 4, 8, 16, 32, 64].into_iter().filter(|p| *p <= slots.len()) {
                prop_assert_eq!(bits(&sum_over_ranks(&slots, num_ranks)), bits(&one));
            }
        }

        #[test]
        fn bits_are_equal_wherever_the_predicate_promises_it(
            slots in (1usize..49, 1usize..4).prop_flat_map(|(num_slots, len)| slots(num_slots, len))
        ) {
            let one = sum_over_ranks(&slots, 1);
            let expected: Vec<f32> =
                (0..one.len()).map(|i| reference(&slots.iter().map(|s| s[i]).collect::<Vec<_>>())).collect();
            prop_assert_eq!(bits(&one), bits(&expected));
            for num_ranks in (2..=slots.len()).filter(|p| sums_like_one_rank(slots.len(), *p)) {
                prop_assert_eq!(bits(&sum_over_ranks(&slots, num_ranks)), bits(&one));
            }
        }
    }

    #[test]
    fn the_sum_in_the_own_place_has_the_same_bits() {
        for (num_ranks, len) in [(1, 5), (2, 7), (3, 5), (4, 2 * PASS_LEN + 3), (6, 9), (8, 4), (2, 0)] {
            let value = |i: usize| (i * 7919 % 65_521) as f32 * 2f32.powi((i % 29) as i32 - 14);
            let parts: Vec<f32> = (0..num_ranks * len).map(value).collect();
            let mut expected = vec![f32::NAN; len];
            rank_tree_sum(&mut parts.clone(), num_ranks, &mut expected);
            for rank in 0..num_ranks {
                let place = rank * len..(rank + 1) * len;
                let (mut own, mut others) = (parts[place.clone()].to_vec(), parts.clone());
                others[place].fill(f32::NAN);
                rank_tree_sum_into_own(&mut others, rank, num_ranks, &mut own);
                assert_eq!(bits(&own), bits(&expected), "rank {rank} of {num_ranks}");
            }
        }
    }

    #[test]
    fn the_rank_tree_works_across_passes_and_without_elements() {
        let len = 2 * PASS_LEN + 3;
        let mut parts: Vec<f32> = (0..5 * len).map(|i| (i / len + 1) as f32).collect();
        let mut out = vec![0.0; len];
        rank_tree_sum(&mut parts, 5, &mut out);
        assert!(out.iter().all(|v| *v == 15.0));
        rank_tree_sum(&mut [], 3, &mut []);
    }

    #[test]
    fn buffers_are_reused_from_step_to_step() {
        let mut tree = SlotTree::new();
        let mut seen = std::collections::HashSet::new();
        for _step in 0..10 {
            for _slot in 0..8 {
                let mut slot = tree.take_buffer();
                slot.clear();
                slot.resize(7, 1.0);
                tree.push(slot);
            }
            let sum = tree.finish();
            assert_eq!(sum, [8.0; 7]);
            seen.insert(sum.as_ptr() as usize);
            tree.give_back(sum);
        }
        assert!(seen.len() <= 4, "log2(8) + 1 vectors serve all steps, got {}", seen.len());
    }

    #[test]
    #[should_panic(expected = "equally long")]
    fn another_length_is_refused() {
        let mut tree = SlotTree::new();
        tree.push(vec![0.0; 4]);
        tree.push(vec![0.0; 5]);
    }
}
