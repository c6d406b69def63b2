//! AdamW over the part of each bucket that this rank updates.
//!
//! Owns the moments and the split into ranges with and without weight decay. Knows slices only: no tensor,
//! no rank; the update rule itself is `bert_kernels::adamw`.

use std::ops::Range;

use bert_kernels::adamw::{self, AdamWStep};
use bert_model::BucketLayout;

use crate::config::OptimizerSection;

/// A part of the own range with one weight decay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Elements relative to the start of the own range.
    range: Range<usize>,
    decays: bool,
}

/// Moments of the own range of one bucket.
#[derive(Clone, Debug)]
pub struct BucketState {
    /// The own range, in elements of the bucket.
    pub range: Range<usize>,
    /// Running mean of the gradient, one value per element of `range`.
    pub first_moment: Vec<f32>,
    /// Running mean of the squared gradient, one value per element of `range`.
    pub second_moment: Vec<f32>,
    segments: Vec<Segment>,
}

impl BucketState {
    /// Zero moments for `range` of `bucket`.
    #[must_use]
    pub fn new(bucket: &BucketLayout, range: Range<usize>) -> Self {
        let zeros = vec![0.0; range.len()];
        let segments = segments(bucket, &range);
        Self { first_moment: zeros.clone(), second_moment: zeros, range, segments }
    }
}

/// Ranges of equal decay within `range`, neighbours merged.
fn segments(bucket: &BucketLayout, range: &Range<usize>) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for parameter in &bucket.parameters {
        let start = parameter.offset.clamp(range.start, range.end) - range.start;
        let end = (parameter.offset + parameter.num_elements).clamp(range.start, range.end) - range.start;
        match segments.last_mut() {
            _ if start == end => {}
            Some(last) if last.decays == parameter.decay && last.range.end == start => last.range.end = end,
            _ => segments.push(Segment { range: start..end, decays: parameter.decay }),
        }
    }
    segments
}

/// What all buckets of one step share.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Factor of global-norm clipping, 1 where nothing is clipped.
    pub clip_factor: f32,
}

/// Puts new parameters in the place of `grads`; those and `params` are the part of the own range that begins at its element
/// `first`.
///
/// # Panics
///
/// If the lengths differ or the part reaches beyond the own range.
pub fn update_part(
    state: &mut BucketState,
    section: &OptimizerSection,
    update: Update,
    first: usize,
    params: &[f32],
    grads: &mut [f32],
) {
    assert_eq!(params.len(), grads.len(), "a gradient for every parameter");
    let end = first + params.len();
    assert!(end <= state.range.len(), "elements {first}..{end} of an own range of {}", state.range.len());
    for segment in &state.segments {
        let (from, to) = (segment.range.start.max(first), segment.range.end.min(end));
        if from >= to {
            continue;
        }
        let rule = AdamWStep {
            learning_rate: update.learning_rate,
            beta1: section.betas[0],
            beta2: section.betas[1],
            epsilon: section.epsilon,
            weight_decay: if segment.decays { section.weight_decay } else { 0.0 },
            bias_correction: section.bias_correction.then_some(update.step),
            grad_scale: update.clip_factor,
        };
        adamw::step(
            &rule,
            &params[from - first..to - first],
            &mut grads[from - first..to - first],
            &mut state.first_moment[from..to],
            &mut state.second_moment[from..to],
        );
    }
}

/// Global gradient norm from the squared norms of all blocks in block order.
#[must_use]
pub fn global_norm(block_norms: impl IntoIterator<Item = f64>) -> f64 {
    block_norms.into_iter().sum::<f64>().sqrt()
}

/// TensorFlow's `clip_by_global_norm`: gradients beyond the limit are scaled down to it; 0 = no limit.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm > 0.0 && norm > max_norm { (max_norm / norm) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use bert_model::ParameterSpec;

    use super::*;

    fn bucket() -> BucketLayout {
        let parameter = |name: &str, offset, num_elements, decay| ParameterSpec {
            name: name.to_string(),
            shape: vec![num_elements],
            offset,
            num_elements,
            decay,
        };
        let parameters =
            vec![parameter("a", 0, 5, true), parameter("b", 5, 3, true), parameter("c", 8, 2, false)];
        BucketLayout { name: "bucket".to_string(), parameters, num_elements: 10 }
    }

    fn section() -> OptimizerSection {
        OptimizerSection {
            kind: crate::config::OptimizerKind::Adamw,
            betas: [0.9, 0.999],
            epsilon: 1e-6,
            weight_decay: 0.01,
            bias_correction: false,
            max_grad_norm: 1.0,
        }
    }

    #[test]
    fn neighbours_of_equal_decay_are_merged() {
        let found = segments(&bucket(), &(2..10));
        assert_eq!(found, [Segment { range: 0..6, decays: true }, Segment { range: 6..8, decays: false }]);
    }

    #[test]
    fn pieces_update_like_the_whole() {
        let update = Update { learning_rate: 1e-2, step: 1, clip_factor: 0.5 };
        let grads: Vec<f32> = (0..10).map(|idx| idx as f32 * 0.1 - 0.4).collect();
        let params: Vec<f32> = (0..10).map(|idx| 1.0 - idx as f32).collect();
        let (mut whole, mut pieces) = (grads.clone(), grads);
        update_part(&mut BucketState::new(&bucket(), 0..10), &section(), update, 0, &params, &mut whole);
        for range in [0..4, 4..9, 9..10] {
            let mut state = BucketState::new(&bucket(), range.clone());
            for idx in range.clone() {
                let element = idx..idx + 1;
                let first = idx - range.start;
                let (params, place) = (&params[element.clone()], &mut pieces[element]);
                update_part(&mut state, &section(), update, first, params, place);
            }
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn clipping_scales_down_only() {
        assert_eq!(clip_factor(4.0, 1.0), 0.25);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        assert_eq!(global_norm([9.0, 16.0]), 5.0);
    }
}
