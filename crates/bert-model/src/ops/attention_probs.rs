//! Softmax of attention scores over the real tokens of each sequence; padding gets probability 0.
//!
//! The same as adding a mask of minus infinity before an ordinary softmax.

use std::sync::Arc;

use bert_kernels::math::exp_non_positive;
use burn::backend::{
    TensorMetadata,
    autodiff::{
        checkpoint::base::Checkpointer,
        grads::Gradients,
        ops::{Backward, Ops},
    },
    tensor::FloatTensor,
};
use rayon::prelude::*;

use super::raw::Raw;

/// Sums run over this many interleaved lanes, then over the lanes: a fixed order that the compiler can vectorise.
const LANES: usize = 16;

/// Computes probabilities from scores, in place if possible.
///
/// # Shapes
///
/// - scores, output: `[num_rows, heads, row_len, row_len]`
/// - row_lengths: `[num_rows]`
pub(super) fn forward<B: Raw>(scores: FloatTensor<B>, row_lengths: &Arc<[u32]>) -> FloatTensor<B> {
    let shape = scores.shape();
    let (num_queries, row_len) = (shape[1] * shape[2], shape[3]);
    let mut probs = B::contiguous(scores);
    B::values_mut(&mut probs)
        .par_chunks_mut(num_queries * row_len)
        .zip(row_lengths.par_iter())
        .for_each(|(row, &length)| row.chunks_exact_mut(row_len).for_each(|q| softmax(q, length as usize)));
    probs
}

#[derive(Debug)]
pub(super) struct AttentionProbsBackward;

impl<B: Raw> Backward<B, 1> for AttentionProbsBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = B::contiguous(grads.consume::<B>(&ops.node));
        let [scores_node] = ops.parents;
        let shape = ops.state.shape();
        let (num_queries, row_len) = (shape[1] * shape[2], shape[3]);
        let probs = B::values(&ops.state);
        let gradients = B::values_mut(&mut gradient);
        let chunk = num_queries * row_len;
        gradients.par_chunks_mut(chunk).zip(probs.par_chunks(chunk)).for_each(|(gradients, probs)| {
            let queries = gradients.chunks_exact_mut(row_len).zip(probs.chunks_exact(row_len));
            queries.for_each(|(gradients, probs)| softmax_backward(gradients, probs));
        });
        if let Some(node) = scores_node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

fn softmax(scores: &mut [f32], length: usize) {
    let (real, padding) = scores.split_at_mut(length);
    let max = lanes(real, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    real.iter_mut().for_each(|score| *score = exp_non_positive(*score - max));
    let scale = 1.0 / lanes(real, 0.0, |a, b| a + b);
    real.iter_mut().for_each(|prob| *prob *= scale);
    padding.fill(0.0);
}

/// Turns the gradient of the probabilities into that of the scores: `p * (g - Σ g·p)`.
fn softmax_backward(gradients: &mut [f32], probs: &[f32]) {
    gradients.iter_mut().zip(probs).for_each(|(g, p)| *g *= p);
    let sum = lanes(gradients, 0.0, |a, b| a + b);
    gradients.iter_mut().zip(probs).for_each(|(g, p)| *g -= p * sum);
}

/// Folds a slice in a fixed order: element `i` into lane `i % LANES`, then the lanes from first to last.
#[inline(always)]
fn lanes(values: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane = fold(*lane, value));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &value)| *lane = fold(*lane, value));
    lanes.into_iter().fold(start, fold)
}
