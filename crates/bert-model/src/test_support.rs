//! Small configurations and batches with pairwise distinct dimensions, for the tests of this crate.

use bert_random::{Key, Purpose};

use crate::{
    backend::BackendKind,
    batch::{PretrainBatch, TokenBatch},
    config::{HiddenAct, ModelConfig},
};

pub(crate) mod composed;

/// Tokens, (column, label) of the masked ones, sentence label; segment B starts after the first token 3.
type Row<'a> = (&'a [u32], &'a [(u32, u32)], u8);

/// The CPU backends of this build: what builds a model is tested on each of them.
pub(crate) fn backends() -> Vec<BackendKind> {
    BackendKind::compiled_in()
}

/// A model small enough for finite differences.
pub(crate) fn tiny_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 37,
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        intermediate_size: 20,
        max_position_embeddings: 11,
        type_vocab_size: 2,
        hidden_act: HiddenAct::Gelu,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        layer_norm_eps: 1e-12,
        initializer_range: 0.02,
    }
}

/// A batch that owns its fields, so that tests can change them.
#[derive(Clone, Debug)]
pub(crate) struct OwnedBatch {
    pub(crate) num_rows: usize,
    pub(crate) row_len: usize,
    pub(crate) input_ids: Vec<u32>,
    pub(crate) token_type_ids: Vec<u8>,
    pub(crate) lengths: Vec<u32>,
    pub(crate) mlm_positions: Vec<u32>,
    pub(crate) mlm_labels: Vec<u32>,
    pub(crate) nsp_labels: Vec<u8>,
}

impl OwnedBatch {
    /// The same rows without labels.
    pub(crate) fn tokens(&self) -> TokenBatch<'_> {
        TokenBatch {
            num_rows: self.num_rows,
            row_len: self.row_len,
            input_ids: &self.input_ids,
            token_type_ids: &self.token_type_ids,
            lengths: &self.lengths,
        }
    }

    /// Three rows of up to seven tokens, four of them masked, one row shorter than the others.
    pub(crate) fn tiny() -> Self {
        Self::tiny_padded(7)
    }

    /// The same rows with more padding.
    pub(crate) fn tiny_padded(row_len: usize) -> Self {
        let rows: [Row<'_>; 3] = [
            (&[2, 9, 4, 3, 8, 30, 3], &[(1, 6), (4, 36)], 0),
            (&[2, 5, 3, 7, 3], &[(3, 11)], 1),
            (&[2, 4, 17, 21, 3, 9, 3], &[(1, 20)], 1),
        ];
        Self::from_rows(&rows, row_len)
    }

    /// Rows of uneven lengths up to `row_len`, every seventh token masked.
    pub(crate) fn large(config: &ModelConfig, num_rows: usize, row_len: usize) -> Self {
        let mut stream = Key::new(1, Purpose::Debug).stream();
        let mut word = || 4 + stream.below(config.vocab_size as u64 - 4) as u32;
        let rows: Vec<(Vec<u32>, Vec<_>)> = (0..num_rows)
            .map(|row| {
                let mut tokens: Vec<_> = (0..row_len - 3 * row).map(|_| word()).collect();
                let border = tokens.len() / 2;
                tokens[border] = 3;
                let masked = (1..tokens.len() as u32).step_by(7).map(|column| (column, word())).collect();
                (tokens, masked)
            })
            .collect();
        let rows: Vec<Row<'_>> =
            rows.iter().enumerate().map(|(i, (t, m))| (&t[..], &m[..], (i % 2) as u8)).collect();
        Self::from_rows(&rows, row_len)
    }

    fn from_rows(rows: &[Row<'_>], row_len: usize) -> Self {
        let mut batch = Self {
            num_rows: rows.len(),
            row_len,
            input_ids: Vec::new(),
            token_type_ids: Vec::new(),
            lengths: Vec::new(),
            mlm_positions: Vec::new(),
            mlm_labels: Vec::new(),
            nsp_labels: Vec::new(),
        };
        for (row_idx, (tokens, masked, nsp_label)) in rows.iter().enumerate() {
            let border = tokens.iter().position(|&token| token == 3).unwrap();
            for column in 0..row_len {
                batch.input_ids.push(tokens.get(column).copied().unwrap_or(0));
                batch.token_type_ids.push(u8::from(column > border && column < tokens.len()));
            }
            batch.lengths.push(tokens.len() as u32);
            for (column, label) in *masked {
                batch.mlm_positions.push((row_idx * row_len) as u32 + column);
                batch.mlm_labels.push(*label);
            }
            batch.nsp_labels.push(*nsp_label);
        }
        batch
    }

    /// One row as a batch of its own.
    pub(crate) fn row(&self, row: usize) -> Self {
        self.permuted(&[row])
    }

    /// The given rows, in the given order.
    pub(crate) fn permuted(&self, rows: &[usize]) -> Self {
        let mut batch = Self { num_rows: rows.len(), ..Self::from_rows(&[], self.row_len) };
        for (new_row, &row) in rows.iter().enumerate() {
            let tokens = row * self.row_len..(row + 1) * self.row_len;
            batch.input_ids.extend(&self.input_ids[tokens.clone()]);
            batch.token_type_ids.extend(&self.token_type_ids[tokens.clone()]);
            batch.lengths.push(self.lengths[row]);
            for (&position, &label) in self.mlm_positions.iter().zip(&self.mlm_labels) {
                if tokens.contains(&(position as usize)) {
                    batch
                        .mlm_positions
                        .push(position + (new_row * self.row_len) as u32 - tokens.start as u32);
                    batch.mlm_labels.push(label);
                }
            }
            batch.nsp_labels.push(self.nsp_labels[row]);
        }
        batch
    }

    pub(crate) fn borrow(&self) -> PretrainBatch<'_> {
        PretrainBatch {
            num_rows: self.num_rows,
            row_len: self.row_len,
            input_ids: &self.input_ids,
            token_type_ids: &self.token_type_ids,
            lengths: &self.lengths,
            mlm_positions: &self.mlm_positions,
            mlm_labels: &self.mlm_labels,
            nsp_labels: &self.nsp_labels,
        }
    }
}
