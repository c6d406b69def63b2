//! Softmax of one row of scores with scale and dropout, and its gradient.
//!
//! Owns the order of its sums: lanes, then pairwise. Rows consist of whole lanes.

use crate::gemm::round_to_bf16;
use crate::lanes::{self, NUM_LANES};
use crate::math::exp_non_positive;
use crate::simd::widest;

/// Returns the largest score, multiplied by `scale`.
pub(super) fn max(scores: &[f32], scale: f32) -> f32 {
    widest(
        #[inline(always)]
        || {
            // A positive factor and rounding keep the order, so this is the largest of the scaled scores.
            lanes::max(scores) * scale
        },
    )
}

/// Turns scores, which are to be multiplied by `scale`, into exponentials above `max` times their factors, and returns
/// 1 / sum of the exponentials: what is still missing to probabilities, and what [`backward`] needs.
pub(super) fn forward(scores: &mut [f32], max: f32, scale: f32, factors: &[f32], rounds: bool) -> f32 {
    widest(
        #[inline(always)]
        move || {
            if rounds {
                exponentials(scores, max, scale, factors, round_to_bf16)
            } else {
                exponentials(scores, max, scale, factors, |value| value)
            }
        },
    )
}

#[inline(always)]
fn exponentials(
    scores: &mut [f32],
    max: f32,
    scale: f32,
    factors: &[f32],
    cast: impl Fn(f32) -> f32 + Copy,
) -> f32 {
    let mut sums = [0.0; NUM_LANES];
    let (scores, _) = scores.as_chunks_mut::<NUM_LANES>();
    for (scores, factors) in scores.iter_mut().zip(factors.as_chunks::<NUM_LANES>().0) {
        for ((score, sum), factor) in scores.iter_mut().zip(&mut sums).zip(factors) {
            let exp = exp_non_positive(*score * scale - max);
            *sum += exp;
            *score = cast(exp * factor);
        }
    }
    1.0 / lanes::fold(sums, |a, b| a + b)
}

/// Turns the same scores into probabilities times their factors, and the gradient of those into that of the scores
/// before they were scaled: `scale * p * (f * g - sum)`, where `sum` is that of all `f * g * p`.
///
/// The sum is taken of the very values that it is subtracted from, so that what those have in common, rounding included, cancels:
/// gradients of scores are small differences of large numbers, and those of a query must add up to 0.
#[inline(always)]
pub(super) fn backward(
    scores: &mut [f32],
    gradient: &mut [f32],
    factors: &[f32],
    [max, factor]: [f32; 2],
    scale: f32,
    cast: impl Fn(f32) -> f32 + Copy,
) {
    let (scores, _) = scores.as_chunks_mut::<NUM_LANES>();
    let (gradient, _) = gradient.as_chunks_mut::<NUM_LANES>();
    let (factors, _) = factors.as_chunks::<NUM_LANES>();
    let mut sums = [0.0; NUM_LANES];
    for ((scores, gradient), factors) in scores.iter_mut().zip(&mut *gradient).zip(factors) {
        for (((score, gradient), keep), sum) in scores.iter_mut().zip(gradient).zip(factors).zip(&mut sums) {
            *score = exp_non_positive(*score * scale - max) * factor;
            *gradient *= keep;
            *sum += *score * *gradient;
        }
    }
    let sum = lanes::fold(sums, |a, b| a + b);
    for ((scores, gradient), factors) in scores.iter_mut().zip(gradient).zip(factors) {
        for ((score, gradient), keep) in scores.iter_mut().zip(gradient).zip(factors) {
            *gradient = cast(scale * (*score * (*gradient - sum)));
            *score = cast(*score * keep);
        }
    }
}
