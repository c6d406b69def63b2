//! The gradients of queries, keys and values.
//!
//! Owns the backward pass of one head of one row. Gradients of keys and values are summed over the blocks of
//! queries in their order, on one thread.

use super::{Attention, Job, Scratch, for_each, grown, softmax, with_scratch};
use crate::gemm::{Matrix, Region, compute};
use crate::lanes;
use crate::simd::widest;

/// Writes the gradients of queries, keys and values, given that of the context.
///
/// `context` and `statistics` are what [`forward`](super::forward) wrote.
///
/// # Shapes
///
/// - qkv, grad_qkv: `[num_tokens, 3, num_heads, head_size]`
/// - context, grad_context: `[num_tokens, num_heads, head_size]`
/// - statistics: `[num_tokens * num_heads * 2]`
///
/// # Panics
///
/// As [`forward`](super::forward).
pub fn backward(
    attention: Attention<'_>,
    qkv: &[f32],
    context: &[f32],
    statistics: &[f32],
    grad_context: &[f32],
    grad_qkv: &mut [f32],
) {
    let states = [qkv.len() / 3, context.len(), grad_context.len(), grad_qkv.len() / 3];
    attention.check(&states, qkv.len(), statistics.len());
    assert_eq!(qkv.len(), grad_qkv.len(), "attention needs a gradient per query, key and value");
    let jobs = attention.jobs();
    let grads = attention.rows_by_head::<3>(&jobs, grad_qkv, 3);
    let inputs = Inputs { attention, qkv, context, grad_context };
    let (statistics, _) = statistics.as_chunks::<2>();
    let work: Vec<_> = jobs.into_iter().zip(grads).collect();
    for_each(work, |(job, grads)| {
        let first = job.first_token * attention.num_heads + job.head_idx * job.num_tokens;
        let statistics = &statistics[first..first + job.num_tokens];
        with_scratch(attention.precision, |scratch| inputs.backward_job(job, statistics, grads, scratch));
    });
}

#[derive(Clone, Copy)]
struct Inputs<'a> {
    attention: Attention<'a>,
    qkv: &'a [f32],
    context: &'a [f32],
    grad_context: &'a [f32],
}

impl Inputs<'_> {
    fn backward_job(
        &self,
        job: Job,
        statistics: &[[f32; 2]],
        [grad_queries, mut grad_keys, mut grad_values]: [Vec<[&mut [f32]; 1]>; 3],
        scratch: &mut Scratch,
    ) {
        let (attention, num_tokens) = (&self.attention, job.num_tokens);
        let keys = attention.part(job, self.qkv, 1, 0, num_tokens);
        scratch.keys_turned.pack_here(keys.transposed());
        scratch.keys.pack_here(keys);
        scratch.values.pack_here(attention.part(job, self.qkv, 2, 0, num_tokens).transposed());
        let mut grad_queries = grad_queries.into_iter();
        let block_len = attention.block_len(job);
        for (block_idx, statistics) in statistics.chunks(block_len).enumerate() {
            let (from, len) = (block_idx * block_len, statistics.len());
            let continues = block_idx > 0;
            attention.scores(job, self.qkv, from, len, scratch);
            let grad_context = attention.head(job, self.grad_context, from, len);
            scratch.left.pack_here(grad_context);
            let grads = grown(&mut scratch.grads, len * num_tokens);
            compute(&scratch.left, &scratch.values, Region::whole(grads, num_tokens), &|_, _, _| {});
            let probs = &mut scratch.probs[..len * num_tokens];
            self.grad_scores(job, from, statistics, probs, grads);

            scratch.block.pack_here(grad_context);
            scratch.left.pack_here(Matrix::new(probs, len, num_tokens).transposed());
            add(scratch, &mut grad_values, continues);
            scratch.block.pack_here(attention.part(job, self.qkv, 0, from, len));
            let grads = Matrix::new(&scratch.grads[..len * num_tokens], len, num_tokens);
            scratch.left.pack_here(grads.transposed());
            add(scratch, &mut grad_keys, continues);
            let grads = Matrix::new(&scratch.grads[..len * num_tokens], len, num_tokens);
            scratch.left.pack_here(grads);
            let rows = Region::of_rows(grad_queries.by_ref().take(len).collect());
            compute(&scratch.left, &scratch.keys, rows, &|_, _, _| {});
        }
    }

    /// Turns scores into dropped probabilities, and gradients of those into gradients of the products of queries
    /// and keys.
    ///
    /// The sum over a softmax's gradients is `grad_context · context` of the query, dropout included.
    fn grad_scores(
        &self,
        job: Job,
        from: usize,
        statistics: &[[f32; 2]],
        probs: &mut [f32],
        grads: &mut [f32],
    ) {
        let (attention, scale) = (&self.attention, self.attention.scale());
        let (width, size) = (attention.width(), attention.head_size);
        let queries = probs.chunks_exact_mut(job.num_tokens).zip(grads.chunks_exact_mut(job.num_tokens));
        for (i, ((probs, grads), statistics)) in queries.zip(statistics).enumerate() {
            let first = (job.first_token + from + i) * width + job.head_idx * size;
            let (context, grad_context) =
                (&self.context[first..first + size], &self.grad_context[first..first + size]);
            attention.drop_keys(job, from + i, grads);
            widest(
                #[inline(always)]
                || {
                    softmax::again(probs, *statistics);
                    softmax::backward(probs, lanes::dot(context, grad_context), scale, grads);
                },
            );
            attention.drop_keys(job, from + i, probs);
        }
    }
}

/// Adds the product of the packed left operand and block to `rows`, or begins with it.
fn add(scratch: &Scratch, rows: &mut [[&mut [f32]; 1]], continues: bool) {
    let rows = rows.iter_mut().map(|[row]| [&mut **row]).collect();
    let region = Region { continues, ..Region::of_rows(rows) };
    compute(&scratch.left, &scratch.block, region, &|_, _, _| {});
}
