//! The gradients of queries, keys and values.
//!
//! Owns the backward pass of one head of one row. Gradients of keys and values are summed over the blocks of
//! queries in their order, on one thread.

use super::scratch::{Factors, ScoresOf, Scratch, with_scratch};
use super::{Attention, Job, for_each, softmax};
use crate::gemm::{Region, compute, round_to_bf16};
use crate::simd::widest;
use crate::simd::window::Window;

/// Writes the gradients of queries, keys and values, given that of the context.
///
/// `statistics` is what [`forward`](super::forward) wrote.
///
/// # Shapes
///
/// - qkv, grad_qkv: `[num_tokens, 3, num_heads, head_size]`
/// - grad_context: `[num_tokens, num_heads, head_size]`
/// - statistics: `[num_tokens * num_heads * 2]`
///
/// # Panics
///
/// As [`forward`](super::forward).
pub fn backward(
    attention: Attention<'_>,
    qkv: &[f32],
    statistics: &[f32],
    grad_context: &[f32],
    grad_qkv: &mut [f32],
) {
    let states = [qkv.len() / 3, grad_context.len(), grad_qkv.len() / 3];
    attention.check(&states, qkv.len(), statistics.len());
    assert_eq!(qkv.len(), grad_qkv.len(), "attention needs a gradient per query, key and value");
    let jobs = attention.jobs();
    let inputs = Inputs { attention, qkv, grad_context };
    let (statistics, _) = statistics.as_chunks::<2>();
    let work: Vec<_> = attention.windows_of::<3>(&jobs, grad_qkv).enumerate().collect();
    for_each(work, |(i, grads)| {
        let job = jobs[i];
        let first = job.first_token * attention.num_heads + job.head_idx * job.num_tokens;
        let statistics = &statistics[first..first + job.num_tokens];
        with_scratch(attention.precision, |scratch| {
            inputs.backward_job(&jobs[i..], statistics, grads, scratch)
        });
    });
}

#[derive(Clone, Copy)]
struct Inputs<'a> {
    attention: Attention<'a>,
    qkv: &'a [f32],
    grad_context: &'a [f32],
}

impl Inputs<'_> {
    /// Does the first of `jobs`, of which the second comes next.
    fn backward_job(
        &self,
        jobs: &[Job],
        statistics: &[[f32; 2]],
        [mut grad_queries, mut grad_keys, mut grad_values]: [Window<'_>; 3],
        scratch: &mut Scratch,
    ) {
        let (attention, job, num_tokens) = (&self.attention, jobs[0], jobs[0].num_tokens);
        let Scratch { left, keys_turned, keys, values, block, probs, grads, factors, .. } = scratch;
        let all_keys = attention.part(job, self.qkv, 1, 0, num_tokens);
        keys_turned.pack_here(all_keys.transposed());
        keys.pack_here(all_keys);
        values.pack_here(attention.part(job, self.qkv, 2, 0, num_tokens).transposed());
        factors.begin(num_tokens);
        let block_len = attention.block_len(job);
        for (block_idx, statistics) in statistics.chunks(block_len).enumerate() {
            let (from, len) = (block_idx * block_len, statistics.len());
            let continues = block_idx > 0;
            let queries = attention.part(job, self.qkv, 0, from, len);
            let grad_context = attention.head(job, self.grad_context, from, len);
            let mut probs = probs.of_shape(len, num_tokens, f32::NEG_INFINITY);
            let scores = Region::whole(probs.window(), false);
            compute(left.take(queries, false), keys_turned, scores);
            let mut grads = grads.of_shape(len, num_tokens, 0.0);
            let grad_probs = Region::whole(grads.window(), false);
            compute(left.take(grad_context, false), values, grad_probs);
            self.grad_scores(jobs, from, statistics, [&mut probs, &mut grads], factors, left.rounds());

            block.pack_here(grad_context);
            let region = Region::whole(grad_values.lend(), continues);
            compute(left.take(probs.matrix().transposed(), true), block, region);
            block.pack_here(queries);
            let region = Region::whole(grad_keys.lend(), continues);
            compute(left.take(grads.matrix().transposed(), true), block, region);
            let region = Region::whole(grad_queries.cut_rows(len), false);
            compute(left.take(grads.matrix(), true), keys, region);
        }
    }

    /// Turns scores into dropped probabilities, and gradients of those into gradients of the products of queries
    /// and keys.
    fn grad_scores(
        &self,
        jobs: &[Job],
        from: usize,
        statistics: &[[f32; 2]],
        [probs, grads]: [&mut ScoresOf<'_>; 2],
        factors: &mut Factors,
        rounds: bool,
    ) {
        let (attention, scale, job) = (&self.attention, self.attention.scale(), jobs[0]);
        for (i, statistics) in statistics.iter().enumerate() {
            let factors = attention.drop_keys(job, from + i, factors);
            let (probs, grads, statistics) = (probs.row(i), grads.row(i), *statistics);
            widest(
                #[inline(always)]
                move || {
                    if rounds {
                        softmax::backward(probs, grads, factors, statistics, scale, round_to_bf16);
                    } else {
                        softmax::backward(probs, grads, factors, statistics, scale, |value| value);
                    }
                },
            );
            attention.fetch(jobs.get(1), from + i, self.qkv, &[self.grad_context]);
        }
    }
}
