//! GELU, `x·Φ(x)`, exactly or with its tanh form (<https://arxiv.org/abs/1606.08415>).

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

/// 2·sqrt(2/π)
const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;

/// Coefficient of the cubic term in the tanh form.
const CUBIC: f32 = 0.044_715;

/// 1 / sqrt(2π), the normal density at 0.
const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;

/// Which Φ is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GeluForm {
    /// The normal distribution, through the error function.
    Erf,
    /// `(1 + tanh(sqrt(2/π)·(x + 0.044715·x³))) / 2`.
    Tanh,
}

/// Computes `x·Φ(x)` element by element.
///
/// # Shapes
///
/// - input, output: any
pub(super) fn forward<B: Raw>(input: &FloatTensor<B>, form: GeluForm) -> FloatTensor<B> {
    let values = B::values(input);
    let mut output = vec![0.0; values.len()];
    output.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(output, input)| {
        let pairs = output.iter_mut().zip(input);
        match form {
            GeluForm::Erf => pairs.for_each(|(y, &x)| *y = x * normal_cdf(x)),
            GeluForm::Tanh => pairs.for_each(|(y, &x)| *y = x * tanh_cdf(x)),
        }
    });
    B::from_values(output, input.shape())
}

#[derive(Debug)]
pub(super) struct GeluBackward;

impl<B: Raw> Backward<B, 1> for GeluBackward {
    type State = (FloatTensor<B>, GeluForm);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let mut gradient = B::contiguous(grads.consume::<B>(&ops.node));
        let [input_node] = ops.parents;
        let (input, form) = ops.state;
        let inputs = B::values(&input);
        let gradients = B::values_mut(&mut gradient);
        gradients.par_chunks_mut(CHUNK).zip(inputs.par_chunks(CHUNK)).for_each(|(gradients, inputs)| {
            let pairs = gradients.iter_mut().zip(inputs);
            match form {
                GeluForm::Erf => pairs.for_each(|(g, &x)| *g *= erf_derivative(x)),
                GeluForm::Tanh => pairs.for_each(|(g, &x)| *g *= tanh_derivative(x)),
            }
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
fn erf_derivative(x: f32) -> f32 {
    normal_cdf(x) + x * FRAC_1_SQRT_2PI * exp_non_positive(-0.5 * x * x)
}

/// The logistic function of `2·sqrt(2/π)·(x + 0.044715·x³)`: the same as the form with tanh.
#[inline(always)]
fn tanh_cdf(x: f32) -> f32 {
    let z = TWO_SQRT_2_OVER_PI * (x + CUBIC * x * x * x);
    let exp = exp_non_positive(-z.abs());
    let numerator = if z < 0.0 { exp } else { 1.0 };
    numerator / (1.0 + exp)
}

#[inline(always)]
fn tanh_derivative(x: f32) -> f32 {
    let cdf = tanh_cdf(x);
    cdf + x * cdf * (1.0 - cdf) * TWO_SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x)
}
