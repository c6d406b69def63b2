//! LAMB on flat slices: Adam whose update is scaled, parameter by parameter, to the size of what it updates.
//!
//! Owns the two halves of one step and the factor between them. The norms run over whole parameters, which the caller
//! may hold in pieces, so summing them is the caller's; so are the schedule, the clipping norm, and which parameters
//! decay. The form is that of NVIDIA's BERT (apex, `FusedLAMB`): both moments corrected, decay inside of the update,
//! and no trust ratio for parameters without decay.
//!
//! Paper: [Large Batch Optimization for Deep Learning, You et al., 2020](https://arxiv.org/abs/1904.00962).

use crate::adamw::power;
use crate::simd::widest;
use crate::threads::{OverThreads, PARALLEL_CHUNK_LEN};
use rayon::prelude::*;

/// The values of one LAMB step, alike for all elements of a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LambStep {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of the parameter that is part of the update; 0 where it is excluded.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradients, for clipping by the global norm; 1 leaves them as they are.
    pub grad_scale: f32,
}

/// The first half: moves the moments and writes the update `m / (sqrt(v) + epsilon) + weight_decay * p`, the moments
/// corrected.
///
/// # Panics
///
/// If the five lengths differ or the step is 0.
pub fn update(
    s: &LambStep,
    params: &[f32],
    grads: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
    update: &mut [f32],
) {
    let len = params.len();
    assert!(
        [grads.len(), first_moment.len(), second_moment.len(), update.len()] == [len; 4],
        "lamb needs slices of equal length: {len} parameters, {} gradients, {} and {} moments, {} updates",
        grads.len(),
        first_moment.len(),
        second_moment.len(),
        update.len(),
    );
    let rule = Rule::new(s);
    let chunks = params
        .par_chunks(PARALLEL_CHUNK_LEN)
        .zip(grads.par_chunks(PARALLEL_CHUNK_LEN))
        .zip(first_moment.par_chunks_mut(PARALLEL_CHUNK_LEN))
        .zip(second_moment.par_chunks_mut(PARALLEL_CHUNK_LEN))
        .zip(update.par_chunks_mut(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|((((p, g), m), v), u)| {
        widest(
            #[inline(always)]
            || {
                let moments = m.iter_mut().zip(v);
                for (((p, g), (m, v)), u) in p.iter().zip(g).zip(moments).zip(u) {
                    *u = rule.apply(*p, *g, m, v);
                }
            },
        );
    });
}

/// The factor between the halves: the size of a parameter over that of its update, 1 if either is 0.
#[must_use]
pub fn trust_ratio(param_norm: f64, update_norm: f64) -> f64 {
    if param_norm > 0.0 && update_norm > 0.0 { param_norm / update_norm } else { 1.0 }
}

/// The second half: `p -= step_size * update`, where the step size is the learning rate times the trust ratio.
///
/// # Panics
///
/// If the lengths differ.
pub fn apply(step_size: f64, params: &mut [f32], update: &[f32]) {
    assert_eq!(params.len(), update.len(), "lamb needs an update for each parameter");
    let step_size = step_size as f32;
    let chunks = params.par_chunks_mut(PARALLEL_CHUNK_LEN).zip(update.par_chunks(PARALLEL_CHUNK_LEN));
    chunks.over_threads(|(params, update)| {
        widest(
            #[inline(always)]
            || params.iter_mut().zip(update).for_each(|(p, u)| *p -= step_size * u),
        );
    });
}

/// The step with everything computed ahead that is equal for all elements.
#[derive(Clone, Copy)]
struct Rule {
    grad_scale: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    /// 1 / the correction of the first moment.
    first_scale: f32,
    /// 1 / the root of the correction of the second moment.
    root_scale: f32,
    epsilon: f32,
    decay: f32,
}

impl Rule {
    fn new(s: &LambStep) -> Self {
        assert!(s.step != 0, "steps of the bias correction count from 1");
        let correction = |beta: f64| 1.0 - power(beta, s.step);
        Self {
            grad_scale: s.grad_scale,
            beta1: s.beta1 as f32,
            beta2: s.beta2 as f32,
            one_minus_beta1: (1.0 - s.beta1) as f32,
            one_minus_beta2: (1.0 - s.beta2) as f32,
            first_scale: (1.0 / correction(s.beta1)) as f32,
            root_scale: (1.0 / correction(s.beta2).sqrt()) as f32,
            epsilon: s.epsilon as f32,
            decay: s.weight_decay as f32,
        }
    }

    #[inline(always)]
    fn apply(&self, p: f32, grad: f32, m: &mut f32, v: &mut f32) -> f32 {
        let grad = grad * self.grad_scale;
        *m = self.beta1 * *m + self.one_minus_beta1 * grad;
        *v = self.beta2 * *v + self.one_minus_beta2 * (grad * grad);
        self.first_scale * *m / (v.sqrt() * self.root_scale + self.epsilon) + self.decay * p
    }
}

/// The same results by the formulas of the paper, element by element in f64.
pub mod reference {
    use super::{LambStep, trust_ratio};

    /// Both halves for one whole parameter. A parameter without decay is not scaled.
    pub fn step(
        s: &LambStep,
        learning_rate: f64,
        params: &mut [f32],
        grads: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let corrections = [s.beta1, s.beta2].map(|beta| 1.0 - beta.powf(s.step as f64));
        let mut updates = Vec::with_capacity(params.len());
        for i in 0..params.len() {
            let g = f64::from(grads[i]) * f64::from(s.grad_scale);
            let m = s.beta1 * f64::from(first[i]) + (1.0 - s.beta1) * g;
            let v = s.beta2 * f64::from(second[i]) + (1.0 - s.beta2) * g * g;
            let adam = (m / corrections[0]) / ((v / corrections[1]).sqrt() + s.epsilon);
            updates.push(adam + s.weight_decay * f64::from(params[i]));
            (first[i], second[i]) = (m as f32, v as f32);
        }
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let param_norm = norm(&mut params.iter().map(|p| f64::from(*p)));
        let update_norm = norm(&mut updates.iter().copied());
        let ratio = if s.weight_decay == 0.0 { 1.0 } else { trust_ratio(param_norm, update_norm) };
        for (p, u) in params.iter_mut().zip(updates) {
            *p = (f64::from(*p) - learning_rate * ratio * u) as f32;
        }
    }
}

#[cfg(test)]
mod tests;
