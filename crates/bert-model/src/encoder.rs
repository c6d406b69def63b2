//! One encoder layer: attention and feed-forward, each with dropout, residual and LayerNorm after it (post-LN).
//!
//! Owns the parameters and the choice of form: one fused op, or composed from burn's operations.

use std::sync::{Arc, Mutex};

use bert_random::Key;
use burn::{
    Tensor,
    module::Module,
    tensor::{Device, Gradients},
};

use crate::{
    config::ModelConfig,
    fused::{LayerDropout, LayerShape, LayerVectors, LayerWorkspace},
    layers::{DropoutSite, LayerNorm, Linear},
    layout::BucketLayout,
    ops::{self, GradientSlot, LayerCall, composed, raw::SharedValues},
    parameters::{self, BucketSource},
    rows::BatchTokens,
};

/// Multi-head self-attention (<https://arxiv.org/abs/1706.03762>) with its output projection.
#[derive(Module, Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    layer_norm: LayerNorm,
}

/// One stage of the encoder; parameters in layout order.
#[derive(Module, Debug)]
pub(crate) struct EncoderLayer {
    attention: Attention,
    intermediate: Linear,
    output: Linear,
    layer_norm: LayerNorm,
    #[module(skip)]
    shape: LayerShape,
    #[module(skip)]
    fused: Option<FusedLayer>,
    hidden_dropout_prob: f64,
    probs_dropout_prob: f64,
    layer_idx: usize,
}

/// What the fused form of a layer needs. Clones share it: they have the same parameters until one of them is written.
#[derive(Clone, Debug)]
struct FusedLayer {
    vectors: Arc<LayerVectors>,
    workspace: Arc<Mutex<LayerWorkspace>>,
    gradients: GradientSlot,
}

/// Tokens and dropout key of one pass.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Those of this layer: all of them are read, but by the stage above the last layer.
    pub(crate) tokens: BatchTokens,
    pub(crate) dropout: Option<Key>,
}

impl EncoderLayer {
    /// Builds a layer; fused if it gets a workspace.
    pub(crate) fn load(
        config: &ModelConfig,
        layer_idx: usize,
        layout: &BucketLayout,
        values: &SharedValues,
        workspace: Option<Arc<Mutex<LayerWorkspace>>>,
        device: &Device,
    ) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        let mut layer = Self {
            attention: Attention::load(config, &mut source),
            intermediate: Linear::load(&mut source, "intermediate.dense"),
            output: Linear::load(&mut source, "output.dense"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            shape: LayerShape {
                hidden: config.hidden_size,
                num_heads: config.num_attention_heads,
                intermediate: config.intermediate_size,
                activation: config.hidden_act.into(),
                layer_norm_eps: config.layer_norm_eps as f32,
            },
            fused: None,
            hidden_dropout_prob: config.hidden_dropout_prob,
            probs_dropout_prob: config.attention_probs_dropout_prob,
            layer_idx,
        };
        layer.fused = workspace.map(|workspace| {
            let mut vectors = LayerVectors::default();
            vectors.copy(layer.shape, values.values());
            FusedLayer { vectors: Arc::new(vectors), workspace, gradients: GradientSlot::default() }
        });
        layer
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_read, hidden]`
    pub(crate) fn forward(&self, states: Tensor<2>, pass: &Pass) -> Tensor<2> {
        match &self.fused {
            Some(fused) => ops::encoder_layer(states, self.weights(), self.call(fused, pass)),
            None => self.forward_composed(states, pass),
        }
    }

    /// Runs backward from `root`, which entered the graph of this layer's output, and fills the bucket with the
    /// gradients of the parameters.
    pub(crate) fn backward(&self, root: Tensor<1>, bucket: Vec<f32>) -> (Gradients, Vec<f32>) {
        match &self.fused {
            Some(fused) => fused.gradients.backward(root, bucket),
            None => parameters::backward(self, root, bucket),
        }
    }

    /// Replaces the parameters, in layout order; returns memory as [`parameters::replace`] does.
    pub(crate) fn replace(&mut self, values: Vec<f32>) -> Vec<f32> {
        if let Some(fused) = &mut self.fused {
            // A clone keeps what it had.
            Arc::make_mut(&mut fused.vectors).copy(self.shape, &values);
        }
        parameters::replace(self, values)
    }

    fn weights(&self) -> [Tensor<2>; 6] {
        let Attention { query, key, value, output, .. } = &self.attention;
        [query, key, value, output, &self.intermediate, &self.output].map(Linear::weight)
    }

    fn call(&self, fused: &FusedLayer, pass: &Pass) -> LayerCall {
        LayerCall {
            shape: self.shape,
            vectors: fused.vectors.clone(),
            tokens: pass.tokens.clone(),
            dropout: self.dropout(pass),
            workspace: fused.workspace.clone(),
            gradients: fused.gradients.clone(),
        }
    }

    fn dropout(&self, pass: &Pass) -> LayerDropout {
        let (key, layer_idx) = (pass.dropout, self.layer_idx);
        let (hidden, probs) = (self.hidden_dropout_prob, self.probs_dropout_prob);
        LayerDropout {
            attention_probs: DropoutSite::AttentionProbs { layer_idx }.dropout(key, probs),
            attention_output: DropoutSite::AttentionOutput { layer_idx }.dropout(key, hidden),
            feed_forward_output: DropoutSite::FeedForwardOutput { layer_idx }.dropout(key, hidden),
        }
    }

    fn forward_composed(&self, states: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let (dropout, BatchTokens { rows, read }) = (self.dropout(pass), &pass.tokens);
        let attention = &self.attention;
        let projected =
            [&attention.query, &attention.key, &attention.value].map(|map| map.forward(states.clone()));
        let context = composed::attention(projected, rows, self.shape.num_heads, dropout.attention_probs);
        let branch = composed::drop_tokens(attention.output.forward(context), dropout.attention_output, rows);
        let states = attention.layer_norm.forward(branch + states);

        let inner = self.intermediate.forward(states.clone()); // [num_tokens, intermediate]
        let inner = composed::activate(self.shape.activation, inner);
        let branch = composed::drop_tokens(self.output.forward(inner), dropout.feed_forward_output, rows);
        let output = self.layer_norm.forward(branch + states);
        match read {
            Some(read) => composed::gather(output, &read.tokens),
            None => output,
        }
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
        }
    }
}
