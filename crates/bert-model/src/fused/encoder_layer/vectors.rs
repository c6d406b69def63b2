//! The parameters of a layer that are no matrices.

use super::LayerShape;
use crate::fused::{
    parameters::{Norm, copy},
    split,
};

/// Biases, scales and shifts, copied from the bucket at each update. Matrices are read where they lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerVectors {
    pub(super) query_bias: Vec<f32>,
    /// Of key and value: `[2 * hidden]`.
    pub(super) key_value_bias: Vec<f32>,
    pub(super) attention_output_bias: Vec<f32>,
    pub(super) attention_norm: Norm,
    pub(super) intermediate_bias: Vec<f32>,
    pub(super) output_bias: Vec<f32>,
    pub(super) output_norm: Norm,
}

impl LayerVectors {
    /// Copies those of a bucket, in layout order.
    ///
    /// # Panics
    ///
    /// If the bucket is not as long as the parameters of the shape.
    pub(crate) fn copy(&mut self, shape: LayerShape, bucket: &[f32]) {
        let [attention, feed_forward] = split(bucket, shape.half_lens());
        let [_, query_bias, _, key_bias, _, value_bias, _, bias, gamma, beta] =
            split(attention, shape.attention_lens());
        copy(&mut self.query_bias, query_bias);
        copy(&mut self.key_value_bias, key_bias);
        self.key_value_bias.extend_from_slice(value_bias);
        copy(&mut self.attention_output_bias, bias);
        self.attention_norm.copy(gamma, beta);
        let [_, inner_bias, _, bias, gamma, beta] = split(feed_forward, shape.feed_forward_lens());
        copy(&mut self.intermediate_bias, inner_bias);
        copy(&mut self.output_bias, bias);
        self.output_norm.copy(gamma, beta);
    }
}
