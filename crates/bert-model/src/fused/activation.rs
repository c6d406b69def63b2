//! The activation between the two linear maps of a feed-forward network, fused with the products beside it.

use bert_kernels::{
    gelu::{self, GeluForm},
    gemm::{self, Left, PackedB},
    stretch,
};

use crate::config::HiddenAct;

/// An activation on slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Gelu(GeluForm),
    Relu,
}

impl From<HiddenAct> for Activation {
    fn from(hidden_act: HiddenAct) -> Self {
        match hidden_act {
            HiddenAct::Gelu => Self::Gelu(GeluForm::Erf),
            HiddenAct::GeluTanh => Self::Gelu(GeluForm::Tanh),
            HiddenAct::Relu => Self::Relu,
        }
    }
}

impl Activation {
    /// Writes `a * b + bias` into `before` and its activation into `out`.
    ///
    /// # Shapes
    ///
    /// - a: `[rows, depth]`; b: `[depth, cols]`; bias: `[cols]`; before, out: `[rows, cols]`
    pub(crate) fn multiply(
        self,
        a: Left<'_>,
        b: &PackedB,
        bias: &[f32],
        before: &mut [f32],
        out: &mut [f32],
    ) {
        match self {
            Self::Gelu(form) => gemm::multiply_bias_gelu(a, b, bias, form, before, out),
            Self::Relu => {
                gemm::multiply_bias(a, b, bias, before);
                relu(before, out);
            }
        }
    }

    /// Writes the activation of `before` into `out`, with the bits of [`Activation::multiply`], and its derivative in place of
    /// `before`.
    ///
    /// # Shapes
    ///
    /// - before, out: any, of equal length
    pub(crate) fn forward_with_derivative(self, before: &mut [f32], out: &mut [f32]) {
        match self {
            Self::Gelu(form) => gelu::forward_with_derivative(form, before, out),
            Self::Relu => {
                relu(before, out);
                before.iter_mut().for_each(|x| *x = if *x <= 0.0 { 0.0 } else { 1.0 });
            }
        }
    }

    /// Turns the gradient of what came out into that of what came in.
    ///
    /// # Shapes
    ///
    /// - before, gradient: any, of equal length
    pub(crate) fn backward(self, before: &[f32], gradient: &mut [f32]) {
        match self {
            Self::Gelu(form) => gelu::backward(form, before, gradient),
            Self::Relu => {
                for (gradient, before) in gradient.iter_mut().zip(before) {
                    *gradient = if *before <= 0.0 { 0.0 } else { *gradient };
                }
            }
        }
    }
}

/// Writes the gradient of what came into an activation: `a * b` times its derivative.
///
/// # Shapes
///
/// - a: `[rows, depth]`; b: `[depth, cols]`; derivative, gradient: `[rows, cols]`
pub(crate) fn multiply_backward(a: Left<'_>, b: &PackedB, derivative: &[f32], gradient: &mut [f32]) {
    let num_cols = b.cols();
    gemm::multiply_then(
        a,
        b,
        gradient,
        derivative,
        #[inline(always)]
        |row, first_col, gradient| {
            let first = row * num_cols + first_col;
            let derivative = &derivative[first..first + gradient.len()];
            stretch::combine(gradient, derivative, |gradient, derivative| gradient * derivative);
        },
    );
}

/// What is no number stays so.
fn relu(before: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(before).for_each(|(out, x)| *out = if *x < 0.0 { 0.0 } else { *x });
}
