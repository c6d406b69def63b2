//! Norms that are sums over the blocks of all buckets, in block order, wherever the blocks lie.
//!
//! Owns the way from the norms of a rank's own blocks to those of all blocks. The order is that of buckets and blocks, so
//! sums do not depend on the ranks. What is done with them is decided in [`crate::step`] and [`crate::lamb`].

use std::ops::Range;

use bert_coordinator::{BucketPlan, ReducedSlice};
use bert_kernels::{among_threads, slices};

use crate::{config::OptimizerState, error::TrainError, task::TaskModel, trainer::Trainer};

/// Squared norms of the blocks inside a range of a bucket; `values` are those of the range.
pub(crate) fn squared_norms(plan: &BucketPlan, range: &Range<usize>, values: &[f32]) -> Vec<f64> {
    slices::squared_norms(&blocks_of(plan, range, values).collect::<Vec<_>>())
}

/// The values of the blocks inside a range of a bucket, from those of the range.
fn blocks_of<'a>(
    plan: &'a BucketPlan,
    range: &Range<usize>,
    values: &'a [f32],
) -> impl Iterator<Item = &'a [f32]> {
    let first = range.start;
    plan.blocks_within(range).iter().map(move |block| &values[block.offset - first..][..block.len])
}

impl<M: TaskModel> Trainer<'_, M> {
    /// Squared norms of this rank's blocks of the gradient, bucket by bucket.
    pub(crate) fn own_gradient_norms(&self, slices: &[ReducedSlice]) -> Vec<f64> {
        let buckets = self.plans.iter().zip(slices);
        let blocks = buckets.flat_map(|(plan, slice)| blocks_of(plan, &slice.range, slice.values()));
        let blocks = blocks.collect::<Vec<_>>();
        among_threads(|| slices::squared_norms(&blocks))
    }

    /// From the norms of each rank's own blocks to those of all blocks, bucket by bucket, in block order; a rank that gave
    /// fewer has none to give.
    pub(crate) fn in_block_order<T: Copy>(&self, per_rank: &[&[T]]) -> Vec<T> {
        let num_ranks = per_rank.len();
        let mut rest = per_rank.to_vec();
        let mut norms = Vec::new();
        for plan in &self.plans {
            for (rank, rest) in rest.iter_mut().enumerate() {
                let num_blocks = plan.blocks_of_rank(rank, num_ranks).len().min(rest.len());
                let (own, others) = rest.split_at(num_blocks);
                norms.extend_from_slice(own);
                *rest = others;
            }
        }
        norms
    }

    /// Gathers norms of the blocks that each rank updates, `N` per block, in block order.
    ///
    /// # Errors
    ///
    /// [`TrainError`] if a rank is gone or has fewer norms than blocks.
    pub(crate) fn gather_norms<const N: usize>(
        &self,
        own: Vec<[f64; N]>,
    ) -> Result<Vec<[f64; N]>, TrainError> {
        if self.config.distributed.optimizer_state == OptimizerState::Replicated {
            return Ok(own);
        }
        let bytes: Vec<u8> = own.iter().flatten().flat_map(|norm| norm.to_le_bytes()).collect();
        let gathered = self.coordinator.all_gather_bytes("norms of the parameters", &bytes)?;
        let number = |bytes: &[u8; 8]| f64::from_le_bytes(*bytes);
        let of_rank = |bytes: &Vec<u8>| -> Vec<[f64; N]> {
            let numbers: Vec<f64> = bytes.as_chunks::<8>().0.iter().map(number).collect();
            numbers.as_chunks::<N>().0.to_vec()
        };
        let per_rank: Vec<_> = gathered.iter().map(of_rank).collect();
        let norms = self.in_block_order(&per_rank.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let num_blocks: usize = self.plans.iter().map(|plan| plan.blocks().len()).sum();
        if norms.len() != num_blocks {
            let message = format!("the ranks sent norms of {} blocks, there are {num_blocks}", norms.len());
            return Err(TrainError::Setup(message));
        }
        Ok(norms)
    }

    /// The norm of all parameters, from those of the own blocks.
    ///
    /// # Errors
    ///
    /// As [`Trainer::gather_norms`].
    pub(crate) fn norm_of_parameters(&self, own: Vec<f64>) -> Result<f64, TrainError> {
        let norms = self.gather_norms(own.into_iter().map(|norm| [norm]).collect())?;
        let mut norms = norms.into_iter().flatten();
        let of_bucket = |plan: &BucketPlan| norms.by_ref().take(plan.blocks().len()).sum::<f64>();
        Ok(self.plans.iter().map(of_bucket).sum::<f64>().sqrt())
    }
}

#[cfg(test)]
mod tests {
    use bert_coordinator::Block;

    use super::*;

    #[test]
    fn parts_have_the_norms_of_the_whole() {
        let plan = BucketPlan::from_tensor_lens(&[40_000, 5, 20_000]);
        let values: Vec<f32> = (0..60_005).map(|idx| (idx % 113) as f32 - 50.0).collect();
        let whole = squared_norms(&plan, &(0..60_005), &values);
        assert_eq!(whole.len(), plan.blocks().len());
        let parts: Vec<f64> = (0..3)
            .map(|rank| plan.slice_of_rank(rank, 3))
            .flat_map(|range| squared_norms(&plan, &range, &values[range.clone()]))
            .collect();
        assert_eq!(parts, whole);
        assert_eq!(plan.blocks_within(&(40_000..40_005)), [Block { offset: 40_000, len: 5 }]);
        assert!(plan.blocks_within(&(60_005..60_005)).is_empty());
    }
}
