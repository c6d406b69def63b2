//! Rows as readable text, for people who debug.
//!
//! Returns strings; printing is the business of binaries.

use crate::batch::MicroBatch;
use crate::tokenizer::Tokenizer;
use std::fmt::Write;

/// One row as text: tokens separated by spaces, every masked position as `{shown <- true}`.
///
/// `{[MASK] <- 北}` was masked, `{天 <- 北}` was replaced, `{北 <- 北}` was kept.
///
/// # Panics
///
/// If there is no such row.
pub fn describe_row(batch: &MicroBatch, row: usize, tokenizer: &Tokenizer) -> String {
    assert!(row < batch.num_rows, "row {row} of {}", batch.num_rows);
    let name = |id: u32| tokenizer.id_to_token(id).unwrap_or("<outside the vocabulary>");
    let start = row * batch.row_len;
    let length = batch.lengths[row] as usize;
    let mut text =
        format!("step {} slot {} row {row} sample {}", batch.step, batch.slot, batch.sample_idxs[row]);
    if let Some(label) = batch.nsp_labels.get(row) {
        write!(text, " label {label}").ok();
    }
    write!(text, " ({length} of {} tokens):", batch.row_len).ok();
    for position in start..start + length {
        let shown = name(batch.input_ids[position]);
        match batch.mlm_positions.binary_search(&(position as u32)) {
            Ok(idx) => write!(text, " {{{shown} <- {}}}", name(batch.mlm_labels[idx])).ok(),
            Err(_) => write!(text, " {shown}").ok(),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::SPECIAL_TOKENS;

    #[test]
    fn masks_are_shown_with_the_truth_and_padding_is_not_shown() {
        let tokens = SPECIAL_TOKENS.iter().chain(&["a", "b", "c"]).map(|t| (*t).to_owned()).collect();
        let tokenizer = Tokenizer::from_tokens(tokens, true, std::path::Path::new("test")).unwrap();
        let batch = MicroBatch {
            step: 3,
            slot: 1,
            num_rows: 2,
            row_len: 6,
            input_ids: vec![2, 5, 3, 0, 0, 0, 2, 4, 6, 7, 3, 0],
            lengths: vec![3, 5],
            mlm_positions: vec![7, 9],
            mlm_labels: vec![5, 6],
            nsp_labels: vec![0, 1],
            sample_idxs: vec![11, 12],
            ..MicroBatch::default()
        };
        assert_eq!(
            describe_row(&batch, 1, &tokenizer),
            "step 3 slot 1 row 1 sample 12 label 1 (5 of 6 tokens): [CLS] {[MASK] <- a} b {c <- b} [SEP]"
        );
    }
}
