//! Parameters in the form that the kernels take: weights in panels, vectors as copies.

use bert_kernels::gemm::{PackedB, Precision};

/// A linear map whose weight is `[out, in]`.
#[derive(Clone, Debug)]
pub(super) struct PackedLinear {
    /// `[in, out]`
    pub(super) weight: PackedB,
    /// `[out]`
    pub(super) bias: Vec<f32>,
}

/// Scale and shift of a LayerNorm, `[hidden]` each.
#[derive(Clone, Debug, Default)]
pub(super) struct Norm {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

impl PackedLinear {
    pub(super) fn new(precision: Precision) -> Self {
        Self { weight: PackedB::new(precision), bias: Vec::new() }
    }

    /// Packs a map with `bias.len()` outputs.
    pub(super) fn pack(&mut self, weight: &[f32], bias: &[f32], num_in: usize) {
        self.weight.pack_maps(&[weight], bias.len(), num_in);
        copy(&mut self.bias, bias);
    }
}

impl Norm {
    pub(super) fn copy(&mut self, gamma: &[f32], beta: &[f32]) {
        copy(&mut self.gamma, gamma);
        copy(&mut self.beta, beta);
    }
}

/// Copies into memory that is kept.
pub(super) fn copy(to: &mut Vec<f32>, from: &[f32]) {
    to.clear();
    to.extend_from_slice(from);
}
