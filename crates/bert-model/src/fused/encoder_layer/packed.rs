//! The parameters of a layer, ready for products.

use bert_kernels::gemm::Precision;

use super::{LayerShape, LayerWorkspace};
use crate::fused::{
    parameters::{Norm, PackedLinear},
    split,
};

/// Weights in panels for both directions, and copies of the vectors. Packed once per update.
#[derive(Clone, Debug)]
pub(crate) struct PackedLayer {
    pub(crate) shape: LayerShape,
    pub(crate) precision: Precision,
    /// Query, key and value side by side: `[hidden, 3 * hidden]`.
    pub(super) qkv: PackedLinear,
    pub(super) attention_output: PackedLinear,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: PackedLinear,
    pub(super) output: PackedLinear,
    pub(super) output_norm: Norm,
}

impl PackedLayer {
    /// Returns a layer without parameters.
    pub(crate) fn new(shape: LayerShape, precision: Precision) -> Self {
        let linear = || PackedLinear::new(precision);
        Self {
            shape,
            precision,
            qkv: linear(),
            attention_output: linear(),
            attention_norm: Norm::default(),
            intermediate: linear(),
            output: linear(),
            output_norm: Norm::default(),
        }
    }

    /// Packs the parameters of a bucket, in layout order, for forward passes. The panels of backward are packed when
    /// they are used: each is used once in a pass, and would have to be kept for all layers.
    ///
    /// # Panics
    ///
    /// If the bucket is not as long as the parameters of the shape.
    pub(crate) fn pack(&mut self, bucket: &[f32], workspace: &mut LayerWorkspace) {
        let LayerShape { hidden, intermediate, .. } = self.shape;
        let [attention, feed_forward] = split(bucket, self.shape.half_lens());
        let [query, query_bias, key, key_bias, value, value_bias, weight, bias, gamma, beta] =
            split(attention, self.shape.attention_lens());
        self.attention_output.pack(weight, bias, hidden);
        self.attention_norm.copy(gamma, beta);
        let LayerWorkspace { stacked, stacked_bias, .. } = workspace;
        for (copy, parts) in
            [(&mut *stacked, [query, key, value]), (&mut *stacked_bias, [query_bias, key_bias, value_bias])]
        {
            copy.clear();
            parts.into_iter().for_each(|part| copy.extend_from_slice(part));
        }
        self.qkv.pack(stacked, stacked_bias, hidden);
        let [inner, inner_bias, weight, bias, gamma, beta] =
            split(feed_forward, self.shape.feed_forward_lens());
        self.intermediate.pack(inner, inner_bias, hidden);
        self.output.pack(weight, bias, intermediate);
        self.output_norm.copy(gamma, beta);
    }
}
