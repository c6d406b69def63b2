//! AdamW on flat slices: Adam with decoupled weight decay.
//!
//! Owns one step of the update rule. Which parameters decay, the schedule and the clipping norm are the
//! caller's; so is the choice between the two forms in use:
//! - BERT's own optimizer (google-research/bert `optimization.py`): no bias correction, epsilon 1e-6;
//! - `torch.optim.AdamW`: bias correction, epsilon 1e-8.
//!
//! Papers: [Adam, Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980),
//! [Decoupled Weight Decay Regularization, Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101).

use crate::simd::widest;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use rayon::prelude::*;

/// The values of one AdamW step, alike for all elements of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay; a step takes `learning_rate * weight_decay` of the parameter. 0 where it is excluded.
    pub weight_decay: f64,
    /// Number of this step, from 1, to correct the bias of both moments; `None` leaves them as they are.
    pub bias_correction: Option<u64>,
    /// Factor on the gradients, for clipping by the global norm; 1 leaves them as they are.
    pub grad_scale: f32,
}

/// Updates moments in place, and writes new parameters where the gradients were:
/// `p - lr * (m / (sqrt(v) + epsilon) + weight_decay * p)` with the moments corrected if asked.
///
/// Memory is what bounds a step: so nothing is written that need not be, and parameters may lie where others read them.
///
/// # Panics
///
/// If the four lengths differ or the step of the bias correction is 0.
pub fn step(
    s: &AdamWStep,
    params: &[f32],
    grads: &mut [f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) {
    let len = params.len();
    assert!(
        [grads.len(), first_moment.len(), second_moment.len()] == [len; 3],
        "adamw needs slices of equal length: {len} parameters, {} gradients, {} and {} moments",
        grads.len(),
        first_moment.len(),
        second_moment.len(),
    );
    let rule = Rule::new(s);
    if len <= 2 * PARALLEL_CHUNK_LEN {
        return step_chunk(rule, params, grads, first_moment, second_moment);
    }
    let chunks = params
        .par_chunks(PARALLEL_CHUNK_LEN)
        .zip(grads.par_chunks_mut(PARALLEL_CHUNK_LEN))
        .zip(first_moment.par_chunks_mut(PARALLEL_CHUNK_LEN))
        .zip(second_moment.par_chunks_mut(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|(((p, g), m), v)| step_chunk(rule, p, g, m, v));
}

fn step_chunk(
    rule: Rule,
    params: &[f32],
    grads: &mut [f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) {
    widest(
        #[inline(always)]
        || {
            let moments = first_moment.iter_mut().zip(second_moment);
            for ((p, g), (m, v)) in params.iter().zip(grads).zip(moments) {
                *g = rule.apply(*p, *g, m, v);
            }
        },
    );
}

/// The step with everything computed ahead that is equal for all elements.
#[derive(Clone, Copy)]
struct Rule {
    grad_scale: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    /// Learning rate over the correction of the first moment.
    step_size: f32,
    /// 1 / the root of the correction of the second moment.
    root_scale: f32,
    epsilon: f32,
    /// Share of the parameter that decays.
    decay: f32,
}

impl Rule {
    fn new(s: &AdamWStep) -> Self {
        let correction = |beta: f64| s.bias_correction.map_or(1.0, |step| 1.0 - power(beta, step));
        assert!(s.bias_correction != Some(0), "steps of the bias correction count from 1");
        Self {
            grad_scale: s.grad_scale,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            // The references subtract in f64 too; in f32 the second one would be off by 1.3e-5.
            one_minus_beta1: (1.0 - s.beta1) as f32,
            one_minus_beta2: (1.0 - s.beta2) as f32,
            step_size: (s.learning_rate / correction(s.beta1)) as f32,
            root_scale: (1.0 / correction(s.beta2).sqrt()) as f32,
            epsilon: s.epsilon as f32,
            decay: (s.learning_rate * s.weight_decay) as f32,
        }
    }

    #[inline(always)]
    fn apply(&self, p: f32, grad: f32, m: &mut f32, v: &mut f32) -> f32 {
        let grad = grad * self.grad_scale;
        *m = self.beta1 * *m + self.one_minus_beta1 * grad;
        *v = self.beta2 * *v + self.one_minus_beta2 * (grad * grad);
        let denominator = v.sqrt() * self.root_scale + self.epsilon;
        p - (self.decay * p + self.step_size * *m / denominator)
    }
}

/// Returns `base` to the power of `exponent` by repeated squaring: the same bits on every machine, unlike `powi`.
pub(crate) fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut product = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    product
}

/// The same results by the formulas of the papers, element by element in f64.
pub mod reference {
    use super::AdamWStep;

    /// See [`super::step`]; the new parameters replace the old ones.
    pub fn step(s: &AdamWStep, params: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
        let (beta1, beta2) = (s.beta1, s.beta2);
        for i in 0..params.len() {
            let (p, g) = (f64::from(params[i]), f64::from(grads[i]) * f64::from(s.grad_scale));
            let m = beta1 * f64::from(first[i]) + (1.0 - beta1) * g;
            let v = beta2 * f64::from(second[i]) + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = match s.bias_correction {
                Some(step) => (m / (1.0 - beta1.powf(step as f64)), v / (1.0 - beta2.powf(step as f64))),
                None => (m, v),
            };
            let update = m_hat / (v_hat.sqrt() + s.epsilon) + s.weight_decay * p;
            params[i] = (p - s.learning_rate * update) as f32;
            (first[i], second[i]) = (m as f32, v as f32);
        }
    }
}

#[cfg(test)]
mod tests;
