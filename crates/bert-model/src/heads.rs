//! The last stage: masked language model on the masked tokens only, and next sentence prediction.
//!
//! Owns the parameters, and the composed form of both heads; the fused one is [`crate::fused::FusedHeads`]. The
//! decoder of the masked language model *is* the word table; it is handed in and owned by the embeddings.

use burn::{
    Tensor,
    module::{Module, Param},
    tensor::Device,
};

use crate::{
    config::ModelConfig,
    fused::{Activation, HeadsBatch},
    layers::{LayerNorm, Linear},
    layout::BucketLayout,
    ops::{composed, raw::SharedValues},
    parameters::BucketSource,
};

/// Pooler and both heads; parameters in layout order.
#[derive(Module, Debug)]
pub(crate) struct Heads {
    pooler: Linear,
    decoder_bias: Param<Tensor<1>>,
    transform: Linear,
    layer_norm: LayerNorm,
    seq_relationship: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Logits of the objectives that a batch has labels for.
pub(crate) struct HeadsOutput {
    /// `[num_masked, vocab]`
    pub(crate) mlm: Option<Tensor<2>>,
    /// `[num_rows, 2]`
    pub(crate) nsp: Option<Tensor<2>>,
}

impl Heads {
    pub(crate) fn load(
        config: &ModelConfig,
        layout: &BucketLayout,
        values: &SharedValues,
        device: &Device,
    ) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            pooler: Linear::load(&mut source, "pooler.dense"),
            decoder_bias: source.take("predictions.bias"),
            transform: Linear::load(&mut source, "transform.dense"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            seq_relationship: Linear::load(&mut source, "seq_relationship"),
            activation: config.hidden_act.into(),
        }
    }

    /// Computes the logits a batch asks for.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - word_table: `[vocab, hidden]`
    /// - output: see [`HeadsOutput`]
    pub(crate) fn forward(
        &self,
        states: Tensor<2>,
        word_table: Tensor<2>,
        batch: &HeadsBatch,
    ) -> HeadsOutput {
        let has_masks = !batch.masked.is_empty();
        let mlm =
            has_masks.then(|| self.predict(composed::gather(states.clone(), &batch.masked), word_table));
        let has_pairs = !batch.nsp_labels.is_empty();
        let nsp = has_pairs.then(|| self.relate(self.pool(states, &batch.firsts)));
        HeadsOutput { mlm, nsp }
    }

    /// The pooler: `tanh(W h + b)` of the first token of each row.
    ///
    /// # Shapes
    ///
    /// - states: `[num_tokens, hidden]`
    /// - output: `[num_rows, hidden]`
    pub(crate) fn pool(&self, states: Tensor<2>, firsts: &[usize]) -> Tensor<2> {
        self.pooler.forward(composed::gather(states, firsts)).tanh()
    }

    /// Masked language model.
    ///
    /// # Shapes
    ///
    /// - masked: `[num_masked, hidden]`
    /// - word_table: `[vocab, hidden]`
    /// - output: `[num_masked, vocab]`
    fn predict(&self, masked: Tensor<2>, word_table: Tensor<2>) -> Tensor<2> {
        let transformed = composed::activate(self.activation, self.transform.forward(masked));
        composed::linear(self.layer_norm.forward(transformed), word_table, self.decoder_bias.val())
    }

    /// Next sentence prediction.
    ///
    /// # Shapes
    ///
    /// - pooled: `[num_rows, hidden]`
    /// - output: `[num_rows, 2]`
    pub(crate) fn relate(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.seq_relationship.forward(pooled)
    }
}
