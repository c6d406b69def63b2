//! Softmax of one row of scores, and its gradient.
//!
//! Owns the order of its sums: lanes, then pairwise.

use crate::lanes::{self, NUM_LANES, fold};
use crate::math::exp_non_positive;
use crate::simd::widest;

/// Turns scores into probabilities; returns what [`again`] needs to do it once more: the largest score and
/// 1 / sum of the exponentials.
pub(super) fn forward(scores: &mut [f32]) -> [f32; 2] {
    widest(
        #[inline(always)]
        || {
            let max = max(scores);
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

#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; NUM_LANES];
    for chunk in values.chunks(NUM_LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    fold(lanes, larger)
}

/// Returns the sum of the products of two vectors.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; NUM_LANES];
    for (a, b) in a.chunks(NUM_LANES).zip(b.chunks(NUM_LANES)) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    fold(lanes, |a, b| a + b)
}
