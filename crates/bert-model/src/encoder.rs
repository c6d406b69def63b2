//! One encoder layer: attention and feed-forward, each with dropout, residual and LayerNorm after it (post-LN).

use std::sync::Arc;

use bert_random::Key;
use burn::{Tensor, module::Module, tensor::Device};

use crate::{
    batch::PretrainBatch,
    config::{HiddenAct, ModelConfig},
    layers::{DropoutSite, LayerNorm, Linear, activate, drop_elements},
    layout::BucketLayout,
    ops,
    parameters::BucketSource,
};

/// Multi-head self-attention (<https://arxiv.org/abs/1706.03762>) with its output projection.
#[derive(Module, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    layer_norm: LayerNorm,
    num_heads: usize,
    probs_dropout_prob: f64,
}

/// One stage of the encoder; fields in layout order.
#[derive(Module, Debug)]
pub(crate) struct EncoderLayer {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    layer_norm: LayerNorm,
    #[module(skip)]
    activation: HiddenAct,
    dropout_prob: f64,
    layer_idx: usize,
}

/// Rows, their lengths and the dropout key: what all layers of one pass share.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) num_rows: usize,
    pub(crate) row_len: usize,
    pub(crate) lengths: Arc<[u32]>,
    pub(crate) dropout: Option<Key>,
}

impl Pass {
    pub(crate) fn new(batch: &PretrainBatch<'_>, dropout: Option<Key>) -> Self {
        Self { num_rows: batch.num_rows, row_len: batch.row_len, lengths: batch.lengths.into(), dropout }
    }
}

impl EncoderLayer {
    pub(crate) fn load(
        config: &ModelConfig,
        layer_idx: usize,
        layout: &BucketLayout,
        values: &[f32],
        device: &Device,
    ) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            attention: Attention::load(config, &mut source),
            intermediate: Linear::load(&mut source, "intermediate.dense"),
            output: Linear::load(&mut source, "output.dense"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            activation: config.hidden_act,
            dropout_prob: config.hidden_dropout_prob,
            layer_idx,
        }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - hidden, output: `[num_rows * row_len, hidden]`
    pub(crate) fn forward(&self, hidden: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let layer_idx = self.layer_idx;
        let context = self.attention.forward(hidden.clone(), pass, layer_idx); // [num_positions, hidden]
        let site = DropoutSite::AttentionOutput { layer_idx };
        let attended = drop_elements(context, pass.dropout, site, self.dropout_prob);
        let hidden = self.attention.layer_norm.forward(attended + hidden);

        let inner = activate(self.activation, self.intermediate.forward(hidden.clone())); // [.., intermediate]
        let site = DropoutSite::FeedForwardOutput { layer_idx };
        let output = drop_elements(self.output.forward(inner), pass.dropout, site, self.dropout_prob);
        self.layer_norm.forward(output + hidden)
    }
}

impl Attention {
    fn load(config: &ModelConfig, source: &mut BucketSource<'_>) -> Self {
        Self {
            query: Linear::load(source, "self.query"),
            key: Linear::load(source, "self.key"),
            value: Linear::load(source, "self.value"),
            output: Linear::load(source, "attention.output.dense"),
            layer_norm: LayerNorm::load(source, config.layer_norm_eps),
            num_heads: config.num_attention_heads,
            probs_dropout_prob: config.attention_probs_dropout_prob,
        }
    }

    /// Mixes the real tokens of each row, then projects.
    ///
    /// # Shapes
    ///
    /// - hidden, output: `[num_rows * row_len, hidden]`
    fn forward(&self, hidden: Tensor<2>, pass: &Pass, layer_idx: usize) -> Tensor<2> {
        let [num_positions, width] = hidden.dims();
        let scale = ((width / self.num_heads) as f64).sqrt().recip();
        let query = self.split_heads(self.query.forward(hidden.clone()) * scale, pass);
        let key = self.split_heads(self.key.forward(hidden.clone()), pass);
        let value = self.split_heads(self.value.forward(hidden), pass);

        let scores = query.matmul(key.swap_dims(2, 3)); // [num_rows, heads, row_len, row_len]
        let probs = ops::attention_probs(scores, pass.lengths.clone());
        let site = DropoutSite::AttentionProbs { layer_idx };
        let probs = drop_elements(probs, pass.dropout, site, self.probs_dropout_prob);
        let context = probs.matmul(value); // [num_rows, heads, row_len, head_size]
        self.output.forward(context.swap_dims(1, 2).reshape([num_positions, width])) // [num_positions, hidden]
    }

    fn split_heads(&self, states: Tensor<2>, pass: &Pass) -> Tensor<4> {
        let [_, width] = states.dims();
        states.reshape([pass.num_rows, pass.row_len, self.num_heads, width / self.num_heads]).swap_dims(1, 2) // [num_rows, heads, row_len, head_size]
    }
}
