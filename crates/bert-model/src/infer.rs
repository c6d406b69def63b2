//! What a trained model says about tokens: hidden states, pooled vectors, and the logits of its heads.
//!
//! No dropout, no gradients, no labels. Rows may be padded; zeros stand at padded positions of the results.

use burn::Tensor;

use crate::{PretrainModel, TokenBatch, error::ModelError, ops::raw, pooling::Pooling, rows::BatchTokens};

impl PretrainModel {
    /// Computes the states after the embeddings and after every layer, as `output_hidden_states` does.
    ///
    /// # Shapes
    ///
    /// - output: `num_hidden_layers + 1` times `[num_rows * row_len * hidden]`, row-major; the last one is
    ///   `last_hidden_state`
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn hidden_states(&self, tokens: &TokenBatch<'_>) -> Result<Vec<Vec<f32>>, ModelError> {
        let batch = tokens.validated(self.config())?;
        let tokens = BatchTokens::all(batch.lengths, batch.row_len);
        let mut states = Vec::with_capacity(self.stages.layers.len() + 1);
        self.stages.encode(&batch, &tokens, |_, state| {
            let pad = |state: &[f32]| tokens.rows.pad(state, self.config().hidden_size);
            states.push(raw::with_values(state.clone(), pad));
        });
        Ok(states)
    }

    /// Computes the pooled vector of each row: `tanh(W h + b)` of its first position.
    ///
    /// # Shapes
    ///
    /// - output: `[num_rows * hidden]`, row-major
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn pooled(&self, tokens: &TokenBatch<'_>) -> Result<Vec<f32>, ModelError> {
        let (tokens, states) = self.encode_firsts(tokens)?;
        Ok(self.pool(states, tokens.last()))
    }

    /// Computes the logits of next sentence prediction: 0 = B follows A, 1 = it does not.
    ///
    /// # Shapes
    ///
    /// - output: `[num_rows * 2]`, row-major
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn nsp_logits(&self, tokens: &TokenBatch<'_>) -> Result<Vec<f32>, ModelError> {
        let (tokens, states) = self.encode_firsts(tokens)?;
        Ok(self.relate(states, tokens.last()))
    }

    /// The last states that the pooler reads: those of the first tokens of rows.
    fn encode_firsts(&self, tokens: &TokenBatch<'_>) -> Result<(BatchTokens, Tensor<2>), ModelError> {
        let batch = tokens.validated(self.config())?;
        let tokens = Pooling::Pooler.tokens(batch.lengths, batch.row_len);
        let states = self.stages.encode(&batch, &tokens, |_, _| {});
        Ok((tokens, states))
    }
}

#[cfg(test)]
mod tests {
    use bert_random::{Key, Purpose};

    use super::*;
    use crate::{
        BackendKind,
        test_support::{OwnedBatch, tiny_config},
    };

    fn model() -> PretrainModel {
        PretrainModel::init(&tiny_config(), Key::new(5, Purpose::Init), BackendKind::Flex).unwrap()
    }

    #[test]
    fn results_have_the_documented_sizes() {
        let (model, batch) = (model(), OwnedBatch::tiny());
        let states = model.hidden_states(&batch.tokens()).unwrap();
        assert_eq!(states.iter().map(Vec::len).collect::<Vec<_>>(), [3 * 7 * 12; 3]);
        assert_eq!(model.pooled(&batch.tokens()).unwrap().len(), 3 * 12);
        assert_eq!(model.nsp_logits(&batch.tokens()).unwrap().len(), 3 * 2);
    }

    #[test]
    fn the_first_state_is_normalised_and_later_ones_differ() {
        let states = model().hidden_states(&OwnedBatch::tiny().tokens()).unwrap();
        let row = &states[0][..12];
        let mean = row.iter().sum::<f32>() / 12.0;
        assert!(mean.abs() < 1e-5, "LayerNorm of the embeddings: mean {mean}");
        assert_ne!(states[0], states[1]);
        assert_ne!(states[1], states[2]);
    }

    #[test]
    fn padding_changes_no_real_position() {
        let (model, batch, padded) = (model(), OwnedBatch::tiny(), OwnedBatch::tiny_padded(10));
        let [short, long] = [&batch, &padded].map(|batch| model.hidden_states(&batch.tokens()).unwrap());
        for (row, &length) in batch.lengths.iter().enumerate() {
            let len = length as usize * 12;
            let (a, b) = (&short[2][row * 7 * 12..][..len], &long[2][row * 10 * 12..][..len]);
            let largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-5, "row {row}: {largest}");
        }
    }

    #[test]
    fn tokens_that_do_not_fit_are_refused() {
        let mut batch = OwnedBatch::tiny();
        batch.input_ids[3] = 37;
        let error = model().pooled(&batch.tokens()).unwrap_err();
        assert_eq!(error.to_string(), "batch.input_ids: expected values below 37, got 37");
    }
}
