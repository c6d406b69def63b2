//! How a bucket of gradients is cut: blocks for norms, slices for ranks.
//!
//! Knows lengths only: no parameter names, no values. Block borders depend on the tensors alone,
//! so a norm summed block by block has the same bits for every number of ranks.

use std::fmt;
use std::ops::Range;

use crate::fingerprint::Fingerprint;

/// Longest block, in elements. The number is part of the numerical result: norms are summed per block.
pub const NORM_BLOCK_LEN: usize = 16_384;

/// A run of elements of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// First element, counted from the start of the bucket.
    pub offset: usize,
    /// Number of elements, at least 1 and at most [`NORM_BLOCK_LEN`].
    pub len: usize,
}

/// The cut of one bucket. Equal on every rank; compared by `Display` before the first step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketPlan {
    blocks: Vec<Block>,
    num_elements: usize,
}

impl BucketPlan {
    /// Plans a bucket that holds tensors of these lengths (in elements), one after another.
    ///
    /// Blocks never cross a tensor border. A tensor without elements has no block.
    pub fn from_tensor_lens(tensor_lens: &[usize]) -> BucketPlan {
        let mut blocks = Vec::new();
        let mut offset = 0;
        for &tensor_len in tensor_lens {
            let end = offset + tensor_len;
            while offset < end {
                let len = NORM_BLOCK_LEN.min(end - offset);
                blocks.push(Block { offset, len });
                offset += len;
            }
        }
        BucketPlan { blocks, num_elements: offset }
    }

    /// All blocks, by offset, without gaps.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Elements of the whole bucket.
    pub fn num_elements(&self) -> usize {
        self.num_elements
    }

    /// Returns the `num_ranks + 1` borders of the ranks' slices, in elements.
    ///
    /// Rank `r` owns `bounds[r]..bounds[r + 1]`. Borders are the block borders nearest to equal
    /// shares, so slices differ by less than two blocks; with fewer blocks than ranks some are empty.
    ///
    /// # Panics
    ///
    /// If `num_ranks` is 0.
    pub fn slice_bounds(&self, num_ranks: usize) -> Vec<usize> {
        assert!(num_ranks > 0, "slices for no ranks");
        (0..=num_ranks).map(|rank| self.border_near(self.equal_share(rank, num_ranks))).collect()
    }

    /// Returns the elements that `rank` of `num_ranks` owns.
    ///
    /// # Panics
    ///
    /// If `rank >= num_ranks`.
    pub fn slice_of_rank(&self, rank: usize, num_ranks: usize) -> Range<usize> {
        assert!(rank < num_ranks, "rank {rank} of {num_ranks}");
        let border = |rank| self.border_near(self.equal_share(rank, num_ranks));
        border(rank)..border(rank + 1)
    }

    /// Returns the blocks inside the slice of `rank` of `num_ranks`.
    ///
    /// # Panics
    ///
    /// If `rank >= num_ranks`.
    pub fn blocks_of_rank(&self, rank: usize, num_ranks: usize) -> &[Block] {
        self.blocks_within(&self.slice_of_rank(rank, num_ranks))
    }

    /// Returns the blocks of a range whose ends are ends of blocks.
    pub fn blocks_within(&self, range: &Range<usize>) -> &[Block] {
        let index = |border| self.blocks.partition_point(|block| block.offset < border);
        &self.blocks[index(range.start)..index(range.end)]
    }

    /// A stable 64-bit hash of the cut.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fingerprint::new();
        for block in &self.blocks {
            hash.number(block.offset as u64);
            hash.number(block.len as u64);
        }
        hash.finish()
    }

    fn equal_share(&self, rank: usize, num_ranks: usize) -> usize {
        (self.num_elements as u128 * rank as u128 / num_ranks as u128) as usize
    }

    /// The block border nearest to `element`; the lower one of two equally near.
    fn border_near(&self, element: usize) -> usize {
        let above = self.blocks.partition_point(|block| block.offset < element);
        let border = |idx: usize| self.blocks.get(idx).map_or(self.num_elements, |block| block.offset);
        let (low, high) = (border(above.saturating_sub(1)), border(above));
        if element - low <= high - element { low } else { high }
    }
}

impl fmt::Display for BucketPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (elements, blocks) = (self.num_elements, self.blocks.len());
        write!(f, "{elements} elements in {blocks} blocks, layout {:016x}", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_tile_the_bucket_and_never_cross_a_tensor(
            tensor_lens in prop::collection::vec(0usize..70_000, 0..12)
        ) {
            let plan = BucketPlan::from_tensor_lens(&tensor_lens);
            let mut borders = vec![0];
            for len in &tensor_lens {
                borders.push(borders.last().unwrap() + len);
            }
            let mut next = 0;
            for block in plan.blocks() {
                prop_assert_eq!(block.offset, next);
                prop_assert!((1..=NORM_BLOCK_LEN).contains(&block.len));
                next += block.len;
                prop_assert!(!borders.iter().any(|b| block.offset < *b && *b < next));
            }
            prop_assert_eq!(next, plan.num_elements());
            prop_assert_eq!(next, tensor_lens.iter().sum::<usize>());
        }

        #[test]
        fn slices_tile_the_bucket_at_block_borders(
            tensor_lens in prop::collection::vec(0usize..70_000, 0..12), num_ranks in 1usize..20
        ) {
            let plan = BucketPlan::from_tensor_lens(&tensor_lens);
            let bounds = plan.slice_bounds(num_ranks);
            prop_assert_eq!(bounds.len(), num_ranks + 1);
            prop_assert_eq!((bounds[0], bounds[num_ranks]), (0, plan.num_elements()));
            let mut blocks = Vec::new();
            for rank in 0..num_ranks {
                let slice = plan.slice_of_rank(rank, num_ranks);
                prop_assert_eq!(slice.clone(), bounds[rank]..bounds[rank + 1]);
                prop_assert!(slice.len() < plan.num_elements() / num_ranks + 2 * NORM_BLOCK_LEN);
                let own = plan.blocks_of_rank(rank, num_ranks);
                prop_assert_eq!(own.iter().map(|b| b.len).sum::<usize>(), slice.len());
                prop_assert!(own.iter().all(|b| slice.contains(&b.offset)));
                blocks.extend_from_slice(own);
            }
            prop_assert_eq!(&blocks[..], plan.blocks());
        }
    }

    #[test]
    fn borders_are_the_nearest_block_borders() {
        // Blocks start at 0, 10, 40, 50; half of 60 is 30, nearer to 40 than to 10.
        let plan = BucketPlan::from_tensor_lens(&[10, 30, 10, 10]);
        assert_eq!(plan.slice_bounds(2), [0, 40, 60]);
        assert_eq!(plan.slice_bounds(1), [0, 60]);
        assert_eq!(BucketPlan::from_tensor_lens(&[]).slice_bounds(3), [0, 0, 0, 0]);
        assert_eq!(BucketPlan::from_tensor_lens(&[5]).slice_bounds(3).last(), Some(&5));
    }

    #[test]
    fn another_cut_has_another_name() {
        let a = BucketPlan::from_tensor_lens(&[10, 30]).to_string();
        let b = BucketPlan::from_tensor_lens(&[30, 10]).to_string();
        assert_ne!(a, b);
        assert!(a.starts_with("40 elements in 2 blocks, layout "), "{a}");
    }
}
