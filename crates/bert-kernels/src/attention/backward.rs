//! The gradients of queries, keys and values.
//!
//! Owns the backward pass of one head of one row. Gradients of keys and values are summed over the blocks of
//! queries in their order, on one thread.

use super::scratch::{Factors, ScoresOf, Scratch, with_scratch};
use super::{Attention, Inputs, Job, for_each, softmax};
use crate::gemm::{Region, compute, round_to_bf16};
use crate::simd::widest;
use crate::simd::window::Window;

/// Where gradients go; all are overwritten.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[num_queries, num_heads, head_size]`
    pub queries: &'a mut [f32],
    /// `[num_tokens, 2, num_heads, head_size]`
    pub keys_values: &'a mut [f32],
}

/// Writes the gradients of queries, keys and values, given that of the context.
///
/// `statistics` is what [`forward`](super::forward) wrote.
///
/// # Shapes
///
/// - grad_context: `[num_queries, num_heads, head_size]`
/// - statistics: `[num_queries * num_heads * 2]`
///
/// # Panics
///
/// As [`forward`](super::forward).
pub fn backward(
    attention: Attention<'_>,
    inputs: Inputs<'_>,
    statistics: &[f32],
    grad_context: &[f32],
    gradients: Gradients<'_>,
) {
    let Gradients { queries, keys_values } = gradients;
    attention.check(inputs, &[grad_context.len(), queries.len()], statistics.len());
    let (expected, got) = (inputs.keys_values.len(), keys_values.len());
    assert_eq!(got, expected, "attention needs a gradient per key and value");
    let jobs = attention.jobs();
    let pass = Pass { attention, inputs, grad_context };
    let (statistics, _) = statistics.as_chunks::<2>();
    let queries = attention.windows_of::<1>(&jobs, |job| job.num_queries, queries);
    let keys_values = attention.windows_of::<2>(&jobs, |job| job.num_tokens, keys_values);
    let work: Vec<_> = queries.zip(keys_values).enumerate().collect();
    for_each(work, |(i, ([queries], [keys, values]))| {
        let job = jobs[i];
        let first = job.first_query * attention.num_heads + job.head_idx * job.num_queries;
        let statistics = &statistics[first..first + job.num_queries];
        with_scratch(attention.precision, |scratch| {
            pass.backward_job(&jobs[i..], statistics, [queries, keys, values], scratch)
        });
    });
}

#[derive(Clone, Copy)]
struct Pass<'a> {
    attention: Attention<'a>,
    inputs: Inputs<'a>,
    grad_context: &'a [f32],
}

impl Pass<'_> {
    /// Does the first of `jobs`, of which the second comes next.
    fn backward_job(
        &self,
        jobs: &[Job],
        statistics: &[[f32; 2]],
        [mut grad_queries, mut grad_keys, mut grad_values]: [Window<'_>; 3],
        scratch: &mut Scratch,
    ) {
        let (attention, job, num_tokens) = (&self.attention, jobs[0], jobs[0].num_tokens);
        if job.num_queries == 0 {
            for token in 0..num_tokens {
                grad_keys.row(token).fill(0.0);
                grad_values.row(token).fill(0.0);
            }
            return;
        }
        let Scratch { left, keys_turned, keys, values, block, probs, grads, factors, .. } = scratch;
        let all_keys = attention.part(job, self.inputs.keys_values, 0);
        keys_turned.pack_here(all_keys.transposed());
        keys.pack_here(all_keys);
        values.pack_here(attention.part(job, self.inputs.keys_values, 1).transposed());
        factors.begin(num_tokens);
        let block_len = attention.block_len(job);
        for (block_idx, statistics) in statistics.chunks(block_len).enumerate() {
            let (from, len) = (block_idx * block_len, statistics.len());
            let continues = block_idx > 0;
            let queries = attention.head(job, self.inputs.queries, from, len);
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
            attention.fetch(jobs, from + i, self.inputs, &[self.grad_context]);
        }
    }
}
