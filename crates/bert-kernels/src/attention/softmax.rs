//! Softmax of one row of scores with scale and dropout, and its gradient.
//!
//! Owns the order of its sums: lanes, then pairwise. Rows consist of whole lanes.

use crate::gemm::round_to_bf16;
use crate::lanes::{self, NUM_LANES};
use crate::math::exp_non_positive;
use crate::simd::widest;

/// Turns scores, which are to be multiplied by `scale`, into probabilities times their factors. Returns what
/// [`backward`] needs to do it once more: the largest scaled score and 1 / sum of the exponentials.
pub(super) fn forward(scores: &mut [f32], scale: f32, factors: &[f32], rounds: bool) -> [f32; 2] {
    widest(
        #[inline(always)]
        || {
            // A positive factor and rounding keep the order, so this is the largest of the scaled scores.
            let max = lanes::max(scores) * scale;
            let (scores, _) = scores.as_chunks_mut::<NUM_LANES>();
            let mut sums = [0.0; NUM_LANES];
            for scores in scores.iter_mut() {
                for (score, sum) in scores.iter_mut().zip(&mut sums) {
                    *score = exp_non_positive(*score * scale - max);
                    *sum += *score;
                }
            }
            let factor = 1.0 / lanes::fold(sums, |a, b| a + b);
            for (exps, factors) in scores.iter_mut().zip(factors.as_chunks::<NUM_LANES>().0) {
                for (exp, keep) in exps.iter_mut().zip(factors) {
                    *exp = rounded(*exp * factor * keep, rounds);
                }
            }
            [max, factor]
        },
    )
}

/// Turns the same scores into the same probabilities times their factors, and the gradient of those into that of the
/// scores before they were scaled: `scale * p * (f * g - sum)`, where `sum` is that of all `f * g * p`.
#[inline(always)]
pub(super) fn backward(
    scores: &mut [f32],
    gradient: &mut [f32],
    factors: &[f32],
    [max, factor]: [f32; 2],
    sum: f32,
    scale: f32,
    rounds: bool,
) {
    let (scores, _) = scores.as_chunks_mut::<NUM_LANES>();
    let (gradient, _) = gradient.as_chunks_mut::<NUM_LANES>();
    let (factors, _) = factors.as_chunks::<NUM_LANES>();
    for ((scores, gradient), factors) in scores.iter_mut().zip(gradient).zip(factors) {
        for ((score, gradient), keep) in scores.iter_mut().zip(gradient).zip(factors) {
            let prob = exp_non_positive(*score * scale - max) * factor;
            *gradient = rounded(scale * (prob * (*gradient * keep - sum)), rounds);
            *score = rounded(prob * keep, rounds);
        }
    }
}

#[inline(always)]
fn rounded(value: f32, rounds: bool) -> f32 {
    if rounds { round_to_bf16(value) } else { value }
}
