//! One micro-batch as plain slices, and the check that it fits a model.

use crate::{config::ModelConfig, error::ModelError};

/// Tokens, masks and labels of one micro-batch, borrowed from whoever made them.
///
/// Rows are padded to `row_len`; positions at or beyond a row's length are never attended to.
#[derive(Clone, Copy, Debug)]
pub struct PretrainBatch<'a> {
    /// Number of sequences.
    pub num_rows: usize,
    /// Tokens per row, padding included.
    pub row_len: usize,
    /// `[num_rows * row_len]` ids into the word table.
    pub input_ids: &'a [u32],
    /// `[num_rows * row_len]` segment of each token.
    pub token_type_ids: &'a [u8],
    /// `[num_rows]` real tokens per row, at least 1.
    pub lengths: &'a [u32],
    /// `[num_masked]` flat positions `row * row_len + column` to predict, ascending.
    pub mlm_positions: &'a [u32],
    /// `[num_masked]` the ids to predict.
    pub mlm_labels: &'a [u32],
    /// `[num_rows]` 0 = B follows A, 1 = it does not; empty without a sentence objective.
    pub nsp_labels: &'a [u8],
}

/// Tokens and classes of one micro-batch, borrowed from whoever made them.
#[derive(Clone, Copy, Debug)]
pub struct ClassifyBatch<'a> {
    /// The tokens.
    pub tokens: TokenBatch<'a>,
    /// `[num_rows]` class of each row.
    pub labels: &'a [u32],
}

impl<'a> ClassifyBatch<'a> {
    /// The tokens in the form of training, without labels, if everything fits the model and its classes.
    pub(crate) fn validated(
        &self,
        config: &ModelConfig,
        num_classes: usize,
    ) -> Result<PretrainBatch<'a>, ModelError> {
        let tokens = self.tokens.validated(config)?;
        check_len("labels", self.labels.len(), tokens.num_rows)?;
        check_below("labels", self.labels, num_classes)?;
        Ok(tokens)
    }
}

/// Tokens of one batch without anything to predict, for inference.
#[derive(Clone, Copy, Debug)]
pub struct TokenBatch<'a> {
    /// Number of sequences.
    pub num_rows: usize,
    /// Tokens per row, padding included.
    pub row_len: usize,
    /// `[num_rows * row_len]` ids into the word table.
    pub input_ids: &'a [u32],
    /// `[num_rows * row_len]` segment of each token.
    pub token_type_ids: &'a [u8],
    /// `[num_rows]` real tokens per row, at least 1.
    pub lengths: &'a [u32],
}

impl<'a> TokenBatch<'a> {
    /// The same tokens in the form of training, without labels, if they fit the model.
    pub(crate) fn validated(&self, config: &ModelConfig) -> Result<PretrainBatch<'a>, ModelError> {
        let batch = PretrainBatch {
            num_rows: self.num_rows,
            row_len: self.row_len,
            input_ids: self.input_ids,
            token_type_ids: self.token_type_ids,
            lengths: self.lengths,
            mlm_positions: &[],
            mlm_labels: &[],
            nsp_labels: &[],
        };
        batch.validate_tokens(config)?;
        Ok(batch)
    }
}

impl PretrainBatch<'_> {
    /// Checks every promise of the fields against each other and against the model.
    pub(crate) fn validate(&self, config: &ModelConfig) -> Result<(), ModelError> {
        self.validate_tokens(config)?;
        check_len("mlm_labels", self.mlm_labels.len(), self.mlm_positions.len())?;
        if !self.nsp_labels.is_empty() {
            check_len("nsp_labels", self.nsp_labels.len(), self.num_rows)?;
        }
        let learns = !(self.mlm_positions.is_empty() && self.nsp_labels.is_empty());
        check("mlm_positions", learns, "a masked position or a sentence label", "neither")?;
        check_below("mlm_labels", self.mlm_labels, config.vocab_size)?;
        check_below("nsp_labels", self.nsp_labels, 2)?;
        self.validate_positions()
    }

    fn validate_tokens(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let max_len = config.max_position_embeddings;
        check("num_rows", self.num_rows >= 1, "at least 1", self.num_rows)?;
        let expected = format!("1 to max_position_embeddings = {max_len}");
        check("row_len", (1..=max_len).contains(&self.row_len), expected, self.row_len)?;

        let num_tokens = self.num_rows * self.row_len;
        check_len("input_ids", self.input_ids.len(), num_tokens)?;
        check_len("token_type_ids", self.token_type_ids.len(), num_tokens)?;
        check_len("lengths", self.lengths.len(), self.num_rows)?;
        check_below("input_ids", self.input_ids, config.vocab_size)?;
        check_below("token_type_ids", self.token_type_ids, config.type_vocab_size)?;
        match self.lengths.iter().find(|&&length| !(1..=self.row_len).contains(&(length as usize))) {
            Some(length) => check("lengths", false, format!("1 to row_len = {}", self.row_len), length),
            None => Ok(()),
        }
    }

    fn validate_positions(&self) -> Result<(), ModelError> {
        let ascending = self.mlm_positions.is_sorted_by(|a, b| a < b);
        check("mlm_positions", ascending, "strictly ascending positions", "another order")?;
        let misplaced = self.mlm_positions.iter().find(|&&position| {
            let (row, column) = (position as usize / self.row_len, position as usize % self.row_len);
            row >= self.num_rows || column >= self.lengths[row] as usize
        });
        match misplaced {
            Some(position) => check("mlm_positions", false, "positions of real tokens", position),
            None => Ok(()),
        }
    }
}

fn check_below<T: Copy + Into<u32>>(
    field: &'static str,
    values: &[T],
    limit: usize,
) -> Result<(), ModelError> {
    match values.iter().map(|&value| value.into()).find(|&value| value as usize >= limit) {
        Some(value) => check(field, false, format!("values below {limit}"), value),
        None => Ok(()),
    }
}

fn check_len(field: &'static str, got: usize, expected: usize) -> Result<(), ModelError> {
    check(field, got == expected, format!("{expected} elements"), got)
}

fn check(
    field: &'static str,
    holds: bool,
    expected: impl Into<String>,
    got: impl ToString,
) -> Result<(), ModelError> {
    if holds {
        Ok(())
    } else {
        Err(ModelError::Batch { field, expected: expected.into(), got: got.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use crate::test_support::{OwnedBatch, tiny_config};

    #[track_caller]
    fn refused(change: impl FnOnce(&mut OwnedBatch), expected: &str) {
        let mut batch = OwnedBatch::tiny();
        change(&mut batch);
        assert_eq!(batch.borrow().validate(&tiny_config()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn error_names_field_expected_and_got() {
        OwnedBatch::tiny().borrow().validate(&tiny_config()).unwrap();
        refused(|b| b.input_ids[3] = 37, "batch.input_ids: expected values below 37, got 37");
        refused(|b| b.token_type_ids[0] = 2, "batch.token_type_ids: expected values below 2, got 2");
        refused(|b| b.lengths[1] = 8, "batch.lengths: expected 1 to row_len = 7, got 8");
        refused(|b| b.lengths[1] = 0, "batch.lengths: expected 1 to row_len = 7, got 0");
        refused(|b| b.mlm_labels.truncate(1), "batch.mlm_labels: expected 4 elements, got 1");
        refused(|b| b.nsp_labels[2] = 2, "batch.nsp_labels: expected values below 2, got 2");
        refused(
            |b| b.mlm_positions.swap(0, 1),
            "batch.mlm_positions: expected strictly ascending positions, got another order",
        );
        refused(
            |b| b.mlm_positions[2] = 12,
            "batch.mlm_positions: expected positions of real tokens, got 12",
        );
    }
}
