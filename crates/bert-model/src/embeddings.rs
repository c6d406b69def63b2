//! The first stage: word + position + token type, LayerNorm, dropout.
//!
//! The lookups run on plain slices outside of autodiff: a gradient of the tables would be a dense tensor of zeros
//! with a few rows in it. Backward adds those rows to the bucket instead, in the order of the positions.

use bert_random::Key;
use burn::{
    Tensor,
    module::{Module, Param},
    tensor::{Device, Gradients},
};

use crate::{
    batch::PretrainBatch,
    config::ModelConfig,
    layers::{DropoutSite, LayerNorm, drop_elements},
    layout::BucketLayout,
    ops::raw,
    parameters::{self, BucketSource},
};

/// Tables and LayerNorm; fields in layout order.
#[derive(Module, Debug)]
pub(crate) struct Embeddings {
    word: Param<Tensor<2>>,
    position: Param<Tensor<2>>,
    token_type: Param<Tensor<2>>,
    layer_norm: LayerNorm,
    dropout_prob: f64,
}

/// What the stage hands on, and what its backward pass starts from.
pub(crate) struct EmbeddingsOutput {
    /// `[num_positions, hidden]`, the sum of the three lookups; a tracked leaf if asked for.
    pub(crate) summed: Tensor<2>,
    /// `[num_positions, hidden]`
    pub(crate) hidden: Tensor<2>,
}

impl Embeddings {
    pub(crate) fn load(config: &ModelConfig, layout: &BucketLayout, values: &[f32], device: &Device) -> Self {
        let mut source = BucketSource::new(layout, values, device);
        Self {
            word: source.take("word_embeddings.weight"),
            position: source.take("position_embeddings.weight"),
            token_type: source.take("token_type_embeddings.weight"),
            layer_norm: LayerNorm::load(&mut source, config.layer_norm_eps),
            dropout_prob: config.hidden_dropout_prob,
        }
    }

    /// The word table, `[vocab, hidden]`: also the decoder of the MLM head.
    pub(crate) fn word_table(&self) -> Tensor<2> {
        self.word.val()
    }

    /// Embeds a batch. The result is tracked if the parameters are.
    ///
    /// # Shapes
    ///
    /// - output: `[num_positions, hidden]` twice, see [`EmbeddingsOutput`]
    pub(crate) fn forward(&self, batch: &PretrainBatch<'_>, dropout: Option<Key>) -> EmbeddingsOutput {
        let summed = self.look_up(batch); // [num_positions, hidden]
        let summed = if self.word.val().is_tracked() { summed.autodiff().require_grad() } else { summed };
        let hidden = self.layer_norm.forward(summed.clone());
        let hidden = drop_elements(hidden, dropout, DropoutSite::Embeddings, self.dropout_prob);
        EmbeddingsOutput { summed, hidden }
    }

    fn look_up(&self, batch: &PretrainBatch<'_>) -> Tensor<2> {
        let [_, hidden] = self.word.dims();
        let num_positions = batch.input_ids.len();
        let mut summed = Vec::with_capacity(num_positions * hidden);
        raw::with_values(self.word.val(), |words| {
            for &id in batch.input_ids {
                summed.extend_from_slice(row(words, id as usize, hidden));
            }
        });
        raw::with_values(self.token_type.val(), |types| {
            for (sum, &segment) in summed.chunks_exact_mut(hidden).zip(batch.token_type_ids) {
                add(sum, row(types, segment.into(), hidden));
            }
        });
        raw::with_values(self.position.val(), |positions| {
            for (idx, sum) in summed.chunks_exact_mut(hidden).enumerate() {
                add(sum, row(positions, idx % batch.row_len, hidden));
            }
        });
        raw::from_values(summed, [num_positions, hidden], &self.word.val().device())
    }

    /// Fills the bucket with the stage's gradients, on top of what the heads contributed to the tied word table.
    ///
    /// The word table's gradient is always heads first, then the positions in ascending order.
    ///
    /// # Shapes
    ///
    /// - word_table_gradient: `[vocab, hidden]`, from the heads; `None` if they did not use the table
    /// - out: the bucket `embeddings`
    pub(crate) fn take_gradients(
        &self,
        batch: &PretrainBatch<'_>,
        summed: &Tensor<2>,
        gradients: &mut Gradients,
        word_table_gradient: Option<&Tensor<2>>,
        out: &mut [f32],
    ) {
        let [vocab_size, hidden] = self.word.dims();
        let [num_positions, _] = self.position.dims();
        let [num_types, _] = self.token_type.dims();
        let (words, rest) = out.split_at_mut(vocab_size * hidden);
        let (positions, rest) = rest.split_at_mut(num_positions * hidden);
        let (types, rest) = rest.split_at_mut(num_types * hidden);

        match word_table_gradient {
            Some(gradient) => raw::copy_to(gradient.clone(), words),
            None => words.fill(0.0),
        }
        positions.fill(0.0);
        types.fill(0.0);
        let gradient = summed.grad_remove(gradients).expect("every output of the stage depends on its sum");
        raw::with_values(gradient, |gradient| {
            for (idx, gradient) in gradient.chunks_exact(hidden).enumerate() {
                add(row_mut(words, batch.input_ids[idx] as usize, hidden), gradient);
                add(row_mut(positions, idx % batch.row_len, hidden), gradient);
                add(row_mut(types, batch.token_type_ids[idx].into(), hidden), gradient);
            }
        });
        parameters::take_gradients(&self.layer_norm, gradients, rest);
    }
}

fn row(table: &[f32], idx: usize, width: usize) -> &[f32] {
    &table[idx * width..(idx + 1) * width]
}

fn row_mut(table: &mut [f32], idx: usize, width: usize) -> &mut [f32] {
    &mut table[idx * width..(idx + 1) * width]
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
