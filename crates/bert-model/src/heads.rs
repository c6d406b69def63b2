//! The last stage: masked language model on the masked positions only, and next sentence prediction.
//!
//! The decoder of the masked language model *is* the word table; it is handed in and owned by the embeddings.

use burn::{
    Tensor,
    module::{Module, Param},
    tensor::{Device, Int, TensorData},
};

use crate::{
    batch::PretrainBatch,
    config::{HiddenAct, ModelConfig},
    layers::{LayerNorm, Linear, activate},
    layout::BucketLayout,
    ops,
    parameters::BucketSource,
};

/// Pooler and both heads; fields in layout order.
#[derive(Module, Debug)]
pub(crate) struct Heads {
    pooler: Linear,
    decoder_bias: Param<Tensor<1>>,
    transform: Linear,
    layer_norm: LayerNorm,
    seq_relationship: Linear,
    #[module(skip)]
    activation: HiddenAct,
}

/// Logits of the objectives that a batch has labels for.
pub(crate) struct HeadsOutput {
    /// `[num_masked, vocab]`
    pub(crate) mlm: Option<Tensor<2>>,
    /// `[num_rows, 2]`
    pub(crate) nsp: Option<Tensor<2>>,
}

impl Heads {
    pub(crate) fn load(config: &ModelConfig, layout: &BucketLayout, values: &[f32], device: &Device) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            pooler: Linear::load(&mut source, "pooler.dense"),
            decoder_bias: source.take("predictions.bias"),
            transform: Linear::load(&mut source, "transform.dense"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            seq_relationship: Linear::load(&mut source, "seq_relationship"),
            activation: config.hidden_act,
        }
    }

    /// Computes the logits a batch asks for.
    ///
    /// # Shapes
    ///
    /// - hidden: `[num_rows * row_len, hidden]`
    /// - word_table: `[vocab, hidden]`
    /// - output: see [`HeadsOutput`]
    pub(crate) fn forward(
        &self,
        hidden: Tensor<2>,
        word_table: Tensor<2>,
        batch: &PretrainBatch<'_>,
    ) -> HeadsOutput {
        let masked = batch.mlm_positions.iter().map(|&position| i64::from(position)).collect::<Vec<_>>();
        let mlm = (!masked.is_empty()).then(|| self.predict(gather(hidden.clone(), masked), word_table));
        let num_labels = batch.nsp_labels.len();
        let nsp = (num_labels > 0).then(|| self.relate(self.pool(hidden, num_labels, batch.row_len)));
        HeadsOutput { mlm, nsp }
    }

    /// The pooler: `tanh(W h + b)` of the first position of each row.
    ///
    /// # Shapes
    ///
    /// - hidden: `[num_rows * row_len, hidden]`
    /// - output: `[num_rows, hidden]`
    pub(crate) fn pool(&self, hidden: Tensor<2>, num_rows: usize, row_len: usize) -> Tensor<2> {
        let firsts = (0..num_rows).map(|row| (row * row_len) as i64).collect::<Vec<_>>();
        self.pooler.forward(gather(hidden, firsts)).tanh() // [num_rows, hidden]
    }

    /// Masked language model.
    ///
    /// # Shapes
    ///
    /// - masked: `[num_masked, hidden]`
    /// - word_table: `[vocab, hidden]`
    /// - output: `[num_masked, vocab]`
    fn predict(&self, masked: Tensor<2>, word_table: Tensor<2>) -> Tensor<2> {
        let transformed = activate(self.activation, self.transform.forward(masked));
        ops::linear(self.layer_norm.forward(transformed), word_table, self.decoder_bias.val())
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

/// Picks rows of a matrix.
fn gather(hidden: Tensor<2>, rows: Vec<i64>) -> Tensor<2> {
    let num_rows = rows.len();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [num_rows]), &hidden.device());
    hidden.select(0, rows) // [num_rows, hidden]
}
