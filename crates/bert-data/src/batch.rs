//! Samples and micro-batches: what leaves this crate.
//!
//! Plain vectors with documented shapes; no tensor, no rank.

use crate::masking::{MaskedUnit, Replacement};

/// One masked sequence with everything that is known about it, for audits and debugging.
///
/// Vectors without another note have one entry per token of the row, special ones counted, no padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Epoch the sample belongs to; 0 in evaluation.
    pub epoch: u64,
    /// Index in the plan of its epoch, in document order.
    pub sample_idx: u64,
    /// Document of the first segment.
    pub document: u64,
    /// Document of a random second segment.
    pub other_document: Option<u64>,
    /// Token ids before masking.
    pub original_ids: Vec<u32>,
    /// Token ids after masking.
    pub input_ids: Vec<u32>,
    /// 0 up to and including the first `[SEP]`, 1 after it.
    pub token_type_ids: Vec<u8>,
    /// Whether the token starts a word.
    pub word_starts: Vec<bool>,
    /// Masked positions, ascending; one entry per masked token.
    pub mlm_positions: Vec<u32>,
    /// True tokens at the masked positions.
    pub mlm_labels: Vec<u32>,
    /// What each masked position was replaced by.
    pub replacements: Vec<Replacement>,
    /// Units that were masked together.
    pub units: Vec<MaskedUnit>,
    /// 0: the second segment follows; 1: it is random (NSP) or the two are swapped (SOP).
    pub nsp_label: Option<u8>,
    /// Tokens cut off to fit.
    pub num_truncated: usize,
}

/// The rows of one slot of one step, padded to a common length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Step the rows belong to; the index of the batch in evaluation.
    pub step: u64,
    /// Slot of that step.
    pub slot: usize,
    /// Epoch that the step begins in; 0 in evaluation.
    pub epoch: u64,
    /// Number of rows.
    pub num_rows: usize,
    /// Length of every row: the longest, rounded up to a multiple of 8, at most `max_seq_length`.
    pub row_len: usize,
    /// `[num_rows * row_len]` token ids, padded with `[PAD]`.
    pub input_ids: Vec<u32>,
    /// `[num_rows * row_len]` segments, padded with 0.
    pub token_type_ids: Vec<u8>,
    /// `[num_rows]` tokens of each row without padding.
    pub lengths: Vec<u32>,
    /// `[num_masked]` positions `row * row_len + column`, ascending.
    pub mlm_positions: Vec<u32>,
    /// `[num_masked]` true tokens.
    pub mlm_labels: Vec<u32>,
    /// `[num_rows]` labels of the sentence objective, or empty.
    pub nsp_labels: Vec<u8>,
    /// `[num_rows]` classes, or empty where none are learned.
    pub class_labels: Vec<u32>,
    /// `[num_rows]` index of each sample in the plan of its epoch, or of each labelled row in its file.
    pub sample_idxs: Vec<u64>,
}

/// Length of every row of a micro-batch: the longest of these, rounded up to a multiple of 8, at most `max_seq_length`.
pub(crate) fn padded_row_len(lengths: &[u32], max_seq_length: usize) -> usize {
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    longest.next_multiple_of(8).min(max_seq_length)
}

/// One row on its way into a micro-batch; the slices are those of [`Sample`].
pub(crate) struct RowParts<'a> {
    pub(crate) sample_idx: u64,
    pub(crate) input_ids: &'a [u32],
    pub(crate) token_type_ids: &'a [u8],
    pub(crate) mlm_positions: &'a [u32],
    pub(crate) mlm_labels: &'a [u32],
    pub(crate) nsp_label: Option<u8>,
}

impl MicroBatch {
    /// A micro-batch for `max_rows` rows of at most `max_seq_length` tokens, still without rows.
    pub(crate) fn start(step: u64, slot: usize, max_rows: usize, max_seq_length: usize) -> Self {
        Self {
            step,
            slot,
            row_len: max_seq_length,
            input_ids: Vec::with_capacity(max_rows * max_seq_length),
            token_type_ids: Vec::with_capacity(max_rows * max_seq_length),
            lengths: Vec::with_capacity(max_rows),
            sample_idxs: Vec::with_capacity(max_rows),
            ..Self::default()
        }
    }

    /// Appends a row.
    pub(crate) fn push(&mut self, row: &RowParts, pad: u32) {
        let start = self.num_rows * self.row_len;
        self.num_rows += 1;
        let end = self.num_rows * self.row_len;
        self.input_ids.extend_from_slice(row.input_ids);
        self.input_ids.resize(end, pad);
        self.token_type_ids.extend_from_slice(row.token_type_ids);
        self.token_type_ids.resize(end, 0);
        self.lengths.push(row.input_ids.len() as u32);
        self.mlm_positions.extend(row.mlm_positions.iter().map(|position| start as u32 + position));
        self.mlm_labels.extend_from_slice(row.mlm_labels);
        self.nsp_labels.extend(row.nsp_label);
        self.sample_idxs.push(row.sample_idx);
    }

    /// Takes away the columns that are padding in every row, up to a multiple of 8.
    pub(crate) fn finish(mut self) -> Self {
        let (old_len, row_len) = (self.row_len, padded_row_len(&self.lengths, self.row_len));
        if row_len == old_len {
            return self;
        }
        for row in 0..self.num_rows {
            let old = row * old_len..row * old_len + row_len;
            self.input_ids.copy_within(old.clone(), row * row_len);
            self.token_type_ids.copy_within(old, row * row_len);
        }
        self.input_ids.truncate(self.num_rows * row_len);
        self.token_type_ids.truncate(self.num_rows * row_len);
        for position in &mut self.mlm_positions {
            let (row, column) = (*position as usize / old_len, *position as usize % old_len);
            *position = (row * row_len + column) as u32;
        }
        self.row_len = row_len;
        self
    }

    /// Tokens without padding.
    pub fn num_tokens(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }

    /// Masked tokens.
    pub fn num_masked(&self) -> usize {
        self.mlm_positions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of these lengths with their first and last token masked.
    fn batch(lengths: &[u32], max_seq_length: usize) -> MicroBatch {
        let mut batch = MicroBatch::start(3, 1, lengths.len(), max_seq_length);
        for (&length, sample_idx) in lengths.iter().zip(70..) {
            let ids: Vec<u32> = (0..length).map(|column| 100 * (1 + sample_idx as u32) + column).collect();
            let (positions, labels) = ([0, length - 1], [ids[0], ids[ids.len() - 1]]);
            let parts = RowParts {
                sample_idx,
                input_ids: &ids,
                token_type_ids: &vec![1; ids.len()],
                mlm_positions: &positions,
                mlm_labels: &labels,
                nsp_label: Some(0),
            };
            batch.push(&parts, 9);
        }
        batch.finish()
    }

    #[test]
    fn rows_are_as_long_as_the_longest_rounded_up_and_positions_point_at_their_labels() {
        for (lengths, max_seq_length, row_len) in
            [(vec![5, 11, 2], 64, 16), (vec![8], 64, 8), (vec![5, 64], 64, 64), (vec![13, 4], 13, 13)]
        {
            let batch = batch(&lengths, max_seq_length);
            assert_eq!((batch.num_rows, batch.row_len), (lengths.len(), row_len));
            assert_eq!(batch.lengths, lengths);
            assert_eq!(batch.input_ids.len(), lengths.len() * row_len);
            assert_eq!(batch.token_type_ids.len(), lengths.len() * row_len);
            for (row, &length) in lengths.iter().enumerate() {
                let ids = &batch.input_ids[row * row_len..(row + 1) * row_len];
                let types = &batch.token_type_ids[row * row_len..(row + 1) * row_len];
                for column in 0..row_len {
                    let is_real = column < length as usize;
                    let id = if is_real { 100 * (71 + row as u32) + column as u32 } else { 9 };
                    assert_eq!((ids[column], types[column]), (id, u8::from(is_real)), "{row} {column}");
                }
            }
            let at_positions: Vec<u32> =
                batch.mlm_positions.iter().map(|&position| batch.input_ids[position as usize]).collect();
            assert_eq!(at_positions, batch.mlm_labels);
            assert_eq!(batch.num_masked(), 2 * lengths.len());
        }
    }
}
