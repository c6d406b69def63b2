//! GELU with the error function, `x·Φ(x)` (<https://arxiv.org/abs/1606.08415>).

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
use std::f32::consts::FRAC_1_SQRT_2;

use super::{
    math::{erf, exp_non_positive},
    raw::Raw,
};

/// Elements of one piece of parallel work; pieces are independent, so results do not depend on it.
const CHUNK: usize = 16_384;

/// 1 / sqrt(2π), the normal density at 0.
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

/// Computes `x·Φ(x)` element by element.
pub(super) fn forward<B: Raw>(input: &FloatTensor<B>) -> FloatTensor<B> {
    let values = B::values(input);
    let mut output = vec![0.0; values.len()];
    output.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(output, input)| {
        output.iter_mut().zip(input).for_each(|(y, &x)| *y = x * normal_cdf(x));
    });
    B::from_values(output, input.shape())
}

#[derive(Debug)]
pub(super) struct GeluBackward;

impl<B: Raw> Backward<B, 1> for GeluBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = B::contiguous(grads.consume::<B>(&ops.node));
        let [input_node] = ops.parents;
        let inputs = B::values(&ops.state);
        let gradients = B::values_mut(&mut gradient);
        gradients.par_chunks_mut(CHUNK).zip(inputs.par_chunks(CHUNK)).for_each(|(gradients, inputs)| {
            gradients.iter_mut().zip(inputs).for_each(|(g, &x)| *g *= derivative(x));
        });
        if let Some(node) = input_node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

#[inline(always)]
fn derivative(x: f32) -> f32 {
    normal_cdf(x) + x * FRAC_1_SQRT_2PI * exp_non_positive(-0.5 * x * x)
}
