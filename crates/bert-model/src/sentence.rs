//! Sentence vectors: one vector for each row of tokens, by any pooling.
//!
//! Owns running the encoder and pooling state by state, so that only one layer's states are held at a time. How
//! states are weighed is the business of [`crate::pooling`]; no dropout, no gradients, no labels.

use crate::{PretrainModel, TokenBatch, error::ModelError, pooling::Pooling};

impl PretrainModel {
    /// Computes one vector for each row. Padding has no part in it; `[CLS]` and `[SEP]` have, as all real tokens.
    ///
    /// [`Pooling::Cls`] is the bare last state of the first token, [`Pooling::Pooler`] sends it through the pooler.
    ///
    /// # Shapes
    ///
    /// - output: `[num_rows * hidden]`, row-major
    ///
    /// # Errors
    ///
    /// [`ModelError::Batch`] if the batch does not fit the model.
    pub fn sentence_vectors(
        &self,
        tokens: &TokenBatch<'_>,
        pooling: Pooling,
    ) -> Result<Vec<f32>, ModelError> {
        let batch = tokens.validated(self.config())?;
        let tokens = pooling.tokens(batch.lengths, batch.row_len);
        let mut pooled = vec![0.0; batch.num_rows * self.config().hidden_size];
        let last = self.stages.encode(&batch, &tokens, |state_idx, state| {
            self.stages.add_pooled(pooling, &tokens, (state_idx, state), &mut pooled);
        });
        if pooling == Pooling::Pooler {
            return Ok(self.pool(last, tokens.last()));
        }
        Ok(pooled)
    }
}

#[cfg(test)]
mod tests {
    use bert_random::{Key, Purpose};

    use super::*;
    use crate::{
        BackendKind, ModelConfig,
        test_support::{OwnedBatch, tiny_config},
    };

    const HIDDEN: usize = 12;

    /// A model whose weights are large enough for tokens and layers to differ clearly. With three layers the two
    /// means of two layers are not the same.
    fn model() -> PretrainModel {
        let config = ModelConfig { initializer_range: 0.1, num_hidden_layers: 3, ..tiny_config() };
        PretrainModel::init(&config, Key::new(5, Purpose::Init), BackendKind::Flex).unwrap()
    }

    fn assert_close(got: &[f32], expected: &[f32], what: &str) {
        assert_eq!(got.len(), expected.len(), "{what}");
        let largest = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-5, "{what}: {largest}");
    }

    /// What a pooling means, token by token, from the states of all layers.
    fn plain_loop(states: &[Vec<f32>], batch: &OwnedBatch, pooling: Pooling) -> Vec<f32> {
        let last = states.len() - 1;
        let mut vectors = Vec::new();
        for row in 0..batch.num_rows {
            let length = batch.lengths[row] as usize;
            for column in 0..HIDDEN {
                let at = |state: usize, token: usize| {
                    f64::from(states[state][(row * batch.row_len + token) * HIDDEN + column])
                };
                let mean =
                    |state: usize| (0..length).map(|token| at(state, token)).sum::<f64>() / length as f64;
                let value = match pooling {
                    Pooling::Cls | Pooling::Pooler => at(last, 0),
                    Pooling::Mean => mean(last),
                    Pooling::Max => (0..length).map(|token| at(last, token)).fold(f64::MIN, f64::max),
                    Pooling::FirstLastMean => (mean(1) + mean(last)) / 2.0,
                    Pooling::Last2Mean => (mean(last - 1) + mean(last)) / 2.0,
                };
                vectors.push(value as f32);
            }
        }
        vectors
    }

    #[test]
    fn every_pooling_is_what_a_plain_loop_over_the_states_gives() {
        // Rows of different lengths, the first one of full length.
        let (model, batch) = (model(), OwnedBatch::tiny());
        assert!(batch.lengths.iter().any(|&length| (length as usize) < batch.row_len), "some padding");
        let states = model.hidden_states(&batch.tokens()).unwrap();
        for (name, pooling) in Pooling::NAMES {
            let vectors = model.sentence_vectors(&batch.tokens(), pooling).unwrap();
            let expected = match pooling {
                Pooling::Pooler => model.pooled(&batch.tokens()).unwrap(),
                _ => plain_loop(&states, &batch, pooling),
            };
            assert_close(&vectors, &expected, name);
        }
    }

    #[test]
    fn poolings_differ_from_each_other() {
        let (model, batch) = (model(), OwnedBatch::tiny());
        let vectors =
            Pooling::NAMES.map(|(_, pooling)| model.sentence_vectors(&batch.tokens(), pooling).unwrap());
        for (idx, left) in vectors.iter().enumerate() {
            for right in &vectors[..idx] {
                let largest = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(largest > 1e-3, "two poolings agree: {largest}");
            }
        }
    }

    #[test]
    fn padding_changes_no_vector() {
        let (model, batch) = (model(), OwnedBatch::tiny());
        // The same rows, with other ids where nothing is attended to.
        let mut padded = OwnedBatch::tiny_padded(11);
        for (row, &length) in batch.lengths.iter().enumerate() {
            padded.input_ids[row * 11 + length as usize..(row + 1) * 11].fill(29);
        }
        for (name, pooling) in Pooling::NAMES {
            let [short, long] =
                [&batch, &padded].map(|batch| model.sentence_vectors(&batch.tokens(), pooling).unwrap());
            assert_close(&long, &short, name);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (model, batch) = (model(), OwnedBatch::tiny());
        for (name, pooling) in Pooling::NAMES {
            let together = model.sentence_vectors(&batch.tokens(), pooling).unwrap();
            for (row, expected) in together.chunks_exact(HIDDEN).enumerate() {
                let alone = model.sentence_vectors(&batch.row(row).tokens(), pooling).unwrap();
                assert_close(&alone, expected, name);
            }
        }
    }
}
