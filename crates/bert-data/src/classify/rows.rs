//! Rows as tokens, and micro-batches of them.
//!
//! `[CLS] text [SEP]`, and with a pair `[CLS] text [SEP] second text [SEP]`, segment 1 after the first `[SEP]`. What
//! is too long loses tokens at its end, from the longer text first (Hugging Face's `longest_first`). An empty text is
//! a row of special tokens; both are counted.

use super::table::TextRow;
use crate::batch::{MicroBatch, padded_row_len};
use crate::error::DataError;
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;

/// What encoding did to rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows.
    pub num_rows: u64,
    /// Rows without a token in their text (and in their second text).
    pub num_empty: u64,
    /// Rows that were cut to fit.
    pub num_truncated: u64,
    /// Tokens cut off.
    pub num_cut_tokens: u64,
    /// Tokens kept, special ones counted.
    pub num_tokens: u64,
}

/// Rows as tokens.
#[derive(Clone, Debug, Default)]
pub struct EncodedRows {
    rows: Vec<EncodedRow>,
    labels: Vec<u32>,
    counts: RowCounts,
    max_seq_length: usize,
    pad: u32,
}

#[derive(Clone, Debug, Default)]
struct EncodedRow {
    ids: Vec<u32>,
    /// Tokens of segment 0.
    num_first: usize,
    num_cut: usize,
    is_empty: bool,
}

impl EncodedRows {
    /// Encodes texts on all threads. `labels` has the class of each row, or is empty.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`] if the tokenizer refuses a text.
    ///
    /// # Panics
    ///
    /// If there are labels, but not one for each row, or if `max_seq_length` is below 4.
    pub fn encode(
        texts: &[TextRow],
        labels: Vec<u32>,
        tokenizer: &Tokenizer,
        max_seq_length: usize,
    ) -> Result<Self, DataError> {
        assert!(labels.is_empty() || labels.len() == texts.len(), "one label for each row");
        assert!(max_seq_length >= 4, "room for special tokens and one of text");
        let encode = |text: &TextRow| encode_row(text, tokenizer, max_seq_length);
        let rows = texts.par_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let mut counts = RowCounts { num_rows: rows.len() as u64, ..RowCounts::default() };
        for row in &rows {
            counts.num_empty += u64::from(row.is_empty);
            counts.num_truncated += u64::from(row.num_cut > 0);
            counts.num_cut_tokens += row.num_cut as u64;
            counts.num_tokens += row.ids.len() as u64;
        }
        Ok(Self { rows, labels, counts, max_seq_length, pad: tokenizer.special().pad })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The class of each row; empty if none were given.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Tokens of a row.
    pub(crate) fn row_len(&self, idx: usize) -> u32 {
        self.rows[idx].ids.len() as u32
    }

    /// What encoding did.
    pub fn counts(&self) -> RowCounts {
        self.counts
    }

    /// Batches of up to `num_rows` rows that cover every row once, long rows first: similar lengths share a batch, and
    /// the first batch is the largest.
    pub fn batches_by_length(&self, num_rows: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&idx| (std::cmp::Reverse(self.rows[idx].ids.len()), idx));
        order.chunks(num_rows.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// The given rows as one padded micro-batch; `sample_idxs` says which they are.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn batch(&self, row_idxs: &[usize]) -> MicroBatch {
        let lengths: Vec<u32> = row_idxs.iter().map(|&idx| self.row_len(idx)).collect();
        let row_len = padded_row_len(&lengths, self.max_seq_length);
        let num_rows = row_idxs.len();
        let mut batch = MicroBatch {
            num_rows,
            row_len,
            input_ids: vec![self.pad; num_rows * row_len],
            token_type_ids: vec![0; num_rows * row_len],
            lengths,
            ..MicroBatch::default()
        };
        for (place, &idx) in row_idxs.iter().enumerate() {
            let row = &self.rows[idx];
            let start = place * row_len;
            let end = start + row.ids.len();
            batch.input_ids[start..end].copy_from_slice(&row.ids);
            batch.token_type_ids[start + row.num_first..end].fill(1);
            batch.class_labels.extend(self.labels.get(idx));
            batch.sample_idxs.push(idx as u64);
        }
        batch
    }
}

fn encode_row(row: &TextRow, tokenizer: &Tokenizer, max_seq_length: usize) -> Result<EncodedRow, DataError> {
    let special = tokenizer.special();
    let mut first = tokenizer.encode_line(&row.text)?.ids;
    let mut second =
        row.text_pair.as_ref().map(|text| tokenizer.encode_line(text)).transpose()?.map(|e| e.ids);
    let is_empty = first.is_empty() && second.as_ref().is_none_or(Vec::is_empty);
    let num_special = if second.is_some() { 3 } else { 2 };
    let num_all = first.len() + second.as_ref().map_or(0, Vec::len);
    let num_cut = (num_all + num_special).saturating_sub(max_seq_length);
    for _ in 0..num_cut {
        match &mut second {
            Some(second) if second.len() >= first.len() => second.pop(),
            _ => first.pop(),
        };
    }
    let mut ids = vec![special.cls];
    ids.append(&mut first);
    ids.push(special.sep);
    let num_first = ids.len();
    if let Some(mut second) = second {
        ids.append(&mut second);
        ids.push(special.sep);
    }
    Ok(EncodedRow { ids, num_first, num_cut, is_empty })
}
