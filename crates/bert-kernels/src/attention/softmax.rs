//! Softmax of one row of scores, and its gradient.
//!
//! Owns the order of its sums: lanes, then pairwise.

use crate::lanes;
use crate::math::exp_non_positive;
use crate::simd::widest;

/// Turns scores into probabilities; returns what [`again`] needs to do it once more: the largest score and
/// 1 / sum of the exponentials.
pub(super) fn forward(scores: &mut [f32]) -> [f32; 2] {
    widest(
        #[inline(always)]
        || {
            let max = lanes::max(scores);
            for score in scores.iter_mut() {
                *score = exp_non_positive(*score - max);
            }
            let scale = 1.0 / lanes::sum(scores, |exp| exp);
            for exp in scores.iter_mut() {
                *exp *= scale;
            }
            [max, scale]
        },
    )
}

/// Turns the same scores into the same probabilities.
#[inline(always)]
pub(super) fn again(scores: &mut [f32], [max, scale]: [f32; 2]) {
    for score in scores {
        *score = exp_non_positive(*score - max) * scale;
    }
}

/// Turns the gradient of the probabilities into that of the scores before they were scaled: `scale * p * (g - sum)`,
/// where `sum` is that of all `g * p`.
#[inline(always)]
pub(super) fn backward(probs: &[f32], sum: f32, scale: f32, gradient: &mut [f32]) {
    for (gradient, prob) in gradient.iter_mut().zip(probs) {
        *gradient = scale * (prob * (*gradient - sum));
    }
}
