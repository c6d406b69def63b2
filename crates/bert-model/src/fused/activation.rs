//! The activation between the two linear maps of a feed-forward network, fused with the products beside it.

use bert_kernels::{
    gelu::GeluForm,
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
    /// Writes the activation of `a * b + bias` into `out` and its derivative there into `derivative`.
    ///
    /// # Shapes
    ///
    /// - a: `[rows, depth]`; b: `[depth, cols]`; bias: `[cols]`; derivative, out: `[rows, cols]`
    pub(crate) fn multiply(
        self,
        a: Left<'_>,
        b: &PackedB,
        bias: &[f32],
        derivative: &mut [f32],
        out: &mut [f32],
    ) {
        match self {
            Self::Gelu(form) => gemm::multiply_bias_gelu(a, b, bias, form, derivative, out),
            Self::Relu => {
                gemm::multiply_bias(a, b, bias, out);
                for (out, derivative) in out.iter_mut().zip(derivative) {
                    *derivative = if *out <= 0.0 { 0.0 } else { 1.0 };
                    // What is no number stays so.
                    *out = if *out < 0.0 { 0.0 } else { *out };
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
            apply_derivative(&derivative[first..first + gradient.len()], gradient);
        },
    );
}

/// Turns the gradient of what came out of an activation into that of what came in.
///
/// # Shapes
///
/// - derivative, gradient: any, of equal length
#[inline(always)]
pub(crate) fn apply_derivative(derivative: &[f32], gradient: &mut [f32]) {
    stretch::combine(gradient, derivative, |gradient, derivative| gradient * derivative);
}
