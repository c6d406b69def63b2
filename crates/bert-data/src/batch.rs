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
    /// Epoch of the first row.
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

impl MicroBatch {
    /// Puts samples into rows.
    pub(crate) fn new(step: u64, slot: usize, samples: &[Sample], max_seq_length: usize, pad: u32) -> Self {
        let longest = samples.iter().map(|sample| sample.input_ids.len()).max().unwrap_or(0);
        let row_len = longest.next_multiple_of(8).min(max_seq_length);
        let num_rows = samples.len();
        let mut batch = Self {
            step,
            slot,
            epoch: samples.first().map_or(0, |sample| sample.epoch),
            num_rows,
            row_len,
            input_ids: vec![pad; num_rows * row_len],
            token_type_ids: vec![0; num_rows * row_len],
            ..Self::default()
        };
        for (row, sample) in samples.iter().enumerate() {
            let start = row * row_len;
            let end = start + sample.input_ids.len();
            batch.input_ids[start..end].copy_from_slice(&sample.input_ids);
            batch.token_type_ids[start..end].copy_from_slice(&sample.token_type_ids);
            batch.lengths.push(sample.input_ids.len() as u32);
            batch.mlm_positions.extend(sample.mlm_positions.iter().map(|position| start as u32 + position));
            batch.mlm_labels.extend(&sample.mlm_labels);
            batch.nsp_labels.extend(sample.nsp_label);
            batch.sample_idxs.push(sample.sample_idx);
        }
        batch
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
